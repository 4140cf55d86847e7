"""When events are due in B worlds, known to the device alone: as `metarl.worlds.events` has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from metarl.base.keys import DeviceRNG
from metarl.tasks.family import TaskFamily
from metarl.worlds.events import NEVER, SWITCH, Kinds

Draws = Callable[..., DeviceRNG]
"""Words for what -> other draws of all worlds at each step of each episode."""


class DeviceSchedule(Kinds):
    """The steps at which events and the switch are due in each world, which the device knows."""

    def __init__(self, family: TaskFamily, num_worlds: int, device: torch.device) -> None:
        """Read what the family declares."""
        super().__init__(family)
        size = len(self._kinds), num_worlds
        self._seconds = torch.zeros(2, *size, dtype=torch.float64, device=device)
        self._switched = torch.zeros(num_worlds, dtype=torch.bool, device=device)
        self._due = torch.zeros(size, dtype=torch.int64, device=device)

    def set_tasks(self, values: np.ndarray, ids: slice | np.ndarray) -> None:
        """Take the tasks (n, P) of the worlds `ids`, whose episodes begin next."""
        which = torch.from_numpy(ids).to(self._due.device) if isinstance(ids, np.ndarray) else ids
        seconds = torch.from_numpy(self.intervals(values))
        self._seconds[:, :, which] = seconds.to(self._seconds.device)

    def begin(self, which: Tensor, clock: int, draws: Draws) -> None:
        """Begin an episode in worlds, (B,) bool: what is due waits for its first interval."""
        self._switched.masked_fill_(which, False)
        for k in range(len(self._kinds)):
            self._plan(k, which, clock, draws)

    def due(self, clock: int, draws: Draws) -> Iterator[tuple[str, Tensor]]:
        """Yield each event, and (B,) bool, where it happens now; plan when it will again."""
        for k, name in enumerate(self._kinds):
            now = self._due[k] <= clock
            yield name, now
            if name == SWITCH:
                self._due[k].masked_fill_(now, NEVER)
                self._switched.masked_fill_(now, True)
                before, after = self._seconds
                for other in range(k):  # what has another interval is planned anew
                    self._plan(other, now & (before[other] != after[other]), clock, draws)
            else:
                self._plan(k, now, clock, draws)

    def _plan(self, k: int, which: Tensor, clock: int, draws: Draws) -> None:
        name, jitter = list(self._kinds)[k], list(self._kinds.values())[k].jitter
        gap = torch.where(self._switched, self._seconds[1, k], self._seconds[0, k])
        if jitter:
            u = draws("interval", name).share(1)[:, 0]
            gap = gap * (1.0 + jitter * (2.0 * u - 1.0))
        steps = gap / self._family.dt
        steps = torch.ceil(steps - 1e-6) if name == SWITCH else torch.round(steps)
        steps = steps.clamp(1, 2**40).long()
        self._due[k] = torch.where(which, clock + steps, self._due[k])
