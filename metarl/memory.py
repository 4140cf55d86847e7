"""Sequence backbones: what an agent remembers of a trial, behind one small interface.

A memory maps the inputs of a trial to features, each of which may depend on all inputs so far. It
does so in two ways that give the same numbers: `step` by step while acting, from an explicit state
that is never changed in place, and by `unroll` over the whole trial at once, to learn from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from metarl.errors import UserError, did_you_mean

MemoryState = tuple[Tensor, ...]
"""What a memory holds of B worlds: tensors with B rows, whose shapes stay the same."""


class Memory(nn.Module, ABC):
    """A causal map from (T, B, inputs) to (T, B, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Take the sizes of an input and of an output."""
        super().__init__()
        self.inputs, self.outputs = inputs, outputs

    @abstractmethod
    def begin(self, worlds: int) -> MemoryState:
        """Return the state at the start of a trial."""

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
    def unroll(self, x: Tensor) -> Tensor:
        """Return (T, B, outputs) for the (T, B, inputs) of whole trials, from their start."""


class GRU(Memory):
    """A gated recurrent unit (Cho et al. 2014), torch's own kernels."""

    def __init__(self, inputs: int, units: int) -> None:
        """Take the size of an input and the number of units."""
        super().__init__(inputs, units)
        self.net = nn.GRU(inputs, units)

    def begin(self, worlds: int) -> MemoryState:
        """Return (B, units) zeros."""
        return (self.net.weight_hh_l0.new_zeros(worlds, self.outputs),)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the hidden state, (B, units), as output and as state."""
        hidden = torch.gru_cell(x, state[0], *self.net.all_weights[0])
        return hidden, (hidden,)

    def unroll(self, x: Tensor) -> Tensor:
        """Return the hidden states, (T, B, units)."""
        return self.net(x)[0]


class LSTM(Memory):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), torch's own kernels."""

    def __init__(self, inputs: int, units: int) -> None:
        """Take the size of an input and the number of units."""
        super().__init__(inputs, units)
        self.net = nn.LSTM(inputs, units)

    def begin(self, worlds: int) -> MemoryState:
        """Return the hidden and the cell state, (B, units) zeros each."""
        zeros = self.net.weight_hh_l0.new_zeros(worlds, self.outputs)
        return zeros, zeros.clone()

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the hidden state, (B, units), and both states."""
        hidden, cell = torch.lstm_cell(x, list(state), *self.net.all_weights[0])
        return hidden, (hidden, cell)

    def unroll(self, x: Tensor) -> Tensor:
        """Return the hidden states, (T, B, units)."""
        return self.net(x)[0]


MEMORIES = ("gru", "lstm")
"""The names that `make_memory` knows."""


def make_memory(name: str, inputs: int, units: int) -> Memory:
    """Return the memory called `name`. Raises UserError if there is none."""
    kinds = {"gru": GRU, "lstm": LSTM}
    if name not in kinds:
        raise UserError(f"no memory '{name}'{did_you_mean(name, kinds)}; there are {MEMORIES}")
    return kinds[name](inputs, units)
