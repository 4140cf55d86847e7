"""Soft actor-critic (Haarnoja et al. 2018) over flat parameter vectors, to build learners on.

Every network is one flat vector, so an optimiser step, a target update and a checkpoint are one
tensor each, and twin critics are one batched matrix product a layer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl.modules.optim import FlatAdam
from metarl.networks.relu_mlp import Mlp

LOG_STD_RANGE = (-20.0, 2.0)


class Action(NamedTuple):
    """A tanh-squashed Gaussian action, its log density and its Gaussian."""

    action: Tensor
    """(R, A) in [-1, 1]"""
    log_prob: Tensor
    """(R,)"""
    mean: Tensor
    """(R, A) before the tanh"""
    log_std: Tensor
    """(R, A)"""


class ActorCritic:
    """A stochastic policy, twin critics and their targets, all on inputs of one flat feature."""

    def __init__(
        self,
        features: int,
        actions: int,
        hidden: tuple[int, ...],
        *,
        lr: float,
        temperature: float,
        generator: torch.Generator,
        device: torch.device,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Initialise the weights.

        Args:
            features: what policy and critics condition on: the observation, and more.
            actions: A.
            hidden: units of the hidden layers of each network.
            lr: of Adam.
            temperature: α to begin with.
            generator: of the weights.
            device: where they live.
            compute_dtype: see `metarl.networks.relu_mlp.Mlp`.
        """
        self.actions = actions
        self.policy_net = Mlp(features, 2 * actions, hidden, compute_dtype=compute_dtype)
        self.critic_net = Mlp(features + actions, 1, hidden, copies=2, compute_dtype=compute_dtype)
        self.policy = FlatAdam(self.policy_net.initial(generator).to(device), lr)
        self.critic = FlatAdam(self.critic_net.initial(generator).to(device), lr)
        self.target = self.critic.params.detach().clone()
        start = torch.tensor([math.log(temperature)], device=device)
        self.log_temperature = FlatAdam(start, lr)

    def head(self, params: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log std, (R, A) each, of the action before the tanh."""
        mean, log_std = self.policy_net(params, x).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def sample(self, params: Tensor, x: Tensor, noise: Tensor) -> Action:
        """Sample actions at features (R, F), given standard normal noise (R, A)."""
        mean, log_std = self.head(params, x)
        raw = torch.addcmul(mean, log_std.exp(), noise)
        # log N(raw) − Σ log(1 − tanh² raw), the latter in the form that does not overflow
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - raw - softplus(-2 * raw))
        return Action(raw.tanh(), (normal - squash).sum(-1), mean, log_std)

    @torch.no_grad()
    def bellman_target(
        self, next_x: Tensor, noise: Tensor, reward: Tensor, discount: Tensor
    ) -> Tensor:
        """Return (R,) r + γ (1 − d) (min Q̄(s′, a′) − α log π(a′|s′)).

        Args:
            next_x: (R, F).
            noise: (R, A).
            reward: (R,).
            discount: (R,) γ (1 − d).
        """
        next_action = self.sample(self.policy.params, next_x, noise)
        q = self.critic_net(self.target, torch.cat((next_x, next_action.action), 1))[..., 0]
        soft = torch.minimum(q[0], q[1]) - self.temperature() * next_action.log_prob
        return torch.addcmul(reward, discount, soft)

    def critic_loss(self, params: Tensor, x: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Return the squared Bellman error, summed over both critics, mean over samples."""
        q = self.critic_net(params, torch.cat((x, action), 1))[..., 0]
        return (q - target).square().mean(1).sum()

    def actor_loss(
        self, params: Tensor, x: Tensor, noise: Tensor, regularization: float
    ) -> tuple[Tensor, Tensor]:
        """Return E[α log π − min Q] plus the penalty on mean and log std; and log π, (R,)."""
        new = self.sample(params, x, noise)
        inputs = torch.cat((x, new.action), 1)
        q = self.critic_net(self.critic.params.detach(), inputs)[..., 0]
        loss = (self.temperature() * new.log_prob - torch.minimum(q[0], q[1])).mean()
        penalty = new.mean.square().mean() + new.log_std.square().mean()
        return loss + regularization * penalty, new.log_prob.detach()

    def temperature(self) -> Tensor:
        """Return α, (1,)."""
        return self.log_temperature.params.detach().exp()

    def actor_gradient(
        self, x: Tensor, noise: Tensor, regularization: float, share: float
    ) -> Tensor:
        """Return what some samples, a `share` of all, add to the actor's step; see `actor_loss`.

        Returns:
            Flat: the gradient, the loss, and the mean of log π − A; they add up over the parts.
        """
        params = self.policy.params
        if not share:
            return params.new_zeros(params.numel() + 2)
        loss, log_prob = self.actor_loss(params, x, noise, regularization)
        (gradient,) = torch.autograd.grad(share * loss, params)
        excess = share * (log_prob - self.actions).mean()
        return torch.cat((gradient.flatten(), torch.stack((share * loss.detach(), excess))))

    def improve_actor(self, flat: Tensor, *, temperature: bool) -> tuple[Tensor, Tensor]:
        """Make the step of the actor, and of α if so set; see `actor_gradient`.

        α moves so that the entropy comes closer to −A (Haarnoja et al. 2018b).

        Returns:
            The loss, and the mean of log π − A, (1,) each.
        """
        gradient, loss, excess = flat.split((self.policy.params.numel(), 1, 1))
        self.policy.step(gradient.view_as(self.policy.params))
        if temperature:
            self.log_temperature.step(-excess)
        return loss, excess

    @torch.no_grad()
    def update_targets(self, rate: float) -> None:
        """Move the target critics a fraction of the way to the critics."""
        self.target.lerp_(self.critic.params.detach(), rate)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies: what to save, or to load into."""
        parts = {
            "policy": self.policy, "critic": self.critic, "temperature": self.log_temperature,
        }  # fmt: skip
        named = {f"{n}.{k}": t for n, part in parts.items() for k, t in part.tensors().items()}
        return named | {"target": self.target}
