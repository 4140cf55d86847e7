"""Traces: short runs of the worlds, to compare bit by bit, and the tasks that they run."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import CheckError
from metarl.base.keys import Key
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.family import TaskFamily, replace_attributes
from metarl.tasks.params import Choices, Interval
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import VecWorlds

KEY = Key("metarl check")
"""The source of every draw of the conformance suite."""
SWITCH_STEP = 7
"""After how many steps a task that begins within the episode does so here."""
STEPS = 60
"""Environment steps of a comparison."""
STATELESS = "keep nothing in the family, set states in initial_state(), edit models by Param"
"""The advice where a family's state is not that of the worlds."""
_BITS = {torch.float64: torch.int64, torch.float32: torch.int32}


class Trace(NamedTuple):
    """What a run of T steps gave, (T, B, …)."""

    obs: Tensor
    next_obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    diverged: Tensor
    qpos: Tensor
    """After the step; of the next episode where one began."""
    qvel: Tensor
    privileged: Tensor
    """What critics may see then, (T, B, P), P = 0 of a family that shows nothing."""

    def worlds(self, which: Tensor) -> Trace:
        """Return the trace of some worlds: indices, or a (B,) mask."""
        return Trace(*(part[:, which] for part in self))

    @property
    def done(self) -> Tensor:
        """(T, B) bool: the last step of an episode, however it ended."""
        return self.terminated | self.truncated | self.diverged


class StateFault(NamedTuple):
    """A number to write into the state of one world, before one step of a run."""

    step: int
    field: str
    """qpos or qvel."""
    world: int
    value: float


def worlds_of(
    family: TaskFamily, tasks: Tasks, worlds_per_task: int = 1, threads: int = 1
) -> TaskWorlds:
    """Return worlds that run `tasks`, in which what happens within episodes happens soon."""
    worlds = TaskWorlds(hurried(family), len(tasks) * worlds_per_task, threads)
    worlds.set_tasks(tasks, worlds_per_task)
    return worlds


def hurried(family: TaskFamily) -> TaskFamily:
    """Return a family whose events and whose switch come within the steps of a comparison."""
    events = {name: replace(when, seconds=4 * family.dt) for name, when in family.events.items()}
    switch = None if family.switch_at is None else SWITCH_STEP * family.dt
    return replace_attributes(family, events=events, switch_at=switch)


def random_actions(worlds: VecWorlds, steps: int) -> Tensor:
    """Return (steps, B, A) draws from U[-1, 1)."""
    generator = KEY.fold("actions").torch()
    size = (steps, worlds.num_worlds, worlds.spec.action_size)
    return 2 * torch.rand(*size, generator=generator) - 1


def run(
    worlds: TaskWorlds, actions: Tensor | None = None, fault: StateFault | None = None
) -> Trace:
    """Seed and reset the worlds, and step them with `actions`, (T, B, A), random by default."""
    actions = random_actions(worlds, STEPS) if actions is None else actions
    worlds.seed(KEY)
    worlds.reset()
    sim, steps = worlds.simulator, []
    for t, action in enumerate(actions):
        if fault and t == fault.step:
            getattr(sim, fault.field)[fault.world] = fault.value
        got = worlds.step(action)
        shown = got.obs[:, :0] if worlds.privileged is None else worlds.privileged.clone()
        steps.append(
            Trace(
                got.obs, got.next_obs, got.reward, got.terminated, got.truncated, got.diverged,
                sim.qpos.clone(), sim.qvel.clone(), shown,
            )
        )  # fmt: skip
    return Trace(*(torch.stack(part) for part in zip(*steps, strict=True)))


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return, elementwise, whether two tensors of one shape and type hold the same bits."""
    kind = _BITS.get(a.dtype, a.dtype)
    return a.contiguous().view(kind) == b.contiguous().view(kind)


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape and type hold the same bits throughout."""
    return bool(same_bits(a, b).all())


def difference(a: Trace, b: Trace) -> str:
    """Return where two traces first differ in any bit, in words, or ''."""
    first, words = len(a.obs), ""
    for name in Trace._fields:
        x, y = getattr(a, name), getattr(b, name)
        differs = (~same_bits(x, y)).flatten(2) if x.ndim > 2 else ~same_bits(x, y)[..., None]
        if not differs.any():
            continue
        t, world, i = differs.nonzero()[0].tolist()
        if t < first:
            one, two = (z.flatten(2)[t, world, i] if z.ndim > 2 else z[t, world] for z in (x, y))
            first = t
            words = f"{name} of world {world} at step {t} is {two.item()!r}, not {one.item()!r}"
    return words


def demand(condition: object, complaint: str) -> None:
    """Raise CheckError with a complaint unless a condition holds."""
    if not condition:
        raise CheckError(complaint)


def sample_tasks(family: TaskFamily, name: str = "tasks") -> Tasks:
    """Return four training draws."""
    return TaskDistribution(family).sample(4, KEY.fold(name).numpy())


def one_task(family: TaskFamily, row: np.ndarray) -> Tasks:
    """Return the task with the values `row`, (P,)."""
    return Tasks(family.name, TaskDistribution(family).names, row[None])


def extreme_tasks(family: TaskFamily, *, ood: bool = False) -> Tasks:
    """Return the nominal task, each column at either end of its range, and four training draws."""
    distribution = TaskDistribution(family)
    rows = [distribution.nominal().values, sample_tasks(family).values]
    for param in family.params:
        ranges = [param.train, *(param.ood if ood else ())]
        for name in param.names:
            rows += [distribution.make(**{name: v}).values for r in ranges for v in _ends(r)]
    return Tasks(family.name, distribution.names, np.concatenate(rows))


def _ends(where: Interval | Choices) -> tuple[float, ...]:
    return where.values if isinstance(where, Choices) else (where.low, where.high)


def in_train_box(family: TaskFamily, row: np.ndarray) -> bool:
    """Return whether every column of a task lies in the range of train and heldout."""
    ranges = [param.train for param in family.params for _ in param.names]
    return all(value in where for value, where in zip(row, ranges, strict=True))
