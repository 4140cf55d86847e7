"""MIL (Finn et al. 2017): meta-imitation learning, one gradient step of cloning a demonstration.

Learn a policy θ that one step on one demonstration A of a task makes do the task, as measured by
another demonstration B of it:

    φ = θ − α clip(∇ L_A(θ), ±c),       L_A(θ) = w mean_t ‖μ_θ(o_t) − a_t‖²
    min_θ  E_tasks E_{A ≠ B}  L_B(φ)

differentiating through the step. The network also sees a learned constant vector b, by whose change
a step can shift the biases that depend on the task (the paper's bias transformation). With
`two_heads` the μ of L_A is a last layer of its own, so that the step changes what both share.

Nothing is learned by trying: an iteration acts only to show how the policy does. A rollout of its
own teaches it nothing, so without a demonstration `adapt` leaves the state as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from metarl.modules.settings import Count, CountOrZero, Layers, Positive
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class MilConfig(ImitationSettings):
    """Settings of MIL."""

    hidden: Layers = (100, 100)
    """Units of the hidden layers (tanh)."""
    bias_size: CountOrZero = 20
    """Numbers in the learned constant vector that the network sees beside the observation."""
    two_heads: bool = True
    """Whether the adapting step's loss is that of a last layer of its own."""
    inner_steps: Count = 1
    """Gradient steps on a demonstration."""
    inner_lr: Positive = 0.01
    """Step size α of the adaptation."""
    inner_clip: Positive = 10.0
    """c: the partial derivatives of an adapting step are clipped to ±c."""
    loss_weight: Positive = 50.0
    """w, of the mean squared error of the actions."""
    first_order: bool = False
    """Drop the second derivative through the adapting step."""


class State(NamedTuple):
    """A policy for each world."""

    params: Tensor
    """(B, D)"""
    shown: int
    """Demonstrations that the task has shown so far"""


class Mil(Learner):
    """Meta-imitation learning."""

    name = "mil"
    Config = MilConfig
    adapts_to_demonstrations = True
    config: MilConfig

    def __init__(
        self, spec: Spec, config: MilConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise θ. The demonstrations are read when training begins."""
        super().__init__(spec, config, seed=seed, device=device)
        self.net = GaussianMLP(
            spec.observation_size + config.bias_size, spec.action_size * (1 + config.two_heads),
            config.hidden, init_std=max(config.std, 1e-6), min_std=1e-6,
        )  # fmt: skip
        theta = self.net.initial(Key(seed, "policy").torch())
        theta = torch.cat((theta, torch.zeros(config.bias_size)))
        self.learned = FlatAdam(theta.to(self.device), config.lr)
        self.lessons = Lessons(self, config)

    @property
    def num_train_tasks(self) -> int | None:
        """How many tasks are demonstrated: training draws from these."""
        return len(self.lessons.read().tasks)

    # --- the policy ----------------------------------------------------------------------------

    def outputs(self, params: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions (M, N, A), and those of the adapting step's head, (M, N, A) likewise.

        Args:
            params: (M, D), of which the last are b.
            obs: (M, N, O).
        """
        net, bias = params.split([self.net.num_params, self.config.bias_size], dim=1)
        x = torch.cat((self.lessons.scaled(obs), bias[:, None].expand(-1, obs.shape[1], -1)), -1)
        mean = self.net.mean(net, x)
        acts, adapts = mean[..., : self.spec.action_size], mean[..., -self.spec.action_size :]
        return acts, adapts

    def loss(self, actions: Tensor, steps: Steps) -> Tensor:
        """Return (M,) L of actions (M, T, A) where a demonstration has others."""
        error = (actions - steps.action).square().mean(-1)
        return self.config.loss_weight * (error * steps.weight).sum(1)

    def inner(self, params: Tensor, steps: Steps, *, second_order: bool) -> Tensor:
        """Return (M, D) φ after the adapting steps, from (M, D) that require a gradient."""
        clip = self.config.inner_clip
        for _ in range(self.config.inner_steps):
            loss = self.loss(self.outputs(params, steps.obs)[1], steps).sum()
            (gradient,) = grad(loss, params, create_graph=second_order)
            params = params - self.config.inner_lr * gradient.clamp(-clip, clip)
        return params

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return a copy of θ for every world: each is shown a demonstration of its own."""
        return State(self.learned.params.detach().expand(tasks * worlds, -1), 0)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each world's own parameters, with a fixed noise to explore."""
        mean = self.outputs(state.params, step.obs[:, None])[0][:, 0]
        spread = torch.full_like(mean[:, :1], max(self.config.std, 1e-6)).log()
        return Gaussian(mean, spread).sample(noise if explore else None), state

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take the step that a demonstration asks for; a rollout of its own changes nothing.

        The step is from θ, and after n demonstrations φ is the mean of the n that each leads to:
        with one gradient step that is a step on all of them, in whatever order they came.
        """
        steps = steps_of(rollout)
        if steps is None:
            return state
        with torch.enable_grad():
            theta = self.begin(len(state.params), 1).params.clone().requires_grad_()
            found = self.inner(theta, steps, second_order=False).detach()
        params = state.params + (found - state.params) / (state.shown + 1)
        return State(params, state.shown + 1)

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
        tasks, losses = self.sum_tasks(torch.ones_like(data.before)), torch.zeros(3)
        for pair in drawn:
            rows, losses = self._gradient(data.ids, pair)
            self.learned.step(self.sum_tasks(rows) / tasks.to(rows.dtype))
        means = (self.sum_tasks(losses) / tasks.to(losses.dtype)).tolist()
        named = zip(("loss_before", "loss_adapting", "loss"), means, strict=True)
        return data.metrics(self.sum_tasks) | dict(named)

    @torch.enable_grad()
    def _gradient(self, ids: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return each task's gradient (M, D), and its losses (M, 3).

        The losses are: of B under θ, of A under θ by the adapting step's head, of B under φ.
        """
        a, b = (self.lessons.steps(ids, which) for which in pair.unbind(1))
        start = self.begin(len(ids), 1).params.clone().requires_grad_()
        phi = self.inner(start, a, second_order=not self.config.first_order)
        loss = self.loss(self.outputs(phi, b.obs)[0], b)
        (rows,) = grad(loss.sum(), start)
        with torch.no_grad():
            before = self.loss(self.outputs(start, b.obs)[0], b)
            adapting = self.loss(self.outputs(start, a.obs)[1], a)
        return rows, torch.stack((before, adapting, loss.detach()), 1)

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return θ, (D,), and the statistics that scale observations, (O,)."""
        return {"params": self.learned.params.detach()} | self.lessons.moments

    def state_dict(self) -> dict[str, Tensor]:
        """Return θ, Adam's state, the statistics, and which demonstrations it learned from."""
        return self.learned.tensors() | self.lessons.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises UserError for other demonstrations."""
        refuse_misfit(self.state_dict(), tensors, self.name)
        self.lessons.refuse_change(tensors["demonstrations"])
        load_tensors(self.state_dict(), tensors, self.name)
