"""MOLe (Nagabandi, Finn and Levine 2019): a mixture of models that goes on learning, and plans.

The prior θ* is learned as GrBAL's (`metarl.modules.model_based.adaptive_model`). But what adapts
is not begun anew at every step: each world keeps a mixture of models θ_k, one for each kind of
task that it has met, and a task that comes back finds its model again. At every step, with the
last M transitions (x, y) of the world, one round of expectation maximisation:

    P(k | x, y) ∝ p(y | x, θ_k) n_k     of the models that there are,
    P(new | x, y) ∝ p(y | x, θ*) α      a Chinese restaurant process: n_k counts Σ P(k)
    θ_k ← θ_k − β P(k | x, y) ∇ error(θ_k)

Where a new one is likeliest, it is begun with a step from θ*. The likeliest model is planned with.
The models are in the state: the weights that were trained stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from metarl.modules.settings import Count, NonNegative, Positive
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class MoleConfig(AdaptiveModelSettings, PlannerSettings, TransitionSettings):
    """Settings of MOLe."""

    components: Count = 4
    """Models that a world keeps at most; a new one then takes the place of the least used."""
    concentration: Positive = 1.0
    """α of the Chinese restaurant process: a new model counts as one that was used so often."""
    likelihood_std: Positive = 1.0
    """Standard deviation of a prediction's error, in those of the changes: smaller is surer."""
    online_share: NonNegative = 0.1
    """β: share of the inner step that a model takes at each step; a new one takes all of it."""


class Mixture(NamedTuple):
    """The models of B worlds."""

    params: Tensor
    """(B, K, D)"""
    counts: Tensor
    """(B, K) Σ of their probabilities so far; 0 where there is none yet"""
    chosen: Tensor
    """(B,) int64, the likeliest; −1 while there is none"""


class State(NamedTuple):
    """What each world has learned, and what names the draws of planning."""

    mixture: Mixture
    window: Window
    """The last M transitions"""
    plan: Tensor
    """(B, H, A) the plan that the last action began"""
    world: Tensor
    """(B, 3) int64: task, world within it, and steps so far"""
    seed: int


class Mole(Learner):
    """Model-predictive control with a mixture of models that learns as long as it acts."""

    name = "mole"
    Config = MoleConfig
    config: MoleConfig

    def __init__(
        self, spec: Spec, config: MoleConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior. Raises UserError if M transitions are all that an episode has."""
        super().__init__(spec, config, seed=seed, device=device)
        self.data = Transitions(spec, config, self.device)
        self.model = AdaptiveModel(self.data, config, Key(seed, "model"))

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return mixtures without a model."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return mixtures without a model, and the names of the draws of planning."""
        world = begun_worlds(tasks, worlds, first_task, self.device)
        count, most = len(world), self.config.components
        params = self.model.theta.expand(count, most, -1).clone()
        mixture = Mixture(params, params.new_zeros(count, most), torch.full_like(world[:, 0], -1))
        window = Window.empty(self.data, count, self.config.past)
        shape = count, self.config.plan_steps, self.spec.action_size
        return State(mixture, window, params.new_zeros(shape), world, seed)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Learn from the last transitions, and plan with the likeliest model."""
        window, new = state.window.after(step, state.world[:, 2])
        mixtures = []
        for part in self.config.parts(len(step.obs)):
            mixture = Mixture(*(tensor[part] for tensor in state.mixture))
            seen = Window(*(tensor[part] for tensor in window))
            mixtures.append(self.learned(mixture, seen, new[part]))
        mixture = Mixture(*(torch.cat(tensors) for tensors in zip(*mixtures, strict=True)))

        def model_of(part: slice) -> Returns:
            params = self.likeliest(Mixture(*(tensor[part] for tensor in mixture)))
            return lambda tried: self.model.returns(params, step.obs[part], tried)

        plans = planned(self.config, step, state, model_of, random=explore and self.data.random)
        action = first_action(plans, noise if explore else None, self.config.explore_std)
        return action, State(mixture, window, plans, stepped_worlds(state.world), state.seed)

    def likeliest(self, mixture: Mixture) -> Tensor:
        """Return (n, D) the models to plan with: the prior where there is none yet."""
        index = mixture.chosen.clamp(min=0)
        own = mixture.params[torch.arange(len(index), device=index.device), index]
        return torch.where((mixture.chosen < 0)[:, None], self.model.theta, own)

    def learned(self, mixture: Mixture, window: Window, new: Tensor) -> Mixture:
        """Return the mixtures after a round of expectation maximisation, where there is news.

        Args:
            mixture: of n worlds.
            window: what they learn from, once it is full.
            new: (n,) bool, whether it has a transition that was not in it before.
        """
        news = window.full & new
        if news.device.type == "cpu" and not bool(news.any()):  # elsewhere to look is to wait
            return mixture
        posterior = self.posterior(mixture, window)  # (n, K + 1)
        best = posterior.argmax(1)
        begins = best == self.config.components
        # E: who was it; M: each model takes a step by its share
        share = posterior[:, :-1, None] * self.config.online_share
        params = self._stepped(mixture.params, window, share)
        counts = mixture.counts + posterior[:, :-1]
        # a new one takes the place of none, or of the least used
        slot = torch.where(begins, mixture.counts.argmin(1), best)
        here = torch.nn.functional.one_hot(slot, self.config.components).bool() & begins[:, None]
        fresh = self._stepped(self.model.theta.expand(len(best), 1, -1), window, 1.0)
        params = torch.where(here[..., None], fresh, params)
        counts = torch.where(here, posterior[:, -1:], counts)
        kept = ~news
        return Mixture(
            torch.where(kept[:, None, None], mixture.params, params),
            torch.where(kept[:, None], mixture.counts, counts),
            torch.where(kept, mixture.chosen, slot),
        )

    def posterior(self, mixture: Mixture, window: Window) -> Tensor:
        """Return (n, K + 1) probabilities of each model, and of a new one, given the windows."""
        prior = self.model.theta.expand(len(mixture.params), 1, -1)
        every = torch.cat((mixture.params, prior), 1)
        error = self._over(every, window).unflatten(0, every.shape[:2])
        size = window.rows.shape[1] * (self.spec.observation_size + 1)
        likelihood = -0.5 * size * error / self.config.likelihood_std**2
        alpha = torch.full_like(error[:, :1], math.log(self.config.concentration))
        return (likelihood + torch.cat((mixture.counts.log(), alpha), 1)).softmax(1)

    def _over(self, params: Tensor, window: Window) -> Tensor:
        """Return (n K,) errors of (n, K, D) models in the windows of their worlds."""
        rows = window.rows.repeat_interleave(params.shape[1], 0)
        return self.model.error(params.flatten(0, 1), rows, rows.new_ones(rows.shape[:2]))

    def _stepped(self, params: Tensor, window: Window, share: Tensor | float) -> Tensor:
        """Return (n, K, D) models after their shares (n, K, 1) of the inner step."""
        rows = window.rows.repeat_interleave(params.shape[1], 0)
        if isinstance(share, Tensor):
            share = share.flatten(0, 1)
        flat, ones = params.flatten(0, 1), rows.new_ones(rows.shape[:2])
        return self.model.adapted(flat, rows, ones, share=share).view_as(params)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state: acting has learned from the rollout."""
        return state

    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """Return how many models each world has."""
        return {"components": (state.mixture.counts > 0).sum(1).float()}

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Collect an episode's worth of steps in every world."""
        return collect_planning(worlds, self, tasks, key)

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new episodes into the replay, and make gradient steps of the prior on it."""
        self.data.take(shards, self.ranks)
        errors = self.model.learn(key.fold("model").torch(), self.ranks, adapt=True)
        return returns_of(shards, self.ranks) | errors

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return prior, optimiser, running statistics and, if to be saved, the replay."""
        return self.model.tensors() | state_of({**self.data.moments, **self.data.saved_episodes()})

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the prior, and the statistics that scale what it sees and predicts."""
        return self.model.policy_tensors() | state_of(self.data.moments)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        own = self.model.tensors()
        self.data.load_episodes(load_but_replay(own, self.data.moments, tensors, self.name))
