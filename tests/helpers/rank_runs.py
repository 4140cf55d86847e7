"""Trains every learner a little, as one of some ranks, or as the only one."""

from pathlib import Path
from unittest import mock

from envs.point import PointGoal
from helpers.demonstrations import demonstrated
from helpers.small_learners import small
from metarl import find_learner
from metarl.learning.registry import list_learners
from metarl.run import start_run
from metarl.runs.config import TrainConfig

TASKS = 8


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
        needed = {"teacher": str(folder / "ppo")} if name == "distil" else {}
        if find_learner(name).adapts_to_demonstrations:
            for option, split in (("demos", "train"), ("heldout_demos", "heldout")):
                path = demonstrated(split, TASKS, 2).save(folder / f"{split}.safetensors")
                needed[option] = str(path)
        train = TrainConfig(
            tasks_per_iteration=TASKS, rollouts_per_task=2, iterations=2, evaluate_every=2,
            evaluate_tasks=5, evaluate_episodes=2, out=str(folder / name), progress=False,
            device="cpu", task_shards=shards,
        )  # fmt: skip
        start_run(
            "point-goal", name, train, find_learner(name).Config(**small(name, TASKS, **needed))
        )
