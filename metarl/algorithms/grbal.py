"""GrBAL (Nagabandi et al. 2019): a model that adapts at every step of an episode, and plans.

At every step the model starts from the prior θ again, takes one gradient step on the last M
transitions of its world (`metarl.modules.model_based.adaptive_model`), and is what the next action
is planned with. The action is the first of the best of many sequences that the model tries, in all
worlds at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_parts, load_tensors, refuse_misfit, state_of
from metarl.modules.model_based.adaptive_model import AdaptiveModel, AdaptiveModelSettings
from metarl.modules.model_based.planning import (
    PlannerSettings,
    begun_worlds,
    plan,
    world_draws,
)
from metarl.modules.model_based.transitions import Transitions, TransitionSettings
from metarl.modules.replay import TaskReplay
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class GrbalConfig(AdaptiveModelSettings, PlannerSettings, TransitionSettings):
    """Settings of GrBAL."""

    adapt: Literal["gradient", "none"] = "gradient"
    """Adapt the model at every step, or plan with the prior: the same model without adaptation."""


class State(NamedTuple):
    """What the model adapts to, and what names the draws of planning."""

    window: Tensor
    """(B, M, W) the last transitions, the newest last"""
    known: Tensor
    """(B,) int64, how many of them there are"""
    last: Tensor
    """(B, O) the observation that was acted on last"""
    plan: Tensor
    """(B, H, A) the plan that the last action began"""
    world: Tensor
    """(B, 3) int64: task, world within it, and steps so far"""
    seed: int


class Grbal(Learner):
    """Model-predictive control with a dynamics model that adapts online."""

    name = "grbal"
    Config = GrbalConfig
    config: GrbalConfig

    def __init__(
        self, spec: Spec, config: GrbalConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the model. Raises UserError if M transitions are all that an episode has."""
        super().__init__(spec, config, seed=seed, device=device)
        self.data = Transitions(spec, config, self.device)
        self.model = AdaptiveModel(self.data, config, Key(seed, "model"))

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return empty windows."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return empty windows, and the names of the draws of planning."""
        world, config = begun_worlds(tasks, worlds, first_task, self.device), self.config
        count, size = len(world), self.spec.action_size
        return State(
            torch.zeros(count, config.past, self.data.width, device=self.device),
            torch.zeros_like(world[:, 0]),
            torch.zeros(count, self.spec.observation_size, device=self.device),
            torch.zeros(count, config.plan_steps, size, device=self.device), world, seed,
        )  # fmt: skip

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Take in the last transition, adapt the model to the window, and plan with it."""
        state, plans = self._seen(step, state), []
        for part in self.config.parts(len(step.obs)):
            draws = world_draws(state.seed, state.world[part])
            if explore and self.data.random:
                plans.append(draws.uniform(-1, 1, state.plan[0].numel()).view_as(state.plan[part]))
                continue
            params, obs = self._adapted(state.window[part], state.known[part]), step.obs[part]
            plans.append(
                plan(
                    self.config, lambda tried, p=params, o=obs: self.model.returns(p, o, tried),
                    state.plan[part], draws,
                )
            )  # fmt: skip
        chosen = torch.cat(plans)
        action = chosen[:, 0]
        if explore and noise is not None:
            action = action + self.config.explore_std * noise
        world = state.world + torch.tensor([0, 0, 1], device=self.device)
        return action, state._replace(world=world, last=step.obs, plan=chosen)

    def _seen(self, step: Step, state: State) -> State:
        """Return the state with what the last action did, except across the end of an episode."""
        row, new = self.data.latest(step, state.last, state.world[:, 2])
        moved = torch.cat((state.window[:, 1:], row[:, None]), 1)
        window = torch.where(new[:, None, None], moved, state.window)
        begun = torch.where(step.first.to(self.device)[:, None, None], 0.0, state.plan)
        known = (state.known + new).clamp(max=self.config.past)
        return state._replace(window=window, known=known, plan=begun)

    def _adapted(self, window: Tensor, known: Tensor) -> Tensor:
        """(n, D) the models of n worlds: adapted where the window is full."""
        prior = self.model.theta.expand(len(window), -1)
        if self.config.adapt == "none" or not bool((full := known >= self.config.past).any()):
            return prior
        ones = window.new_ones(window.shape[:2])
        return torch.where(full[:, None], self.model.adapted(prior, window, ones), prior)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state: acting has taken in the rollout, and what ended it begins no window."""
        return state

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Collect an episode's worth of steps in every world."""
        each = worlds.num_worlds // len(tasks)
        worlds.set_tasks(tasks, each)
        worlds.seed(key.fold("reset"))
        worlds.reset()
        state = self.begin_seeded(len(tasks), each, key.fold("plan").seed(), tasks.first)
        return collect(worlds, self, state, self.spec.horizon, key, explore=True)[0]

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new episodes into the replay, and make gradient steps on windows of it."""
        self.data.take(shards, self.ranks)
        errors = self.model.learn(
            key.fold("model").torch(), self.ranks, adapt=self.config.adapt == "gradient"
        )
        first = self.ranks.rows(torch.cat([part.return_by_task() for part in shards]))
        mean = float(mean_of_finished(first))
        diverged = float(self.ranks.sum([part.diverged.sum() for part in shards]))
        return {"return_before": mean, "return_after": mean, **errors, "diverged": diverged}

    # --- saving --------------------------------------------------------------------------------

    def _own(self) -> dict[str, Tensor]:
        return {"iterations": self.data.iterations, **self.model.tensors()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return model, optimiser, running statistics and, if to be saved, the replay."""
        return self._own() | state_of({**self.data.moments, **self.data.saved_episodes()})

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the model, and the statistics that scale what it sees and predicts."""
        own = {name: t for name, t in self._own().items() if name in ("iterations", "adam.params")}
        return own | state_of(self.data.moments)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        weights, (replay,) = TaskReplay.split_state(tensors, ("replay",))
        own = self._own()
        refuse_misfit(own | state_of(self.data.moments), weights, self.name)
        load_tensors(own, {name: weights[name] for name in own}, self.name)
        load_parts(self.data.moments, weights)
        self.data.load_episodes(replay)
