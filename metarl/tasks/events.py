"""What happens inside an episode: what each world remembers, events, and a change of the task.

A family declares it. The worlds (`metarl.worlds.events`) hold the memory, and know when to ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.tasks.params import Choices, is_finite

if TYPE_CHECKING:
    from metarl.simulation.backend import Backend
    from metarl.tasks.family import TaskFamily

MOST_REMEMBERED = 10**5
"""Numbers that one world may remember."""
_STATIC = frozenset({"geom_dataid", "geom_pos", "geom_quat", "geom_size"})
"""Fields that say where the ground is: it does not move under the robot."""


@dataclass(frozen=True)
class Every:
    """When an event happens; made by `every`."""

    seconds: float | str
    jitter: float = 0.0


def every(seconds: float | str, jitter: float = 0.0) -> Every:
    """Return that an event happens again and again, first after one interval of an episode.

    Args:
        seconds: the interval, or the parameter of the tasks that gives it. It is rounded to
            environment steps, of which it is at least one.
        jitter: each interval is drawn anew from U[1 − jitter, 1 + jitter) times that; below 1.
    """
    return Every(seconds, jitter)


class Memory(dict[str, Tensor]):
    """What worlds remember, (B, …) by name, which knows what to say of another name."""

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Copy a value, (B, …) or what broadcasts to it, into the memory of that name."""
        try:
            self[name].copy_(value)
        except RuntimeError:
            takes, got = tuple(self[name].shape[1:]), tuple(value.shape[1:])
            raise UserError(f"memory '{name}' of a world takes {takes}, not {got}") from None

    def __missing__(self, name: str) -> Tensor:
        raise UserError(
            f"the family declares no memory '{name}'{did_you_mean(str(name), self)}; "
            f"it has {', '.join(self) or 'none: write memory = {…: (size,)}'}"
        )


def claim(
    family: TaskFamily, variation: str, memory: Mapping[str, tuple[int, ...]],
    events: Mapping[str, Every] | None = None,
) -> None:  # fmt: skip
    """Give a family the memory and the events of a variation.

    Raises UserError, one line, if it has some of these names of its own: the one would be taken for
    the other.
    """
    events = events or {}
    for what, had, more in (
        ("a memory", family.memory, memory), ("an event", family.events, events),
    ):  # fmt: skip
        for name in more:
            if name in had:
                raise UserError(
                    f"family '{family.name}': {variation}: it has {what} named '{name}' of its "
                    f"own: call that otherwise"
                )
    family.memory = {**family.memory, **memory}
    family.events = {**family.events, **events}


def give_memory(family: TaskFamily, sim: Backend) -> None:
    """Give the worlds of a simulator the memory that a family declares, all 0."""
    sim.memory = Memory(
        {
            name: torch.zeros(sim.num_worlds, *shape, dtype=sim.dtype, device=sim.device)
            for name, shape in family.memory.items()
        }
    )


def check_within(family: TaskFamily) -> None:
    """Raise UserError, one line, for a memory, an event or a `switch_at` that cannot be."""
    where = f"family '{family.name}'"
    if not family.has_model and (family.memory or family.events or family.switch_at is not None):
        raise UserError(
            f"{where}: memory, events and switch_at are for families with a MuJoCo model: let the "
            f"environment's step() do it"
        )
    for what in ("memory", "events"):
        if not isinstance(value := getattr(family, what), Mapping):
            raise UserError(f"{where}: {what} must be a dictionary by name, not {value!r:.80}")
    for name, shape in family.memory.items():
        whole = isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)
        if not whole or math.prod(shape) > MOST_REMEMBERED:
            raise UserError(
                f"{where}: memory '{name}' must be the shape of what one world remembers, such as "
                f"(4,), at most {MOST_REMEMBERED} numbers, not {shape!r:.80}"
            )
    for name, when in family.events.items():
        if not isinstance(when, Every):
            raise UserError(
                f"{where}: event '{name}' needs a period, such as every(2.0), not {when!r:.80}"
            )
        _check_time(family, f"event '{name}'", when.seconds)
        if not is_finite(when.jitter) or not 0.0 <= when.jitter < 1.0:
            raise UserError(
                f"{where}: event '{name}': jitter must be at least 0 and below 1, not "
                f"{when.jitter!r:.80}"
            )
    if family.switch_at is not None:
        first = _check_time(family, "switch_at", family.switch_at)
        length = family.horizon * family.dt
        if first >= length:
            raise UserError(
                f"{where}: switch_at: episodes of {length:g} s end before the task begins, at "
                f"{first:g} s at the earliest"
            )


def _check_time(family: TaskFamily, what: str, seconds: float | str) -> float:
    """Refuse what is neither a positive time nor a parameter whose values are; the least of it."""
    where, names = f"family '{family.name}': {what}", [param.name for param in family.params]
    if not isinstance(seconds, str):
        if isinstance(seconds, bool) or not is_finite(seconds) or seconds <= 0:
            raise UserError(f"{where}: the time must be positive, in s, not {seconds!r:.80}")
        return float(seconds)
    if seconds not in names:
        raise UserError(f"{where}: there is no parameter '{seconds}'{did_you_mean(seconds, names)}")
    param = family.params[names.index(seconds)]
    if param.size != 1:
        raise UserError(f"{where}: parameter '{seconds}' must be one number")
    train = param.train
    lowest = [min(param.choices) if isinstance(train, Choices) else train.low]
    lowest += [part.low for part in param.ood]
    if min(lowest) <= 0:
        raise UserError(f"{where}: parameter '{seconds}' must be positive, not {param.ranges}")
    return min(lowest)


def times(family: TaskFamily, seconds: float | str, values: np.ndarray) -> np.ndarray:
    """Return the (n,) times in s that a number or a parameter stands for in tasks (n, P).

    Raises:
        UserError: a task was given one that is not positive.
    """
    if not isinstance(seconds, str):
        return np.full(len(values), float(seconds))
    found = family.distribution.by_param(values)[seconds]
    if (found <= 0).any():
        raise UserError(
            f"family '{family.name}': {seconds} must be positive, in s, not {found.min():g}"
        )
    return found


def never_nominal(family: TaskFamily) -> np.ndarray:
    """Return (P,) bool: the columns that hold before the switch too.

    They are the time of the switch, and what moves or chooses the ground, lest it rise within a
    robot. Until the switch, the others are nominal.
    """
    model, found = family.compile(), []
    for param in family.params:
        static = any(
            edit.field in _STATIC
            and (model.body_weldid[model.geom_bodyid[edit.rows(model)]] == 0).all()
            for edit in param.edits
        )
        found += [static or param.name == family.switch_at] * len(param.names)
    return np.array(found, bool)
