"""RL² (Duan et al. 2016; Wang et al. 2016): a policy with a memory that adapts as it acts.

The policy sees, besides the observation, what it did last, what reward that brought, and whether an
episode begins; its memory lasts through the episodes of a trial. Trained by PPO (Schulman et al.
2017) on whole trials, it learns to find out which task it is in and to make use of it:

    max_θ  E[min(ρ_t A_t, clip(ρ_t, 1 ± ε) A_t)],    ρ_t = π_θ(a_t | h_t) / π_old(a_t | h_t)

where h_t is the history of the trial. Advantages cross the boundaries of episodes: what exploring
costs in the first episode pays in the next. With E-RL²'s credit (Stadie et al. 2018) it costs
nothing: the rewards of the first episode are seen, but not maximised.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_parts, refuse_misfit, state_of
from metarl.modules import ppo
from metarl.modules.novelty import Bonus, BonusSettings, Visits
from metarl.modules.optim import ClippedAdam
from metarl.modules.ppo import Batch
from metarl.modules.returns import generalized_advantages
from metarl.modules.settings import Count, CriticSettings
from metarl.modules.trials import (
    Trials,
    ending,
    step_after,
    trial_episodes,
    trial_starts,
    with_ending,
)
from metarl.networks.actor_critic import MemoryActorCritic
from metarl.networks.categorical import Categorical, DiscreteActorCritic
from metarl.networks.memories.choice import MemoryName, MemoryState, make_memory
from metarl.networks.normalise import RunningMoments
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class Rl2Config(CriticSettings, ppo.ClippedSettings, BonusSettings):
    """Settings of RL²."""

    absent: ClassVar[dict[str, Any]] = {"last_transition": False}
    """Agents of before there was the setting."""

    memory: MemoryName = "gru"
    """The sequence backbone."""
    units: Count = 128
    """Width of the memory."""
    hidden: Count = 64
    """Width of the input's embedding, and of the hidden layer of policy and of value."""
    layers: Count = 2
    """Layers of minGRU, S5 or a transformer, or pairs of convolution and attention in SNAIL."""
    heads: Count = 4
    """Attention heads of a transformer; each takes its part of the units."""
    context: Count | None = None
    """Steps that a transformer or SNAIL looks back; default: a training trial."""
    episodes: Count = 2
    """Episodes in a training trial."""
    min_episodes: Count | None = None
    """With less than `episodes`, each world cuts its episodes at random into trials of this many
    and more; default: one trial of all of them."""
    credit: Literal["rl2", "e-rl2"] = "rl2"
    """Whose rewards are maximised: those of all episodes, or, as E-RL² does, of all but the first
    of a trial, which is for exploring; they are inputs in either case."""
    last_transition: bool = True
    """Whether the action and the reward that end an episode reach the memory."""
    epochs: Count = 3
    """Passes over the trials of an iteration."""
    minibatches: Count = 4
    """Groups of worlds in a pass, at most, with a gradient step each."""
    shards: Count = 4
    """Parts of a minibatch, at most, whose gradients are computed side by side, on a CPU thread
    each."""
    bfloat16: bool = False
    """Compute the update's forward passes in mixed precision: for GPUs."""
    compile: bool = False
    """Compile the update's forward pass; pays for the transformer and SNAIL on GPUs."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.credit == "e-rl2" and (self.min_episodes or self.episodes) < 2:
            raise UserError(
                "credit e-rl2 needs trials of at least 2 episodes: it pays for the later"
            )
        if self.min_episodes is None:
            return
        if self.min_episodes > self.episodes:
            raise UserError(f"min_episodes must be at most episodes = {self.episodes}")
        if self.memory in ("transformer", "snail"):
            raise UserError(
                f"min_episodes needs a memory that can begin a trial in some worlds alone, which "
                f"{self.memory} cannot: use gru, lstm, mingru, s5, mann or hyper"
            )


class State(NamedTuple):
    """What the policy remembers of the trial, in each world."""

    memory: MemoryState
    last: Tensor | None = None
    """(B, A + 1) action and reward that ended the last episode, from `adapt` to the next step;
    otherwise zeros; None without `last_transition`"""


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
        self._zeros = torch.empty(0)
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        self.return_moments = RunningMoments(1, self.device)
        self._parts = {
            "net": self.net, "adam": self.adam, "obs": self.obs_moments,
            "reward": self.reward_moments, "return": self.return_moments,
        }  # fmt: skip
        self.bonus = None
        if config.explores:
            sizes, key = (spec.observation_size, 1), Key(seed, "bonus")
            self.bonus = Bonus(config, sizes, config.gamma, key, self.device)
            self._parts |= self.bonus.parts

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
            state_std=config.state_std and not spec.actions,
            critic_extra=spec.critic_extra if self.privileged else 0,
        )  # fmt: skip

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return the memory at the start of a trial, for every world."""
        last = self._no_ending(tasks * worlds) if self.config.last_transition else None
        return State(self.net.memory.begin(tasks * worlds), last)

    def _no_ending(self, worlds: int) -> Tensor:
        """Return zeros, (B, A + 1), the same ones at each step, which `act` knows."""
        if len(self._zeros) != worlds:
            self._zeros = torch.zeros(worlds, self.spec.action_size + 1, device=self.device)
        return self._zeros

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
        """Act, and record the policy's head (B, …) and the value (B,) for the update."""
        last = state.last
        if last is not None and last is not self._zeros:
            step, last = with_ending(step, last), self._no_ending(len(last))
        head, value, memory = self.net.step(self._inputs(step), state.memory)
        action = self.net.policy(head).sample(noise if explore else None)
        return action, State(memory, last), {"head": head, "value": value}

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take in what ended the rollout; acting has adapted the state to the rest already."""
        if state.last is None:
            return state
        return state._replace(last=ending(rollout))

    def _restarted(self, state: State, where: Tensor) -> State:
        """Return the state with a new trial in the worlds `where`, (B,) bool."""
        if not where.any():
            return state
        memory = self.net.memory.restart(state.memory, where)
        last = None if state.last is None else state.last.masked_fill(where[:, None], 0.0)
        return State(memory, last)

    def _inputs(self, step: Step | Rollout) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins.

        Without `last_transition`, the first step of an episode has no last action; whether the
        worlds still hold the one before (they do when they began the episode themselves) must make
        no difference.
        """
        first = step.first[..., None].to(step.obs.dtype)
        action = step.prev_action
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        if not self.config.last_transition:
            action, reward = action * (1 - first), reward * (1 - first)
        return torch.cat((self.obs_moments.normalise(step.obs), action, reward, first), -1)

    # --- the meta-update -----------------------------------------------------------------------

    def _spread(self, heads: Sequence[Tensor]) -> dict[str, float]:
        """Return how much the policy explores, as a metric, given its head's output by shard."""
        spread, name = [], "std"
        for policy in map(self.net.policy, heads):
            if isinstance(policy, Categorical):
                name = "entropy"
                spread.append(policy.entropy().mean())
            else:
                spread.append(policy.log_std.detach().exp().mean())
        return {name: float(self.ranks.sum(spread)) / self.ranks.shards}

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Trials:
        """Collect `episodes` episodes in every world, in one trial or several.

        Every episode starts with a reset of all worlds, as in evaluation.
        """
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        begins = trial_starts(
            tasks, worlds.worlds_per_task, self.config.min_episodes or self.config.episodes,
            self.config.episodes, key.fold("trials"),
        ).to(self.device)  # fmt: skip
        parts, values = [], []
        for part, state in trial_episodes(
            worlds, self, len(begins), key, privileged=self.privileged,
            restart=lambda state, k: self._restarted(state, begins[k]),
        ):  # fmt: skip
            values.append(self._value_after(part, state))
            parts.append(part)
        returns = torch.stack([part.first_episode_return() for part in parts])
        return Trials(Rollout.joined(parts, dim=0), torch.stack(values), returns, begins)

    @torch.no_grad()
    def _value_after(self, part: Rollout, state: State) -> Tensor:
        """Return the value, (B,), of what would follow a rollout that ended in `state`."""
        end = self.act_and_record(step_after(part), state, explore=False, noise=None)
        value = end[2]["value"]
        if not self.privileged:
            return value
        kept = part.extras  # acting knew not what the critic sees, so it left the values open
        kept["value"] = self.net.criticise(kept["value"], kept["privileged"])
        return self.net.criticise(value, kept.pop("next_privileged")[-1])

    def update(self, shards: Sequence[Trials], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the trials of all shards."""
        trials, ranks = Trials.joined(shards), self.ranks
        batch = self._batch(shards)
        losses = self._gradient_steps(batch, key)
        parts = [shard.rollout for shard in shards]
        if self.bonus is not None:
            self.bonus.learn(parts, self._visits(parts), key, ranks)
        self.obs_moments.update(*(part.obs[part.valid] for part in parts), ranks=ranks)
        rewards = (part.reward[part.valid][:, None] for part in parts)
        self.reward_moments.update(*rewards, ranks=ranks)
        steps = float(self.obs_moments.count)
        self.adam.lr = ppo.next_lr(self.adam.lr, losses["kl"], steps, self.config)
        returns, begins, ends = (
            ranks.rows(part.double(), 1) for part in (trials.returns, trials.begins, trials.ends)
        )
        return {
            "return_before": float(mean_of_finished(returns[begins > 0])),
            "return_after": float(mean_of_finished(returns[ends > 0])),
            "diverged": float(ranks.sum([part.diverged.sum() for part in parts])),
            **losses,
            "lr": self.adam.lr,
            **self._spread([part.extras["head"] for part in parts]),
            **(self.bonus.means if self.bonus else {}),
        }

    def _visits(self, parts: Sequence[Rollout]) -> list[Visits]:
        """Return what a step can be new with: where it led, and the reward there."""
        scaled = self.reward_moments.normalise
        return [Visits(part.next_obs, scaled(part.reward[..., None])) for part in parts]

    @torch.no_grad()
    def _batch(self, shards: Sequence[Trials]) -> Batch:
        """Return what the gradient steps are made on, shard by shard: sums depend on the shape."""
        seen = [shard.rollout for shard in shards]
        paid = [shard.rollout._replace(reward=self._credited(shard)) for shard in shards]
        sums = (ppo.discounted_sums(p.reward, self.config.gamma)[p.valid] for p in paid)
        self.return_moments.update(*(part[:, None] for part in sums), ranks=self.ranks)
        if self.bonus is not None:  # also where the rewards are not maximised
            steps, spread = float(self.obs_moments.count), self.return_moments.std
            paid = self.bonus.added(paid, self._visits(seen), steps, spread, self.ranks)
        shards = [s._replace(rollout=part) for s, part in zip(shards, paid, strict=True)]
        parts = [self._estimates(shard) for shard in shards]
        batch = Batch.joined(parts)
        return batch._replace(advantage=ppo.normalized(batch.advantage, batch.weight, self.ranks))

    def _credited(self, trials: Trials) -> Tensor:
        """Return the rewards, (T, B), that are maximised; see the setting `credit`."""
        reward = trials.rollout.reward
        if self.config.credit == "rl2":
            return reward
        exploring = trials.begins.repeat_interleave(len(reward) // len(trials.begins), 0)
        return reward.masked_fill(exploring, 0.0)

    def _estimates(self, trials: Trials) -> Batch:
        """Estimate advantages, not normalised yet, and value targets.

        The time limit of an episode inside the trial is no end: the value of what follows is that
        of the next episode's first step. The trial's own end bootstraps from the true successor.
        A failure has no successor; a diverged step teaches nothing, and the step before it
        bootstraps.
        """
        rollout, config = trials.rollout, self.config
        head, value = rollout.extras["head"], rollout.extras["value"]
        reward = rollout.reward / self.return_moments.std.float()
        ended = rollout.terminated | rollout.diverged
        advantage = generalized_advantages(
            torch.where(rollout.diverged, value, reward), value, trials.following(value),
            ended, ended | trials.by_step(trials.ends, -1),
            gamma=config.gamma, gae_lambda=config.gae_lambda,
        )  # fmt: skip
        action = torch.where(rollout.diverged[..., None], 0.0, rollout.action)  # may be NaN there
        log_prob = self.net.policy(head).log_prob(action)
        return Batch(
            rollout.for_critic(self._inputs(rollout)), action, log_prob, advantage,
            advantage + value, rollout.valid.float(),
            None if config.min_episodes is None else trials.by_step(trials.begins, 0),
        )  # fmt: skip

    def _gradient_steps(self, batch: Batch, key: Key) -> dict[str, float]:
        """Pass over the trials several times, in minibatches of worlds; a step for each."""
        config, worlds = self.config, batch.weight.shape[1] // len(self.ranks.owned)
        least = self.net.memory.worth_a_thread
        means = ppo.gradient_steps(
            lambda ids, total: self._loss(batch, ids, total), self.adam, batch.weight.sum(0), key,
            epochs=config.epochs, parts=min(config.minibatches, worlds),
            most=lambda n: ppo.parts_of_trials(n, config.shards, least, self.device),
            max_norm=config.max_grad_norm, ranks=self.ranks,
        ).tolist()[:4]  # fmt: skip
        return dict(zip(("loss", "value_loss", "kl", "clip_fraction"), means, strict=True))

    def _loss(self, batch: Batch, ids: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part of worlds `ids` in the loss of a minibatch of `total` steps.

        Returns:
            The loss, and the metrics of `ppo.objective`.
        """
        part = batch.select(ids)
        head, value = self._unroll(part.inputs, part.begins)
        error = functional.smooth_l1_loss(value, part.target, reduction="none")
        return ppo.objective(self.net.policy(head), error, part, total, self.config)

    def _unroll(self, inputs: Tensor, begins: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the network over whole trials, in mixed precision if so set."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            head, value = self._forward(inputs, begins)
        return head.float(), value.float()

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, optimiser with its step size, and running statistics."""
        return state_of(self._parts)

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the network and the statistics that scale its input."""
        needed = ("net.", "obs.", "reward.")
        return {name: t for name, t in self.state_dict().items() if name.startswith(needed)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        load_parts(self._parts, tensors)
