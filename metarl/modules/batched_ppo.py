"""PPO on M feed-forward policies at once, each with its own parameters, critic and data.

With M = 1 it trains one policy for all tasks; with M > 1 it fine-tunes a copy of it in each task.
Policies, critics and Adam's moments are rows of tensors (M, D), so M tasks cost one batched matrix
product a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.distributed import ALONE, Ranks
from metarl.base.keys import Key
from metarl.modules import ppo
from metarl.modules.ppo import Batch
from metarl.modules.returns import generalized_advantages
from metarl.modules.settings import Count, Layers, Positive
from metarl.networks.categorical import Categorical
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step


@dataclass(frozen=True)
class FeedForwardSettings(ppo.ClippedSettings):
    """Settings of PPO with a feed-forward policy."""

    hidden: Layers = (64, 64)
    """Units of the hidden layers, of the policy and of the value function each."""
    epochs: Count = 10
    """Passes over the transitions of an iteration."""
    batch_size: Count = 500
    """Transitions in a gradient step, about: a pass is cut evenly."""
    shards: Count = 2
    """Parts of a gradient step's transitions that are computed side by side, on a thread each."""


@dataclass(frozen=True)
class PpoSettings(FeedForwardSettings):
    """Settings of PPO with a policy that remembers nothing but its last steps."""

    history: Count = 1
    """Steps that the policy sees, the present one too; from 2 on with the actions in between."""
    told_weight: Positive = 1.0
    """What the n numbers that ``+told`` adds to the observation weigh together, where every other
    number weighs 1: each has 1 / √n of it, and so do its initial weights. Runs of
    before there was this setting go on without."""


class Adam(NamedTuple):
    """State of Adam (Kingma and Ba 2015) on rows of parameters."""

    first: Tensor
    """(M, D)"""
    second: Tensor
    """(M, D)"""
    steps: Tensor
    """() int64"""

    @classmethod
    def start(cls, params: Tensor) -> Adam:
        """Return the state before any gradient."""
        steps = torch.zeros((), dtype=torch.int64)
        return cls(torch.zeros_like(params), torch.zeros_like(params), steps)

    def step(
        self, params: Tensor, gradient: Tensor, lr: float, max_norm: float
    ) -> tuple[Tensor, Adam]:
        """Return the parameters after a step; each row's gradient is at most `max_norm` long."""
        norm = gradient.norm(dim=1, keepdim=True).clamp(min=max_norm)
        gradient = gradient * (max_norm / norm)
        steps = self.steps + 1
        first = torch.lerp(self.first, gradient, 1 - 0.9)
        second = torch.lerp(self.second, gradient.square(), 1 - 0.999)
        scale = (second / (1 - 0.999 ** int(steps))).sqrt() + 1e-8
        params = params - (lr / (1 - 0.9 ** int(steps))) * first / scale
        return params, Adam(first, second, steps)


class BatchedPpo:
    """The networks, what they see, and PPO's update; parameters are passed in and returned."""

    def __init__(
        self, spec: Spec, config: FeedForwardSettings, device: torch.device, critic_extra: int = 0,
        actor_extra: int = 0,
    ) -> None:  # fmt: skip
        """Lay out the networks, and start the running statistics.

        Args:
            spec: sizes of observation and action.
            config: the settings.
            device: where everything is.
            critic_extra: P, further inputs, which the critic alone sees: `Rollout.for_critic`.
            actor_extra: further inputs of the actor, for a `policy` that gives them.
        """
        self.spec, self.config, self.device = spec, config, device
        self.history, told, told_weight = 1, 0, 1.0
        if isinstance(config, PpoSettings):  # else inputs of a learner's own come after
            self.history, told, told_weight = config.history, spec.told_size, config.told_weight
        self.frame = spec.observation_size + (spec.action_size if self.history > 1 else 0)
        inputs = self.frame * self.history
        self.seen = inputs + actor_extra
        self.actor = GaussianMLP(
            self.seen, spec.action_size, config.hidden, init_std=config.init_std,
            min_std=config.min_std, state_std=config.state_std and not spec.actions,
        )  # fmt: skip
        self.critic = GaussianMLP(inputs + critic_extra, 1, config.hidden)
        weight = torch.ones(spec.observation_size)
        weight[spec.observation_size - told :] = told_weight / max(1, told) ** 0.5
        self.obs_moments = RunningMoments(spec.observation_size, device, weight=weight)
        self.return_moments = RunningMoments(1, device)

    def initial(self, key: Key) -> Tensor:
        """Return (1, D) initial parameters: small in the policy's last layer, and of `+told`."""
        actor, critic = (
            net.initial(key.fold(name).torch())
            for net, name in ((self.actor, "actor"), (self.critic, "critic"))
        )
        self.actor.split(actor[None])[-3].mul_(0.01)
        weight = self.obs_moments.weight.to(actor)[:, None]
        for net, part in ((self.actor, actor), (self.critic, critic)):
            for start in range(0, self.frame * self.history, self.frame):
                net.split(part[None])[0][:, start : start + len(weight)] *= weight
        return torch.cat((actor, critic))[None].to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running statistics, ``obs.…`` and ``return.…``."""
        return {
            f"{name}.{part}": tensor
            for name, moments in (("obs", self.obs_moments), ("return", self.return_moments))
            for part, tensor in moments.state_dict().items()
        }

    @property
    def env_steps(self) -> float:
        """Environment steps of training that the running statistics have seen."""
        return float(self.obs_moments.count)

    def refresh(self) -> None:
        """Work with the running statistics that were written into the tensors of `state_dict`."""
        for moments in (self.obs_moments, self.return_moments):
            moments.load_state_dict(moments.state_dict())

    # --- acting --------------------------------------------------------------------------------

    def window(self, worlds: int) -> Tensor:
        """Return the empty memory of B worlds: (B, history - 1, F) earlier frames, latest first."""
        return torch.zeros(worlds, self.history - 1, self.frame, device=self.device)

    def act(
        self, params: Tensor, step: Step, window: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the actions (B, A) of M policies, B / M worlds each, and the new window.

        Args:
            params: (M, D).
            step: what the worlds show.
            window: see `window`.
            noise: (B, A) standard normal, or None for the deterministic actions.
        """
        frame = self._frames(step)
        if self.history > 1:
            window = window * (~step.first)[:, None, None]
            inputs = torch.cat((frame[:, None], window), 1)
            frame, window = inputs.flatten(1), inputs[:, :-1]
        policy = self.policy(params, frame.unflatten(0, (len(params), -1)))
        if noise is not None:
            noise = noise.unflatten(0, (len(params), -1))
        return policy.sample(noise).flatten(0, 1), window

    def policy(self, params: Tensor, inputs: Tensor) -> Gaussian | Categorical:
        """Return the action distributions (M, N, A) of M policies at (M, N, I + P) inputs."""
        actor, inputs = params[:, : self.actor.num_params], inputs[..., : self.seen]
        if self.spec.actions:
            return Categorical(self.actor.mean(actor, inputs), self.spec.actions)
        return self.actor(actor, inputs)

    def value(self, params: Tensor, inputs: Tensor) -> Tensor:
        """Return values (M, N) for (M, N, I + P), in units of the returns' standard deviation."""
        return self.critic.mean(params[:, self.actor.num_params :], inputs).squeeze(-1)

    def _frames(self, step: Step | Rollout) -> Tensor:
        """(…, F): the observation; with a history also the action before, 0 where none was."""
        obs = self.obs_moments.normalise(step.obs)
        if self.history == 1:
            return obs
        return torch.cat((obs, step.prev_action * (~step.first)[..., None]), -1)

    def _inputs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return what was seen at each step, and at its successor, (T, B, I) each."""
        frames, age = self._frames(rollout), rollout.episode_time()
        after = self.obs_moments.normalise(rollout.next_obs)
        if self.history == 1:
            return frames, after
        after = torch.cat((after, rollout.action.clamp(-1, 1).nan_to_num()), -1)
        seen = [frames]
        for back in range(1, self.history):
            earlier = torch.zeros_like(frames)
            earlier[back:] = frames[:-back]
            seen.append(earlier * (age >= back)[..., None])
        return torch.cat(seen, -1), torch.cat((after, *seen[:-1]), -1)

    # --- learning ------------------------------------------------------------------------------

    @torch.no_grad()
    def batch(self, rollout: Rollout, params: Tensor) -> Batch:
        """Estimate advantages and value targets of a rollout, N = B T / M transitions a row.

        The advantages are not normalised; see `prepared`.

        A diverged step teaches nothing, and the step before it bootstraps, as at a time limit.
        """
        tasks, config = len(params), self.config
        rollout = rollout.before_divergence()._replace(tasks=tasks)
        seen, after = self._inputs(rollout)
        seen, after = rollout.for_critic(seen), rollout.for_critic(after, "next_privileged")
        inputs, after = (rollout.per_task(x).flatten(1, 2) for x in (seen, after))
        value, next_value = self.value(params, inputs), self.value(params, after)
        reward = rollout.per_task(rollout.reward / self.return_moments.std.float())
        steps = len(rollout.reward)
        advantage = generalized_advantages(
            *(x.unflatten(-1, (-1, steps)).movedim(-1, 0) for x in
              (reward.flatten(1), value, next_value)),
            *(rollout.per_task(x).movedim(-1, 0) for x in
              (rollout.terminated | rollout.diverged, rollout.done)),
            gamma=config.gamma, gae_lambda=config.gae_lambda,
        ).movedim(0, -1).flatten(1)  # fmt: skip
        weight = rollout.per_task(rollout.valid.float()).flatten(1)
        action = rollout.per_task(rollout.action).flatten(1, 2)
        action = torch.where(weight[..., None] > 0, action, 0.0)  # may be NaN there
        log_prob = self.policy(params, inputs).log_prob(action)
        return Batch(inputs, action, log_prob, advantage, advantage + value, weight)

    def prepared(self, rollouts: Sequence[Rollout], params: Tensor, ranks: Ranks = ALONE) -> Batch:
        """Return the batch of rollouts side by side, its advantages normalised in each task.

        Args:
            rollouts: of the shards that this process owns.
            params: (M, D).
            ranks: over whose shards the advantages are normalised.
        """
        parts = [self.batch(rollout, params) for rollout in rollouts]
        batch = Batch.joined(parts)
        pairs = zip(batch.advantage, batch.weight, strict=True)
        normal = torch.stack([ppo.normalized(a, weight, ranks) for a, weight in pairs])
        return batch._replace(advantage=normal)

    def update_moments(self, rollouts: Sequence[Rollout], ranks: Ranks = ALONE) -> None:
        """Take the observations and rewards of training rollouts into the running statistics."""
        self.obs_moments.update(*(part.obs[part.valid] for part in rollouts), ranks=ranks)
        sums = (
            ppo.discounted_sums(part.reward, self.config.gamma)[part.valid][:, None]
            for part in rollouts
        )
        self.return_moments.update(*sums, ranks=ranks)

    def learn(
        self, params: Tensor, adam: Adam, lr: Tensor, rollouts: Sequence[Rollout], key: Key,
        ranks: Ranks = ALONE,
    ) -> tuple[Tensor, Adam, Tensor, dict[str, float]]:  # fmt: skip
        """Make an iteration: gradient steps on rollouts, which the running statistics take in next.

        Args:
            params: (M, D).
            adam: its state.
            lr: () float64, step size.
            rollouts: of the shards that this process owns.
            key: of the iteration.
            ranks: whose shards they are.

        Returns:
            The new parameters, state and step size, and the metrics of the iteration.
        """
        params, adam, metrics = self.improve(
            params, adam, self.prepared(rollouts, params, ranks), epochs=self.config.epochs,
            lr=float(lr), key=key, ranks=ranks,
        )  # fmt: skip
        self.update_moments(rollouts, ranks)
        rate = ppo.next_lr(float(lr), metrics["kl"], self.env_steps, self.config)
        metrics = training_returns(rollouts, ranks) | metrics | {"lr": rate}
        return params, adam, torch.tensor(rate, dtype=torch.float64), metrics

    def improve(
        self, params: Tensor, adam: Adam, batch: Batch, *, epochs: int, lr: float, key: Key,
        ranks: Ranks = ALONE,
    ) -> tuple[Tensor, Adam, dict[str, float]]:  # fmt: skip
        """Make passes of gradient steps on a batch, every task on its own rows.

        Args:
            params: (M, D).
            adam: its state.
            batch: N transitions a task.
            epochs: passes.
            lr: step size.
            key: orders the transitions.
            ranks: whose shards the transitions are of.

        Returns:
            The new parameters and state, and the mean metrics of the last pass.
        """
        rows = batch.weight.shape[1] // len(ranks.owned) * ranks.shards
        parts = max(1, round(rows / self.config.batch_size))
        metrics: list[Tensor] = []
        with ppo.thread_pool() as pool:
            for epoch in range(epochs):
                metrics, order = [], key.fold("minibatches", epoch)
                for chosen, total in ppo.minibatches(batch.weight, parts, order, ranks):
                    gradient, found = self._gradient(params, batch, chosen, total, pool, ranks)
                    params, adam = adam.step(params, gradient, lr, self.config.max_grad_norm)
                    metrics.append(found)
        means = torch.stack(metrics).mean(0).tolist()
        names = ("loss", "value_loss", "kl", "clip_fraction", "entropy")
        return params, adam, dict(zip(names, means, strict=True))

    def _gradient(
        self, params: Tensor, batch: Batch, chosen: list[Tensor], total: Tensor,
        pool: ThreadPoolExecutor, ranks: Ranks,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        params = params.detach().requires_grad_()
        most = self.config.shards if self.device.type == "cpu" else 1
        (gradient,), metrics = ppo.parallel_gradient(
            lambda ids: self._loss(params, batch, ids, total), [params],
            [ids.chunk(min(most, len(ids))) for ids in chosen], pool, ranks,
        )  # fmt: skip
        return gradient, metrics

    def _loss(
        self, params: Tensor, batch: Batch, ids: Tensor, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the part of the rows `ids` in the loss, summed over tasks, and metrics, (5,)."""
        part = batch.select(ids)
        policy, value = self.policy(params, part.inputs), self.value(params, part.inputs)
        error = (value - part.target).square()
        loss, metrics = ppo.objective(policy, error, part, total, self.config)
        return loss, metrics / len(params)


def training_returns(rollouts: Sequence[Rollout], ranks: Ranks = ALONE) -> dict[str, float]:
    """Return what a policy that does not adapt reports: its mean return, and what diverged.

    Args:
        rollouts: of the shards that this process owns.
        ranks: whose shards they are.
    """
    returns = torch.cat([part.first_episode_return() for part in rollouts])
    mean = float(mean_of_finished(ranks.rows(returns)))
    diverged = float(ranks.sum([part.diverged.sum() for part in rollouts]))
    return {"return_before": mean, "return_after": mean, "diverged": diverged}
