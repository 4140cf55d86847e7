"""DIAYN (Eysenbach et al. 2019): skills without a reward, each recognised by what it does.

A policy is told which of K skills to show, z ~ p(z) = 1 / K, and a discriminator q must tell from
where the robot gets which one it was. The policy is trained by PPO (Schulman et al. 2017) to be
recognised, whatever the family's rewards are, and the discriminator to recognise it:

    max_π  E_z,π[log q(z | s_{t+1}) − log p(z)],    max_q  E_z,π[log q(z | s_{t+1})]

Which numbers of the observation q sees says what a skill can be about: places, if it sees the
position; gaits, if it sees joints and velocities alone.

The discriminator makes tasks for any learner: ``+skills=FILE``, see
`metarl.tasks.variations.skills`. The policy is a meta-learner by itself, if a crude one: in a task,
every world shows skills, and the task's policy is then the skill that earned most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_parts, load_tensors, refuse_misfit, state_of
from metarl.modules import ppo
from metarl.modules.batched_ppo import (
    Adam,
    BatchedPpo,
    FeedForwardSettings,
    training_returns,
)
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Indices, Layers, NonNegative, Positive
from metarl.networks.normalise import RunningMoments
from metarl.tasks.distribution import Tasks
from metarl.tasks.variations.skills import LOWEST, MOST, Skills
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class DiaynConfig(FeedForwardSettings):
    """Settings of DIAYN."""

    skills: Count = 10
    """K."""
    skill_inputs: Indices | None = None
    """Which numbers of the observation the discriminator sees, counted from 0; default: all."""
    discriminator_hidden: Layers = (64, 64)
    """Units of the hidden layers of the discriminator (ReLU)."""
    discriminator_lr: Positive = 1e-3
    """Step size of its Adam."""
    discriminator_epochs: Count = 2
    """Its passes over the transitions of an iteration."""
    entropy_weight: NonNegative = 0.01
    """Weight of the policy's entropy."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if not 2 <= self.skills <= MOST:
            raise UserError(f"skills must be from 2 to {MOST}, not {self.skills}")


class State(NamedTuple):
    """What each skill earned in each task, and which one each world shows next."""

    total: Tensor
    """(M, K) float64 sum of the returns"""
    tried: Tensor
    """(M, K) float64 how many"""
    skill: Tensor
    """(B,) int64 to explore with"""


class Diayn(Learner):
    """A policy of K skills that a discriminator can tell apart."""

    name = "diayn"
    Config = DiaynConfig
    config: DiaynConfig
    adapts_per_task = True
    adapts_on_exploration = True  # each world shows another skill
    discrete_actions = True
    finds_skills = True

    def __init__(
        self, spec: Spec, config: DiaynConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise policy and discriminator.

        Raises:
            UserError: `skill_inputs` names a number that the observation does not have.
        """
        super().__init__(spec, config, seed=seed, device=device)
        size = spec.observation_size
        columns = config.skill_inputs or tuple(range(size))
        if max(columns) >= size:
            raise UserError(
                f"skill_inputs: the observation has {size} numbers, 0 to {size - 1}, so none is "
                f"{max(columns)}"
            )
        self.columns = torch.tensor(columns, device=self.device)
        wide = spec._replace(observation_size=size + config.skills)
        self.ppo = BatchedPpo(wide, config, self.device)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)
        widths = (len(columns), *config.discriminator_hidden)
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "discriminator").seed())
            layers: list[nn.Module] = []
            for i, o in itertools.pairwise(widths):
                layers += [nn.Linear(i, o), nn.ReLU()]
            layers.append(nn.Linear(widths[-1], config.skills))
            self.discriminator = nn.Sequential(*layers).to(self.device)
        self.discriminator_adam = ClippedAdam(
            list(self.discriminator.parameters()), config.discriminator_lr
        )
        self.moments = RunningMoments(len(columns), self.device)
        self._parts = {
            "discriminator": self.discriminator, "discriminator_adam": self.discriminator_adam,
            "skill_inputs": self.moments, "seen": self.ppo.obs_moments,
            "return": self.ppo.return_moments,
        }  # fmt: skip

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return that nothing was tried; the worlds of a task show the skills in turn."""
        none = torch.zeros(tasks, self.config.skills, dtype=torch.float64, device=self.device)
        shown = torch.arange(worlds, device=self.device).repeat(tasks) % self.config.skills
        return State(none, none, shown)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Show the skill of each world to explore, else the best skill of each task."""
        skill = state.skill
        if not explore:
            skill = self._best(state).repeat_interleave(len(skill) // len(state.total))
        step = step._replace(obs=self._told(step.obs, skill))
        window = self.ppo.window(len(skill))
        return self.ppo.act(self.params, step, window, noise if explore else None)[0], state

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Note what each skill earned, and let the worlds show the next ones."""
        tasks, skills = state.total.shape
        returns = rollout.first_episode_return().reshape(tasks, -1)
        shown, known = state.skill.reshape(tasks, -1), ~returns.isnan()
        total = state.total.scatter_add(1, shown, returns.nan_to_num())
        tried = state.tried.scatter_add(1, shown, known.to(state.tried.dtype))
        return State(total, tried, ((shown + shown.shape[1]) % skills).flatten())

    def _best(self, state: State) -> Tensor:
        """(M,) the skill with the highest mean return; the first one where none was tried."""
        mean = state.total / state.tried.clamp(min=1.0)
        return mean.masked_fill(state.tried == 0, -torch.inf).argmax(1)

    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """Return the number of each task's skill, (B, 1)."""
        each = len(state.skill) // len(state.total)
        return {"skill": self._best(state).repeat_interleave(each)[:, None].float()}

    def _told(self, obs: Tensor, skill: Tensor) -> Tensor:
        """(…, O + K): the observation, and the skill as a column each, scaled to variance 1."""
        told = functional.one_hot(skill, self.config.skills).to(obs.dtype)
        return torch.cat((obs, told.expand(*obs.shape[:-1], -1)), -1)

    # --- the update ----------------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> tuple[Rollout, Tensor]:
        """Show a skill that is drawn in every world, (B,), for one horizon."""
        each = worlds.num_worlds // len(tasks)
        worlds.set_tasks(tasks, each)
        worlds.seed(key.fold("reset"))
        worlds.reset()
        drawn = key.fold("skills").normal(len(tasks), 1, each, 1, tasks.first).flatten()
        skill = (torch.special.ndtr(drawn) * self.config.skills).long()
        skill = skill.clamp(max=self.config.skills - 1).to(self.device)
        state = self.begin(len(tasks), each)._replace(skill=skill)
        rollout, _ = collect(
            worlds, self, state, self.spec.horizon, key.fold("noise"), explore=True
        )
        return rollout, skill

    def update(self, shards: Sequence[tuple[Rollout, Tensor]], key: Key) -> dict[str, float]:
        """Pay the policy by how well it was recognised, and train both."""
        rollouts, ranks = [rollout for rollout, _ in shards], self.ranks
        returns = training_returns(rollouts, ranks)
        inputs = [part.next_obs[..., self.columns] for part in rollouts]
        rows = (x[part.valid] for x, part in zip(inputs, rollouts, strict=True))
        self.moments.update(*rows, ranks=ranks)
        log_q = [self._log_q(x) for x in inputs]
        seen = [self._as_seen(*shard, x) for shard, x in zip(shards, log_q, strict=True)]
        self.params, self.adam, self.lr, metrics = self.ppo.learn(
            self.params, self.adam, self.lr, seen, key, ranks
        )
        found = self._discriminate(rollouts, inputs, [skill for _, skill in shards], key)
        steps = [part.valid.sum() for part in rollouts]
        paid = ranks.sum([part.reward.sum() for part in seen]) / ranks.sum(steps).clamp(min=1)
        return metrics | returns | {"skill_reward": float(paid), **found}

    @torch.no_grad()
    def _log_q(self, inputs: Tensor) -> Tensor:
        """(…, K) log q(z | s), given (…, S)."""
        logits = self.discriminator(self.moments.normalise(inputs))
        return functional.log_softmax(logits, -1).clamp(min=LOWEST)

    def _as_seen(self, rollout: Rollout, skill: Tensor, log_q: Tensor) -> Rollout:
        """Return a rollout as the policy saw it, paid for being recognised."""
        shown = skill.expand(len(log_q), -1)[..., None]
        reward = log_q.gather(-1, shown)[..., 0] + math.log(self.config.skills)
        return rollout._replace(
            obs=self._told(rollout.obs, skill), next_obs=self._told(rollout.next_obs, skill),
            reward=reward.where(rollout.valid, 0.0), extras={},
        )  # fmt: skip

    def _discriminate(
        self, rollouts: Sequence[Rollout], inputs: Sequence[Tensor], skills: Sequence[Tensor],
        key: Key,
    ) -> dict[str, float]:  # fmt: skip
        """Make passes of gradient steps on the discriminator; return its loss and accuracy."""
        x = torch.cat([self.moments.normalise(part).flatten(0, 1) for part in inputs])
        z = torch.cat([s.repeat(len(p)) for s, p in zip(skills, inputs, strict=True)])
        weight = torch.cat([part.valid.float().flatten() for part in rollouts])
        rows, config = len(weight) // len(rollouts) * self.ranks.shards, self.config

        def loss(ids: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            logits, share = self.discriminator(x[ids]), weight[ids] / total
            value = (functional.cross_entropy(logits, z[ids], reduction="none") * share).sum()
            right = ((logits.argmax(-1) == z[ids]) * share).sum()
            return value, torch.stack((value.detach(), right))

        means = ppo.gradient_steps(
            loss, self.discriminator_adam, weight, key.fold("discriminator"),
            epochs=config.discriminator_epochs, parts=max(1, round(rows / config.batch_size)),
            most=lambda count: 1, max_norm=config.max_grad_norm, ranks=self.ranks,
        ).tolist()  # fmt: skip
        return dict(zip(("discriminator_loss", "accuracy"), means, strict=True))

    def skill_set(self) -> Skills:
        """Return the discriminator, for ``+skills=FILE``."""
        linear = [part for part in self.discriminator if isinstance(part, nn.Linear)]
        layers = tuple(
            (part.weight.detach().T.double().cpu(), part.bias.detach().double().cpu())
            for part in linear
        )
        return Skills(
            tuple(self.columns.tolist()), self.spec.observation_size, self.moments.mean.cpu(),
            self.moments.std.cpu(), layers,
        )  # fmt: skip

    # --- saving --------------------------------------------------------------------------------

    def _policy(self) -> dict[str, Tensor]:
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return {"params": self.params, "lr": self.lr, **adam}

    def state_dict(self) -> dict[str, Tensor]:
        """Return policy, discriminator, optimisers and running statistics."""
        return self._policy() | state_of(self._parts)

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the policy, and the statistics that scale what it sees."""
        kept = ("params", "seen.")
        return {name: t for name, t in self.state_dict().items() if name.startswith(kept)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        load_parts(self._parts, tensors)
        own = self._policy()
        load_tensors(own, {name: tensors[name] for name in own}, self.name)
