"""Tasks: named parameter vectors, the ranges they are drawn from, and the frozen splits.

A split is disjoint from every training draw by construction, not by luck: a draw for training has
the last bit of its float64 mantissa cleared, and a held-out draw has it set. The two sets have no
number in common, and the change (one part in 10^16) is far below anything physical.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np

from metarl.errors import UserError, did_you_mean
from metarl.keys import Key

if TYPE_CHECKING:
    from metarl.edits import Edit
    from metarl.family import TaskFamily

SPLITS = ("train", "heldout", "ood")


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
        if not (_finite(self.low) and _finite(self.high) and self.low < self.high):
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
            return np.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        if self.area:
            return np.sqrt(self.low**2 + u * (self.high**2 - self.low**2))
        return self.low + u * (self.high - self.low)

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share more than an end point."""
        return self.low < other.high and other.low < self.high

    def __str__(self) -> str:
        law = " log" if self.log else " by area" if self.area else ""
        return f"[{self.low:g}, {self.high:g}]{law}"


@dataclass(frozen=True)
class Choices:
    """One of a few values, all equally likely; `heldout` and `ood` may have values of their own."""

    values: tuple[float, ...]
    heldout: tuple[float, ...] = ()
    ood: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("values", "heldout", "ood"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        every = (*self.values, *self.heldout, *self.ood)
        if not self.values or not all(_finite(v) for v in every):
            raise UserError(f"Choices({self.values}): give at least one value, all finite")
        if len(set(every)) < len(every):
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
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise UserError(f"parameter name '{self.name}' must be snake_case")
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
            raise UserError(
                f"parameter '{self.name}': ood must be a tuple of Intervals, not {ood!r}"
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


@dataclass(frozen=True, eq=False)
class Tasks:
    """M parameter vectors of one family."""

    family: str
    names: tuple[str, ...]
    """(P,) column names."""
    values: np.ndarray
    """(M, P) float64."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        values = np.array(self.values, np.float64)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        if values.ndim != 2 or values.shape[1] != len(self.names) or len(values) == 0:
            raise UserError(
                f"tasks of '{self.family}': values have shape {values.shape}, "
                f"expected (M, {len(self.names)}) with M at least 1"
            )
        if not np.isfinite(values).all():
            raise UserError(f"tasks of '{self.family}': a value is not finite")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: SupportsIndex | slice) -> Tasks:
        if not isinstance(index, slice):
            at = range(len(self))[operator.index(index)]  # IndexError ends an iteration
            index = slice(at, at + 1)
        return Tasks(self.family, self.names, self.values[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tasks):
            return NotImplemented
        same = (self.family, self.names) == (other.family, other.names)
        return same and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> np.ndarray:
        """Return the (M,) values of one column."""
        if name not in self.names:
            raise UserError(
                f"'{self.family}' has no parameter '{name}'{did_you_mean(name, self.names)}; "
                f"it has {', '.join(self.names)}"
            )
        return self.values[:, self.names.index(name)]

    def label(self, m: int) -> str:
        """Return task m in words, such as ``goal_velocity=1.7``."""
        return ", ".join(f"{n}={v:.4g}" for n, v in zip(self.names, self.values[m], strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; floats survive the round trip to the bit."""
        return {
            "family": self.family, "names": list(self.names), "values": self.values.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tasks:
        """Read what `to_json` wrote. Raises UserError if it is malformed."""
        try:
            values = np.asarray(data["values"], np.float64)
            return cls(str(data["family"]), tuple(data["names"]), values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"tasks JSON is malformed: {error}") from None


class TaskDistribution:
    """p(task) of a family: training draws, and frozen splits."""

    def __init__(self, family: TaskFamily) -> None:
        """Take the parameters of `family`."""
        self.family = family
        self.params = family.params
        self.names = tuple(name for param in self.params for name in param.names)

    @property
    def shared_split(self) -> bool:
        """Whether train and heldout are the same tasks, since every parameter is a choice."""
        return all(isinstance(p.train, Choices) and not p.train.heldout for p in self.params)

    @property
    def has_ood(self) -> bool:
        """Whether the family has tasks outside the training box."""
        return any(param.outside for param in self.params)

    def sample(self, n: int, rng: np.random.Generator) -> Tasks:
        """Draw n tasks from the training box."""
        columns = [p.train.at(rng.random((n, len(p.names)))) for p in self.params]
        values = np.concatenate(columns, axis=1) if columns else np.zeros((n, 0))
        return self._tasks(self._marked(values, 0))

    def split(self, name: str, n: int) -> Tasks:
        """Return the first n tasks of a frozen split: the same on every machine, for ever.

        `heldout` are unseen draws from the training box, and where every parameter is a choice
        it goes through the combinations in order. In `ood`, task i has parameter i (modulo the
        number of parameters with ood ranges) outside the box and the others inside it; choices
        with values of their own for a split are drawn from those.
        """
        if name not in SPLITS:
            raise UserError(
                f"unknown split '{name}'{did_you_mean(name, SPLITS)}; "
                f"it is one of {', '.join(SPLITS)}"
            )
        if n < 1:
            raise UserError(f"split '{name}': the number of tasks must be at least 1, not {n}")
        if name == "ood" and not self.has_ood:
            raise UserError(f"family '{self.family.name}' has no ood ranges")
        if self.shared_split and name != "ood":
            return self._tasks(self._combinations(n))
        rows = [self._split_row(name, i) for i in range(n)]
        values = np.stack(rows)
        return self._tasks(self._marked(values, 0 if name == "train" else 1))

    def sweep(self, param: str, n: int) -> Tasks:
        """Vary one column over its whole range, train and ood, with the others nominal."""
        values = np.repeat(self.nominal().values, n, axis=0)
        column = self._index(param)
        owner = self._owner(column)
        if isinstance(owner.train, Choices):
            values[:, column] = owner.train.at((np.arange(n) + 0.5) / n)
        else:
            ranges = (owner.train, *owner.ood)
            low, high = min(r.low for r in ranges), max(r.high for r in ranges)
            values[:, column] = Interval(low, high, owner.train.log).at(np.linspace(0, 1, n))
        return self._tasks(values)

    def nominal(self) -> Tasks:
        """Return the one task that leaves the robot as it is, goals at mid-range."""
        return self._tasks(np.array([[p.nominal_value for p in self.params for _ in p.names]]))

    def make(self, **values: float) -> Tasks:
        """Return one task with the named values, the others nominal."""
        row = self.nominal().values.copy()
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"parameter '{name}' must be finite, not {value}")
            row[0, self._index(name)] = value
        return self._tasks(row)

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise UserError(
                f"family '{self.family.name}' has no parameter '{name}'"
                f"{did_you_mean(name, self.names)}; it has {', '.join(self.names)}"
            )
        return self.names.index(name)

    def _owner(self, column: int) -> Param:
        return [param for param in self.params for _ in param.names][column]

    def _tasks(self, values: np.ndarray) -> Tasks:
        return Tasks(self.family.name, self.names, values)

    def _marked(self, values: np.ndarray, bit: int) -> np.ndarray:
        """Set the last mantissa bit of every continuous value; choices stay as they are.

        The eight bits before it are cleared: the last ones of an exponential depend on the CPU.
        """
        rounded = (values.view(np.int64) + np.int64(0x100)) & ~np.int64(0x1FF)
        marked = (rounded | np.int64(bit)).view(np.float64)
        continuous = [isinstance(p.train, Interval) for p in self.params for _ in p.names]
        return np.where(np.array(continuous, bool), marked, values)

    def _split_row(self, name: str, i: int) -> np.ndarray:
        """Task i of a split: a function of the family, the split and i alone."""
        rng = Key("metarl split", self.family.name, name, i).numpy()
        outside = [param.name for param in self.params if param.ood]
        chosen = outside[i % len(outside)] if name == "ood" and outside else None
        parts = []
        for param in self.params:
            where = param.train.of(name) if isinstance(param.train, Choices) else param.train
            u = rng.random((1, len(param.names)))
            if param.name == chosen:
                where = param.ood[(i // len(outside)) % len(param.ood)]
                if isinstance(param.train, Interval) and where.low >= param.train.high:
                    u = 1.0 - u  # (low, high]: the end that touches the box is left out
            parts.append(where.at(u))
        return np.concatenate(parts, axis=1)[0]

    def _combinations(self, n: int) -> np.ndarray:
        """The products of all choices in order, repeated up to n rows."""
        axes = [p.train.values for p in self.params for _ in p.names]  # type: ignore[union-attr]
        rows = np.zeros((n, len(axes)))
        index = np.arange(n)
        for column in reversed(range(len(axes))):
            rows[:, column] = np.asarray(axes[column])[index % len(axes[column])]
            index = index // len(axes[column])
        return rows


def _listed(values: tuple[float, ...]) -> str:
    """Return the values in words: {0, 1, 2}, and {0, …, 31} for a long row of whole numbers."""
    first, last = values[0], values[-1]
    if len(values) > 8 and values == tuple(first + k for k in range(len(values))):
        return f"{{{first:g}, …, {last:g}}}"
    return "{" + ", ".join(f"{v:g}" for v in values) + "}"


def _finite(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError):
        return False
