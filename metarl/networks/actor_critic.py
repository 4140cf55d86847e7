"""The network of learners that adapt by what they remember: a memory between input and heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.task_mlp import Gaussian


class MemoryActorCritic(nn.Module):
    """Embedding, memory, and the heads of policy and value, which also see the embedding.

    The heads see what is remembered and what is seen now. What the head of the policy gives is the
    mean action; with `state_std` also what to add to the logarithm of each standard deviation.
    """

    def __init__(
        self, inputs: int, actions: int, hidden: int, memory: Memory, *, init_std: float,
        min_std: float, state_std: bool = False, critic_extra: int = 0,
    ) -> None:  # fmt: skip
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            actions: A.
            hidden: width of the embedding, and of each head's hidden layer.
            memory: from embeddings to what is remembered.
            init_std: initial standard deviation of the actions.
            min_std: floor of it.
            state_std: whether it depends on the state.
            critic_extra: P, further inputs, which the critic alone sees.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.body = nn.Linear(self.memory.outputs + hidden, 2 * hidden)
        self.state_std = state_std
        self.mean = nn.Linear(hidden, actions * (1 + state_std))
        self.value = nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(init_std)))
        self.min_log_std = math.log(min_std)
        for layer, gain in (
            (self.embed, 1.0), (self.body, 1.0), (self.mean, 0.01), (self.value, 1.0),
        ):  # fmt: skip
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.extra = nn.Linear(critic_extra, hidden) if critic_extra else None

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, Tensor, MemoryState]:
        """Return the policy's head (B, …), the value (B,) and the new state, given (B, inputs).

        A critic with further inputs gives (B, hidden) in the place of the value: see `criticise`.
        """
        embedded = self.embed(x).tanh_()
        remembered, state = self.memory.step(embedded, state)
        body = self.body(torch.cat((remembered, embedded), -1))
        if self.extra is not None:
            actor, critic = body.chunk(2, -1)
            return self.mean(torch.tanh(actor)), critic, state
        actor, critic = body.tanh_().chunk(2, -1)
        return self.mean(actor), self.value(critic).squeeze(-1), state

    def criticise(self, critic: Tensor, extra: Tensor) -> Tensor:
        """Return values (…,), given what `step` returned in their place and (…, P) inputs."""
        assert self.extra is not None
        return self.value(torch.tanh(critic + self.extra(extra))).squeeze(-1)

    def forward(self, x: Tensor, begins: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the policy's head (T, B, …) and values (T, B) for (T, B, inputs + P).

        Args:
            x: whole trials.
            begins: (T, B) bool, where trials begin; None if only at the first step.
        """
        size = self.embed.in_features
        embedded = torch.tanh(self.embed(x[..., :size]))
        seen = torch.cat((self.memory.unroll(embedded, begins), embedded), -1)
        actor, critic = (  # apart, since halves of one product would lie in memory by turns
            functional.linear(seen, weight, bias)
            for weight, bias in zip(self.body.weight.chunk(2), self.body.bias.chunk(2), strict=True)
        )
        head = self.mean(torch.tanh(actor))
        if self.extra is not None:
            return head, self.criticise(critic, x[..., size:])
        return head, self.value(torch.tanh(critic)).squeeze(-1)

    def policy(self, head: Tensor) -> Gaussian:
        """Return the action distribution, given what the policy's head gave."""
        if not self.state_std:
            return Gaussian(head, self.log_std.clamp(min=self.min_log_std))
        mean, offset = head.chunk(2, -1)
        # an unbounded standard deviation can run away
        return Gaussian(mean, (self.log_std + offset).clamp(self.min_log_std, 0.0))
