"""ProMP (Rothfuss et al. 2019): proximal meta-policy search.

As MAML-TRPO it learns a prior θ from which inner policy-gradient steps adapt. The meta-update makes
a few steps of Adam on a clipped surrogate instead of one trust-region step, and its inner losses
have second derivatives of low variance:

    φ_{k+1} = φ_k − α ∇ L_k(φ_k),     L_k(φ) = −E_k[π_φ(a|s) / π_old,k(a|s) A]
    min_θ  E_m[−E[min(r A, clip(r, 1 ± ε) A)] + η mean_k KL(π_old,k ‖ π_φk)],    r = π_φK / π_old,K

With `desired_kl` η follows the divergence. All tasks are one tensor, as in `modules.inner_loop`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.gradients.inner_loop import Batch, InnerLoop, Phases, State
from metarl.modules.gradients.proximal import ProximalSettings, proximal_update
from metarl.modules.optim import FlatAdam
from metarl.networks.task_mlp import Gaussian
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class ProMpConfig(ProximalSettings):
    """Settings of ProMP; the defaults follow the authors."""

    learn_inner_lr: bool = False
    """Learn a step size for each parameter, which begins as inner_lr (Meta-SGD)."""


class ProMp(Learner):
    """Proximal meta-policy search."""

    name = "promp"
    Config = ProMpConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: ProMpConfig

    def __init__(
        self, spec: Spec, config: ProMpConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior policy θ, with the logarithms of the step sizes if learned."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = config.policy(spec)
        theta = self.policy.initial(Key(seed, "policy").torch())
        if config.learn_inner_lr:
            theta = torch.cat((theta, torch.full_like(theta, math.log(config.inner_lr))))
        self.learned = FlatAdam(theta.to(self.device), config.lr)
        self.kl_weight = torch.tensor(config.kl_weight, dtype=torch.float64)

    def _parts(self, learned: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the priors and the step sizes of (…, D) or (…, 2 D) that is learned."""
        if not self.config.learn_inner_lr:
            return learned, None
        theta, log_lr = learned.chunk(2, dim=-1)
        return theta, log_lr.exp()

    @property
    def inner(self) -> InnerLoop:
        """The inner loop, with the step sizes as they are now."""
        config, lr = self.config, self._parts(self.learned.params.detach())[1]
        lr = config.inner_lr if lr is None else lr
        return InnerLoop(self.policy, lr, config.gamma, config.gae_lambda, config.inner_steps)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior."""
        return State(self._parts(self.learned.params.detach())[0].expand(tasks, -1))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each task's own parameters: the mean, plus noise times the std to explore."""
        return self.inner.act(step, state, explore=explore, noise=noise)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take one inner policy-gradient step in every task."""
        return self.inner.adapt(state, self.inner.batch(rollout))

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Phases:
        """Roll out with the prior, and after each inner step."""
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner.collect(worlds, self, state, tasks, key, self.config.inner_steps)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        """Make steps of Adam on the prior, and adapt η."""
        metrics, self.kl_weight = proximal_update(
            self.learned, self.kl_weight, Phases.joined(shards), self._policies, self.config,
            self.sum_tasks,
        )  # fmt: skip
        return metrics

    def _policies(
        self, learned: Tensor, batches: Sequence[Batch], old: Sequence[Gaussian]
    ) -> list[Gaussian]:
        """Return the policies of every phase, as functions of M copies of what is learned."""
        theta, lr = self._parts(learned)
        second_order = bool(old) and not self.config.first_order
        return self.inner.policies(theta, batches, old, second_order=second_order, lr=lr)

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return what is learned, (D,), or with step sizes (2 D,)."""
        return {"params": self.learned.params.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is learned, Adam's state and η."""
        return self.learned.tensors() | {"kl_weight": self.kl_weight}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
