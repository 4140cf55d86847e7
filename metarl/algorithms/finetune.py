"""Fine-tuning: one PPO policy for all training tasks, trained on in each new task.

Meta-training is that of `ppo`, domain randomisation. Adapting makes PPO's gradient steps on a copy
of policy, critic and Adam's state in each task, with the episodes of that task: what is done with a
pretrained policy where nobody meta-learns (Zhao, Abbeel and James 2022). With ``--scratch`` the
copies start from random weights instead: what the episodes of a task are worth by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.batched_ppo import Adam, BatchedPpo, PpoSettings, training_returns
from metarl.modules.settings import Count, Positive
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class FinetuneConfig(PpoSettings):
    """Settings of fine-tuning."""

    adapt_lr: Positive = 3e-4
    """Step size of Adam in a new task."""
    adapt_epochs: Count = 10
    """Passes over the transitions of a round of adaptation."""
    scratch: bool = False
    """Begin each task with random weights; training then only keeps the running statistics."""


class State(NamedTuple):
    """A policy, its critic and its optimiser in each task, and what was seen lately."""

    params: Tensor
    """(M, D)"""
    first: Tensor
    """(M, D), of Adam"""
    second: Tensor
    """(M, D), of Adam"""
    steps: Tensor
    """() int64, of Adam"""
    window: Tensor
    """(B, history - 1, F)"""


class Finetune(Learner):
    """PPO on all training tasks, then PPO on each new one."""

    name = "finetune"
    Config = FinetuneConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: FinetuneConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: FinetuneConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise policy, critic and optimiser."""
        super().__init__(spec, config, seed=seed, device=device)
        self.ppo = BatchedPpo(spec, config, self.device)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the policy, with a fresh optimiser each."""
        params = self.params.repeat(tasks, 1)
        return State(params, *Adam.start(params), self.ppo.window(tasks * worlds))

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each task's own policy: the mean, plus noise times the std to explore."""
        noise = noise if explore else None
        action, window = self.ppo.act(state.params, step, state.window, noise)
        return action, state._replace(window=window)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Make PPO's gradient steps in every task, on the rollouts of that task."""
        adam = Adam(state.first, state.second, state.steps)
        params, adam, _ = self.ppo.improve(
            state.params, adam, self.ppo.prepared([rollout], state.params),
            epochs=self.config.adapt_epochs, lr=self.config.adapt_lr,
            key=Key("finetune", int(state.steps)),
        )  # fmt: skip
        return State(params, *adam, state.window)

    # --- training ------------------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Let the one policy explore for one horizon in every world."""
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        worlds.reset()
        state = self.begin(len(tasks), worlds.worlds_per_task)
        steps = self.spec.horizon
        return collect(worlds, self, state, steps, key.fold("noise"), explore=True)[0]

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the transitions of all tasks together."""
        if self.config.scratch:
            self.ppo.update_moments(shards, self.ranks)
            return training_returns(shards, self.ranks) | {"lr": float(self.lr)}
        self.params, self.adam, self.lr, metrics = self.ppo.learn(
            self.params, self.adam, self.lr, shards, key, self.ranks
        )
        return metrics

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the networks and the running statistics: adapting needs all of them."""
        return {"params": self.params, **self.ppo.state_dict()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimiser with its step size, and running statistics."""
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return {"params": self.params, "lr": self.lr, **adam, **self.ppo.state_dict()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
        self.ppo.refresh()
