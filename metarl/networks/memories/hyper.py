"""A memory whose output is weights: of a small network that acts on what is seen now.

A recurrence that only adds features to a policy's input shares all other weights between tasks.
Here what is remembered decides the weights themselves (Beck et al. 2022).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.memories.recurrent import GRU


class Hyper(Memory):
    """A GRU, whose state is mapped to a task embedding e and that to weights of a tanh network.

        W_1, b_1, W_2, b_2 = H e_t + c,    y_t = tanh(W_2 tanh(W_1 x_t + b_1) + b_2)

    H starts at 0, and c as W_1, b_1, W_2, b_2 of a network of its own would (Bias-HyperInit): at
    first all tasks share one policy of the right scale, whatever the size of the state.
    """

    def __init__(self, inputs: int, units: int) -> None:
        """Take the size of an input, and the units of the GRU; the network has a fourth of them.

        Args:
            inputs: of the GRU, and of the network whose weights are generated.
            units: of the GRU; the task embedding has an eighth of them.
        """
        width, embedding = max(4, units // 4), max(2, units // 8)
        super().__init__(inputs, width)
        self.sizes = list(itertools.pairwise((inputs, width, width)))
        self.pieces = [size for i, o in self.sizes for size in (i * o, o)]
        self.core = GRU(inputs, units)
        self.task = nn.Linear(units, embedding)
        self.generate = nn.Linear(embedding, sum(self.pieces))
        nn.init.zeros_(self.generate.weight)
        nn.init.zeros_(self.generate.bias)
        with torch.no_grad():
            pieces = self.generate.bias.split(self.pieces)
            for (i, o), weight in zip(self.sizes, pieces[::2], strict=True):
                nn.init.orthogonal_(weight.view(o, i), math.sqrt(2))

    def begin(self, worlds: int) -> MemoryState:
        """Return the GRU's state, (B, units) zeros."""
        return self.core.begin(worlds)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return (B, outputs), and the GRU's new state."""
        hidden, state = self.core.step(x, state)
        return self._apply_weights(hidden, x), state

    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, outputs)."""
        hidden = self.core.unroll(x, begins)
        return self._apply_weights(hidden.flatten(0, 1), x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _apply_weights(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return (R, outputs) for inputs (R, inputs), by the weights that (R, units) stand for."""
        pieces = self.generate(self.task(hidden)).split(self.pieces, -1)
        for (i, o), weight, bias in zip(self.sizes, pieces[::2], pieces[1::2], strict=True):
            x = torch.tanh((weight.view(-1, o, i) @ x[..., None])[..., 0] + bias)
        return x
