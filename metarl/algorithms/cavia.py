"""CAVIA (Zintgraf et al. 2019): only a context of a few numbers adapts.

The first layer of the policy sees a context c beside the observation. In each task c begins at 0
and takes the inner policy-gradient steps; the weights θ, which no task changes, are meta-learned:

    c_0 = 0,   c_{k+1} = c_k − α ∇_c L_k(θ, c_k),    L_k(θ, c) = −E_k[π_θ,c(a|s) / π_old,k(a|s) A]
    min_θ  E_m[−E[min(r A, clip(r, 1 ± ε) A)] + η mean_k KL(π_old,k ‖ π_θ,c_k)]

with r = π_θ,c_K / π_old,K. The meta-update is that of ProMP, differentiated through the inner
steps. A learned step size would add nothing: the first layer's weights scale the context already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.gradients.inner_loop import Batch, InnerLoop, Phases, State
from metarl.modules.gradients.proximal import ProximalSettings, proximal_update
from metarl.modules.optim import FlatAdam
from metarl.modules.settings import Count, Positive
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class CaviaConfig(ProximalSettings):
    """Settings of CAVIA."""

    inner_lr: Positive = 1.0
    """Step size α of the adaptation; larger than where all weights adapt."""
    context_size: Count = 5
    """Numbers that adapt."""


class ContextPolicy(NamedTuple):
    """Policies of given weights, which contexts complete: what an inner loop adapts."""

    network: GaussianMLP
    weights: Tensor
    """(M, D), or (1, D) in all tasks"""

    def __call__(self, context: Tensor, obs: Tensor) -> Gaussian:
        """Return the action distributions at (M, N, O) observations in (M, C) contexts."""
        seen = context[:, None].expand(-1, obs.shape[1], -1)
        return self.network(self.weights.expand(len(obs), -1), torch.cat((obs, seen), -1))


class Cavia(Learner):
    """Fast context adaptation via meta-learning."""

    name = "cavia"
    Config = CaviaConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: CaviaConfig

    def __init__(
        self, spec: Spec, config: CaviaConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the weights θ."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = config.policy(spec, context=config.context_size)
        theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)
        self.learned = FlatAdam(theta, config.lr)
        self.kl_weight = torch.tensor(config.kl_weight, dtype=torch.float64)

    def inner(self, weights: Tensor | None = None) -> InnerLoop:
        """Return the inner loop of contexts, with weights (M, D) or the present ones."""
        weights = self.learned.params.detach()[None] if weights is None else weights
        config, policy = self.config, ContextPolicy(self.policy, weights)
        return InnerLoop(
            policy, config.inner_lr, config.gamma, config.gae_lambda, config.inner_steps
        )

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M contexts of zeros."""
        return State(torch.zeros(tasks, self.config.context_size, device=self.device))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act in each task's context: the mean, plus noise times the std to explore."""
        return self.inner().act(step, state, explore=explore, noise=noise)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take one inner policy-gradient step on every task's context."""
        inner = self.inner()
        return inner.adapt(state, inner.batch(rollout))

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Phases:
        """Roll out with contexts of zeros, and after each inner step."""
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner().collect(worlds, self, state, tasks, key, self.config.inner_steps)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        """Make steps of Adam on the weights, and adapt η."""
        metrics, self.kl_weight = proximal_update(
            self.learned, self.kl_weight, Phases.joined(shards), self._policies, self.config,
            self.sum_tasks,
        )  # fmt: skip
        return metrics

    def _policies(
        self, weights: Tensor, batches: Sequence[Batch], old: Sequence[Gaussian]
    ) -> list[Gaussian]:
        """Return the policies of every phase, as functions of M copies of the weights."""
        context = weights.new_zeros(len(weights), self.config.context_size, requires_grad=True)
        second_order = bool(old) and not self.config.first_order
        return self.inner(weights).policies(context, batches, old, second_order=second_order)

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the weights, (D,)."""
        return {"params": self.learned.params.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, Adam's state and η."""
        return self.learned.tensors() | {"kl_weight": self.kl_weight}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
