"""Distillation: a student with a memory does what a teacher does that may know more.

The teacher is any trained agent: the oracle (`ppo` on FAMILY+told), an RL² agent, a student. At
each step of the student's own trials it says what it would do, without noise, and the student, a
GRU that never sees the task, is brought nearer to that (Ross et al. 2011; Rusu et al. 2016):

    min_θ  E ‖μ_θ(h_t) − a_t‖²,    a_t = the teacher's action at the student's state, in [−1, 1]

where h_t is the history of the trial. The gradient goes back through `bptt` steps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metarl.base.errors import UserError, warn
from metarl.base.keys import Key
from metarl.base.trust import CodeError
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner, load_parts, refuse_misfit, state_of
from metarl.modules import ppo
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, NonNegative, Positive, Settings
from metarl.networks.categorical import Categorical
from metarl.networks.memories.choice import GRU, MemoryState
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import Gaussian
from metarl.tasks.composition import observed, other_tasks, same_robot
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family, in_same_file
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class DistilConfig(Settings):
    """Settings of distillation."""

    paths: ClassVar[tuple[str, ...]] = ("teacher",)
    """See `Settings`."""

    teacher: str | None = None
    """Run folder, checkpoint or agent's name of the teacher; needed to train, not to act."""
    units: Count = 128
    """Units of the student's GRU."""
    hidden: Count = 64
    """Width of the input's embedding, and of the hidden layer after the memory."""
    see_reward: bool = True
    """Whether the student sees the reward of its last action."""
    episodes: Count = 2
    """Episodes in a training trial, through which the memory lasts."""
    std: NonNegative = 0.1
    """Standard deviation of the student's noise in training, in units of half the action range."""
    bptt: Count = 50
    """Steps that the gradient goes back through."""
    epochs: Count = 2
    """Passes over the trials of an iteration."""
    minibatches: Count = 8
    """Groups of such stretches in a pass, at most, with a gradient step each."""
    lr: Positive = 1e-3
    """Step size of Adam."""
    max_grad_norm: NonNegative = 1.0
    """Longer gradients are scaled down to this."""
    shards: Count = 4
    """Parts of a minibatch, at most, that are computed side by side, on a CPU thread each."""


class Trials(NamedTuple):
    """What one shard of an iteration collected: a trial in each of B worlds."""

    rollout: Rollout
    """T = episodes x horizon steps; in its extras the teacher's ``advice`` at each, (T, B, A)"""
    returns: Tensor
    """(episodes, B)"""


class Distil(Learner):
    """A recurrent student that learns, on its own trials, what a teacher would do."""

    name = "distil"
    Config = DistilConfig
    config: DistilConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: DistilConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the student. The teacher is loaded when training begins."""
        super().__init__(spec, config, seed=seed, device=device)
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "policy").seed())
            self.net = _Student(spec, config).to(self.device)
        self.adam = ClippedAdam(list(self.net.parameters()), config.lr)
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        self._parts = {
            "net": self.net, "adam": self.adam, "obs": self.obs_moments,
            "reward": self.reward_moments,
        }  # fmt: skip
        self.agent: Policy | None = None
        self.told = False
        self.digest = torch.zeros((), dtype=torch.int64)
        """Of the teacher's weights, so that a run goes on with the same ones; 0 is any."""

    # --- acting --------------------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> MemoryState:
        """Return the memory at the start of a trial, for every world."""
        return self.net.memory.begin(tasks * worlds)

    @torch.no_grad()
    def act(
        self, step: Step, state: MemoryState, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, MemoryState]:
        """Remember the step and act on it, with a fixed noise to explore."""
        head, state = self.net.step(self._inputs(step), state)
        return self._policy(head).sample(noise if explore else None), state

    def adapt(self, state: MemoryState, rollout: Rollout) -> MemoryState:
        """Return the state as it is: acting has adapted it, and it lasts through the episodes."""
        return state

    def _inputs(self, step: Step | Rollout) -> Tensor:
        """(…, I): observation, last action, its reward, and whether an episode begins."""
        first = step.first[..., None].float()
        parts = [self.obs_moments.normalise(step.obs), step.prev_action * (1 - first)]
        if self.config.see_reward:
            reward = self.reward_moments.normalise(step.prev_reward[..., None])
            parts.append(reward * (1 - first))
        return torch.cat((*parts, first), -1)

    def _policy(self, head: Tensor) -> Gaussian | Categorical:
        if self.spec.actions:
            return Categorical(head, self.spec.actions)
        return Gaussian(head, torch.full_like(head[..., :1], self.config.std).log())

    # --- the teacher ---------------------------------------------------------------------------

    def teach(self, agent: Policy, family: TaskFamily, worlds: VecWorlds) -> None:
        """Take a teacher, in the place of the one that the settings name.

        Args:
            agent: acts in the worlds, or in those of a family with ``+told``.
            family: that it was trained on.
            worlds: in which the student trains.

        Raises:
            UserError: the teacher observes something else, moves another robot, or adapts by
                exploring though it is told.
        """
        own, sizes = worlds.family, worlds.spec[:2]
        (told, theirs), (student_told, ours) = observed(family), observed(own)
        self.told = told and not student_told
        known, knows = (
            (type(one).told, one.distribution.ranges() if told else None) for one in (own, family)
        )
        alike = theirs == ours and known == knows and told >= student_told
        alike = alike and same_robot(family, own)
        if isinstance(agent, Learner) and alike and not self.told:
            alike = sizes == agent.spec[:2]
        if not alike:
            raise UserError(
                f"the teacher was trained on '{family.name}', which does not show it what "
                f"'{own.name}' can: give one that was trained on '{own.name}' or on it with +told"
            )
        if self.told and agent.adapts_on_exploration:
            raise UserError(
                f"the teacher on '{family.name}' adapts by exploring, in episodes of its own, and "
                f"is told its task as well: give one that was trained on '{own.name}', or a ppo"
            )
        if others := other_tasks(family, own):
            warn(f"the teacher {others}: the student learns to do what pays there")
        self.agent = agent

    def plan(self, worlds: VecWorlds, iterations: int, env_steps: int | None) -> None:
        """Load the teacher. Raises UserError if it is missing, has changed, or does not fit."""
        if self.agent is not None:
            return
        if not self.config.teacher:
            raise UserError("distil needs a teacher: give --teacher RUN, a run or an agent")
        path = checkpoints.newest(Path(self.config.teacher))
        body = checkpoints.verify(path)
        digest = int(body["sha256"][checkpoints.WEIGHTS][:15], 16)
        if int(self.digest) not in (0, digest):
            raise UserError(f"the teacher '{path}' has changed since this run began")
        try:
            found = checkpoints.load(
                path, family=in_same_file(str(body.get("family")), worlds.family)
            )
        except CodeError:
            raise UserError(
                f"the teacher '{path}' names code with which nothing was trained on this machine; "
                f"in Python, Distil.teach() takes what metarl.load(…, trust_code=True) returned"
            ) from None
        agent = checkpoints.restore(found, device=str(self.device))
        self.teach(agent, find_family(found.family), worlds)
        self.digest.fill_(digest)

    # --- training ------------------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Trials:
        """Let the student act for a trial in every world, and ask the teacher."""
        if self.agent is None:
            self.plan(worlds, 1, None)
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        assert self.agent is not None
        steps, parts = self.spec.horizon, []
        both = _Advised(self, self.agent, worlds if self.told else None)
        state = both.begin(len(tasks), worlds.worlds_per_task)
        explores = self.agent.adapts_on_exploration
        if explores:  # in an episode of its own, as in an evaluation
            worlds.reset()
            named = key.fold("teacher")
            data, after = collect(worlds, self.agent, state[1], steps, named, explore=True)
            state = (state[0], self.agent.adapt(after, data))
        for k in range(self.config.episodes):
            worlds.reset()
            part, state = collect(worlds, both, state, steps, key.fold("noise", k), explore=True)
            state = state if explores else both.adapt(state, part)
            parts.append(part)
        returns = torch.stack([part.first_episode_return() for part in parts])
        return Trials(Rollout.joined(parts, dim=0), returns)

    def update(self, shards: Sequence[Trials], key: Key) -> dict[str, float]:
        """Bring the student's actions nearer to the teacher's.

        ``return_before`` and ``return_after`` are the student's, with noise, in the first and the
        last episode of its trials; ``loss`` is the mean square distance of its actions.
        """
        ranks, parts = self.ranks, [shard.rollout for shard in shards]
        loss = self._gradient_steps(shards, key)
        self.obs_moments.update(*(part.obs[part.valid] for part in parts), ranks=ranks)
        rewards = (part.reward[part.valid][:, None] for part in parts)
        self.reward_moments.update(*rewards, ranks=ranks)
        returns = ranks.rows(torch.cat([shard.returns for shard in shards], 1), 1)
        return {
            "return_before": float(mean_of_finished(returns[0])),
            "return_after": float(mean_of_finished(returns[-1])),
            "diverged": float(ranks.sum([part.diverged.sum() for part in parts])),
            "loss": loss,
        }

    def _gradient_steps(self, shards: Sequence[Trials], key: Key) -> float:
        """Pass over stretches of `bptt` steps, each from the memory that its trial leads to.

        Memories of the collection would be stale after the first pass, so each computes its own.
        """
        config, loss = self.config, torch.zeros(())
        inputs = [self._inputs(shard.rollout) for shard in shards]
        target = torch.cat([shard.rollout.extras["advice"] for shard in shards], 1)
        weight = torch.cat([shard.rollout.valid for shard in shards], 1).float()
        rows, target, weight = (
            stretches(x, config.bptt) for x in (torch.cat(inputs, 1), target, weight)
        )
        for epoch in range(config.epochs):
            memory = torch.cat([self.net.before(part, config.bptt) for part in inputs])
            loss = ppo.gradient_steps(
                functools.partial(self._loss, rows, memory, target, weight), self.adam,
                weight.sum(0), key.fold(epoch), epochs=1,
                parts=min(config.minibatches, weight.shape[1] // len(shards)),
                most=lambda count: min(config.shards if self.device.type == "cpu" else 1, count),
                max_norm=config.max_grad_norm, ranks=self.ranks,
            )  # fmt: skip
        return float(loss)

    def _loss(
        self, rows: Tensor, memory: Tensor, target: Tensor, weight: Tensor, ids: Tensor,
        total: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the part of the stretches `ids` in the loss of a minibatch, twice."""
        head, wanted = self.net(rows[:, ids], (memory[ids],)), target[:, ids]
        if self.spec.actions:
            error = -self._policy(head).log_prob(wanted)
        else:
            error = (head - wanted).square().mean(-1)
        loss = (error * weight[:, ids]).sum() / total
        return loss, loss.detach()[None]

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the network and the statistics that scale its input."""
        needed = ("net.", "obs.", "reward.")
        return {name: t for name, t in self.state_dict().items() if name.startswith(needed)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return network, optimiser, running statistics, and which teacher it was."""
        return {"digest": self.digest, **state_of(self._parts)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises UserError if the teacher was another one."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        digest = int(tensors["digest"])
        if self.agent is not None and digest and digest != int(self.digest):
            raise UserError(f"this run began with another teacher than '{self.config.teacher}'")
        self.digest.fill_(digest)
        load_parts(self._parts, tensors)


class _Student(nn.Module):
    """Embedding, GRU, and a layer that sees both: from inputs to mean actions or logits."""

    def __init__(self, spec: Spec, config: DistilConfig) -> None:
        super().__init__()
        inputs = spec.observation_size + spec.action_size + 1 + config.see_reward
        self.embed = nn.Linear(inputs, config.hidden)
        self.memory = GRU(config.hidden, config.units)
        self.body = nn.Linear(config.units + config.hidden, config.hidden)
        self.head = nn.Linear(config.hidden, spec.action_size)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the head (B, A) and the new state, given (B, I) inputs."""
        embedded = torch.tanh(self.embed(x))
        remembered, state = self.memory.step(embedded, state)
        return self._act(remembered, embedded), state

    def forward(self, x: Tensor, state: MemoryState) -> Tensor:
        """Return the head (T, B, A) for (T, B, I) inputs that go on from a state."""
        embedded = torch.tanh(self.embed(x))
        return self._act(self.memory.unroll(embedded, None, state), embedded)

    @torch.no_grad()
    def before(self, x: Tensor, length: int) -> Tensor:
        """Return the memory at the start of each of the `stretches` of (T, B, I) trials."""
        hidden = self.memory.unroll(torch.tanh(self.embed(x)))
        starts = torch.cat((torch.zeros_like(hidden[:1]), hidden[length - 1 : -1 : length]))
        return starts.transpose(0, 1).flatten(0, 1)

    def _act(self, remembered: Tensor, embedded: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(torch.cat((remembered, embedded), -1))))


class _Advised(Policy):
    """The student, and a teacher that says what it would do: the state is the pair of theirs."""

    def __init__(self, student: Distil, agent: Policy, told: VecWorlds | None) -> None:
        """Take both, and the worlds if these are to tell the teacher what ``+told`` would."""
        self.student, self.agent, self.worlds = student, agent, told
        self.device = student.device

    def begin(self, tasks: int, worlds: int) -> tuple[Any, Any]:
        """Return both states before any data."""
        return self.student.begin(tasks, worlds), self.agent.begin(tasks, worlds)

    def act(
        self, step: Step, state: tuple[Any, Any], *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, tuple[Any, Any]]:
        """Act as the student does."""
        return self.act_and_record(step, state, explore=explore, noise=noise)[:2]

    @torch.no_grad()
    def act_and_record(
        self, step: Step, state: tuple[Any, Any], *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, tuple[Any, Any], dict[str, Tensor]]:
        """Act as the student does, and record what the teacher was told and would do."""
        action, mine = self.student.act(step, state[0], explore=explore, noise=noise)
        told = step.obs[:, :0] if self.worlds is None else self.worlds.told().to(step.obs)
        prompted = step._replace(obs=torch.cat((step.obs, told), -1))
        advice, theirs = self.agent.act(prompted, state[1], explore=False, noise=None)
        return action, (mine, theirs), {"advice": advice.clamp(-1, 1), "told": told}

    def adapt(self, state: tuple[Any, Any], rollout: Rollout) -> tuple[Any, Any]:
        """Let the teacher adapt to what it was shown; the student has adapted."""
        told = rollout.extras["told"]
        after = torch.cat((told[1:], told[-1:]))
        shown = rollout._replace(
            obs=torch.cat((rollout.obs, told), -1), extras={},
            next_obs=torch.cat((rollout.next_obs, after), -1),
        )  # fmt: skip
        return state[0], self.agent.adapt(state[1], shown)


def stretches(x: Tensor, length: int) -> Tensor:
    """Cut (T, B, …) trials into stretches, (length, B n, …): those of a world side by side.

    The last of the n of a world is filled up with zeros.
    """
    count = -(-len(x) // length)
    filled = torch.cat((x, x.new_zeros(count * length - len(x), *x.shape[1:])))
    return filled.unflatten(0, (count, length)).movedim(0, 2).flatten(1, 2)
