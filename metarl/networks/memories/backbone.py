"""Sequence backbones: what an agent remembers of a trial, behind one small interface.

A memory maps the inputs of a trial to features, each of which may depend on all inputs so far. It
does so in two ways that give the same numbers: `step` by step while acting, from an explicit state
that is never changed in place, and by `unroll` over whole trials at once, to learn from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

MemoryState = tuple[Tensor, ...]
"""What a memory holds of B worlds: tensors with B rows, whose shapes stay the same."""


class Memory(nn.Module, ABC):
    """A causal map from (T, B, inputs) to (T, B, outputs)."""

    restarts: ClassVar[bool] = True
    """Whether some worlds can begin another trial while the others go on."""
    worth_a_thread: ClassVar[int] = 8
    """Worlds from which `unroll` gains by a thread: the operations of fewer are so short that the
    threads wait for Python's lock."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Take the sizes of an input and of an output."""
        super().__init__()
        self.inputs, self.outputs = inputs, outputs

    @abstractmethod
    def begin(self, worlds: int) -> MemoryState:
        """Return the state at the start of a trial."""

    def restart(self, state: MemoryState, where: Tensor) -> MemoryState:
        """Return the state with that of `begin` in the worlds where (B,) `where` is true."""
        fresh = self.begin(len(where))
        return tuple(torch.where(where[:, None], a, b) for a, b in zip(fresh, state, strict=True))

    @abstractmethod
    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Take in one step of every world.

        Args:
            x: (B, inputs).
            state: as `begin` or the last `step` returned it; stays as it is.

        Returns:
            (B, outputs), and the new state.
        """

    @abstractmethod
    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, outputs) for the (T, B, inputs) of whole trials.

        Args:
            x: the trials, from their start.
            begins: (T, B) bool, the steps at which another trial begins in a world; the first step
                begins one in any case. Only of a memory with `restarts`.
        """


def like(module: nn.Module) -> dict[str, Any]:
    """Device and type of a module's weights."""
    weight = next(module.parameters())
    return {"device": weight.device, "dtype": weight.dtype}
