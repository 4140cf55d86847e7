"""Param: one parameter of a task, the ranges that it is drawn from, and what it edits."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Literal

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds
from metarl.simulation.edits import Edit


@dataclass(frozen=True)
class Interval:
    """A range of a continuous parameter, uniform, or log-uniform if `log`.

    With `area` it is the radius of a disc or ring whose area is covered uniformly.
    """

    low: float
    high: float
    log: bool = False
    area: bool = False

    def __post_init__(self) -> None:
        if not (is_finite(self.low) and is_finite(self.high) and self.low < self.high):
            raise UserError(
                f"Interval({self.low}, {self.high}): low must be below high, both finite"
            )
        if self.log and self.low <= 0:
            raise UserError(f"Interval({self.low}, {self.high}, log=True): low must be positive")
        if self.area and (self.log or self.low < 0):
            raise UserError(
                f"Interval({self.low}, {self.high}, area=True): low must be at least 0, log False"
            )

    def at(self, u: np.ndarray) -> np.ndarray:
        """Map u in [0, 1] to the range, elementwise."""
        if self.log:
            with localcontext(prec=30):  # np.exp's last bit depends on the CPU
                low, span = _logarithms(self.low, self.high)
                exact = [float((low + Decimal(x) * span).exp()) for x in u.ravel().tolist()]
            return np.array(exact).reshape(u.shape)
        if self.area:
            return np.sqrt(self.low**2 + u * (self.high**2 - self.low**2))
        return self.low + u * (self.high - self.low)

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share more than an end point."""
        return self.low < other.high and other.low < self.high

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        law = " log" if self.log else " by area" if self.area else ""
        return f"[{self.low:g}, {self.high:g}]{law}"


@functools.lru_cache(256)
def _logarithms(low: float, high: float) -> tuple[Decimal, Decimal]:
    """Return ln(low) and ln(high / low) to 30 digits: a logarithm takes as long as a draw."""
    with localcontext(prec=30):
        return (first := Decimal(low).ln()), Decimal(high).ln() - first


@dataclass(frozen=True)
class Choices:
    """A parameter that takes one of a few values, all equally likely.

    `heldout` and `ood`, where given, are the values of those splits instead (terrain seeds).
    """

    values: tuple[float, ...]
    heldout: tuple[float, ...] = ()
    ood: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("values", "heldout", "ood"):
            check_kinds(**{f"{field} of Choices": (getattr(self, field), Iterable)})
            object.__setattr__(self, field, tuple(getattr(self, field)))
        every = (*self.values, *self.heldout, *self.ood)
        if not self.values or not all(is_finite(v) for v in every):
            raise UserError(f"Choices({self.values}): give at least one value, all finite")
        if len(set(map(float, every))) < len(every):
            raise UserError(f"Choices({every}): a value is repeated")
        for field in ("values", "heldout", "ood"):
            object.__setattr__(self, field, tuple(float(v) for v in getattr(self, field)))

    def of(self, split: str) -> Choices:
        """Return the choices of one split."""
        return Choices(getattr(self, split, ()) or self.values)

    def at(self, u: np.ndarray) -> np.ndarray:
        """Map u in [0, 1] to the values, elementwise."""
        index = np.minimum((u * len(self.values)).astype(np.int64), len(self.values) - 1)
        return np.asarray(self.values)[index]

    def __contains__(self, value: float) -> bool:
        return value in (*self.values, *self.heldout)

    def __str__(self) -> str:
        unseen = f" (heldout {_listed(self.heldout)})" if self.heldout else ""
        return _listed(self.values) + unseen


@dataclass(frozen=True)
class Param:
    """One parameter of a task: its ranges, and what it edits in the model.

    A parameter without an edit is read by the family's reward or observation.
    """

    name: str
    """snake_case."""
    train: Interval | Choices
    """The range of the train and heldout splits."""
    ood: tuple[Interval, ...] = ()
    """Ranges outside the box, for the ood split; must not overlap `train`."""
    edit: Edit | tuple[Edit, ...] | None = None
    """The model fields that the value changes, or None."""
    size: int | Literal["model"] = 1
    """Number of elements, each an independent draw; "model": as many as its edit has in the model.
    More than one makes names like ``mass[2]``."""
    unit: str = ""
    """The physical unit, '' if dimensionless."""
    doc: str = ""
    """One line for the tables."""
    nominal: float | None = None
    """The value that leaves the robot as it is. None: 1 (scale), 0 (shift), else mid-range."""

    def __post_init__(self) -> None:
        name = self.name
        if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
            raise UserError(f"parameter name '{name!s:.80}' must be snake_case")
        if self.size != "model" and not (isinstance(self.size, int) and self.size >= 1):
            raise UserError(
                f"parameter '{self.name}': size must be a positive integer or 'model', "
                f"not {self.size!r}"
            )
        if not isinstance(self.train, Interval | Choices):
            raise UserError(
                f"parameter '{self.name}': train must be an Interval or Choices, not {self.train!r}"
            )
        ood = self.ood
        if not (isinstance(ood, tuple | list) and all(isinstance(r, Interval) for r in ood)):
            discrete = isinstance(self.train, Choices)
            hint = "; for choices, write Choices((…), ood=(…))" if discrete else ""
            raise UserError(
                f"parameter '{self.name}': ood must be a tuple of Intervals, not {ood!r}{hint}"
            )
        object.__setattr__(self, "ood", tuple(ood))
        for outside in self.ood:
            if isinstance(self.train, Interval):
                bad = outside.overlaps(self.train)
            else:
                seen = (*self.train.values, *self.train.heldout)
                bad = any(outside.low <= v <= outside.high for v in seen)
            if bad:
                raise UserError(
                    f"parameter '{self.name}': ood range {outside} overlaps "
                    f"train range {self.train}: it must lie outside"
                )
        if self.nominal is not None and not is_finite(self.nominal):
            raise UserError(f"parameter '{self.name}': nominal must be finite, not {self.nominal}")
        self._check_edits()

    def _check_edits(self) -> None:
        """Refuse what is no edit, and a `when` that could never happen."""
        if isinstance(self.edit, list):
            object.__setattr__(self, "edit", tuple(self.edit))
        if not all(isinstance(edit, Edit) for edit in self.edits):
            raise UserError(
                f"parameter '{self.name}': edit must be scale(…), shift(…), assign(…), when(…) or "
                f"a tuple of them, not {self.edit!r:.80}"
            )
        for case in {edit.case for edit in self.edits if edit.case is not None}:
            if not isinstance(self.train, Choices):
                raise UserError(
                    f"parameter '{self.name}': when({case:g}, …) needs Choices to choose among, "
                    f"not {self.train}"
                )
            if case not in self.choices:
                raise UserError(
                    f"parameter '{self.name}': when({case:g}, …) never happens: its values are "
                    f"{_listed(self.choices)}"
                )

    def encode(self, values: Tensor) -> Tensor:
        """Return values as a network should see them, for whoever is told the task.

        Args:
            values: (B, size) or (B,).

        Returns:
            (B, n): in [-1, 1] within the train range, by the logarithm where that is drawn
            log-uniformly, and beyond it outside. Of three choices or more, as the faults of a
            robot, one column a choice, 1 where it is taken; n is then size times their number.
            Where held-out choices are new, such columns would say nothing of them: one number.
        """
        values = values.reshape(len(values), -1)
        chosen = self.train
        if isinstance(chosen, Choices) and len(chosen.values) > 2 and not chosen.heldout:
            choices = torch.tensor(chosen.values, dtype=values.dtype, device=values.device)
            return (values[..., None] == choices).to(values.dtype).flatten(1)
        if isinstance(self.train, Choices):
            low, high = min(self.train.values), max(self.train.values)
        else:
            low, high = self.train.low, self.train.high
        if isinstance(self.train, Interval) and self.train.log:
            values = values.clamp(min=1e-3 * low).log()
            low, high = math.log(low), math.log(high)
        return 2 * (values - low) / ((high - low) or 1.0) - 1

    def check_edits(self, model: mujoco.MjModel, edited: set[str]) -> None:
        """Refuse edits that `model` cannot have, and a parameter none of whose edits can act.

        Args:
            model: the nominal model.
            edited: fields that earlier parameters set or shift; this one's are added.

        Raises:
            UserError: as said, in one line.
        """
        idle = []
        for edit in self.edits:
            idle.append(edit.idle(model, edited))
            if edit.kind != "scale":
                edited.add(edit.field)
            if edit.field == "geom_dataid":
                self._check_grounds(edit, model)
        if idle and all(idle):
            raise UserError(idle[0])

    def _check_grounds(self, edit: Edit, model: mujoco.MjModel) -> None:
        """Refuse a number that is no height field of the model: MuJoCo would read past its end."""
        rows = edit.rows(model)
        if (model.geom_type[rows] != int(mujoco.mjtGeom.mjGEOM_HFIELD)).any():
            raise UserError("geom_dataid chooses the height field of geoms of type hfield only")
        values = self.choices if edit.case is None else (edit.to,)
        known = range(model.nhfield)
        if not values or self.ood or any(value not in known for value in values):
            raise UserError(
                f"geom_dataid needs Choices of the model's height fields, 0 to {known[-1]}, "
                f"not {self.ranges}"
            )

    def refuse_unknown(self, values: np.ndarray) -> None:
        """Raise UserError for a value that a discrete parameter does not have in any split."""
        if isinstance(self.train, Interval):
            return
        known = np.isin(values, self.choices)
        for outside in self.ood:
            known |= (outside.low <= values) & (values <= outside.high)
        if not known.all():
            allowed = " or ".join((_listed(self.choices), *map(str, self.ood)))
            raise UserError(
                f"parameter '{self.name}' must be one of {allowed}, not {values[~known][0]:g}"
            )

    @property
    def choices(self) -> tuple[float, ...]:
        """Every value that a discrete parameter has, in any split or as its nominal one, sorted."""
        if isinstance(self.train, Interval):
            return ()
        every = {*self.train.values, *self.train.heldout, *self.train.ood, self.nominal_value}
        return tuple(sorted(every))

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The model edits, none to several."""
        if self.edit is None:
            return ()
        return self.edit if isinstance(self.edit, tuple) else (self.edit,)

    @property
    def outside(self) -> tuple[Interval | Choices, ...]:
        """Where the ood split draws from, when it takes this parameter out of its box."""
        own = getattr(self.train, "ood", ())
        return (*self.ood, Choices(own)) if own else self.ood

    @property
    def ranges(self) -> str:
        """What the splits are drawn from, to the last digit."""
        size = "" if self.size == 1 else f"{self.size} of "
        parts = (_in_full(self.train), *(f"ood {_in_full(outside)}" for outside in self.ood))
        return size + ", ".join(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, one an element."""
        if self.size == "model":
            raise UserError(f"parameter '{self.name}': its size is known once a family holds it")
        if self.size == 1:
            return (self.name,)
        return tuple(f"{self.name}[{i}]" for i in range(self.size))

    @property
    def nominal_value(self) -> float:
        """The value that leaves the robot as it is, or the middle of the train range."""
        if self.nominal is not None:
            return float(self.nominal)
        kinds = {edit.kind if edit.case is None else "case" for edit in self.edits}
        if kinds == {"scale"}:
            return 1.0
        if kinds == {"shift"}:
            return 0.0
        return float(self.train.at(np.array(0.5)))


def _in_full(where: Interval | Choices) -> str:
    if isinstance(where, Interval):
        law = " log" if where.log else " by area" if where.area else ""
        return f"[{float(where.low)!r}, {float(where.high)!r}]{law}"
    named = {"heldout ": where.heldout, "ood ": where.ood}
    parts = {"": where.values} | {name: values for name, values in named.items() if values}
    return ", ".join(f"{name}{{{', '.join(map(repr, v))}}}" for name, v in parts.items())


def _listed(values: tuple[float, ...]) -> str:
    """Return the values in words: {0, 1, 2}, and {0, …, 31} for a long row of whole numbers."""
    first, last = values[0], values[-1]
    if len(values) > 8 and values == tuple(first + k for k in range(len(values))):
        return f"{{{first:g}, …, {last:g}}}"
    return "{" + ", ".join(f"{v:g}" for v in values) + "}"


def is_finite(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError, RuntimeError):
        return False
