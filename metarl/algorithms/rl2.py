"""RL² (Duan et al. 2016; Wang et al. 2016): a policy with a memory that adapts as it acts.

The policy sees, besides the observation, what it did last, what reward that brought, and whether an
episode begins; its memory lasts through the episodes of a trial. Trained by PPO (Schulman et al.
2017) on whole trials, it learns to find out which task it is in and to make use of it:

    max_θ  E[min(ρ_t A_t, clip(ρ_t, 1 ± ε) A_t)],    ρ_t = π_θ(a_t | h_t) / π_old(a_t | h_t)

where h_t is the history of the trial. Advantages cross the boundaries of episodes: what exploring
costs in the first episode pays in the next.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, refuse_misfit
from metarl.modules import ppo
from metarl.modules.optim import ClippedAdam
from metarl.modules.returns import generalized_advantages
from metarl.modules.settings import Count, Fraction, NonNegative, Positive, Settings
from metarl.networks.actor_critic import MemoryActorCritic
from metarl.networks.categorical import Categorical, DiscreteActorCritic
from metarl.networks.memory import MemoryState, make_memory
from metarl.networks.normalise import RunningMoments
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class Rl2Config(Settings):
    """Settings of RL²."""

    memory: Literal["gru", "lstm", "mingru", "s5", "transformer", "snail"] = "gru"
    """The sequence backbone."""
    units: Count = 128
    """Width of the memory."""
    hidden: Count = 64
    """Width of the input's embedding, and of the hidden layer of policy and of value."""
    layers: Count = 2
    """Layers of a transformer, or pairs of convolution and attention in SNAIL."""
    heads: Count = 4
    """Attention heads of a transformer; each takes its part of the units."""
    context: Count | None = None
    """Steps that a transformer or SNAIL looks back; default: a training trial."""
    episodes: Count = 2
    """Episodes in a training trial."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 0.95
    """λ of the advantage estimation; 1 is Monte Carlo."""
    clip: Positive = 0.2
    """ε: how far the probability of an action may move before its gain stops to count."""
    epochs: Count = 3
    """Passes over the trials of an iteration."""
    minibatches: Count = 4
    """Groups of worlds in a pass, at most, with a gradient step each."""
    lr: Positive = 1e-3
    """Initial step size of Adam."""
    desired_kl: NonNegative = 0.02
    """KL divergence of an iteration, in nats, that the step size is adapted to; 0 keeps it."""
    entropy_weight: NonNegative = 0.0
    """Weight of the policy's entropy."""
    value_weight: NonNegative = 0.5
    """Weight of the value function's loss."""
    max_grad_norm: Positive = 0.5
    """Longer gradients are scaled down to this."""
    init_std: Positive = 0.5
    """Initial exploration: standard deviation of an action, in units of half its range."""
    min_std: Positive = 0.02
    """Floor of the exploration."""
    shards: Count = 4
    """Parts of a minibatch whose gradients are computed side by side, on a CPU thread each."""
    bfloat16: bool = False
    """Compute the update's forward passes in mixed precision: for GPUs."""
    compile: bool = False
    """Compile the update's forward pass; pays for the transformer and SNAIL on GPUs."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")


class State(NamedTuple):
    """What the policy remembers of the trial, in each world."""

    memory: MemoryState


class Trials(NamedTuple):
    """What one shard of an iteration collected: a trial in each of B worlds."""

    rollout: Rollout
    """T = episodes x horizon steps; in its extras the mean action and the value of each step"""
    last_value: Tensor
    """(B,) the value of what follows the trial"""
    returns: Tensor
    """(episodes, B)"""

    @classmethod
    def joined(cls, shards: Sequence[Trials]) -> Trials:
        """Return the trials of several shards side by side."""
        return cls(
            Rollout.joined([shard.rollout for shard in shards], dim=1),
            torch.cat([shard.last_value for shard in shards]),
            torch.cat([shard.returns for shard in shards], 1),
        )


class Batch(NamedTuple):
    """What an iteration learns from, time first."""

    inputs: Tensor
    """(T, B, I)"""
    action: Tensor
    """(T, B, A)"""
    log_prob: Tensor
    """(T, B), when it was chosen"""
    advantage: Tensor
    """(T, B), normalised"""
    target: Tensor
    """(T, B), for the value function"""
    weight: Tensor
    """(T, B), 1, or 0 where the physics diverged"""


class Rl2(Learner):
    """Recurrent PPO over whole trials."""

    name = "rl2"
    Config = Rl2Config
    config: Rl2Config
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: Rl2Config, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the network, its optimiser and the running statistics."""
        super().__init__(spec, config, seed=seed, device=device)
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "policy").seed())
            self.net = self._network().to(self.device)
        self.adam = ClippedAdam(list(self.net.parameters()), config.lr)
        self._forward = torch.compile(self.net) if config.compile else self.net
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        self.return_moments = RunningMoments(1, self.device)
        self._parts = {
            "net": self.net, "adam": self.adam, "obs": self.obs_moments,
            "reward": self.reward_moments, "return": self.return_moments,
        }  # fmt: skip

    def _network(self) -> MemoryActorCritic:
        spec, config = self.spec, self.config
        memory = make_memory(
            config.memory, config.hidden, config.units, layers=config.layers, heads=config.heads,
            context=config.context or config.episodes * spec.horizon,
        )  # fmt: skip
        kind = MemoryActorCritic
        if spec.actions:
            kind = functools.partial(DiscreteActorCritic, spec.actions)
        return kind(
            spec.observation_size + spec.action_size + 2, spec.action_size, config.hidden, memory,
            init_std=config.init_std, min_std=config.min_std,
        )  # fmt: skip

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return the memory at the start of a trial, for every world."""
        return State(self.net.memory.begin(tasks * worlds))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Remember the step and act on it: the mean, plus noise times the std to explore."""
        action, state, _ = self.act_and_record(step, state, explore=explore, noise=noise)
        return action, state

    @torch.no_grad()
    def act_and_record(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Act, and record the mean action (B, A) and the value (B,) for the update."""
        mean, value, memory = self.net.step(self._inputs(step), state.memory)
        action, policy = mean, self.net.policy(mean)
        if isinstance(policy, Categorical):
            action = policy.sample(noise if explore else None)
        elif explore and noise is not None:
            action = mean + noise * policy.log_std.exp()
        return action, State(memory), {"mean": mean, "value": value}

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state as it is: acting has adapted it already."""
        return state

    def _inputs(self, step: Step | Rollout) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins.

        The first step of an episode has no last action; whether the worlds still hold the one
        before (they do when they began the episode themselves) must make no difference.
        """
        going = (~step.first)[..., None].to(step.obs.dtype)
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        return torch.cat(
            (
                self.obs_moments.normalise(step.obs), step.prev_action * going, reward * going,
                1 - going,
            ), -1,
        )  # fmt: skip

    # --- the meta-update -----------------------------------------------------------------------

    def _spread(self, means: Sequence[Tensor]) -> dict[str, float]:
        """Return how much the policy explores, as a metric, given its mean actions by shard."""
        spread, name = [], "std"
        for policy in map(self.net.policy, means):
            if isinstance(policy, Categorical):
                name = "entropy"
                spread.append(policy.entropy().mean())
            else:
                spread.append(policy.log_std.detach().exp().mean())
        return {name: float(self.ranks.sum(spread)) / self.ranks.shards}

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Trials:
        """Collect one trial in every world.

        Every episode starts with a reset of all worlds, as in evaluation.
        """
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        state = self.begin(len(tasks), worlds.worlds_per_task)
        parts = []
        for k in range(self.config.episodes):
            worlds.reset()
            part, state = collect(
                worlds, self, state, self.spec.horizon, key.fold("noise", k), explore=True
            )
            parts.append(part)
        rollout = Rollout.joined(parts, dim=0)
        end = Step(
            rollout.next_obs[-1], rollout.action[-1].clamp(-1, 1), rollout.reward[-1],
            torch.zeros_like(rollout.first[-1]),
        )  # fmt: skip
        _, _, last = self.act_and_record(end, state, explore=False, noise=None)
        returns = torch.stack([part.first_episode_return() for part in parts])
        return Trials(rollout, last["value"], returns)

    def update(self, shards: Sequence[Trials], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the trials of all shards."""
        trials, ranks = Trials.joined(shards), self.ranks
        batch = self._batch(shards)
        losses = self._gradient_steps(batch, key)
        parts = [shard.rollout for shard in shards]
        self.obs_moments.update(*(part.obs[part.valid] for part in parts), ranks=ranks)
        rewards = (part.reward[part.valid][:, None] for part in parts)
        self.reward_moments.update(*rewards, ranks=ranks)
        returns = mean_of_finished(ranks.rows(trials.returns, 1)).tolist()
        return {
            "return_before": returns[0],
            "return_after": returns[-1],
            "diverged": float(ranks.sum([part.diverged.sum() for part in parts])),
            **losses,
            "lr": self.adam.lr,
            **self._spread([part.extras["mean"] for part in parts]),
        }

    @torch.no_grad()
    def _batch(self, shards: Sequence[Trials]) -> Batch:
        """Return what the gradient steps are made on, shard by shard: sums depend on the shape."""
        sums = (
            ppo.discounted_sums(part.reward, self.config.gamma)[part.valid][:, None]
            for part in (shard.rollout for shard in shards)
        )
        self.return_moments.update(*sums, ranks=self.ranks)
        parts = [self._estimates(shard) for shard in shards]
        batch = Batch(*(torch.cat(same, 1) for same in zip(*parts, strict=True)))
        return batch._replace(advantage=ppo.normalized(batch.advantage, batch.weight, self.ranks))

    def _estimates(self, trials: Trials) -> Batch:
        """Estimate advantages, not normalised yet, and value targets.

        The time limit of an episode inside the trial is no end: the value of what follows is that
        of the next episode's first step. The trial's own end bootstraps from the true successor.
        A failure has no successor; a diverged step teaches nothing, and the step before it
        bootstraps.
        """
        rollout, config = trials.rollout, self.config
        mean, value = rollout.extras["mean"], rollout.extras["value"]
        reward = rollout.reward / self.return_moments.std.float()
        ended = rollout.terminated | rollout.diverged
        advantage = generalized_advantages(
            torch.where(rollout.diverged, value, reward), value,
            torch.cat((value[1:], trials.last_value[None])), ended, ended,
            gamma=config.gamma, gae_lambda=config.gae_lambda,
        )  # fmt: skip
        action = torch.where(rollout.diverged[..., None], 0.0, rollout.action)  # may be NaN there
        log_prob = self.net.policy(mean).log_prob(action)
        return Batch(
            self._inputs(rollout), action, log_prob, advantage, advantage + value,
            rollout.valid.float(),
        )  # fmt: skip

    def _gradient_steps(self, batch: Batch, key: Key) -> dict[str, float]:
        """Pass over the trials several times, in minibatches of worlds; a step for each."""
        config, worlds = self.config, batch.weight.shape[1] // len(self.ranks.owned)
        weight, parts = batch.weight.sum(0, keepdim=True), min(config.minibatches, worlds)
        metrics: list[Tensor] = []
        with ppo.thread_pool() as pool:
            for epoch in range(config.epochs):
                metrics, order = [], key.fold("minibatches", epoch)
                for chosen, total in ppo.minibatches(weight, parts, order, self.ranks):
                    gradient, found = ppo.parallel_gradient(
                        lambda ids, total=total: self._loss(batch, ids, total[0, 0]),
                        self.adam.params, [ids.chunk(self._shards(len(ids))) for ids in chosen],
                        pool, self.ranks,
                    )  # fmt: skip
                    self.adam.step(gradient, config.max_grad_norm)
                    metrics.append(found)
        policy_loss, value_loss, kl, clipped = torch.stack(metrics).mean(0).tolist()
        self.adam.lr = ppo.adapted_lr(self.adam.lr, kl, config.desired_kl)
        return {
            "loss": policy_loss, "value_loss": value_loss, "kl": kl, "clip_fraction": clipped,
        }  # fmt: skip

    def _shards(self, worlds: int) -> int:
        return min(self.config.shards, worlds) if self.device.type == "cpu" else 1

    def _loss(self, batch: Batch, ids: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part of worlds `ids` in the loss of a minibatch of `total` steps.

        Returns:
            The loss; and policy loss, value loss, KL divergence and share of clipped ratios, (4,).
        """
        config, part = self.config, Batch(*(tensor[:, ids] for tensor in batch))
        weight = part.weight / total
        mean, value = self._unroll(part.inputs)
        policy = self.net.policy(mean)
        log_ratio = policy.log_prob(part.action) - part.log_prob
        policy_loss = -(
            ppo.clipped_surrogate(log_ratio, part.advantage, config.clip) * weight
        ).sum()
        error = functional.smooth_l1_loss(value, part.target, reduction="none")
        value_loss = (error * weight).sum()
        if isinstance(policy, Categorical):
            entropy = (policy.entropy() * weight).sum()
        else:
            entropy = policy.log_std.sum() * weight.sum()
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        with torch.no_grad():
            ratio = log_ratio.exp()
            kl = ((ratio - 1 - log_ratio) * weight).sum()  # Schulman's estimate: never negative
            outside = (((ratio - 1).abs() > config.clip) * weight).sum()
            return loss, torch.stack((policy_loss, value_loss, kl, outside))

    def _unroll(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network over whole trials, in mixed precision if so set."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            mean, value = self._forward(inputs)
        return mean.float(), value.float()

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, optimiser with its step size, and running statistics."""
        return {
            f"{part}.{name}": tensor.detach()
            for part, holder in self._parts.items()
            for name, tensor in holder.state_dict().items()
        }

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the network and the statistics that scale its input."""
        needed = ("net.", "obs.", "reward.")
        return {name: t for name, t in self.state_dict().items() if name.startswith(needed)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        for part, holder in self._parts.items():
            prefix = f"{part}."
            holder.load_state_dict(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )
