"""RMA (Kumar et al. 2021): a teacher that is told the task, a student that finds it out.

Phase 1 trains a policy π(a | o, z) with z = μ(e) by PPO, end to end. e is what only training can
know: the task's parameters, and what the family shows critics (`TaskFamily.privileged`). Phase 2
freezes policy, μ and normalisers, and trains a module ψ to tell z from the last N steps:

    min_ψ  E ‖ψ(x_{t-N+1}, …, x_t) − μ(e_t)‖²,    x = (o, last action, its reward)

on episodes in which the policy acts on ẑ = ψ(…) itself, for those are the states that it will meet.
The policy that is evaluated, saved and exported is this student; it never sees e.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_parts, load_tensors, state_of
from metarl.modules import ppo
from metarl.modules.batched_ppo import Adam, BatchedPpo, PpoSettings, training_returns
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Layers, Positive
from metarl.networks.categorical import Categorical
from metarl.networks.history import HistoryEncoder, windows
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Teacher
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Spec, Step, VecWorlds

TEACHER_SHARE = 0.7
"""Share of a run's iterations that phase 1 has by default."""


@dataclass(frozen=True)
class RmaConfig(PpoSettings):
    """Settings of RMA; those that PPO has, too, are of phase 1."""

    history: Count = 50
    """N: steps that the student sees, the present one too."""
    see_reward: bool = True
    """Whether the history holds the rewards; a task that they alone tell, such as a goal, cannot be
    found out without."""
    latent: Count = 8
    """Size of z."""
    encoder_hidden: Layers = (64, 32)
    """Units of the hidden layers of μ."""
    teacher_iterations: Count | None = None
    """Iterations of phase 1; default: 7 of 10 of those that the run begins with."""
    student_lr: Positive = 1e-3
    """Step size of Adam in phase 2."""
    student_epochs: Count = 3
    """Passes over the steps of an iteration in phase 2."""


class State(NamedTuple):
    """What the student has seen and done lately."""

    window: Tensor
    """(B, N - 1, F), the oldest step first"""


class Rma(Learner):
    """A policy told the task by a latent vector, which is then estimated from the history."""

    name = "rma"
    Config = RmaConfig
    config: RmaConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: RmaConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the networks of both phases. Raises UserError if nothing is privileged."""
        super().__init__(spec, config, seed=seed, device=device)
        if spec.critic_extra == 1:
            raise UserError(
                "rma trains a teacher that is told the task, and this family has neither "
                "parameters nor privileged(): use ppo"
            )
        self.ppo = _Told(spec, config, self.device)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)
        self.reward_moments = RunningMoments(1, self.device)
        inputs = spec.observation_size + spec.action_size + 1 + config.see_reward
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "student").seed())
            self.student = HistoryEncoder(inputs, config.latent, config.history).to(self.device)
        self.student_adam = ClippedAdam(list(self.student.parameters()), config.student_lr)
        self._parts = {
            "student": self.student, "student_adam": self.student_adam,
            "reward": self.reward_moments,
        }  # fmt: skip
        self.inputs = inputs
        self.iteration = torch.zeros((), dtype=torch.int64)
        self.switch = torch.tensor(config.teacher_iterations or 0)
        """The iteration with which phase 2 begins; 0 is not known yet."""
        self.teacher_return = torch.zeros((), dtype=torch.float64)

    # --- acting --------------------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return empty histories."""
        size = (tasks * worlds, self.config.history - 1, self.inputs)
        return State(torch.zeros(size, device=self.device))

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Estimate z from the history, and act on it; it is 0 until phase 2."""
        window = state.window * (~step.first)[:, None, None]
        history = torch.cat((window, self._seen(step)[:, None]), 1)
        z = self.student(history)
        action = self.ppo.act_on(self.params, step.obs, z, noise if explore else None)
        return action, State(history[:, 1:])

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state as it is: acting adapts it, anew in each episode."""
        return state

    def _seen(self, step: Step | Rollout) -> Tensor:
        """Return (…, F): observation, last action, its reward, and 1 where there was a step."""
        going = (~step.first)[..., None].float()
        parts = [self.ppo.obs_moments.normalise(step.obs), step.prev_action * going]
        if self.config.see_reward:
            parts.append(self.reward_moments.normalise(step.prev_reward[..., None]) * going)
        return torch.cat((*parts, torch.ones_like(going)), -1)

    @property
    def privileged(self) -> bool:
        """Whether teachers see what nothing that acts may see: yes."""
        return True

    # --- training ------------------------------------------------------------------------------

    def plan(self, worlds: VecWorlds, iterations: int, env_steps: int | None) -> None:
        """Divide the run. Raises UserError if it would end before the student learns."""
        if env_steps is not None:
            each = worlds.num_worlds * self.ranks.shards * self.spec.horizon
            iterations = math.ceil(env_steps / each)
        switch = self.config.teacher_iterations or max(1, round(TEACHER_SHARE * iterations))
        if switch >= iterations:
            raise UserError(
                f"of {iterations} iterations of the run, rma's teacher takes {switch}, which "
                f"leaves none for the student: give fewer --teacher-iterations, or a longer run"
            )
        self.switch.fill_(switch)

    @property
    def phase(self) -> int:
        """1 while the teacher learns, then 2. Raises UserError if it is not known when that is."""
        if not self.switch:
            raise UserError(
                "rma must know when its student begins to learn: give teacher_iterations, or "
                "train it by meta_train()"
            )
        return 1 if self.iteration < self.switch else 2

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Let the teacher explore, or the student act as in an evaluation, for one horizon."""
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        worlds.reset()
        first = self.phase == 1
        policy = _Teacher(self.ppo, self.params) if first else self
        return collect(
            worlds, policy, policy.begin(len(tasks), worlds.worlds_per_task), self.spec.horizon,
            key.fold("noise"), explore=first, privileged=True,
        )[0]  # fmt: skip

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Improve the teacher, or the student.

        ``return_before`` is the teacher's return, in phase 2 the last one of phase 1, and
        ``return_after`` that of who acted. ``latent_loss`` is the mean square error of ẑ.
        """
        phase = self.phase
        metrics = self._teach(shards, key) if phase == 1 else self._imitate(shards, key)
        self.iteration += 1
        return {"phase": float(phase), **metrics}

    def _teach(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Phase 1: make PPO's gradient steps on policy, critic and μ."""
        self.params, self.adam, self.lr, metrics = self.ppo.learn(
            self.params, self.adam, self.lr, shards, key, self.ranks
        )
        rewards = (part.reward[part.valid][:, None] for part in shards)
        self.reward_moments.update(*rewards, ranks=self.ranks)
        if math.isfinite(metrics["return_after"]):
            self.teacher_return.fill_(metrics["return_after"])
        means = [self._targets(part).square().mean() for part in shards]
        return {"latent_loss": float(self.ranks.sum(means)) / self.ranks.shards, **metrics}

    def _imitate(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Phase 2: bring ψ nearer to μ on the student's own steps; all else is frozen."""
        config = self.config
        target = torch.cat([self._targets(part) for part in shards])  # sums depend on the shape
        whole = Rollout.joined(shards, dim=1)
        steps, age, weight = (
            part.transpose(0, 1).flatten(0, 1)
            for part in (self._seen(whole), whole.episode_time(), whole.valid.float())
        )

        def loss(ids: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            guess = self.student(windows(steps, age, ids, config.history))
            error = ((guess - target[ids]).square().mean(-1) * weight[ids]).sum() / total
            return error, error.detach()[None]

        rows = len(weight) // len(self.ranks.owned) * self.ranks.shards
        most = config.shards if self.device.type == "cpu" else 1
        found = ppo.gradient_steps(
            loss, self.student_adam, weight, key, epochs=config.student_epochs,
            parts=max(1, round(rows / config.batch_size)), most=lambda count: min(most, count),
            max_norm=config.max_grad_norm, ranks=self.ranks,
        )  # fmt: skip
        before = {"return_before": float(self.teacher_return)}
        return {"latent_loss": float(found[0])} | training_returns(shards, self.ranks) | before

    @torch.no_grad()
    def _targets(self, part: Rollout) -> Tensor:
        """Return z = μ(e) of each step of a shard, (B T, Z): of one world after the other."""
        told = part.extras["privileged"].transpose(0, 1).flatten(0, 1)
        return self.ppo.latent(self.params, without_time(told, self.spec)[None])[0]

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return policy, adaptation module, and the statistics that scale their input."""
        needed = ("params", "student.", "obs.", "reward.")
        return {name: t for name, t in self.state_dict().items() if name.startswith(needed)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimisers, running statistics, and how far the phases are."""
        own = {name: getattr(self, name) for name in _OWN}
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return own | adam | self.ppo.state_dict() | state_of(self._parts)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
        self.ppo.refresh()
        load_parts(self._parts, tensors)


_OWN = ("params", "lr", "iteration", "switch", "teacher_return")


class _Told(BatchedPpo):
    """PPO whose policy sees z = μ(e) beside the observation; a row has actor, critic and μ."""

    def __init__(self, spec: Spec, config: RmaConfig, device: torch.device) -> None:
        """Lay out the networks."""
        super().__init__(
            spec, replace(config, history=1), device, spec.critic_extra, actor_extra=config.latent
        )
        self.encoder = GaussianMLP(spec.critic_extra - 1, config.latent, config.encoder_hidden)
        self.before = self.actor.num_params + self.critic.num_params

    def initial(self, key: Key) -> Tensor:
        """Return (1, D) initial parameters."""
        encoder = self.encoder.initial(key.fold("encoder").torch())[None].to(self.device)
        return torch.cat((super().initial(key), encoder), 1)

    def latent(self, params: Tensor, told: Tensor) -> Tensor:
        """Return z = μ(e), (1, N, Z) in [-1, 1], given e, (1, N, task_size + P)."""
        return torch.tanh(self.encoder.mean(params[:, self.before :], told))

    def policy(self, params: Tensor, inputs: Tensor) -> Gaussian | Categorical:
        """Return the action distributions at (1, N, O + critic_extra) inputs."""
        obs, told = inputs.tensor_split([self.spec.observation_size], -1)
        z = self.latent(params, without_time(told, self.spec))
        return super().policy(params, torch.cat((obs, z), -1))

    def value(self, params: Tensor, inputs: Tensor) -> Tensor:
        """Return values (1, N) for (1, N, O + critic_extra)."""
        return super().value(params[:, : self.before], inputs)

    def act_on(self, params: Tensor, obs: Tensor, z: Tensor, noise: Tensor | None) -> Tensor:
        """Return actions (B, A), given (B, O) observations and (B, Z)."""
        inputs = torch.cat((self.obs_moments.normalise(obs), z), -1)
        policy = super().policy(params, inputs[None])
        return policy.sample(None if noise is None else noise[None])[0]


class _Teacher(Teacher):
    """The policy of phase 1, whose state is z = μ(e)."""

    def __init__(self, networks: _Told, params: Tensor) -> None:
        self.ppo, self.params, self.device = networks, params, networks.device

    def tell(self, state: Any, privileged: Tensor) -> Tensor:
        """Return (B, Z)."""
        return self.ppo.latent(self.params, privileged[None])[0]

    @torch.no_grad()
    def act(
        self, step: Step, state: Tensor, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Act on the observation and z."""
        return self.ppo.act_on(self.params, step.obs, state, noise if explore else None), state


def without_time(privileged: Tensor, spec: Spec) -> Tensor:
    """Return (…, task_size + P): what critics see of a step, but for how much time is left."""
    at = spec.task_size
    return torch.cat((privileged[..., :at], privileged[..., at + 1 :]), -1)
