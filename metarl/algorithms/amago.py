"""AMAGO (Grigsby et al. 2024): a policy with a memory, trained off-policy on whole trials.

As in RL², what the policy sees is the history of a trial, and adapting is remembering. But the
trials come from a replay, so each is learned from many times. One memory is trained end to end by
the losses of an actor and of C critics, for several discounts γ_1 … γ_G at once:

    y_g  = r + γ_g (1 - d) min_{c ∈ S} Q̄_cg(h', a'_g),     a'_g ~ π̄_g(h'),   S a draw of critics
    L_Q  = mean_cg (Q_cg(h, a) - y_g)²
    L_π  = mean_g [-λ_1 mean_c Q_cg(h, a_g) - λ_2 1[A_g > 0] log π_g(a | h)],   a_g ~ π_g(h)
    A_g  = mean_c Q_cg(h, a) - mean_c Q_cg(h, a_g)

h is what the memory makes of the history, Q̄ and π̄ are slow copies. The second term of L_π clones
those actions of the replay that the critics find better than the policy's own. Values are in units
of their own spread at each discount. The policy of the last discount acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.base.versions import claim
from metarl.learning.learner import Learner, load_but_replay, state_of
from metarl.modules import ppo
from metarl.modules.optim import ClippedAdam
from metarl.modules.replay import TaskReplay, refuse_large_rewards
from metarl.modules.settings import (
    Count,
    CountOrZero,
    Fraction,
    Layers,
    NonNegative,
    Positive,
    Settings,
)
from metarl.modules.trials import ending, step_after, trial_episodes, with_ending
from metarl.networks.memories.choice import MemoryName, MemoryState, make_memory
from metarl.networks.normalise import PopArt, RunningMoments
from metarl.networks.sequence_critic import SequenceActorCritic
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class AmagoConfig(Settings):
    """Settings of AMAGO."""

    memory: MemoryName = "transformer"
    """The sequence backbone."""
    units: Count = 128
    """Width of the memory."""
    embedding: Count = 64
    """Width of the input's embedding."""
    layers: Count = 2
    """Layers of minGRU, S5 or a transformer, or pairs of convolution and attention in SNAIL."""
    heads: Count = 4
    """Attention heads of a transformer; each takes its part of the units."""
    context: Count | None = None
    """Steps that a transformer or SNAIL looks back; default: a trial."""
    episodes: Count = 2
    """Episodes in a trial, which the memory lasts through."""
    hidden: Layers = (128, 128)
    """Units of the hidden layers of policies and critics (ReLU)."""
    critics: Count = 4
    """Critics in the ensemble."""
    target_critics: Count = 2
    """Critics, drawn anew for each gradient step, whose least value is the target's."""
    gamma: Fraction = 0.99
    """Discount of the policy that acts."""
    horizons: Layers = (10, 30)
    """Further discounts that are learned at the same time, 1 - 1 / horizon each, in steps."""
    lr: Positive = 3e-4
    """Step size of Adam, for everything."""
    target_rate: Fraction = 0.005
    """How far the targets move to actor and critics in each step."""
    value_rate: Fraction = 5e-4
    """How far the mean and spread that values are scaled by move in each step."""
    critic_weight: Positive = 10.0
    """Weight of the critics' loss."""
    online_weight: NonNegative = 1.0
    """λ_1, of the critics' value of the policy's own actions."""
    cloning_weight: NonNegative = 0.1
    """λ_2, of the cloning of actions that the critics find better."""
    max_grad_norm: Positive = 2.0
    """Longer gradients are scaled down to this."""
    init_std: Positive = 0.5
    """Initial exploration: standard deviation of an action, in units of half its range."""
    min_std: Positive = 0.1
    """Floor of the exploration, in the end."""
    exploration_steps: CountOrZero = 200_000
    """Env steps over which that floor falls linearly from init_std when exploring; 0 is at once."""
    gradient_steps: Count = 50
    """Gradient steps of an iteration."""
    batch_trials: Count = 16
    """Trials in a gradient step."""
    loss_steps: Count = 100
    """Steps of these trials that the losses are computed at, at most; the memory sees all."""
    replay_trials: Count = 1000
    """Trials that are kept; the oldest make way for new ones."""
    save_replay: bool = True
    """Save these in checkpoints; without them a resumed run learns from new ones alone at first."""
    shards: Count = 2
    """Parts of a gradient step, at most, that are computed side by side, on a CPU thread each."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.target_critics > self.critics:
            raise UserError(f"target_critics must be at most critics = {self.critics}")
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")


METRICS = ("critic_loss", "value", "cloning_loss", "cloned", "std")
"""Of a gradient step: value in rewards; share of actions cloned; both at the last discount."""


class State(NamedTuple):
    """What the policy remembers of the trial, in each world."""

    memory: MemoryState
    last: Tensor
    """(B, A + 1) what ended the last episode, from `adapt` to the next step; otherwise zeros"""


class Trial(NamedTuple):
    """What one shard of an iteration collected: a trial in each of B worlds."""

    rollout: Rollout
    """T = episodes x horizon steps"""
    after: Step
    """What would follow them"""
    returns: Tensor
    """(episodes, B)"""


class Draws(NamedTuple):
    """n trials of T steps, N of their steps, and what is random in the losses there."""

    inputs: Tensor
    """(T + 1, n, I) what the policy sees at each step, and after the last"""
    steps: Tensor
    """(N,) int64"""
    action: Tensor
    """(N, n, A)"""
    reward: Tensor
    """(N, n)"""
    going: Tensor
    """(N, n) 1, or 0 where the step failed"""
    weight: Tensor
    """(N, n) of each step in the mean; 0 where the physics diverged"""
    noise: Tensor
    """(2, N, n, G, A) standard normal, of the policies' actions at each step and at the next"""
    subset: Tensor
    """(S,) int64, the critics of the target"""


class Amago(Learner):
    """An actor-critic over sequences, with a replay of trials."""

    name = "amago"
    Config = AmagoConfig
    config: AmagoConfig

    def __init__(
        self, spec: Spec, config: AmagoConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the networks; the replay takes memory when there is something to put in."""
        super().__init__(spec, config, seed=seed, device=device)
        self.steps = config.episodes * spec.horizon
        discounts = [*(1 - 1 / steps for steps in config.horizons), config.gamma]
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "memory").seed())
            memory = make_memory(
                config.memory, config.embedding, config.units, layers=config.layers,
                heads=config.heads, context=config.context or self.steps,
            )  # fmt: skip
            self.net = SequenceActorCritic(
                spec.observation_size + spec.action_size + 2, spec.action_size, config.embedding,
                memory, heads=config.hidden, critics=config.critics, discounts=len(discounts),
                init_std=config.init_std, min_std=config.min_std,
                generator=Key(seed, "heads").torch(),
            ).to(self.device)  # fmt: skip
        self.discounts = torch.tensor(discounts, device=self.device)
        self.adam = ClippedAdam(list(self.net.parameters()), config.lr)
        self.values = PopArt(len(discounts), self.device, config.value_rate)
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        self._replay: TaskReplay | None = None
        self._parts = {
            "net": self.net, "adam": self.adam, "values": self.values,
            "obs": self.obs_moments, "reward": self.reward_moments,
        }  # fmt: skip

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return the memory at the start of a trial, for every world."""
        last = torch.zeros(tasks * worlds, self.spec.action_size + 1, device=self.device)
        return State(self.net.memory.begin(tasks * worlds), last)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Remember the step and act on it: the mean, plus noise times the std to explore."""
        step = with_ending(step, state.last)
        features, memory = self.net.step(self._inputs(step), state.memory)
        mean, log_std = (part[:, -1] for part in self.net.policy(self.net.actor, features))
        if explore and noise is not None:
            mean = torch.addcmul(mean, torch.maximum(log_std.exp(), self._floor()), noise)
        return mean, State(memory, torch.zeros_like(state.last))

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take in what ended the rollout; acting has adapted the state to the rest already."""
        return state._replace(last=ending(rollout))

    def _floor(self) -> Tensor:
        """Return (), the least standard deviation of an action when exploring."""
        most, least, steps = (c := self.config).init_std, c.min_std, c.exploration_steps
        done = (self.obs_moments.count / steps).clamp(max=1.0) if steps else 1.0
        return torch.as_tensor(most + (least - most) * done, dtype=torch.float32)

    def _inputs(self, step: Step) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins."""
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        first = step.first[..., None].to(step.obs.dtype)
        seen = self.obs_moments.normalise(step.obs)
        return torch.cat((seen, step.prev_action, reward, first), -1)

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Trial:
        """Collect a trial in every world: episodes that each start with a reset of all worlds."""
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        parts = [part for part, _ in trial_episodes(worlds, self, self.config.episodes, key)]
        rollout = Rollout.joined(parts, dim=0)
        refuse_large_rewards(rollout, worlds.large_reward)
        returns = torch.stack([part.first_episode_return() for part in parts])
        return Trial(rollout, step_after(parts[-1]), returns)

    def update(self, shards: Sequence[Trial], key: Key) -> dict[str, float]:
        """Take everybody's trials into the replay, and make gradient steps on a sample of it."""
        replay, ranks = self._memory(), self.ranks
        for rows in ranks.every([_packed(shard) for shard in shards]):  # each rank holds all
            new = torch.ones(1, len(rows), dtype=torch.bool)
            replay.add(torch.zeros(1, dtype=torch.int64), rows[None], new)
        rollouts = [shard.rollout for shard in shards]
        self.obs_moments.update(*(part.obs[part.valid] for part in rollouts), ranks=ranks)
        rewards = (part.reward[part.valid][:, None] for part in rollouts)
        self.reward_moments.update(*rewards, ranks=ranks)
        returns = ranks.rows(torch.cat([shard.returns for shard in shards], 1), 1)
        return {
            "return_before": float(mean_of_finished(returns[0])),
            "return_after": float(mean_of_finished(returns[-1])),
            "diverged": float(ranks.sum([part.diverged.sum() for part in rollouts])),
            **self._gradient_steps(key.fold("update")),
        }

    def _gradient_steps(self, key: Key) -> dict[str, float]:
        """Make the gradient steps of an iteration; each moves targets and the scale of values."""
        config, draws, found = self.config, key.torch(), []
        least = self.net.memory.worth_a_thread
        with ppo.thread_pool() as pool:
            for _ in range(config.gradient_steps):
                batch = self._sample(draws)
                gradient, sums = ppo.parallel_gradient(
                    lambda ids, batch=batch: self._loss(batch, ids), self.adam.params,
                    [
                        ppo.trial_ids(part, config.shards, least, self.device)
                        for part in self.ranks.slices(batch.action.shape[1])
                    ],
                    pool, self.ranks,
                )  # fmt: skip
                self.adam.step(gradient, config.max_grad_norm)
                metrics, mean, square = sums.split((len(METRICS), *[len(self.discounts)] * 2))
                self.values.update(mean, square, *self.net.last_layers())
                self.net.update_targets(config.target_rate)
                found.append(metrics)
        return dict(zip(METRICS, torch.stack(found).mean(0).tolist(), strict=True))

    def _loss(self, batch: Draws, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part of the trials `ids` in the loss.

        Returns:
            The loss, and what adds up likewise: `METRICS`, then mean and mean square of the targets
            at each discount.
        """
        net, config = self.net, self.config
        features = net(batch.inputs[:, ids])
        here, after = (features[batch.steps + k].flatten(0, 1) for k in (0, 1))
        action, reward, going, weight = (part[:, ids].flatten(0, 1) for part in batch[2:6])
        noise, after_noise = batch.noise[:, :, ids].flatten(1, 2)
        least = self.values.restore(net.target_values(after, after_noise, batch.subset))
        target = reward[:, None] + self.discounts * going[:, None] * least
        said = net.values(net.critic, here, action)
        error = (said - self.values.normalise(target)).square().mean((0, 2))

        policy = net.policy(net.actor, here)
        own = policy.sample(noise).clamp(-1, 1)
        # the value of its own actions moves the policy: neither critics nor, through them, memory
        value = net.values_of_policies(net.critic.detach(), here.detach(), own).mean(0)
        better = cloned(said.detach().mean(0), value.detach())
        cloning = -better * policy.log_prob(action[:, None])
        loss = config.critic_weight * error + config.cloning_weight * cloning.mean(1)
        loss = ((loss - config.online_weight * value.mean(1)) * weight).sum()
        with torch.no_grad():
            shown = torch.stack((
                error, self.values.restore(value)[:, -1], cloning[:, -1], better[:, -1],
                policy.log_std[:, -1].exp().mean(-1),
            ))  # fmt: skip
            return loss, torch.cat((shown, target.T, target.square().T)) @ weight

    def _sample(self, draws: torch.Generator) -> Draws:
        """Draw trials from the replay, and steps of them: one in each of as many equal parts."""
        config, replay = self.config, self._memory()
        count, total = max(config.batch_trials, self.ranks.shards), self.steps
        rows = replay.sample(torch.zeros(1, dtype=torch.int64), count, draws)[0]
        rows = rows.view(count, total + 1, -1).transpose(0, 1).to(self.device)
        o, a = self.spec.observation_size, self.spec.action_size
        seen, action, reward, going, valid = rows.split((o + a + 2, a, 1, 1, 1), -1)
        obs, before, gain, first = seen.split((o, a, 1, 1), -1)
        number = min(config.loss_steps, total)
        steps = (torch.arange(number) + torch.rand(number, generator=draws)) * (total / number)
        steps = steps.long().clamp(max=total - 1).to(self.device)
        shape = (2, number, count, len(self.discounts), a)
        weight = valid[steps, :, 0]
        return Draws(
            self._inputs(Step(obs, before, gain[..., 0], first[..., 0])), steps,
            action[steps], reward[steps, :, 0], going[steps, :, 0],
            weight / weight.sum().clamp(min=1.0),
            torch.randn(shape, generator=draws).to(self.device),
            torch.randperm(config.critics, generator=draws)[: config.target_critics],
        )  # fmt: skip

    def _memory(self) -> TaskReplay:
        """Return the replay, a row a trial, in the host's memory; allocated when first needed."""
        if self._replay is None:
            trials = self.config.replay_trials
            width = (self.steps + 1) * (self.spec.observation_size + 2 * self.spec.action_size + 5)
            claim(
                f"{trials} trials", 4 * trials * width, torch.device("cpu"),
                f"replay_trials (now {trials})",
            )  # fmt: skip
            self._replay = TaskReplay(1, trials, width)
        return self._replay

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimiser, running statistics and, if to be saved, the replay."""
        tensors = state_of(self._parts)
        if self._replay is not None and self.config.save_replay:
            tensors |= {f"replay.{name}": t for name, t in self._replay.state_dict().items()}
        return tensors

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return memory and policy, and the statistics that scale what they see."""
        kept = ("net.embed.", "net.memory.", "net.actor", "obs.", "reward.")
        return {n: t for n, t in state_of(self._parts).items() if n.startswith(kept)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        replay = load_but_replay({}, self._parts, tensors, self.name)
        self._replay = None
        if replay:
            self._memory().load_state_dict(replay)


def cloned(value: Tensor, own: Tensor) -> Tensor:
    """Return the weight of each action of the replay in cloning: 1 where it beats the policy's."""
    return (value > own).float()


def _packed(trial: Trial) -> Tensor:
    """Return (B, (T + 1) W): a row a trial, of W numbers a step; see `Amago._sample`."""
    rollout, after = trial.rollout, trial.after
    parts = (
        rollout.obs, rollout.prev_action, rollout.prev_reward[..., None],
        rollout.first[..., None], rollout.action.clamp(-1, 1), rollout.reward[..., None],
        ~rollout.terminated[..., None], rollout.valid[..., None],
    )  # fmt: skip
    rows = torch.cat([part.float() for part in parts], -1)
    end = torch.cat((after.obs, after.prev_action, after.prev_reward[:, None]), -1)
    rows = torch.cat((rows, pad(end, (0, rows.shape[-1] - end.shape[-1]))[None]))
    # what a diverged step holds has no weight, but a weight of 0 times NaN is NaN
    return rows.nan_to_num(0.0, 0.0, 0.0).transpose(0, 1).flatten(1).cpu()
