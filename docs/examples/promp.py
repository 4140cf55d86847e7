"""ProMP (Rothfuss et al. 2019): proximal meta-policy search, on the shared parts of the inner loop.

L_k(φ) = −E_k[π_φ(a|s) / π_old,k(a|s) A]                                    the inner steps
J(θ) = −E[min(r A, clip(r, 1 ± ε) A)] + η Σ_k KL(π_old,k ‖ π_φk)            the meta-update
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import grad

from metarl import Learner, Tasks, TaskWorlds
from metarl.base.keys import Key
from metarl.learning.learner import load_tensors
from metarl.modules.inner_loop import Batch, InnerLoop, Phases, State
from metarl.modules.optim import FlatAdam
from metarl.modules.ppo import clipped_surrogate
from metarl.modules.settings import Count, Fraction, Layers, NonNegative, Positive, Settings
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step


@dataclass(frozen=True)
class ProMpConfig(Settings):
    """Settings of ProMP; the defaults follow the authors."""

    inner_steps: Count = 1
    """Gradient steps that adapt the policy, each on fresh rollouts."""
    inner_lr: Positive = 0.1
    """Step size α of the adaptation."""
    lr: Positive = 1e-3
    """Step size of Adam in the meta-update."""
    epochs: Count = 5
    """Gradient steps of a meta-update."""
    clip: Positive = 0.3
    """ε: how far the probability of an action may move before its gain stops to count."""
    kl_weight: NonNegative = 5e-4
    """η, of the KL divergence of the policies before the last inner step."""
    gamma: Fraction = 0.99
    """Discount."""
    hidden: Layers = (64, 64)
    """Units of the hidden layers (tanh)."""


class ProMp(Learner):
    """Proximal meta-policy search."""

    name = "promp"
    Config = ProMpConfig
    adapts_per_task = True
    adapts_on_exploration = True

    def __init__(self, spec: Spec, config: ProMpConfig, *, seed: int = 0, device: str = "cpu"):
        super().__init__(spec, config, seed=seed, device=device)
        sizes = (spec.observation_size, spec.action_size, config.hidden)
        self.policy = GaussianMLP(*sizes, action_scale=0.1)
        self.inner = InnerLoop(self.policy, config.inner_lr, config.gamma, 1.0, config.inner_steps)
        self.theta = FlatAdam(
            self.policy.initial(Key(seed, "policy").torch()).to(device), config.lr
        )

    def begin(self, tasks: int, worlds: int) -> State:
        return State(self.theta.params.detach().expand(tasks, -1))

    def act(self, step: Step, state: State, *, explore: bool, noise: Tensor | None):
        return self.inner.act(step, state, explore=explore, noise=noise)

    def adapt(self, state: State, rollout: Rollout) -> State:
        return self.inner.adapt(state, self.inner.batch(rollout))

    def collect(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> Phases:
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner.collect(worlds, self, state, tasks, key, self.config.inner_steps)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        data = Phases.joined(shards)
        *inner, last = data.batches
        tasks = float(self.sum_tasks(torch.ones_like(data.returns[0])))
        old: list[Gaussian] = []
        for _ in range(1 + self.config.epochs):  # the first pass finds the old policies
            theta = self.theta.params.detach().expand(len(last.obs), -1).clone().requires_grad_()
            new = self._policies(theta, data.batches, old)
            if not old:
                old = [policy.detach() for policy in new]
                continue
            gain = clipped_surrogate(_log_ratio(new[-1], old[-1], last), last.advantage,
                                     self.config.clip)  # fmt: skip
            kl = sum((o.kl(n) * b.weight).sum() for o, n, b in zip(old, new, inner, strict=False))
            loss = (self.config.kl_weight * kl - (gain * last.weight).sum()) / tasks
            self.theta.step(self.sum_tasks(grad(loss, theta)[0]))
        return data.metrics(self.sum_tasks)

    def _policies(self, theta: Tensor, batches: list[Batch], old: list[Gaussian]):
        """The policies of every phase, as functions of θ (M, D)."""

        def ratio_loss(params: Tensor, k: int) -> Tensor:
            policy, batch = self.policy(params, batches[k].obs), batches[k]
            gain = _log_ratio(policy, old[k] if old else policy.detach(), batch).exp()
            return -(gain * batch.advantage * batch.weight).sum()

        chain = self.inner.adapted(theta, batches[:-1], second_order=bool(old), loss=ratio_loss)
        return [self.policy(p, b.obs) for p, b in zip(chain, batches, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        return self.theta.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        load_tensors(self.theta.tensors(), tensors, self.name)


def _log_ratio(new: Gaussian, old: Gaussian, batch: Batch) -> Tensor:
    return new.log_prob(batch.action) - old.log_prob(batch.action)
