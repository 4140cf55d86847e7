"""A memory of slots that are found by what they hold: a memory-augmented network.

What is learned once, such as which arm paid, can be kept in a slot of its own for as long as there
are slots that are used less (Santoro et al. 2016, after Graves et al. 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.backbone import Memory, MemoryState, like

SLOTS = 32
"""N, rows of the memory."""
DECAY = 0.95
"""Of the usage of a slot, a step."""


class Mann(Memory):
    """An LSTM that reads and writes N slots of W numbers, by content and by how little they serve.

    From the controller's output h_t come a key k, its strength β ≥ 1 and a gate g:

        write  w = g r_{t-1} + (1 - g) 1[least used],   that slot cleared,   M ← M + w kᵀ
        read   r_t = softmax_i(β cos(k, M_i)),          what is read is r_tᵀ M
        usage  u ← 0.95 u + r_t + w

    The output is h_t and what is read. `DECAY` and the interpolation are those of Santoro et al.
    """

    def __init__(self, inputs: int, units: int, slots: int = SLOTS) -> None:
        """Take the size of an input, the units of the controller, and N; W is units / 8."""
        width = max(4, units // 8)
        super().__init__(inputs, units + width)
        self.units, self.slots, self.width = units, slots, width
        self.controller = nn.LSTMCell(inputs + width, units)
        self.address = nn.Linear(units, width + 2)

    def begin(self, worlds: int) -> MemoryState:
        """Return zeros: (B, units) h and c, (B, N W) slots, (B, N) usage and r, (B, W) read."""
        n, w = self.slots, self.width
        sizes = (self.units, self.units, n * w, n, n, w)
        return tuple(torch.zeros(worlds, size, **like(self)) for size in sizes)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return (B, units + W), and the new state."""
        hidden, cell, slots, usage, weight, read = state
        hidden, cell = self.controller(torch.cat((x, read), -1), (hidden, cell))
        key, strength, gate = self.address(hidden).split((self.width, 1, 1), -1)
        key, gate = torch.tanh(key), torch.sigmoid(gate)
        least = functional.one_hot(usage.argmin(-1), self.slots).to(usage.dtype)
        write = torch.lerp(least, weight, gate)
        slots = slots.unflatten(-1, (self.slots, self.width))
        slots = slots * (1 - least)[..., None] + write[..., None] * key[:, None]
        alike = (slots @ key[..., None])[..., 0] / (_length(slots) * _length(key)[:, None])
        weight = torch.softmax((1 + functional.softplus(strength)) * alike, -1)
        read = (weight[:, None] @ slots)[:, 0]
        usage = DECAY * usage + weight + write
        output = torch.cat((hidden, read), -1)
        return output, (hidden, cell, slots.flatten(1), usage, weight, read)

    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, units + W), step by step."""
        state, outputs = self.begin(x.shape[1]), []
        new = [False] * len(x) if begins is None else begins.any(1).tolist()
        for t, part in enumerate(x.unbind(0)):
            if begins is not None and t and new[t]:
                state = self.restart(state, begins[t])
            output, state = self.step(part, state)
            outputs.append(output)
        return torch.stack(outputs)


def _length(x: Tensor) -> Tensor:
    """Return (…) Euclidean lengths of (…, W), above 0 so that an empty slot has a direction."""
    return (x.square().sum(-1) + 1e-6).sqrt()
