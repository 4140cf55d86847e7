"""What is believed of a task: a Gaussian that a memory updates at every step, and its decoders.

The encoder and the decoders are a variational autoencoder of trials (Zintgraf et al. 2020). From
the belief at any step of a trial, the decoders predict all of its steps: those that were seen, and
those to come. So the belief holds what is known of the task by then, and how surely.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.backbone import Memory, MemoryState
from metarl.networks.task_mlp import Gaussian

LOG_STD = (-5.0, 2.0)
"""Bounds of a belief's log standard deviation."""


class BeliefEncoder(nn.Module):
    """From what was seen of a trial to a diagonal Gaussian over a latent task variable."""

    def __init__(self, inputs: int, hidden: int, memory: Memory, latent: int) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            hidden: width of its embedding.
            memory: from embeddings to what is remembered.
            latent: L.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.head = nn.Linear(memory.outputs, 2 * latent)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Gaussian, MemoryState]:
        """Return the belief, (B, L), and the new state, given (B, I)."""
        remembered, state = self.memory.step(torch.tanh(self.embed(x)), state)
        return self._belief(remembered), state

    def forward(self, x: Tensor) -> Gaussian:
        """Return the beliefs at each step, (T, B, L), given whole trials (T, B, I)."""
        return self._belief(self.memory.unroll(torch.tanh(self.embed(x))))

    def _belief(self, remembered: Tensor) -> Gaussian:
        mean, log_std = self.head(remembered).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD))


class Decoder(nn.Module):
    """A ReLU network that predicts something of each of I steps from each of N draws of z."""

    def __init__(self, inputs: int, latent: int, hidden: tuple[int, ...], outputs: int) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: X, numbers of a step that the prediction is given.
            latent: L.
            hidden: units of the hidden layers.
            outputs: numbers predicted.
        """
        super().__init__()
        self.of_step = nn.Linear(inputs, hidden[0])
        self.of_task = nn.Linear(latent, hidden[0], bias=False)
        sizes = (*hidden, outputs)
        self.layers = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise(sizes)))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return (N, I, B, outputs) for steps (I, B, X) and draws (N, B, L).

        The first layer is a sum of what a step gives and what z gives, so that neither is computed
        again for each pair.
        """
        h = self.of_step(x) + self.of_task(z)[:, None]
        for layer in self.layers:
            h = layer(functional.relu(h))
        return h


def chained_kl(belief: Gaussian) -> Tensor:
    """Return (T, B) KL divergences in nats of each belief from the one before, N(0, I) at first."""
    before = Gaussian(*(torch.cat((torch.zeros_like(p[:1]), p[:-1])) for p in belief))
    return belief.kl(before)
