"""Checked settings: the type of a field says which values it takes.

    @dataclass(frozen=True)
    class MyConfig(Settings):
        lr: Positive = 3e-4

A value outside its range is refused in one line that names the field. Checks between fields go into
a ``__post_init__`` that calls ``super().__post_init__()`` first.
"""

from __future__ import annotations

import functools
import math
import os
import types
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from metarl.base.errors import UserError, did_you_mean
from metarl.base.versions import deprecated


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, of which an open end is left out."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def refuse(self, name: str, value: Any) -> None:
        """Raise UserError if `value` is not a finite number of the range."""
        above = value > self.low if self.open_low else value >= self.low
        huge = isinstance(value, int) and abs(value) > 2**1000  # which no float can hold
        if huge or not (math.isfinite(value) and above and value <= self.high):
            raise UserError(f"{name} must be {self._words()}, not {value}")

    def _words(self) -> str:
        if self.high < math.inf:
            return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"
        if self.open_low and self.low == 0:
            return "positive and finite"
        return f"at least {self.low:g}" if self.low else "finite and not negative"


Count = Annotated[int, Range(1, 2**31 - 1)]
"""A whole number of at least 1."""
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
"""A whole number of at least 0."""
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, open_low=True)]
Share = Annotated[float, Range(0, 1)]
"""Of something, from none to all of it."""
Layers = Annotated[tuple[int, ...], Range(1, 2**31 - 1)]
"""Units of at least one hidden layer."""
Indices = Annotated[tuple[int, ...], Range(0, 2**31 - 1)]
"""Places in a row of numbers, from 0; at least one."""


class Settings:
    """Base of a frozen dataclass whose fields are checked against their annotated ranges."""

    absent: ClassVar[dict[str, Any]] = {}
    """Setting -> what it is in a checkpoint that does not name it, if that is not the default."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Settings that name a run or a file which training needs and acting does not. They are made
    absolute, to hold wherever a run goes on, and left out of agents and of result files."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError naming the first that cannot be."""
        for name, hint in _hints(type(self)).items():
            _check(name, getattr(self, name), hint)
        for name in paths_of(self):
            path = getattr(self, name)
            if not isinstance(path, str | Path | None):
                raise UserError(f"{name} must be a path or a name, not {path!r:.80}")
            if path is not None:
                there = os.path.exists(path)  # of whatever no path can be, it says no
                path = os.path.realpath(path) if there else os.fspath(path)
                object.__setattr__(self, name, path)


def paths_of(config: Any) -> tuple[str, ...]:
    """Return `Settings.paths` of a learner's settings; of another class a setting may be so called.

    Args:
        config: the settings, or their class.
    """
    own = "paths" in (field.name for field in fields(config))
    return () if own else getattr(config, "paths", ())


def for_others(config: Any) -> dict[str, Any]:
    """Return a learner's settings as a dict, without what is only on this machine: `paths`."""
    return asdict(config) | dict.fromkeys(paths_of(config))


@dataclass(frozen=True)
class CriticSettings(Settings):
    """What a critic sees, for learners that may show it more than the policy."""

    critic: Literal["plain", "privileged"] = "plain"
    """What the critic sees in training: what the policy does, or also, and it alone, the task, the
    time left and the family's `privileged()`."""
    privileged_critic: bool = False
    """Deprecated, and goes in 0.4.0: the same as --critic privileged."""

    def __post_init__(self) -> None:
        """Take what was said in the old way for the new one."""
        super().__post_init__()
        if self.privileged_critic:
            deprecated("--privileged-critic", "--critic privileged", FutureWarning, stacklevel=3)
            object.__setattr__(self, "critic", "privileged")
            object.__setattr__(self, "privileged_critic", False)


@dataclass(frozen=True)
class VirtualSettings(Settings):
    """Settings of trials in imagined tasks; each begins with virtual_."""

    virtual_share: Share = 0.0
    """Share of an iteration's trials, in the end, in tasks whose rewards the decoder makes of mixed
    categories, with --objective mixture; 0 is off."""
    virtual_steps: Count | None = None
    """Environment steps of training over which it rises linearly to that; default: at once."""
    virtual_kinds: Count = 3
    """Categories in such a mixture."""

    def virtual_now(self, env_steps: float) -> float:
        """Return the share after some environment steps of training."""
        return self.virtual_share * min(1.0, env_steps / (self.virtual_steps or 1))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal and value not in get_args(hint):
        options = get_args(hint)
        raise UserError(
            f"{name} must be one of {', '.join(map(str, options))}, not {value!r}"
            f"{did_you_mean(str(value), options)}"
        )
    if hint is bool and not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, not {value!r:.80}")
    if get_origin(hint) is not Annotated:
        return
    kind, limits = get_args(hint)[:2]
    whole, several = kind is not float, get_origin(kind) is tuple
    if several is not isinstance(value, tuple | list):
        what = "a tuple of numbers, such as (64, 64)" if several else "one number"
        raise UserError(f"{name} must be {what}, not {value!r:.80}")
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
            what = "a whole number" if whole else "a number"
            raise UserError(f"{name} must be {what}, not {number!r}")
        limits.refuse(name, number)
    if isinstance(value, tuple | list) and not value:
        raise UserError(f"{name} must name at least one {'place' if limits.low == 0 else 'layer'}")
