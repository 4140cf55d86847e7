"""The network of off-policy learners with a memory: it is shared by an actor and many critics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.relu_mlp import Mlp
from metarl.networks.task_mlp import Gaussian


class SequenceActorCritic(nn.Module):
    """Embedding, memory, a policy for each of G discounts, and C critics of all of them.

    Policies and critics are ReLU networks on features: what is remembered and what is seen now.
    Both have targets that follow them slowly; the memory has none.
    """

    def __init__(
        self, inputs: int, actions: int, hidden: int, memory: Memory, *, heads: tuple[int, ...],
        critics: int, discounts: int, init_std: float, min_std: float,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        """Initialise; torch's global generator decides the weights of embedding and memory.

        Args:
            inputs: I, size of an input.
            actions: A.
            hidden: width of the embedding.
            memory: from embeddings to what is remembered.
            heads: units of the hidden layers of policies and critics.
            critics: C.
            discounts: G.
            init_std: initial standard deviation of the actions.
            min_std: floor of it.
            generator: of the weights of policies and critics.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        features = memory.outputs + hidden
        self.discounts = discounts
        self.actor_net = Mlp(features, discounts * 2 * actions, heads)
        self.critic_net = Mlp(features + actions, discounts, heads, copies=critics)
        self.actor = nn.Parameter(self.actor_net.initial(generator))
        self.critic = nn.Parameter(self.critic_net.initial(generator))
        self.target_actor = nn.Buffer(self.actor.detach().clone())
        self.target_critic = nn.Buffer(self.critic.detach().clone())
        self.init_log_std, self.min_log_std = math.log(init_std), math.log(min_std)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return features (B, F) and the new state, given (B, I)."""
        embedded = torch.tanh(self.embed(x))
        remembered, state = self.memory.step(embedded, state)
        return torch.cat((remembered, embedded), -1), state

    def forward(self, x: Tensor) -> Tensor:
        """Return features (T, B, F), given whole trials (T, B, I)."""
        embedded = torch.tanh(self.embed(x))
        return torch.cat((self.memory.unroll(embedded), embedded), -1)

    def policy(self, params: Tensor, features: Tensor) -> Gaussian:
        """Return the actions of each policy, (R, G, A), given features (R, F).

        The mean is within (-1, 1); actions beyond the range are cut off by whoever acts.

        Args:
            params: `actor` or its target.
            features: of any steps.
        """
        found = self.actor_net(params, features).unflatten(-1, (self.discounts, 2, -1))
        log_std = self.init_log_std + found[..., 1, :]
        return Gaussian(found[..., 0, :].tanh(), log_std.clamp(self.min_log_std, 0.0))

    def values(self, params: Tensor, features: Tensor, action: Tensor) -> Tensor:
        """Return what each critic says of an action at each discount, (C, R, G).

        Args:
            params: `critic` or its target.
            features: (R, F).
            action: (R, A).
        """
        return self.critic_net(params, torch.cat((features, action), -1)).view(
            -1, len(action), self.discounts
        )

    def values_of_policies(self, params: Tensor, features: Tensor, action: Tensor) -> Tensor:
        """Return what each critic says of each policy's own action at its discount, (C, R, G).

        Args:
            params: `critic` or its target.
            features: (R, F).
            action: (R, G, A).
        """
        wide = features[:, None].expand(-1, self.discounts, -1)
        found = self.values(params, wide.flatten(0, 1), action.flatten(0, 1))
        return found.unflatten(1, (-1, self.discounts)).diagonal(dim1=2, dim2=3)

    @torch.no_grad()
    def target_values(self, features: Tensor, noise: Tensor, subset: Tensor) -> Tensor:
        """Return the least value, (R, G), that some target critics give the target policies.

        Args:
            features: (R, F).
            noise: (R, G, A) standard normal, of the actions.
            subset: ids of the critics that are asked.
        """
        action = self.policy(self.target_actor, features).sample(noise).clamp(-1, 1)
        return self.values_of_policies(self.target_critic, features, action)[subset].amin(0)

    def last_layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return the last weights and biases of critics and targets, to change in place."""
        layers = (self.critic_net.layers(p) for p in (self.critic.detach(), self.target_critic))
        return [(weight, bias) for *_, weight, bias in layers]

    @torch.no_grad()
    def update_targets(self, rate: float) -> None:
        """Move the targets a fraction of the way to actor and critics."""
        self.target_actor.lerp_(self.actor, rate)
        self.target_critic.lerp_(self.critic, rate)
