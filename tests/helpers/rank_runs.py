"""Trains every learner a little, as one of the ranks that torchrun starts, or as the only one.

python -m torch.distributed.run --nproc-per-node 2 -m tests.helpers.rank_runs FOLDER SHARDS
"""

import sys
from pathlib import Path
from unittest import mock

from envs.point import PointGoal
from metarl import find_learner
from metarl.learning.registry import list_learners
from metarl.run import start_run
from metarl.runs.config import TrainConfig

SMALL = {
    "maml-trpo": {"hidden": (8,), "inner_steps": 2, "cg_iterations": 4},
    "promp": {"hidden": (8,), "inner_steps": 2, "epochs": 2, "exploration_credit": 0.1},
    "cavia": {"hidden": (8,), "epochs": 2},
    "reptile": {"hidden": (8,), "inner_steps": 2},
    "grbal": {
        "past": 3, "future": 2, "hidden": (8,), "candidates": 8, "plan_steps": 2, "updates": 2,
        "batch_size": 8, "replay_episodes": 40,
    },
    "es-maml": {"hidden": (8,)},
    "ppo": {"hidden": (8,), "batch_size": 50},
    "finetune": {"hidden": (8,), "batch_size": 50},
    "prototypes": {
        "units": 8, "embedding": 8, "hidden": (8,), "prototypes": 5, "encoder_steps": 5,
        "encoder_trials": 8, "encoder_updates": 2, "epochs": 1, "replay_trials": 40,
    },
    "rl2": {"hidden": 8, "units": 8},
    "rma": {"hidden": (8,), "history": 10},
    "distil": {"units": 8, "hidden": 8, "bptt": 15},
    "varibad": {
        "units": 8, "embedding": 8, "hidden": (8,), "decoder_hidden": (8,), "beliefs": 3,
        "decoded_steps": 5, "vae_trials": 8, "vae_updates": 2, "epochs": 1, "replay_trials": 40,
    },
    "pearl": {
        "train_tasks": 8, "hidden": (8,), "encoder_hidden": (8,), "gradient_steps": 2,
        "meta_batch": 3, "batch_size": 8, "context_size": 4, "initial_episodes": 2,
    },
}  # fmt: skip


def train_all(folder: Path, shards: int) -> None:
    """Train each learner for two iterations with its tasks in so many shards.

    Episodes are short, and there are no pages: they would be most of the time.
    """
    with (
        mock.patch("metarl.run._default_callbacks", return_value=[]),
        mock.patch.object(PointGoal, "horizon", 8),
    ):
        _train_all(folder, shards)


def _train_all(folder: Path, shards: int) -> None:
    for name in sorted(list_learners(), key="distil".__eq__):  # which has another for a teacher
        settings = SMALL.get(name, {})
        if name == "distil":
            settings = settings | {"teacher": str(folder / "ppo")}
        train = TrainConfig(
            tasks_per_iteration=8, rollouts_per_task=2, iterations=2, evaluate_every=2,
            evaluate_tasks=5, evaluate_episodes=2, out=str(folder / name), progress=False,
            device="cpu", task_shards=shards,
        )  # fmt: skip
        start_run("point-goal", name, train, find_learner(name).Config(**settings))


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), int(sys.argv[2]))
