"""Prototypes: a policy that is told which known tasks this one is like, by a learned metric.

A memory embeds what was seen of a trial as a point q_t, at every step. How near the point is to
each of K prototypes c_k (Snell et al. 2017) is a posterior over what task this may be,

    p_k = exp(−‖q_t − c_k‖² / τ) / Σ_l exp(−‖q_t − c_l‖² / τ)

and the policy acts on the observation and p. Points and prototypes are learned by supervised
contrast (Khosla et al. 2020; Li et al. 2021): training knows the task e, and e says through a
Gaussian kernel which other trials, and which prototypes, are to be near:

    min  E_t[ KL(w(e) ‖ p(q_t)) + λ KL(w'(e) ‖ p'(q_t)) ],    w_k ∝ exp(−‖e − m_k‖² / 2 P h²)

with m_k the task that prototype k stands for, and w', p' the same over the other trials' last
points. The policy is trained by PPO over whole trials; its loss does not reach the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_but_replay, state_of
from metarl.modules import ppo
from metarl.modules.batched_ppo import Adam, BatchedPpo, FeedForwardSettings
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, NonNegative, Positive
from metarl.modules.trial_replay import TrialReplay
from metarl.modules.trials import SeenTrial, ending, seen_trial, with_ending
from metarl.networks.belief import spread
from metarl.networks.memories.choice import MemoryState, make_memory
from metarl.networks.normalise import RunningMoments
from metarl.networks.prototypes import EmbeddedTrials, Places, PrototypeEncoder
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class PrototypesConfig(FeedForwardSettings):
    """Settings of prototypes."""

    epochs: Count = 5
    """Passes of the policy over the transitions of an iteration."""
    batch_size: Count = 1000
    """Transitions in a gradient step of the policy, about: a pass is cut evenly."""
    memory: Literal["gru", "lstm", "mingru", "s5", "transformer", "snail"] = "gru"
    """The encoder's sequence backbone."""
    units: Count = 128
    """Width of the memory."""
    embedding: Count = 64
    """Width of the embedding of what the encoder sees."""
    layers: Count = 2
    """Layers of minGRU, S5 or a transformer, or pairs of convolution and attention in SNAIL."""
    heads: Count = 4
    """Attention heads of a transformer; each takes its part of the units."""
    prototypes: Count = 16
    """K, tasks that this one is compared with."""
    metric_size: Count = 8
    """D, dimensions of the space in which they are."""
    temperature: Positive = 0.1
    """τ: squared distance in it that is a nat."""
    bandwidth: Positive = 0.3
    """h of the kernel on tasks, whose numbers are in [-1, 1]: how far apart tasks are alike."""
    contrast_weight: NonNegative = 0.3
    """λ, on the contrast with other trials beside that with prototypes."""
    see_point: bool = False
    """Show the policy the point q, too."""
    episodes: Count = 2
    """Episodes in a trial, which the memory lasts through."""
    encoder_lr: Positive = 2e-3
    """Step size of Adam for encoder and prototypes."""
    encoder_updates: Count = 3
    """Gradient steps on them in an iteration."""
    encoder_trials: Count = 25
    """Trials in such a step, which are contrasted with each other."""
    encoder_steps: Count = 50
    """Steps of each whose points are compared, at most."""
    replay_trials: Count = 500
    """Trials that are kept for the encoder; the oldest make way for new ones."""
    save_replay: bool = True
    """Save these in checkpoints; without them a resumed run learns from new ones alone at first."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        for name, what in (("prototypes", "be told apart"), ("encoder_trials", "be contrasted")):
            if getattr(self, name) < 2:
                raise UserError(f"{name} must be at least 2: one alone cannot {what}")


class State(NamedTuple):
    """What is remembered of the trial in each world, and where it lies among the prototypes."""

    memory: MemoryState
    point: Tensor
    """(B, D)"""
    last: Tensor
    """(B, A + 1) what ended the last episode, from `adapt` to the next step; otherwise zeros"""


class Prototypes(Learner):
    """PPO on observations and a posterior over prototypes of tasks."""

    name = "prototypes"
    Config = PrototypesConfig
    config: PrototypesConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: PrototypesConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the networks. Raises UserError if tasks have no parameters."""
        super().__init__(spec, config, seed=seed, device=device)
        if not spec.task_size:
            raise UserError(
                "prototypes learns from parameters which tasks are alike, and this family has "
                "none: use rl2 or varibad"
            )
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "encoder").seed())
            memory = make_memory(
                config.memory, config.embedding, config.units, layers=config.layers,
                heads=config.heads, context=config.episodes * spec.horizon,
            )  # fmt: skip
            self.encoder = PrototypeEncoder(
                spec.observation_size + spec.action_size + 2, config.embedding, memory,
                config.metric_size, config.prototypes, config.temperature,
            ).to(self.device)  # fmt: skip
        self.encoder_adam = ClippedAdam(list(self.encoder.parameters()), config.encoder_lr)
        self.places = Places(
            config.prototypes, spec.task_size, Key(seed, "places").seed(), self.device
        )
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        told = config.prototypes + config.see_point * config.metric_size
        wide = spec._replace(observation_size=spec.observation_size + told)
        self.ppo = BatchedPpo(wide, config, self.device)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)
        self.replay = TrialReplay(spec, config.episodes, config.replay_trials, spec.task_size)
        self._parts = {
            "encoder": self.encoder, "encoder_adam": self.encoder_adam, "places": self.places,
            "obs": self.obs_moments, "reward": self.reward_moments,
            "seen": self.ppo.obs_moments, "return": self.ppo.return_moments,
        }  # fmt: skip

    @property
    def privileged(self) -> bool:
        """Whether training sees what nothing that acts may see: yes, which tasks are alike."""
        return True

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return an empty memory for every world."""
        point = torch.zeros(tasks * worlds, self.config.metric_size, device=self.device)
        last = point.new_zeros(tasks * worlds, self.spec.action_size + 1)
        return State(self.encoder.memory.begin(tasks * worlds), point, last)

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Embed the trial so far and act on what it is like: the mean action, plus noise."""
        action, state, _ = self.act_and_record(step, state, explore=explore, noise=noise)
        return action, state

    @torch.no_grad()
    def act_and_record(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Act, and record what the policy is told as ``belief``, (B, K) or (B, K + D)."""
        point, memory = self.encoder.step(self._inputs(with_ending(step, state.last)), state.memory)
        told = self._told(point)
        wide, window = torch.cat((step.obs, told), -1), self.ppo.window(len(told))
        action, _ = self.ppo.act(
            self.params, step._replace(obs=wide), window, noise if explore else None
        )
        return action, State(memory, point, torch.zeros_like(state.last)), {"belief": told}

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take in what ended the rollout; acting has adapted the state to the rest already."""
        return state._replace(last=ending(rollout))

    @torch.no_grad()
    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """Return the posterior over prototypes, (B, K)."""
        return {"posterior": self.encoder.log_posterior(state.point).exp()}

    def _told(self, point: Tensor) -> Tensor:
        posterior = self.encoder.log_posterior(point).exp()
        return torch.cat((posterior, point), -1) if self.config.see_point else posterior

    def _inputs(self, step: Step) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins."""
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        first = step.first[..., None].to(step.obs.dtype)
        return torch.cat(
            (self.obs_moments.normalise(step.obs), step.prev_action, reward, first), -1
        )

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> SeenTrial:
        """Collect a trial in every world, and which task each of its steps was in."""
        return seen_trial(worlds, tasks, self, self.config.episodes, key, privileged=True)

    def update(self, shards: Sequence[SeenTrial], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the new trials, and the encoder's on recent ones."""
        rollouts = [shard.rollout for shard in shards]
        self.params, self.adam, self.lr, metrics = self.ppo.learn(
            self.params, self.adam, self.lr, [shard.seen for shard in shards], key, self.ranks
        )
        self.obs_moments.update(*(part.obs[part.valid] for part in rollouts), ranks=self.ranks)
        rewards = (part.reward[part.valid][:, None] for part in rollouts)
        self.reward_moments.update(*rewards, ranks=self.ranks)
        returns = self.ranks.rows(torch.cat([shard.returns for shard in shards], 1), 1)
        return metrics | {
            "return_before": float(mean_of_finished(returns[0])),
            "return_after": float(mean_of_finished(returns[-1])),
            **self._learn_metric(rollouts, key),
        }  # fmt: skip

    def _learn_metric(self, rollouts: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Move the prototypes' tasks, and make gradient steps on the encoder and on prototypes."""
        config, size = self.config, self.spec.task_size
        self.replay.add(rollouts, self.ranks)
        tasks = torch.cat([part.extras["privileged"][-1, :, :size] for part in rollouts])
        self.places.update(self.ranks.rows(tasks))
        draws, found = key.fold("metric").torch(), []
        count, least = (
            max(config.encoder_trials, self.ranks.shards),
            self.encoder.memory.worth_a_thread,
        )
        with ppo.thread_pool() as pool:
            for _ in range(config.encoder_updates):
                trials, steps = self._sample(count, draws)
                gradient, metrics = ppo.parallel_gradient(
                    lambda ids, trials=trials, steps=steps: self.encoder.loss(
                        trials, ids, steps, self.places.places, bandwidth=config.bandwidth,
                        contrast_weight=config.contrast_weight,
                    ),
                    self.encoder_adam.params,
                    [
                        ppo.trial_ids(part, config.shards, least, self.device)
                        for part in self.ranks.slices(count)
                    ],
                    pool, self.ranks,
                )  # fmt: skip
                self.encoder_adam.step(gradient, config.max_grad_norm)
                found.append(metrics)
        means = torch.stack(found).mean(0).tolist()
        return dict(zip(("prototype_kl", "contrast_kl"), means, strict=True))

    @torch.no_grad()
    def _sample(self, count: int, draws: torch.Generator) -> tuple[EmbeddedTrials, Tensor]:
        """Draw trials, and at which steps to compare them, one in each of as many equal parts."""
        rows = self.replay.sample(count, draws).to(self.device)
        total = len(rows.obs)
        most = min(self.config.encoder_steps, total)
        steps = spread(most, total, draws)
        inputs = self._inputs(rows.step)
        keys = self.encoder(inputs)[-1]
        return EmbeddedTrials(inputs, rows.task, rows.valid, keys), steps.to(self.device)

    # --- saving --------------------------------------------------------------------------------

    def _policy(self) -> dict[str, Tensor]:
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return {"params": self.params, "lr": self.lr, **adam}

    def _weights(self) -> dict[str, Tensor]:
        return self._policy() | state_of(self._parts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimisers, running statistics and, if to be saved, the replay."""
        tensors = self._weights()
        if self.config.save_replay:
            tensors |= {f"replay.{name}": t for name, t in self.replay.state_dict().items()}
        return tensors

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return policy, encoder, prototypes, and the statistics that scale what they see."""
        kept = ("params", "encoder.", "obs.", "reward.", "seen.")
        return {name: t for name, t in self._weights().items() if name.startswith(kept)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        replay = load_but_replay(self._policy(), self._parts, tensors, self.name)
        self.replay.load_state_dict(replay)
