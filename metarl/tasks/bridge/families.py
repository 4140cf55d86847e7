"""Families of another interpreter: ``metaworld:ML1-reach-v3``, ``gymnasium:ENV_ID``.

Meta-World's splits are its own: the goals of `train_tasks` are trained on, those of `test_tasks`
are held out; of ML10 and its like the held-out environments are others, too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.tasks.bridge.known import described, interpreter
from metarl.tasks.bridge.remote_env import RemoteEnv
from metarl.tasks.gymnasium_family import GymnasiumFamily
from metarl.tasks.params import Choices, Param

SUITES = ("metaworld", "gymnasium")
SEED = 0
"""Of a benchmark's tasks."""
STEPS = 1000
"""In an episode of an environment that does not say; it is the limit of dm_control's."""


class BridgedFamily(GymnasiumFamily):
    """An environment of another interpreter."""

    suite: ClassVar[str] = "gymnasium"
    remote: ClassVar[str] = ""
    """A benchmark, or the id of an environment."""
    python: ClassVar[str] = ""
    """The interpreter; "" is the one that `metarl bridge` remembers."""

    def __init__(self) -> None:
        """Ask the worker what there is."""
        self.interpreter = self.python or interpreter(self.suite)
        self.found = described(self.interpreter, self.suite, self.remote, SEED)
        super().__init__()

    def make(self) -> gymnasium.Env:
        """Return an environment, whose steps the worker takes."""
        return RemoteEnv(self.interpreter, self.suite, self.remote, SEED, self.render_mode)

    def set_task(self, env: gymnasium.Env, task: dict[str, Any]) -> None:
        """Set the task of an environment that has tasks."""
        if self.params:
            env.unwrapped.set_task(task)  # type: ignore[attr-defined]

    def _own_horizon(self, env: gymnasium.Env) -> int:
        return int(self.found["horizon"] or STEPS)


@dataclass(frozen=True)
class TableParam(Param):
    """A numbered choice that a network should see as a row of a table."""

    table: tuple[tuple[float, ...], ...] = ()

    def encode(self, values: Tensor) -> Tensor:
        """Return (B, n), the rows that the values number."""
        rows = torch.tensor(self.table, dtype=values.dtype, device=values.device)
        return rows[values.reshape(len(values)).long()]


class MetaWorldFamily(BridgedFamily):
    """A meta-learning benchmark of Meta-World."""

    suite: ClassVar[str] = "metaworld"
    splits_in_order: ClassVar[bool] = True
    """The tasks are a list, not a range to draw from: each occurs once before any does twice."""

    def __init__(self) -> None:
        """Make parameters of the benchmark's tasks."""
        python = self.python or interpreter(self.suite)
        sides = described(python, self.suite, self.remote, SEED)["tasks"]
        self.tasks_of: list[tuple[str, list[float]]] = []
        counts = []
        for side in (sides["train"], sides["test"]):
            goals = max(map(len, side.values()))  # goal by goal, so that few tasks are of every one
            rows = [(n, v[g]) for g in range(goals) for n, v in side.items() if g < len(v)]
            self.tasks_of += rows
            counts.append(len(rows))
        train, every = counts[0], sum(counts)
        self.params = (
            TableParam(
                "task", Choices(tuple(range(train)), heldout=tuple(range(train, every))),
                nominal=0, doc="of the benchmark's train_tasks, then its test_tasks",
                table=_table(self.tasks_of, train),
            ),
        )  # fmt: skip
        super().__init__()

    def set_task(self, env: gymnasium.Env, task: dict[str, Any]) -> None:
        """Set a task of the benchmark."""
        name, vector = self.tasks_of[int(task["task"])]
        env.unwrapped.set_task({"env": name, "vector": vector})  # type: ignore[attr-defined]

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return the environment and its random vector."""
        name, vector = self.tasks_of[int(np.ravel(task["task"])[0])]
        return [name, " ".join(f"{x:.2f}" for x in vector)]


def _table(tasks: list[tuple[str, list[float]]], train: int) -> tuple[tuple[float, ...], ...]:
    """Which environment, one-hot, and the random vector, in [-1, 1] over the training tasks."""
    names = list(dict.fromkeys(name for name, _ in tasks))
    size = max(len(vector) for _, vector in tasks)
    rows = np.array([v + [0.0] * (size - len(v)) for _, v in tasks])
    low, high = rows[:train].min(0), rows[:train].max(0)
    rows = 2 * (rows - low) / np.where(high > low, high - low, 1.0) - 1
    hot = np.eye(len(names))[[names.index(name) for name, _ in tasks]]
    return tuple(map(tuple, np.concatenate([hot * (len(names) > 1), rows], 1).tolist()))


def is_bridged(name: str) -> bool:
    """Whether a family's name is one of another interpreter's."""
    return name.partition(":")[0] in SUITES and ":" in name


@functools.cache
def bridged_class(name: str) -> type[BridgedFamily]:
    """Return the class of ``SUITE:NAME``. Raises UserError for a name that cannot be."""
    suite, _, remote = name.partition(":")
    base = MetaWorldFamily if suite == "metaworld" else BridgedFamily
    known = ("ML10", "ML25", "ML45")
    if not remote or (suite == "metaworld" and not (remote in known or remote[:4] == "ML1-")):
        raise UserError(
            f"family '{name}': Meta-World has {', '.join(known)} and ML1-NAME"
            f"{did_you_mean(remote, known)}; `metarl bridge metaworld` lists them"
        )
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{suite}-{remote}").lower()
    members = {"__doc__": f"{remote} of {suite}, in another interpreter.", "suite": suite,
               "remote": remote, "name": plain, "__module__": __name__}  # fmt: skip
    return cast(type[BridgedFamily], type("Bridged", (base,), members))
