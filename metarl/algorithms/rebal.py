"""ReBAL (Nagabandi et al. 2019): a model whose memory adapts it as an episode goes on, and plans.

A recurrent model takes in each transition of its world, and predicts from what it remembers:

    h_t = LSTM(x_t, h_{t−1}),  x_t = (o_t, a_t, r_{t−1})
    (Δo_t, r_t) = g(h_t, x_t), normalised

It is learned by backpropagation through stretches of episodes, in each of which the memory begins
empty. The memory goes on through the episodes of a trial: it is what adapts. Planning tries many
sequences of actions from it, each of which the memory takes in as if it were what happens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_but_replay, state_of
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
    fit,
    returns_of,
)
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Layers, Positive
from metarl.networks.memories.backbone import MemoryState
from metarl.networks.memories.recurrent import LSTM
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class RebalConfig(PlannerSettings, TransitionSettings):
    """Settings of ReBAL."""

    units: Count = 64
    """Units of the LSTM."""
    hidden: Layers = (64,)
    """Units of the layers between memory and prediction."""
    bptt: Count = 100
    """Steps of a stretch that the model is learned from, if an episode has them."""
    lr: Positive = 3e-3
    """Step size of Adam."""
    max_grad_norm: Positive = 10.0
    """Longer gradients are scaled down to this."""
    updates: Count = 200
    """Gradient steps of the model in an iteration."""
    batch_size: Count = 16
    """Stretches in a gradient step."""


class State(NamedTuple):
    """What the model remembers, and what names the draws of planning."""

    memory: MemoryState
    """(B, units) hidden and cell state, after the last transition but for what it led to"""
    plan: Tensor
    """(B, H, A) the plan that the last action began"""
    world: Tensor
    """(B, 3) int64: task, world within it, and steps so far"""
    seed: int


class RecurrentModel(nn.Module):
    """Predicts changes and rewards from a memory of all transitions before."""

    def __init__(self, inputs: int, outputs: int, config: RebalConfig) -> None:
        super().__init__()
        self.memory = LSTM(inputs, config.units)
        sizes = (config.units + inputs, *config.hidden)
        layers = [(nn.Linear(i, o), nn.Tanh()) for i, o in itertools.pairwise(sizes)]
        self.head = nn.Sequential(
            *itertools.chain.from_iterable(layers), nn.Linear(sizes[-1], outputs)
        )

    def step(self, x: Tensor, memory: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the predictions (B, O + 1) of inputs (B, I), and the memory with them in it."""
        hidden, memory = self.memory.step(x, memory)
        return self.head(torch.cat((hidden, x), -1)), memory

    def unroll(self, x: Tensor) -> Tensor:
        """Return the predictions (T, B, O + 1) of stretches (T, B, I), from empty memories."""
        return self.head(torch.cat((self.memory.unroll(x), x), -1))


class Rebal(Learner):
    """Model-predictive control with a dynamics model that remembers."""

    name = "rebal"
    Config = RebalConfig
    config: RebalConfig

    def __init__(
        self, spec: Spec, config: RebalConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the model and its optimiser."""
        super().__init__(spec, config, seed=seed, device=device)
        self.data = Transitions(spec, config, self.device)
        inputs = spec.observation_size + spec.action_size + 1
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "model").seed())
            self.net = RecurrentModel(inputs, spec.observation_size + 1, config).to(self.device)
        self.adam = ClippedAdam(list(self.net.parameters()), config.lr)
        self._parts = {"net": self.net, "adam": self.adam, **self.data.moments}

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return empty memories."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return empty memories, and the names of the draws of planning."""
        world = begun_worlds(tasks, worlds, first_task, self.device)
        shape = len(world), self.config.plan_steps, self.spec.action_size
        memory = self.net.memory.begin(len(world))
        return State(memory, torch.zeros(shape, device=self.device), world, seed)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Plan from what is remembered, and remember what is done."""
        reward = self._normalised(step.prev_reward[:, None].float())
        reward = reward.masked_fill(state.world[:, 2:] == 0, 0.0)  # where a trial begins

        def model_of(part: slice) -> Returns:
            memory = tuple(tensor[part] for tensor in state.memory)
            return lambda tried: self.returns(step.obs[part], reward[part], memory, tried)

        plans = planned(self.config, step, state, model_of, random=explore and self.data.random)
        action = first_action(plans, noise if explore else None, self.config.explore_std)
        x = torch.cat((self.data.inputs(step.obs, action.clamp(-1, 1)), reward), -1)
        _, memory = self.net.step(x, state.memory)
        return action, State(memory, plans, stepped_worlds(state.world), state.seed)

    def returns(self, obs: Tensor, reward: Tensor, memory: MemoryState, tried: Tensor) -> Tensor:
        """Return (n, C) normalised returns that the model predicts of (n, C, H, A) actions.

        Args:
            obs: (n, O).
            reward: (n, 1), the last one, normalised.
            memory: of n worlds.
            tried: the actions.
        """
        count = tried.shape[1]
        now = tuple(part.repeat_interleave(count, 0) for part in memory)
        last = reward.repeat_interleave(count, 0)

        def predict(obs: Tensor, action: Tensor) -> Tensor:
            nonlocal now, last
            x = torch.cat((self.data.inputs(obs, action).flatten(0, 1), last), -1)
            out, now = self.net.step(x, now)
            last = out[:, -1:]
            return out.view(*obs.shape[:2], -1)

        return self.data.returns(predict, obs, tried)

    def _normalised(self, reward: Tensor) -> Tensor:
        """Return (…, 1) rewards as the model predicts them."""
        moments = self.data.target_moments
        return ((reward - moments.mean[-1:]) / moments.std[-1:]).float().clamp(-10, 10)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state: acting has taken in the rollout."""
        return state

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Collect an episode's worth of steps in every world."""
        return collect_planning(worlds, self, tasks, key)

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new episodes into the replay, and make gradient steps on stretches of it."""
        config = self.config
        self.data.take(shards, self.ranks)
        errors = fit(
            self.data, self.loss, self.adam.params,
            lambda gradient: self.adam.step(gradient, config.max_grad_norm),
            key.fold("model").torch(), self.ranks, updates=config.updates,
            windows=config.batch_size, length=min(config.bptt, self.spec.horizon),
        ).tolist()  # fmt: skip
        names = zip(("error_first", "error_last"), errors, strict=True)
        return returns_of(shards, self.ranks) | dict(names)

    def loss(self, rows: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the share of some stretches in the mean loss of `count`.

        And their share in the mean errors of the first tenth of a stretch, in which there is little
        to remember, and of its last half.
        """
        inputs, target = self.data.split(rows)
        last = torch.cat((torch.zeros_like(target[:, :1, -1:]), target[:, :-1, -1:]), 1)
        out = self.net.unroll(torch.cat((inputs, last), -1).transpose(0, 1)).transpose(0, 1)
        wrong, length = (out - target).square().mean(-1) * valid, rows.shape[1]
        parts = (slice(None), slice(0, max(1, length // 10)), slice(length // 2, None))
        loss, *errors = (
            (wrong[:, part].sum(1) / valid[:, part].sum(1).clamp(min=1)).sum() / count
            for part in parts
        )
        return loss, torch.stack(errors).detach()

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return model, optimiser, running statistics and, if to be saved, the replay."""
        own = {"iterations": self.data.iterations}
        return own | state_of({**self._parts, **self.data.saved_episodes()})

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the model, and the statistics that scale what it sees and predicts."""
        return {
            name: t for name, t in self.state_dict().items()
            if not name.startswith(("adam.", "replay."))
        }  # fmt: skip

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        own = {"iterations": self.data.iterations}
        self.data.load_episodes(load_but_replay(own, self._parts, tensors, self.name))
