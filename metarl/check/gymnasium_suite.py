"""The conformance suite of third-party environments: ``metarl check my_env.py:MyEnv``.

`check_family` runs it, as it does the suite of families with a MuJoCo model. The worlds step in
worker processes, so an environment that ends its process fails a check and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from metarl.check.suite import CheckError, check_splits
from metarl.check.trajectory import KEY, STEPS, random_actions, same_bits, sample_tasks
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.tasks.gymnasium_family import GymnasiumFamily
from metarl.worlds.gymnasium_worlds import GymnasiumWorlds
from metarl.worlds.vector import Transition


def check_interface(family: TaskFamily) -> None:
    """The environment resets and steps, and its numbers are finite."""
    tasks = sample_tasks(family)
    with _worlds(family, tasks) as worlds:
        diverged = _run(worlds, tasks)["diverged"]
    if diverged.any():
        t, world = diverged.nonzero()[0].tolist()
        raise CheckError(
            f"reward or observation is not finite at step {t} in task {tasks.label(world)}"
        )


def check_repeats(family: TaskFamily) -> None:
    """Episodes repeat from their seeds."""
    tasks = sample_tasks(family)
    with _worlds(family, tasks) as worlds, _worlds(family, tasks) as others:
        first = _run(worlds, tasks)
        hint = "draw from self.np_random alone, after super().reset(seed=seed), and reset all state"
        _same(first, _run(worlds, tasks), "a second run from the same seed", hint)
        _same(first, _run(others, tasks), "a run in new environments", hint)


def check_order(family: TaskFamily) -> None:
    """Tasks repeat: a task that is set again gives the same episodes, whatever came between."""
    tasks, between = sample_tasks(family), sample_tasks(family, "others")
    with _worlds(family, tasks) as worlds:
        first = _run(worlds, tasks)
        _run(worlds, between)
        hint = "set_task() must set all that an earlier task has changed"
        _same(first, _run(worlds, tasks), "a run after other tasks", hint)


def check_processes(family: TaskFamily) -> None:
    """One process and two give the same bits."""
    tasks = sample_tasks(family)
    with _worlds(family, tasks) as one, _worlds(family, tasks, 2) as two:
        hint = "environments of one process must share no state"
        _same(_run(one, tasks), _run(two, tasks), "a run in two processes", hint)


def check_parameters(family: TaskFamily) -> None:
    """Every parameter changes the observation, the reward or the end of an episode."""
    with _worlds(family, sample_tasks(family)) as worlds:
        worlds.probe()


GATES = (check_interface, check_repeats)
"""The checks without which the others mean nothing."""
CHECKS = (*GATES, check_order, check_processes, check_parameters, check_splits)
"""Every check, in the order in which they run."""


@contextmanager
def _worlds(family: TaskFamily, tasks: Tasks, processes: int = 1) -> Iterator[GymnasiumWorlds]:
    """Worlds with a task each, which were not probed."""
    unprobed = cast(GymnasiumFamily, family)
    unprobed.probed = True  # that is a check of its own
    worlds = GymnasiumWorlds(unprobed, len(tasks), processes)
    try:
        yield worlds
    finally:
        worlds.close()


def _run(worlds: GymnasiumWorlds, tasks: Tasks) -> dict[str, Tensor]:
    """Return what random actions gave, (T, B, …), and the first observation."""
    worlds.set_tasks(tasks, 1)
    worlds.seed(KEY)
    first: dict[str, Any] = {"first observation": worlds.reset()[None]}
    steps = [worlds.step(action) for action in random_actions(worlds, STEPS)]
    parts = zip(Transition._fields, zip(*steps, strict=True), strict=True)
    return first | {name: torch.stack(part) for name, part in parts}


def _same(expected: dict[str, Tensor], got: dict[str, Tensor], what: str, hint: str) -> None:
    for name, values in expected.items():
        differs = (~same_bits(values, got[name])).nonzero()
        if len(differs):
            t, world = differs[0, :2].tolist()
            raise CheckError(f"{what} differs: {name} of world {world} at step {t}; {hint}")
