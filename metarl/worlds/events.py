"""When things happen inside the episodes of B worlds: events, and the switch to the task.

The host knows the times of all of it, so that steps in which nothing happens cost one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from metarl.base.keys import BatchedRNG
from metarl.tasks.distribution import Tasks
from metarl.tasks.events import Every, never_nominal, times
from metarl.tasks.family import TaskFamily

Draws = Callable[..., BatchedRNG]
"""Of the worlds `ids` (n,), and words for what: other draws at each step of each episode."""
NEVER = 2**62
"""The step at which something is due that does not come."""
SWITCH = ""
"""What `Schedule.due` calls the switch to the task; no event has that name."""


class Kinds:
    """What a family declares to happen within episodes: its events, and the switch to the task."""

    def __init__(self, family: TaskFamily) -> None:
        """Read it; the switch comes last."""
        self._family = family
        self._kinds = dict(family.events)
        if family.switch_at is not None:
            self._kinds[SWITCH] = Every(family.switch_at)
            self._kept = never_nominal(family)
            self._nominal = family.distribution.nominal().values

    def check(self, tasks: Tasks) -> None:
        """Raise UserError for tasks with a time that is not positive."""
        for kind in self._kinds.values():
            times(self._family, kind.seconds, tasks.values)

    def intervals(self, values: np.ndarray) -> np.ndarray:
        """Return (2, K, n) times in s, as tasks (n, P) begin and as they are after the switch."""
        begin = self.before(values) if SWITCH in self._kinds else values
        found = [
            [times(self._family, kind.seconds, values if name == SWITCH else tasks)
             for name, kind in self._kinds.items()]
            for tasks in (begin, values)
        ]  # fmt: skip
        return np.array(found, np.float64).reshape(2, len(self._kinds), len(values))

    def before(self, values: np.ndarray) -> np.ndarray:
        """Return the tasks (n, P) that worlds begin with, of those that they switch to."""
        return np.where(self._kept, values, self._nominal)


class Schedule(Kinds):
    """The steps at which events are due in each world, and its switch to the task."""

    def __init__(self, family: TaskFamily, num_worlds: int) -> None:
        """Read what the family declares."""
        super().__init__(family)
        self._seconds = np.zeros((2, len(self._kinds), num_worlds))
        """Of the task that worlds begin with, and of theirs; alike without a switch."""
        self._switched = np.zeros(num_worlds, np.int64)
        """0 or 1: which of the two they are in."""
        self._due = np.full((len(self._kinds), num_worlds), NEVER)
        """By the clock of the worlds, in steps."""
        self.first = NEVER
        """The earliest of them."""

    def set_tasks(self, values: np.ndarray, ids: slice | np.ndarray) -> None:
        """Take the tasks (n, P) of the worlds `ids`, whose episodes begin next."""
        self._seconds[:, :, ids] = self.intervals(values)

    def begin(self, ids: np.ndarray, clock: int, draws: Draws) -> None:
        """Begin an episode in the worlds `ids`, (n,): what is due waits for its first interval."""
        self._switched[ids] = 0
        for k in range(len(self._kinds)):
            self._plan(k, ids, clock, draws)
        self._look_ahead()

    def due(self, clock: int, draws: Draws) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what happens now, and the (n,) worlds in which it does; plan when it will again."""
        for k, name in enumerate(self._kinds):
            ids = np.flatnonzero(self._due[k] <= clock)
            if not len(ids):
                continue
            yield name, ids
            if name == SWITCH:
                self._due[k, ids] = NEVER
                self._switch(ids, clock, draws)
            else:
                self._plan(k, ids, clock, draws)
        self._look_ahead()

    def _switch(self, ids: np.ndarray, clock: int, draws: Draws) -> None:
        """Plan anew what has another interval in the task that the worlds `ids` switch to."""
        self._switched[ids] = 1
        for k in range(len(self._kinds) - 1):
            other = ids[self._seconds[0, k, ids] != self._seconds[1, k, ids]]
            if len(other):
                self._plan(k, other, clock, draws)

    def _plan(self, k: int, ids: np.ndarray, clock: int, draws: Draws) -> None:
        name, jitter = list(self._kinds)[k], list(self._kinds.values())[k].jitter
        gap = self._seconds[self._switched[ids], k, ids]
        if jitter:
            u = draws(ids, "interval", name).unit(1)[:, 0]
            gap = gap * (1.0 + jitter * (2.0 * u - 1.0))
        if name == SWITCH:  # the first step that ends at or after its time
            steps = np.ceil(gap / self._family.dt - 1e-6)
        else:
            steps = np.rint(gap / self._family.dt)
        self._due[k, ids] = clock + np.clip(steps, 1, 2**40).astype(np.int64)

    def _look_ahead(self) -> None:
        self.first = int(self._due.min()) if len(self._due) else NEVER
