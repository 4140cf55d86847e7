"""The network of learners that adapt by what they remember: a memory between input and heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.backbone import Memory, MemoryState
from metarl.networks.task_mlp import Gaussian


class MemoryActorCritic(nn.Module):
    """Embedding, memory, and the heads of policy and value, which also see the embedding.

    The heads see what is remembered and what is seen now; the policy's standard deviation depends
    on neither.
    """

    def __init__(
        self, inputs: int, actions: int, hidden: int, memory: Memory, *, init_std: float,
        min_std: float,
    ) -> None:  # fmt: skip
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            actions: A.
            hidden: width of the embedding, and of each head's hidden layer.
            memory: from embeddings to what is remembered.
            init_std: initial standard deviation of the actions.
            min_std: floor of it.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.body = nn.Linear(self.memory.outputs + hidden, 2 * hidden)
        self.mean = nn.Linear(hidden, actions)
        self.value = nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(init_std)))
        self.min_log_std = math.log(min_std)
        for layer, gain in (
            (self.embed, 1.0), (self.body, 1.0), (self.mean, 0.01), (self.value, 1.0),
        ):  # fmt: skip
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, Tensor, MemoryState]:
        """Return the mean action (B, A), the value (B,) and the new state, given (B, inputs)."""
        embedded = torch.tanh(self.embed(x))
        remembered, state = self.memory.step(embedded, state)
        return *self._heads(embedded, remembered), state

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (T, B, A) mean actions and (T, B) values for (T, B, inputs) of whole trials."""
        embedded = torch.tanh(self.embed(x))
        return self._heads(embedded, self.memory.unroll(embedded))

    def _heads(self, embedded: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat((remembered, embedded), -1)
        actor, critic = (  # apart, since halves of one product would lie in memory by turns
            torch.tanh(functional.linear(seen, weight, bias))
            for weight, bias in zip(self.body.weight.chunk(2), self.body.bias.chunk(2), strict=True)
        )
        return self.mean(actor), self.value(critic).squeeze(-1)

    def policy(self, mean: Tensor) -> Gaussian:
        """Return the action distribution around a mean."""
        return Gaussian(mean, self.log_std.clamp(min=self.min_log_std))
