"""Which task each episode runs, for the views that hide tasks from the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.base.errors import UserError, did_you_mean
from metarl.tasks.distribution import SPLITS, TaskDistribution, Tasks
from metarl.tasks.family import TaskFamily

Task = Mapping[str, Any] | Tasks | None
"""A task by hand: the values of some parameters (the others are nominal), or Tasks; None: draw."""
RENDER_MODES = (None, "rgb_array")


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks the episodes run, and how they are shown: the keywords of every view here."""

    split: str = "train"
    """train, heldout or ood."""
    num_tasks: int | None = None
    """Go through the first this many tasks of the frozen split in turn. The default draws fresh
    tasks from the training box, and takes 30 tasks of the other splits."""
    episodes_per_task: int = 1
    """Episodes of a world before it is given its next task."""
    render_mode: Literal["rgb_array"] | None = None
    """rgb_array, or None for no pictures."""
    width: int = 480
    """Pixels."""
    height: int = 480
    """Pixels."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError."""
        if self.split not in SPLITS:
            raise UserError(
                f"unknown split '{self.split}'{did_you_mean(str(self.split), SPLITS)}; "
                f"it is one of {', '.join(SPLITS)}"
            )
        for name in ("num_tasks", "episodes_per_task", "width", "height"):
            value = getattr(self, name)
            if (name, value) != ("num_tasks", None) and not (isinstance(value, int) and value > 0):
                raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.render_mode not in RENDER_MODES:
            raise UserError(f"render_mode must be rgb_array or None, not {self.render_mode!r}")


class TaskSampler:
    """Hands out tasks: fresh draws, or the tasks of a frozen split in turn."""

    def __init__(self, family: TaskFamily, options: TaskOptions) -> None:
        self.distribution = TaskDistribution(family)
        self.frozen: Tasks | None = None
        if options.split != "train" or options.num_tasks:
            self.frozen = self.distribution.split(options.split, options.num_tasks or 30)
        self._next = 0

    def restart(self) -> None:
        """Begin again with the first task of a frozen split."""
        self._next = 0

    def next(self, count: int, rng: np.random.Generator) -> Tasks:
        """Return the next `count` tasks."""
        if self.frozen is None:
            return self.distribution.sample(count, rng)
        rows = (self._next + np.arange(count)) % len(self.frozen)
        self._next = int(rows[-1]) + 1
        return Tasks(self.frozen.family, self.frozen.names, self.frozen.values[rows])

    def from_values(self, task: Mapping[str, Any] | Tasks, count: int) -> Tasks:
        """Return a task by hand for `count` worlds: numbers are shared, (count,) arrays are not."""
        if isinstance(task, Tasks):
            rows = task.values
        else:
            try:
                columns = {name: np.asarray(value, np.float64) for name, value in task.items()}
            except (AttributeError, TypeError, ValueError):
                raise UserError(
                    f"a task by hand is {{parameter: number}}, or Tasks, not {task!r:.80}"
                ) from None
            if any(column.shape not in ((), (count,)) for column in columns.values()):
                raise UserError(f"a task by hand gives numbers, or ({count},) numbers, not {task}")
            each = range(count if any(column.ndim for column in columns.values()) else 1)
            made = [
                self.distribution.make(
                    **{n: float(c[i] if c.ndim else c) for n, c in columns.items()}
                )
                for i in each
            ]
            rows = np.concatenate([one.values for one in made])
        if len(rows) not in (1, count):
            raise UserError(f"{len(rows)} tasks do not fit {count} worlds")
        rows = np.repeat(rows, count // len(rows), axis=0)
        name = self.distribution.family.name
        return Tasks(name, getattr(task, "names", self.distribution.names), rows)


def task_options(options: Mapping[str, Any], own: Sequence[str]) -> TaskOptions:
    """Check the keywords of a view. Raises UserError.

    Args:
        options: those that are not the view's own.
        own: the names of the view's own, to be listed.
    """
    known = [*TaskOptions.__dataclass_fields__, *own]
    for name in options:
        if name not in known:
            raise UserError(
                f"unknown option '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
    return TaskOptions(**options)
