"""The probabilistic context of PEARL (Rakelly et al. 2019): from transitions to a belief about z.

Each transition c of a task gives a Gaussian factor N(z; μ(c), σ²(c)), and the posterior is their
normalised product, which does not depend on their order. Its precision is the sum of the factors'
precisions, so a belief grows with the data at a constant cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl.base.keys import Key
from metarl.modules.optim import FlatAdam
from metarl.networks.normalise import RunningMoments
from metarl.networks.relu_mlp import Mlp

if TYPE_CHECKING:
    from metarl.worlds.vector import Step

NOISE_EPISODES = 8
"""Episodes of a world that have a draw of z each, before draws come up again."""


class Recent(NamedTuple):
    """What the episodes since the last call of `adapt` have shown, and the z that follows."""

    obs: Tensor
    """(B, O) the observation of the step before"""
    known: Tensor
    """(B,) bool, whether there was one"""
    precision: Tensor
    """(B, L) sum of the precisions of the factors of these transitions"""
    weighted: Tensor
    """(B, L) sum of their precision times mean"""
    seen: Tensor
    """(B,) int64 these transitions"""
    z: Tensor
    """(B, L) what the policy acts on until the belief is next brought up to date"""


class Posterior(NamedTuple):
    """What is believed of the task of each world, and what draws z from it.

    With `recent` the belief also changes within an episode, and no more than `limit` transitions
    of a world count, so that it gets no surer than the contexts of training made it.
    """

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
    seen: Tensor
    """(B,) int64 transitions that it is built on"""
    recent: Recent | None = None
    """None where the belief stays as it is until `adapt`"""

    @classmethod
    def prior(
        cls, tasks: int, worlds: int, latent: int, key: Key, device: torch.device,
        first_task: int = 0,
    ) -> Posterior:  # fmt: skip
        """Return the belief before any data, N(0, I), for B = tasks x worlds worlds."""
        draws = key.normal(tasks, NOISE_EPISODES, worlds, latent, first_task).to(device)
        none = torch.zeros(tasks * worlds, latent, device=device)
        count = torch.zeros(tasks * worlds, dtype=torch.int64, device=device)
        return cls(none, none, draws, torch.full_like(count, -1), 0, count)

    def with_recent(self, observation_size: int) -> Posterior:
        """Return the belief as one that also changes within an episode."""
        none, count = torch.zeros_like(self.precision), torch.zeros_like(self.seen)
        obs = none.new_zeros(len(none), observation_size)
        return self._replace(recent=Recent(obs, count > 0, none, none, count, none))

    def multiply(
        self, mean: Tensor, variance: Tensor, valid: Tensor, limit: int | None = None
    ) -> Posterior:
        """Return the product with the factors of a rollout, in place of what `recent` has of it.

        Args:
            mean: (n, B, L) of n factors of each world, in the order of time.
            variance: (n, B, L).
            valid: (n, B) bool, which of them count.
            limit: how many transitions of a world count in all; None for any number.
        """
        if limit is not None:
            valid = valid & (self.seen + valid.cumsum(0) <= limit)
        precision, weighted = _natural(mean, variance, valid)
        belief = self._replace(
            precision=self.precision + precision.sum(0),
            weighted=self.weighted + weighted.sum(0),
            rounds=self.rounds + 1,
            seen=self.seen + valid.sum(0),
        )
        return belief if self.recent is None else belief.with_recent(self.recent.obs.shape[1])

    def observe(
        self, step: Step, encode: Callable[..., tuple[Tensor, Tensor]], *, limit: int, every: int,
        draw: bool,
    ) -> tuple[Posterior, Tensor]:  # fmt: skip
        """Take in the transition that ends with a step; return the belief, and z, (B, L).

        Where an episode begins, where the reward is not known (NaN) or the step before was not
        seen, there is no such transition.

        Args:
            step: what is seen now.
            encode: from (obs, action, reward, next_obs) to mean and variance, (B, L), of a factor.
            limit: how many transitions of a world count in all.
            every: z changes after so many transitions, and where there is none.
            draw: whether z is drawn, or the mean; before any data it is drawn.
        """
        recent = self.recent
        assert recent is not None
        factor = encode(recent.obs, step.prev_action, step.prev_reward, step.obs)
        known = recent.known & ~step.first & step.prev_reward.isfinite()
        valid = known & (self.total_seen() < limit)
        precision, weighted = _natural(*factor, valid)
        recent = Recent(
            step.obs, torch.ones_like(known), recent.precision + precision,
            recent.weighted + weighted, recent.seen + valid, recent.z,
        )  # fmt: skip
        belief = self._replace(recent=recent)
        count = belief.total_seen()
        due = ~known | (count % every == 0) | (count == limit)
        z = torch.where(due[:, None], belief.z(from_prior=False, draw=draw), recent.z)
        return belief._replace(recent=recent._replace(z=z)), z

    def total_seen(self) -> Tensor:
        """Return (B,) how many transitions the belief is built on, recent ones too."""
        return self.seen if self.recent is None else self.seen + self.recent.seen

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of z, (B, L) each; the prior's where there is no data."""
        precision, weighted = self.precision, self.weighted
        if self.recent is not None:
            precision = precision + self.recent.precision
            weighted = weighted + self.recent.weighted
        seen = precision > 0
        precision = torch.where(seen, precision, 1.0)
        return torch.where(seen, weighted / precision, 0.0), 1.0 / precision

    def z(self, *, from_prior: bool, draw: bool = True) -> Tensor:
        """Return (B, L) the z of the present episodes.

        Args:
            from_prior: whether it is drawn from the prior.
            draw: whether it is drawn from the posterior, or its mean; it is drawn where there is
                no data.
        """
        worlds = torch.arange(len(self.episode), device=self.episode.device)
        noise = self.draws[self.episode % NOISE_EPISODES, worlds]
        if from_prior:
            return noise
        mean, variance = self.posterior()
        std = variance.sqrt() if draw else (self.total_seen() == 0).float()[:, None]
        return torch.addcmul(mean, std, noise)


def _natural(mean: Tensor, variance: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return precision and precision times mean, (…, L) each, of factors; 0 where not valid."""
    precision = torch.where(valid[..., None], 1.0 / variance, 0.0)
    return precision, torch.where(valid[..., None], mean / variance, 0.0)


class ContextEncoder:
    """The network that turns a transition into a Gaussian factor."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        latent: int,
        hidden: tuple[int, ...],
        *,
        lr: float,
        generator: torch.Generator,
        device: torch.device,
        moments: RunningMoments | None = None,
    ) -> None:
        """Initialise the weights.

        Args:
            sizes: C numbers of a transition that it sees: O of the observation, A + 1 of action
                and reward, and O of the next observation if it sees that.
            latent: L.
            hidden: units of the hidden layers.
            lr: of Adam.
            generator: of the weights.
            device: where they live.
            moments: by which observations are scaled, if they are.
        """
        self.sizes, self.moments = sizes, moments
        self.net = Mlp(sum(sizes), 2 * latent, hidden)
        self.weights = FlatAdam(self.net.initial(generator).to(device), lr)

    def __call__(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, (…, L) each, of the factors of transitions (…, C)."""
        if self.moments is not None:
            parts = list(context.split(self.sizes, dim=-1))
            parts[::2] = [self.moments.normalise(obs) for obs in parts[::2]]
            context = torch.cat(parts, dim=-1)
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
