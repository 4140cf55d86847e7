"""Tiny training runs for the tests, and what to compare of them."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.learning import checkpoint as checkpoints
from metarl.run import resume_run, start_run, train_config
from metarl.runs.config import TrainConfig
from metarl.runs.runner import meta_train

SMALL = MamlTrpoConfig(hidden=(4,), cg_iterations=2)
TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=6, evaluate_every=3, evaluate_tasks=2,
    evaluate_episodes=1, checkpoint_every=2, threads=1, device="cpu", progress=False,
)  # fmt: skip
TIMES = {"seconds", "env_steps_per_second", "seconds_sampling", "seconds_update"}


def train(out: Path, **changes) -> Path:
    """Train the tiny learner from scratch."""
    return start_run("point-goal", "maml-trpo", replace(TRAIN, out=str(out), **changes), SMALL)


def train_small(out: Path) -> Path:
    """Train for two iterations, evaluated at 0, 1 and 2."""
    changes = {"iterations": 2, "evaluate_every": 1, "evaluate_tasks": 4, "seed": 3}
    return train(out, **changes, checkpoint_every=10)


def go_on(run: Path, **changes) -> Path:
    """Go on from the newest checkpoint."""
    checkpoint = checkpoints.load(checkpoints.newest(run))
    return resume_run(checkpoint, replace(train_config(checkpoint), **changes), SMALL)


def digest(run: Path) -> str:
    """The sha256 of a run's newest weights."""
    return hashlib.sha256(
        (checkpoints.newest(run) / "weights.safetensors").read_bytes()
    ).hexdigest()


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what a clock measured."""
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]


def curve(run: Path) -> list[dict]:
    """curve.json without what a clock measured."""
    return [{k: v for k, v in e.items() if k not in TIMES} for e in json.loads(
        (run / "curve.json").read_text())]  # fmt: skip


class Steerable(MamlTrpo):
    """A learner whose n-th meta-step does something on top, after changing its weights."""

    def __init__(self, *args, at: int = 0, do=lambda learner: None, **more):
        super().__init__(*args, **more)
        self.calls, self.at, self.do = 0, at, do
        self.extra: dict[str, float] = {}

    def meta_step(self, worlds, tasks, key):
        metrics = super().meta_step(worlds, tasks, key)
        self.calls += 1
        if self.calls == self.at:
            self.do(self)
        return metrics | self.extra


def steer(out: Path, at: int, do, **changes) -> Path:
    """Train a `Steerable`."""
    config = replace(TRAIN, out=str(out), **changes)
    family = find_family("point-goal")
    worlds = TaskWorlds(family, config.tasks_per_iteration * config.rollouts_per_task, 1)
    learner = Steerable(worlds.spec, SMALL, seed=config.seed, at=at, do=do)
    return meta_train(learner, worlds, TaskDistribution(family), config)
