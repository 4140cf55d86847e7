"""The probabilistic context of PEARL (Rakelly et al. 2019): from transitions to a belief about z.

Each transition c of a task gives a Gaussian factor N(z; μ(c), σ²(c)), and the posterior is their
normalised product, which does not depend on their order. Its precision is the sum of the factors'
precisions, so a belief grows with the data at a constant cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl.base.keys import Key
from metarl.modules.optim import FlatAdam
from metarl.networks.relu_mlp import Mlp

NOISE_EPISODES = 8
"""Episodes of a world that have a draw of z each, before draws come up again."""


class Posterior(NamedTuple):
    """What is believed of the task of each world, and what draws z from it."""

    precision: Tensor
    """(B, L) sum of the factors' precisions, 0 before any data"""
    weighted: Tensor
    """(B, L) sum of the factors' precision times mean"""
    draws: Tensor
    """(D, B, L) standard normal: episode k of a world takes the row k modulo D"""
    episode: Tensor
    """(B,) int64 the present episode, −1 before the first"""
    rounds: int
    """Rollouts that the belief is built on"""

    @classmethod
    def prior(
        cls, tasks: int, worlds: int, latent: int, key: Key, device: torch.device,
        first_task: int = 0,
    ) -> Posterior:  # fmt: skip
        """Return the belief before any data, N(0, I), for B = tasks x worlds worlds."""
        draws = key.normal(tasks, NOISE_EPISODES, worlds, latent, first_task).to(device)
        none = torch.zeros(tasks * worlds, latent, device=device)
        return cls(none, none, draws, torch.full((tasks * worlds,), -1, device=device), 0)

    def multiply(self, mean: Tensor, variance: Tensor, valid: Tensor) -> Posterior:
        """Return the product with n factors of each world: (n, B, L), (n, B, L) and (n, B) bool."""
        precision = torch.where(valid[..., None], 1.0 / variance, 0.0)
        weighted = torch.where(valid[..., None], mean / variance, 0.0)
        return self._replace(
            precision=self.precision + precision.sum(0),
            weighted=self.weighted + weighted.sum(0),
            rounds=self.rounds + 1,
        )

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of z, (B, L) each; the prior's where there is no data."""
        seen = self.precision > 0
        precision = torch.where(seen, self.precision, 1.0)
        return torch.where(seen, self.weighted / precision, 0.0), 1.0 / precision

    def z(self, *, from_prior: bool) -> Tensor:
        """Return (B, L) the z of the present episodes."""
        worlds = torch.arange(len(self.episode), device=self.episode.device)
        noise = self.draws[self.episode % NOISE_EPISODES, worlds]
        if from_prior:
            return noise
        mean, variance = self.posterior()
        return torch.addcmul(mean, variance.sqrt(), noise)


class ContextEncoder:
    """The network that turns a transition into a Gaussian factor."""

    def __init__(
        self,
        width: int,
        latent: int,
        hidden: tuple[int, ...],
        *,
        lr: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Initialise the weights.

        Args:
            width: C, numbers of a transition that it sees.
            latent: L.
            hidden: units of the hidden layers.
            lr: of Adam.
            generator: of the weights.
            device: where they live.
        """
        self.net = Mlp(width, 2 * latent, hidden)
        self.weights = FlatAdam(self.net.initial(generator).to(device), lr)

    def __call__(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, (…, L) each, of the factors of transitions (…, C)."""
        out = self.net(self.weights.params, context.flatten(0, -2))
        mean, raw = out.unflatten(0, context.shape[:-1]).chunk(2, dim=-1)
        return mean, softplus(raw).clamp(min=1e-7)


def product_of_gaussians(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance, (m, L), of the normalised product of n Gaussians, (m, n, L)."""
    precision = 1.0 / variance
    product = 1.0 / precision.sum(1)
    return product * (precision * mean).sum(1), product


def kl_from_prior(mean: Tensor, variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, I)), summed over tasks and dimensions."""
    return 0.5 * (mean.square() + variance - 1.0 - variance.log()).sum()
