"""ANIL (Raghu et al. 2020): only the last layer adapts, on features that are meta-learned.

It is MAML with a step size of 0 for all other layers, and here with ProMP's meta-update: both are
shared parts, so that what is left to write is which numbers adapt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl import Key, Learner, Spec, Step, Tasks, TaskWorlds
from metarl.learning.learner import load_tensors
from metarl.modules.gradients.inner_loop import Batch, InnerLoop, Phases, State
from metarl.modules.gradients.proximal import ProximalSettings, proximal_update
from metarl.modules.optim import FlatAdam
from metarl.networks.task_mlp import Gaussian
from metarl.worlds.rollout import Rollout


@dataclass(frozen=True)
class AnilConfig(ProximalSettings):
    """Settings of ANIL: those of every clipped meta-gradient."""


class Anil(Learner):
    """Almost no inner loop: a step on the head of the policy, in every task at once."""

    name = "anil"
    Config = AnilConfig
    adapts_per_task = True
    adapts_on_exploration = True

    def __init__(self, spec: Spec, config: AnilConfig, *, seed: int = 0, device: str = "cpu"):
        super().__init__(spec, config, seed=seed, device=device)
        policy = config.policy(spec)
        theta = policy.initial(Key(seed, "policy").torch()).to(self.device)
        self.learned = FlatAdam(theta, config.lr)
        *_, weight, bias, log_std = policy.split(theta[None])
        head = weight.numel() + bias.numel() + log_std.numel()
        lr = torch.zeros_like(theta)
        lr[-head:] = config.inner_lr
        self.inner = InnerLoop(policy, lr, config.gamma, config.gae_lambda, config.inner_steps)

    def begin(self, tasks: int, worlds: int) -> State:
        return State(self.learned.params.detach().expand(tasks, -1))

    def act(self, step: Step, state: State, *, explore: bool, noise: Tensor | None):
        return self.inner.act(step, state, explore=explore, noise=noise)

    def adapt(self, state: State, rollout: Rollout) -> State:
        return self.inner.adapt(state, self.inner.batch(rollout))

    def collect(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> Phases:
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner.collect(worlds, self, state, tasks, key, self.config.inner_steps)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        config, data = self.config, Phases.joined(shards)
        metrics, _ = proximal_update(
            self.learned, config.kl_weight, data, self._policies, config, self.sum_tasks
        )
        return metrics

    def _policies(
        self, theta: Tensor, batches: Sequence[Batch], old: Sequence[Gaussian]
    ) -> list[Gaussian]:
        """The policies of every phase, as functions of M copies of θ."""
        second_order = bool(old) and not self.config.first_order
        return self.inner.policies(theta, batches, old, second_order=second_order)

    def state_dict(self) -> dict[str, Tensor]:
        return self.learned.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        load_tensors(self.state_dict(), tensors, self.name)
