"""Tasks: named parameter vectors, the distribution they are drawn from, and the frozen splits.

A split is disjoint from every training draw by construction, not by luck: a draw for training has
the last bit of its float64 mantissa cleared, and a held-out draw has it set. The two sets have no
number in common, and the change (one part in 10^16) is far below anything physical.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds, did_you_mean
from metarl.base.keys import Key
from metarl.base.text import counted
from metarl.tasks.params import Choices, Interval, Param, is_finite

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily

SPLITS = ("train", "heldout", "ood")
MOST_TASKS = 10**6
"""Of a split."""
_SHOWN = 12
"""Numbers of a task, at most, that a line names."""


@dataclass(frozen=True, eq=False)
class Tasks:
    """M parameter vectors of one family."""

    family: str
    names: tuple[str, ...]
    """(P,) column names."""
    values: np.ndarray
    """(M, P) float64."""
    ids: np.ndarray | None = None
    """(M,) int64 rows in the pool of training tasks that they come from, or None."""
    first: int = 0
    """Index of the first of them in the task set that this is a slice of. Initial states and noise
    depend on it, so that a task meets the same ones in a shard as in the whole set."""

    def __post_init__(self) -> None:
        check_kinds(names=(self.names, list | tuple))
        object.__setattr__(self, "names", tuple(self.names))
        try:
            values = np.array(self.values, np.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"tasks of '{self.family}': values must be numbers (M, P), not {self.values!r:.80}"
            ) from None
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
        """Return a slice, which knows its place in the set (`first`), or one task on its own."""
        first = 0
        if isinstance(index, slice):
            first = self.first + index.indices(len(self))[0]
        else:
            at = range(len(self))[operator.index(index)]  # IndexError ends an iteration
            index = slice(at, at + 1)
        ids = None if self.ids is None else self.ids[index]
        return Tasks(self.family, self.names, self.values[index], ids, first)

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

    def counted(self, kind: str) -> str:
        """Return how many different tasks these are: '30 ood tasks', '2 tasks in 30 rows'."""
        distinct = len(np.unique(self.values, axis=0))
        rows = f" in {len(self)} rows" if distinct < len(self) else ""
        return f"{counted(distinct, kind)}{rows}"

    def label(self, m: int) -> str:
        """Return task m in words, such as ``goal_velocity=1.7``; of many numbers the first ones."""
        words = [f"{n}={v:.4g}" for n, v in zip(self.names, self.values[m], strict=True)]
        if len(words) > _SHOWN:
            words[_SHOWN - 1 :] = [f"and {len(words) - _SHOWN + 1} more numbers"]
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; floats survive the round trip to the bit."""
        return {
            "family": self.family, "names": list(self.names), "values": self.values.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tasks:
        """Read what `to_json` wrote. Raises UserError if it is malformed."""
        try:
            values = data["values"]
            return cls(str(data["family"]), tuple(data["names"]), values)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"tasks JSON is malformed: {error}") from None


class TaskValues(dict[str, Tensor]):
    """Parameter -> (B,) or (B, size), which knows what to say of another name."""

    def __init__(self, family: str, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.family = family

    def __missing__(self, name: str) -> Tensor:
        raise UserError(
            f"family '{self.family}' has no parameter '{name}'{did_you_mean(str(name), self)}; "
            f"it has {', '.join(self) or 'none'}"
        )


def _check_count(where: str, n: int) -> None:
    """Raise UserError for what is no number of tasks."""
    if not isinstance(n, int | np.integer) or not 1 <= n <= MOST_TASKS:
        raise UserError(
            f"{where}: the number of tasks must be at least 1 and at most {MOST_TASKS}, "
            f"not {n!r:.40}"
        )


class TaskDistribution:
    """p(task) of a family: training draws, and frozen splits."""

    def __init__(self, family: TaskFamily) -> None:
        """Take the parameters of `family`. Raises UserError if it is none."""
        if not isinstance(getattr(family, "params", None), tuple):
            hint = f": find_family({family!r:.80}) gives one" if isinstance(family, str) else ""
            raise UserError(f"family must be of type TaskFamily, not {family!r:.80}{hint}")
        self.family = family
        self._split_name = getattr(family, "split_name", "") or family.name
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

    def by_param(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return a copy of the columns (n, P) by parameter: (n,), or (n, size) of a vector."""
        by_name, at = {}, 0
        for param in self.params:
            size = len(param.names)
            part = values[:, at] if size == 1 else values[:, at : at + size]
            by_name[param.name], at = part.copy(), at + size
        return by_name

    def tensors(self, values: np.ndarray, device: torch.device, dtype: torch.dtype) -> TaskValues:
        """Return what `by_param` does as tensors, for `reward` and `observe`."""
        columns = self.by_param(values)
        return TaskValues(
            self.family.name,
            {name: torch.from_numpy(v).to(device, dtype) for name, v in columns.items()},
        )

    def normalized(self, task: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each parameter as a network should see it, (B, n); see `Param.encode`."""
        return {param.name: param.encode(task[param.name]) for param in self.params}

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Return (M, task_size) float32: the parameters of each task as a network should see them.

        For what may know the task in training: a critic, a teacher, an oracle.
        """
        task = self.tensors(tasks.values, torch.device("cpu"), torch.float64)
        parts = [part.float() for part in self.normalized(task).values()]
        return torch.cat([torch.zeros(len(tasks), 0), *parts], 1)

    @functools.cached_property
    def task_size(self) -> int:
        """How many numbers `task_vector` has for a task."""
        return self.task_vector(self.nominal()).shape[1]

    def ranges(self) -> dict[str, str]:
        """Return what each parameter is drawn from, to the last digit."""
        return {param.name: param.ranges for param in self.params}

    def sample(self, n: int, rng: np.random.Generator) -> Tasks:
        """Draw n tasks from the training box. Raises UserError for a wrong n or generator."""
        _check_count("sample", n)
        if not isinstance(rng, np.random.Generator):
            raise UserError(
                "sample: rng is a numpy generator, as numpy.random.default_rng(0) or "
                f"metarl.Key(0).numpy() make, not {rng!r:.60}"
            )
        drawn = [rng.random((n, len(p.names))) for p in self.params]
        return self.at(np.concatenate(drawn, axis=1) if drawn else np.zeros((n, 0)))

    def at(self, points: np.ndarray) -> Tasks:
        """Return the training tasks at points (n, P) of the unit cube; uniform ones are `sample`'s.

        Each column runs through its range as tasks are drawn from it, by the logarithm or by area.
        """
        values, column = np.zeros(points.shape), 0
        for param in self.params:
            part = slice(column, column + len(param.names))
            values[:, part] = param.train.at(points[:, part])
            column = part.stop
        return self._tasks(self._marked(values, 0))

    def split(self, name: str, n: int) -> Tasks:
        """Return the first n tasks of a frozen split: the same on every machine, for ever.

        `heldout` are unseen draws from the training box, and where every parameter is a choice
        it goes through the combinations in order, as where a family has `splits_in_order`. In
        `ood`, task i has parameter i (modulo the number of parameters with ood ranges) outside the
        box and the others inside it; choices with values of their own for a split are drawn from
        those.
        """
        if name not in SPLITS:
            raise UserError(
                f"unknown split '{name}'{did_you_mean(str(name), SPLITS)}; "
                f"it is one of {', '.join(SPLITS)}"
            )
        _check_count(f"split '{name}'", n)
        if name == "ood" and not self.has_ood:
            raise UserError(f"family '{self.family.name}' has no ood ranges")
        in_order = getattr(self.family, "splits_in_order", False)
        if (self.shared_split or in_order) and name != "ood":
            return self._tasks(self._combinations(n, name))
        rows = [self._split_row(name, i) for i in range(n)]
        values = np.stack(rows)
        return self._tasks(self._marked(values, 0 if name == "train" else 1))

    def sweep(self, param: str, n: int) -> Tasks:
        """Vary one column over its whole range, train and ood, with the others nominal.

        Of a discrete parameter, that is the values of training.
        """
        _check_count("sweep", n)
        values = np.repeat(self.nominal().values, n, axis=0)
        column, owner = self.index(param), self.parameter(param)
        if isinstance(owner.train, Choices):
            values[:, column] = owner.train.at((np.arange(n) + 0.5) / n)
        else:
            ranges = (owner.train, *owner.ood)
            low, high = min(r.low for r in ranges), max(r.high for r in ranges)
            log = owner.train.log and low > 0  # an ood range may reach where no logarithm does
            values[:, column] = Interval(low, high, log).at(np.linspace(0, 1, n))
        return self._tasks(values)

    def nominal(self) -> Tasks:
        """Return the one task that leaves the robot as it is, goals at mid-range."""
        return self._tasks(np.array([[p.nominal_value for p in self.params for _ in p.names]]))

    def make(self, **values: float) -> Tasks:
        """Return one task with the named values, the others nominal.

        A continuous parameter takes any finite value, a discrete one those that it has.
        """
        row = self.nominal().values.copy()
        for name, value in values.items():
            if not is_finite(value):
                raise UserError(
                    f"parameter '{name}' must be finite, and a number, not {value!r:.80}"
                )
            row[0, self.index(name)] = value
        tasks = self._tasks(row)
        self.check(tasks)
        return tasks

    def check(self, tasks: Tasks) -> None:
        """Raise UserError for tasks of another family, or with a choice that is not there."""
        if not isinstance(tasks, Tasks):
            raise UserError(
                f"tasks must be Tasks, such as family.distribution.split('heldout', 30) or "
                f"family.distribution.make({self.names[0] if self.names else ''}=…), "
                f"not {tasks!r:.80}"
            )
        if tasks.names != self.names:
            raise UserError(
                f"tasks have parameters {tasks.names}, not {self.family.name}'s {self.names}"
            )
        column = 0
        for param in self.params:
            size = len(param.names)
            try:
                param.refuse_unknown(tasks.values[:, column : column + size])
            except UserError as error:
                raise UserError(f"family '{self.family.name}': {error}") from None
            column += size

    def index(self, name: str) -> int:
        """Return the column of a name. Raises UserError if there is none."""
        if name not in self.names:
            raise UserError(
                f"family '{self.family.name}' has no parameter '{name}'"
                f"{did_you_mean(str(name), self.names)}; it has {', '.join(self.names)}"
            )
        return self.names.index(name)

    def parameter(self, name: str) -> Param:
        """Return the parameter that a column belongs to. Raises UserError if there is none."""
        return self._owner(self.index(name))

    def _owner(self, column: int) -> Param:
        return [param for param in self.params for _ in param.names][column]

    def _tasks(self, values: np.ndarray) -> Tasks:
        return Tasks(self.family.name, self.names, values)

    def _marked(self, values: np.ndarray, bit: int) -> np.ndarray:
        """Set the last mantissa bit of every continuous value; choices stay as they are.

        The eight bits before it are cleared, lest a platform's rounding shows.
        """
        rounded = (values.view(np.int64) + np.int64(0x100)) & ~np.int64(0x1FF)
        marked = (rounded | np.int64(bit)).view(np.float64)
        continuous = [isinstance(p.train, Interval) for p in self.params for _ in p.names]
        return np.where(np.array(continuous, bool), marked, values)

    def _split_row(self, name: str, i: int) -> np.ndarray:
        """Task i of a split: a function of the family, the split and i alone."""
        rng = Key("metarl split", self._split_name, name, i).numpy()
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

    def _combinations(self, n: int, split: str) -> np.ndarray:
        """The products of all choices of a split in order, repeated up to n rows."""
        axes = [p.train.of(split).values for p in self.params for _ in p.names]  # type: ignore[union-attr]
        rows = np.zeros((n, len(axes)))
        index = np.arange(n)
        for column in reversed(range(len(axes))):
            rows[:, column] = np.asarray(axes[column])[index % len(axes[column])]
            index = index // len(axes[column])
        return rows
