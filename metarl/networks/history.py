"""The adaptation module of RMA: what a robot did lately, to what is so of its task."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

LAYERS = ((8, 4), (5, 1), (5, 1))
"""Kernel and stride of each convolution over time."""


class HistoryEncoder(nn.Module):
    """An embedding of each step, convolutions over time, and a linear layer (Kumar et al. 2021).

    A history too short for a kernel gets a shorter one. Where a stride leaves steps over, these are
    the oldest. The last layer starts at zero: estimates are 0 until something is learned.
    """

    def __init__(self, inputs: int, outputs: int, steps: int, channels: int = 32) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: F, numbers of a step.
            outputs: Z.
            steps: N, of a history.
            channels: of the embedding and of each convolution.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, channels)
        self.layers, self.left_over = nn.ModuleList(), []
        for kernel, stride in LAYERS:
            kernel = min(kernel, steps)
            self.layers.append(nn.Conv1d(channels, channels, kernel, stride))
            self.left_over.append((steps - kernel) % stride)
            steps = (steps - kernel) // stride + 1
        self.head = nn.Linear(channels * steps, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, history: Tensor) -> Tensor:
        """Return (B, Z) estimates, given (B, N, F) histories, the oldest step first."""
        # Convolutions want channels before time, which a reshape alone would mix.
        x = leaky_relu(self.embed(history)).transpose(1, 2)
        for layer, oldest in zip(self.layers, self.left_over, strict=True):
            x = leaky_relu(layer(x[..., oldest:]))
        return self.head(x.flatten(1))


def windows(steps: Tensor, age: Tensor, ids: Tensor, length: int) -> Tensor:
    """Return the histories (n, N, F) that end with the steps `ids`, zeros before the episode began.

    Args:
        steps: (R, F), rows of one world after the other.
        age: (R,) int64, steps of each row since its episode began.
        ids: (n,) rows.
        length: N.
    """
    back = torch.arange(length - 1, -1, -1, device=ids.device)
    rows = steps[(ids[:, None] - back).clamp(min=0)]
    return rows * (back <= age[ids, None])[..., None]
