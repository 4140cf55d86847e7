"""Exploration bonuses for trials (HyperX, Zintgraf et al. 2021), for the eyes of PPO alone.

Where rewards are sparse, a policy of trials has nothing to begin with. It is paid for what is new,
and for what is not yet understood, until the bonus has faded:

    r_t + σ_R g (w_n n_t / σ_n + w_e e_t / σ_e),    g = max(0, 1 − steps / bonus_steps)

    n_t = mean_k (f_k(s_{t+1}, b_{t+1}) − f̂_k(s_{t+1}, b_{t+1}))²

f is a random network that stays as it is and f̂ learns to predict it where the policy has been
(random network distillation, Burda et al. 2019), so n falls with every visit. It is of a place and
a belief together: a known place is new again to who believes something else about the task. e_t is
how badly the step is explained, if the learner has something that explains. σ_n, σ_e and σ_R are
the running standard deviations of the discounted sums of n, of e and of the rewards: the weights
need not know the scale of anything.

States are taken as observed. Brought to a running scale, places that the policy leaves behind would
become new again as it moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.base.distributed import ALONE, Ranks
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.modules import ppo
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Indices, NonNegative, Positive, Settings
from metarl.networks.normalise import RunningMoments
from metarl.worlds.rollout import Rollout

EMBEDDED, HIDDEN, OUTPUTS = 64, 256, 128
"""Units of both networks: an embedding of state or belief, a hidden layer, and the output."""
BATCH = 256
"""Transitions, about, in a gradient step on the predictor."""
LONGEST_GRADIENT = 10.0


@dataclass(frozen=True)
class BonusSettings(Settings):
    """Settings of the bonus; each begins with bonus_."""

    bonus_novelty: NonNegative = 0.0
    """Weight of what is new in a state and a belief, in the rewards that the policy learns from and
    in nothing else; 0 is off."""
    bonus_steps: Count | None = None
    """Environment steps of training over which the bonus falls linearly to 0."""
    bonus_inputs: Indices | None = None
    """Which numbers of the observation make a state new, counted from 0, such as those of the
    position; default: all."""
    bonus_lr: Positive = 1e-3
    """Step size of Adam for the network by which the known is told from the new."""
    bonus_updates: Count = 4
    """Gradient steps on it in an iteration, of 256 transitions each."""
    bonus_scale: Positive = 3.0
    """What the weights of the random network are multiplied by: the larger, the longer is all
    new."""

    def __post_init__(self) -> None:
        """Refuse a bonus without an end."""
        super().__post_init__()
        if self.explores and self.bonus_steps is None:
            raise UserError(
                "a bonus needs bonus_steps, the environment steps after which it is gone, such as "
                "half of those of the training"
            )

    @property
    def explores(self) -> bool:
        """Whether there is a bonus of any kind."""
        return bool(self.bonus_novelty or getattr(self, "bonus_error", 0.0))


class Visits(NamedTuple):
    """Where the steps of a rollout led to, and how well they are explained."""

    state: Tensor
    """(T, B, O) the true successor's observation"""
    belief: Tensor
    """(T, B, H) what is believed there, or whatever else a state can be new with"""
    error: Tensor | None = None
    """(T, B), at least 0"""


class RandomFeatures(nn.Module):
    """A network of a state and a belief: the random one, and the one that predicts it."""

    def __init__(self, sizes: tuple[int, int], scale: float = 1.0) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            sizes: numbers of a state and of a belief.
            scale: what every weight is multiplied by.
        """
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(size, EMBEDDED) for size in sizes)
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Linear(2 * EMBEDDED, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS),
        )  # fmt: skip
        with torch.no_grad():
            for param in self.parameters():
                param *= scale

    def forward(self, state: Tensor, belief: Tensor) -> Tensor:
        """Return (…, OUTPUTS) for (…, S) and (…, H)."""
        parts = (layer(x) for layer, x in zip(self.embed, (state, belief), strict=True))
        return self.layers(torch.cat(tuple(parts), -1))


class Bonus:
    """Novelty by random network distillation, and what is paid for it."""

    def __init__(
        self, config: BonusSettings, sizes: tuple[int, int], gamma: float, key: Key,
        device: torch.device,
    ) -> None:  # fmt: skip
        """Draw both networks.

        Args:
            config: the weights and the rest.
            sizes: numbers of an observation and of a belief.
            gamma: discount, of the sums whose spread the bonuses are divided by.
            key: of the weights.
            device: where everything is.

        Raises:
            UserError: `bonus_inputs` names a number that the observation does not have.
        """
        self.config, self.gamma = config, gamma
        chosen = range(sizes[0]) if config.bonus_inputs is None else config.bonus_inputs
        if max(chosen) >= sizes[0]:
            raise UserError(
                f"bonus_inputs: the observation has {sizes[0]} numbers, 0 to {sizes[0] - 1}, so "
                f"none is {max(chosen)}"
            )
        self.chosen = torch.tensor(list(chosen), device=device)
        with torch.random.fork_rng([]):
            torch.manual_seed(key.seed())
            own = len(chosen), sizes[1]
            self.target = RandomFeatures(own, config.bonus_scale).to(device).requires_grad_(False)
            self.predictor = RandomFeatures(own).to(device)
        self.adam = ClippedAdam(list(self.predictor.parameters()), config.bonus_lr)
        self.moments = [RunningMoments(1, device) for _ in range(2)]
        self.parts = {
            "bonus_target": self.target, "bonus_predictor": self.predictor,
            "bonus_adam": self.adam, "bonus_novelty": self.moments[0],
            "bonus_error": self.moments[1],
        }  # fmt: skip
        """What a learner saves, by name."""
        self.means: dict[str, float] = {}
        """Metrics of the last call of `added`: the mean of n, and of the bonus in units of σ_R."""

    def share(self, env_steps: float) -> float:
        """Return g, what is left of the bonus after so many environment steps of training."""
        return max(0.0, 1.0 - env_steps / (self.config.bonus_steps or 1))

    def novelty(self, visits: Visits) -> Tensor:
        """Return n, (T, B): the mean squared error of the prediction."""
        given = self._given(visits)
        return (self.target(*given) - self.predictor(*given)).square().mean(-1)

    def _given(self, visits: Visits) -> tuple[Tensor, Tensor]:
        state = visits.state[..., self.chosen].nan_to_num(0.0, 0.0, 0.0)
        return state, visits.belief.nan_to_num(0.0, 0.0, 0.0)

    @torch.no_grad()
    def added(
        self, rollouts: Sequence[Rollout], visits: Sequence[Visits], env_steps: float,
        reward_std: Tensor, ranks: Ranks = ALONE,
    ) -> list[Rollout]:  # fmt: skip
        """Return rollouts with the bonus in their rewards, and note its `means`.

        The spreads take in the new rollouts first, so the first bonuses have a scale, too.

        Args:
            rollouts: of the shards that this process owns; they stay as they are.
            visits: of their steps.
            env_steps: of training before them.
            reward_std: σ_R, (1,).
            ranks: whose shards they are.
        """
        share, weights = self.share(env_steps), self._weights()
        kinds = [[self.novelty(part) for part in visits]]
        kinds += [[v.error for v in visits if v.error is not None]] if weights[1:] else []
        extra = [torch.zeros_like(part.reward) for part in rollouts]
        for weight, moments, found in zip(weights, self.moments, kinds, strict=False):
            sums = (
                ppo.discounted_sums(x, self.gamma)[part.valid][:, None]
                for x, part in zip(found, rollouts, strict=True)
            )
            moments.update(*sums, ranks=ranks)
            scale = (share * weight / moments.std).float()
            extra = [total + scale * x for total, x in zip(extra, found, strict=True)]
        unit = reward_std.float()
        paid = [
            part._replace(reward=part.reward + (unit * more).where(part.valid, 0.0))
            for part, more in zip(rollouts, extra, strict=True)
        ]
        steps = ranks.sum([part.valid.sum() for part in rollouts]).clamp(min=1)
        for name, found in (("novelty", kinds[0]), ("bonus", extra)):
            pairs = zip(found, rollouts, strict=True)
            total = ranks.sum([x.where(part.valid, 0.0).sum() for x, part in pairs])
            self.means[name] = float(total / steps)
        return paid

    def _weights(self) -> list[float]:
        """w_n, and w_e if errors count."""
        error = getattr(self.config, "bonus_error", 0.0)
        return [self.config.bonus_novelty, *([error] if error else [])]

    def learn(
        self, rollouts: Sequence[Rollout], visits: Sequence[Visits], key: Key,
        ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        """Make gradient steps on the predictor, where the policy has been.

        Args:
            rollouts: of the shards that this process owns.
            visits: of their steps.
            key: chooses the transitions.
            ranks: whose shards they are.
        """
        pairs = zip(*map(self._given, visits), strict=True)
        state, belief = (torch.cat([part.flatten(0, 1) for part in parts]) for parts in pairs)
        weight = torch.cat([part.valid.float().flatten() for part in rollouts])
        rows = len(weight) // len(ranks.owned) * ranks.shards
        batches = ppo.minibatches(weight[None], max(1, rows // BATCH), key.fold("bonus"), ranks)

        def loss(ids: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            given = state[ids], belief[ids]
            error = (self.target(*given) - self.predictor(*given)).square().mean(-1)
            value = (error * weight[ids]).sum() / total
            return value, value.detach()[None]

        with ppo.thread_pool() as pool:
            for chosen, total in batches[: self.config.bonus_updates]:
                gradient, _ = ppo.parallel_gradient(
                    lambda ids, total=total: loss(ids, total[0, 0]), self.adam.params,
                    [[ids] for ids in chosen], pool, ranks,
                )  # fmt: skip
                self.adam.step(gradient, LONGEST_GRADIENT)
