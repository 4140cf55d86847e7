"""The noise of actions, drawn on a device as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from metarl.base.keys import DeviceRNG

TOGETHER = 16
"""Steps whose noise is drawn together."""


class DeviceNoise(Sequence[Tensor]):
    """(B, A) standard normal numbers of each step of a rollout.

    Those of a world and a step are a function of the key, of the task's index, of the world's
    within its task, and of the step's: they are the same in whatever company they are drawn.
    """

    def __init__(self, streams: Tensor, steps: int, size: int, device: torch.device) -> None:
        """Draw nothing yet.

        Args:
            streams: (B,) of `DeviceRNG.streams`, where the draws are made.
            steps: T.
            size: A.
            device: where they are needed.
        """
        self._streams, self._steps, self._size, self._device = streams, steps, size, device
        self._first, self._drawn = 0, streams.new_zeros(0, dtype=torch.float32)

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, t: int) -> Tensor: ...
    @overload
    def __getitem__(self, t: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, t: int | slice) -> Tensor | Sequence[Tensor]:
        """Return the numbers of a step."""
        if isinstance(t, slice):
            return [self[k] for k in range(*t.indices(self._steps))]
        if not 0 <= t < self._steps:
            raise IndexError(f"the noise has {self._steps} steps, and none of number {t}")
        if not 0 <= t - self._first < len(self._drawn):
            self._first = t - t % TOGETHER
            index = torch.arange(self._first, self._first + TOGETHER, device=self._streams.device)
            rng = DeviceRNG(self._streams, index[:, None], dtype=torch.float32)
            self._drawn = rng.normal(self._size).to(self._device)
        return self._drawn[t - self._first]
