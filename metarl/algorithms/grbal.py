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
from metarl.learning.learner import Learner, load_but_replay, state_of
from metarl.modules.model_based.adaptive_model import AdaptiveModel, AdaptiveModelSettings
from metarl.modules.model_based.planning import (
    PlannerSettings,
    Returns,
    begun_worlds,
    collect_planning,
    first_action,
    planned,
    stepped_worlds,
)
from metarl.modules.model_based.transitions import (
    Transitions,
    TransitionSettings,
    Window,
    returns_of,
)
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class GrbalConfig(AdaptiveModelSettings, PlannerSettings, TransitionSettings):
    """Settings of GrBAL."""

    adapt: Literal["gradient", "none"] = "gradient"
    """Adapt the model at every step, or plan with the prior: the same model without adaptation."""


class State(NamedTuple):
    """What the model adapts to, and what names the draws of planning."""

    window: Window
    """The last M transitions"""
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
        world = begun_worlds(tasks, worlds, first_task, self.device)
        window = Window.empty(self.data, len(world), self.config.past)
        shape = len(world), self.config.plan_steps, self.spec.action_size
        return State(window, torch.zeros(shape, device=self.device), world, seed)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Take in the last transition, adapt the model to the window, and plan with it."""
        window, _ = state.window.after(step, state.world[:, 2])

        def model_of(part: slice) -> Returns:
            params = self.adapted_params(Window(*(tensor[part] for tensor in window)))
            return lambda tried: self.model.returns(params, step.obs[part], tried)

        plans = planned(self.config, step, state, model_of, random=explore and self.data.random)
        action = first_action(plans, noise if explore else None, self.config.explore_std)
        return action, State(window, plans, stepped_worlds(state.world), state.seed)

    def adapted_params(self, window: Window) -> Tensor:
        """Return (n, D) the models of n worlds: adapted where the window is full."""
        prior = self.model.theta.expand(len(window.rows), -1)
        on_host = window.full.device.type == "cpu"  # elsewhere to look would be to wait
        if self.config.adapt == "none" or (on_host and not bool(window.full.any())):
            return prior
        ones = window.rows.new_ones(window.rows.shape[:2])
        return torch.where(
            window.full[:, None], self.model.adapted(prior, window.rows, ones), prior
        )

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state: acting has taken in the rollout, and what ended it begins no window."""
        return state

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Collect an episode's worth of steps in every world."""
        return collect_planning(worlds, self, tasks, key)

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new episodes into the replay, and make gradient steps on windows of it."""
        self.data.take(shards, self.ranks)
        errors = self.model.learn(
            key.fold("model").torch(), self.ranks, adapt=self.config.adapt == "gradient"
        )
        return returns_of(shards, self.ranks) | errors

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return model, optimiser, running statistics and, if to be saved, the replay."""
        return self.model.tensors() | state_of({**self.data.moments, **self.data.saved_episodes()})

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the model, and the statistics that scale what it sees and predicts."""
        return self.model.policy_tensors() | state_of(self.data.moments)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        own = self.model.tensors()
        self.data.load_episodes(load_but_replay(own, self.data.moments, tensors, self.name))
