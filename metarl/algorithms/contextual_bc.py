"""Contextual cloning: a policy that is told what a demonstration looks like.

The baseline that MIL is to beat: no gradient at test time, but a network that embeds a
demonstration A of a task, and a policy that sees the embedding beside the observation and is
cloned from another demonstration B of the task (Duan et al. 2017, without the attention):

    c = mean_t e(o_t, a_t, o_{t+1}) over A,       min  E_tasks E_{A ≠ B}  mean_t ‖μ(o_t, c) − a_t‖²

The embedding is a mean over steps, so the order of the steps is lost and their number does not
matter. A share of the tasks is cloned with c = 0 instead: that is the policy before a
demonstration, the blind clone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.keys import Key
from metarl.learning.imitation import (
    ImitationSettings,
    Lessons,
    Played,
    Steps,
    pairs,
    play,
    steps_of,
)
from metarl.learning.learner import Learner, load_tensors, refuse_misfit
from metarl.modules.optim import FlatAdam
from metarl.modules.settings import Count, Layers, Range
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class ContextualBcConfig(ImitationSettings):
    """Settings of contextual cloning."""

    hidden: Layers = (100, 100)
    """Units of the policy's hidden layers (tanh)."""
    encoder_hidden: Layers = (64, 64)
    """Units of the encoder's hidden layers (tanh)."""
    context_size: Count = 16
    """Numbers that a demonstration is embedded in."""
    blind: Annotated[float, Range(0, 1)] = 0.1
    """Share of the tasks that are cloned without a demonstration."""


class State(NamedTuple):
    """What each world has been shown."""

    context: Tensor
    """(B, C), 0 before a demonstration"""
    shown: int
    """Demonstrations that the task has shown so far"""


class ContextualBc(Learner):
    """Behaviour cloning with a demonstration as context."""

    name = "contextual-bc"
    Config = ContextualBcConfig
    adapts_to_demonstrations = True
    config: ContextualBcConfig

    def __init__(
        self, spec: Spec, config: ContextualBcConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise encoder and policy. The demonstrations are read when training begins."""
        super().__init__(spec, config, seed=seed, device=device)
        sizes = spec.observation_size, spec.action_size
        self.encoder = GaussianMLP(2 * sizes[0] + sizes[1], config.context_size,
                                   config.encoder_hidden)  # fmt: skip
        self.policy = GaussianMLP(sizes[0] + config.context_size, sizes[1], config.hidden)
        generator = Key(seed, "policy").torch()
        params = [net.initial(generator) for net in (self.encoder, self.policy)]
        self.learned = FlatAdam(torch.cat(params).to(self.device), config.lr)
        self.lessons = Lessons(self, config)

    @property
    def num_train_tasks(self) -> int | None:
        """How many tasks are demonstrated: training draws from these."""
        return len(self.lessons.read().tasks)

    # --- the networks --------------------------------------------------------------------------

    def embed(self, params: Tensor, steps: Steps) -> Tensor:
        """Return (M, C) embeddings of M demonstrations, by (M, D) parameters of both networks."""
        encoder, _ = self._split(params)
        now, then = (self.lessons.scaled(obs) for obs in (steps.obs, steps.next_obs))
        x = torch.cat((now, steps.action, then - now), -1)
        return (self.encoder.mean(encoder, x) * steps.weight[..., None]).sum(1)

    def actions(self, params: Tensor, context: Tensor, obs: Tensor) -> Tensor:
        """Return mean actions (M, N, A) at (M, N, O), given what was shown, (M, C)."""
        _, policy = self._split(params)
        told = context[:, None].expand(-1, obs.shape[1], -1)
        return self.policy.mean(policy, torch.cat((self.lessons.scaled(obs), told), -1))

    def _split(self, params: Tensor) -> list[Tensor]:
        return list(params.split([self.encoder.num_params, self.policy.num_params], dim=1))

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return an empty context for every world: each is shown a demonstration of its own."""
        size = tasks * worlds, self.config.context_size
        return State(torch.zeros(size, device=self.device), 0)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act on the observation and the context, with a fixed noise to explore."""
        told = torch.cat((self.lessons.scaled(step.obs), state.context), -1)
        policy = self._split(self.learned.params.detach()[None])[1]
        mean = self.policy.mean(policy, told[None])[0]
        spread = torch.full_like(mean[:, :1], max(self.config.std, 1e-6)).log()
        return Gaussian(mean, spread).sample(noise if explore else None), state

    @torch.no_grad()
    def adapt(self, state: State, rollout: Rollout) -> State:
        """Embed a demonstration; a rollout of its own changes nothing.

        After n demonstrations the context is the mean of their embeddings.
        """
        steps = steps_of(rollout)
        if steps is None:
            return state
        params = self.learned.params.detach().expand(len(state.context), -1)
        found = self.embed(params, steps)
        context = state.context + (found - state.context) / (state.shown + 1)
        return State(context, state.shown + 1)

    # --- training ------------------------------------------------------------------------------

    def plan(self, worlds: VecWorlds, iterations: int, env_steps: int | None) -> None:
        """Read the demonstrations. Raises UserError if they are missing, changed or do not fit."""
        self.lessons.check(worlds)

    def in_evaluation(self, tasks: Tasks) -> Policy:
        """Return itself, shown the held-out demonstrations if there are any."""
        return self.lessons.shown(self, tasks)

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Played:
        """Act before and after a demonstration: nothing is learned from it."""
        return play(worlds, self, tasks, key, self.lessons.check(worlds))

    def update(self, shards: Sequence[Played], key: Key) -> dict[str, float]:
        """Make gradient steps, each on other pairs of demonstrations of the iteration's tasks."""
        data, config = Played.joined(shards), self.config
        episodes = self.lessons.begin().per_task
        drawn = pairs(key, data.first, len(data.ids), config.updates, episodes)
        tasks, losses = self.sum_tasks(torch.ones_like(data.before)), torch.zeros(2)
        for u, pair in enumerate(drawn):
            told = self._told(key.fold("told", u), data.first, len(data.ids))
            rows, losses = self._gradient(data.ids, pair, told)
            self.learned.step(self.sum_tasks(rows) / tasks.to(rows.dtype))
        means = (self.sum_tasks(losses) / tasks.to(losses.dtype)).tolist()
        return data.metrics(self.sum_tasks) | dict(zip(("loss_blind", "loss"), means, strict=True))

    def _told(self, key: Key, first: int, tasks: int) -> Tensor:
        """(M, 1) 1 for the tasks whose demonstration is shown in a gradient step, 0 for others."""
        drawn = [key.fold(first + m).numpy().random() >= self.config.blind for m in range(tasks)]
        return torch.tensor(drawn, device=self.device)[:, None].float()

    @torch.enable_grad()
    def _gradient(self, ids: Tensor, pair: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Return each task's gradient (M, D), and its losses without and with A, (M, 2)."""
        a, b = (self.lessons.steps(ids, which) for which in pair.unbind(1))
        start = self.learned.params.detach().expand(len(ids), -1).clone().requires_grad_()
        context = self.embed(start, a)
        (rows,) = grad(self._loss(start, context * told, b).sum(), start)
        with torch.no_grad():
            losses = [self._loss(start, c, b) for c in (torch.zeros_like(context), context)]
        return rows, torch.stack(losses, 1)

    def _loss(self, params: Tensor, context: Tensor, steps: Steps) -> Tensor:
        """(M,) mean squared error of the actions."""
        error = (self.actions(params, context, steps.obs) - steps.action).square().mean(-1)
        return (error * steps.weight).sum(1)

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return both networks, (D,), and the statistics that scale observations, (O,)."""
        return {"params": self.learned.params.detach()} | self.lessons.moments

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, Adam's state, the statistics, and what was learned from."""
        return self.learned.tensors() | self.lessons.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises UserError for other demonstrations."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        self.lessons.refuse_change(tensors["demonstrations"])
        load_tensors(self.state_dict(), tensors, self.name)
