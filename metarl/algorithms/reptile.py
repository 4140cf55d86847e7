"""Reptile (Nichol et al. 2018): move the prior to where a few gradient steps lead in each task.

    φ_0 = θ,   φ_{k+1} = φ_k − α ∇ L_k(φ_k),   k < K,     L_k(φ) = −E_k[log π_φ(a|s) A]
    θ ← θ + ε mean_m(φ_K − θ)

Each inner step is on rollouts of its own, and no derivative of a step is taken: the meta-update
costs next to nothing. What makes θ a prior that adapts, and not the best policy for all tasks
together, are the steps beyond the first: with K = 1 this is joint policy gradient of step size ε α.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.gradients.inner_loop import InnerLoop, InnerSettings, Phases, State
from metarl.modules.settings import Count, Fraction
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class ReptileConfig(InnerSettings):
    """Settings of Reptile."""

    inner_steps: Count = 3
    """K: gradient steps that adapt the policy, each on fresh rollouts; with 1 nothing is
    meta-learned."""
    lr: Fraction = 1.0
    """ε: how far the prior moves to the mean of the adapted policies."""
    lr_decay_iterations: Count | None = None
    """Iterations over which ε falls linearly to a fiftieth; default: never."""


class Reptile(Learner):
    """First-order meta-learning by moving to where adaptation leads."""

    name = "reptile"
    Config = ReptileConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: ReptileConfig

    def __init__(
        self, spec: Spec, config: ReptileConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior policy θ."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = config.policy(spec)
        self.theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)
        self.iteration = torch.zeros((), dtype=torch.int64)
        self.inner = InnerLoop(
            self.policy, config.inner_lr, config.gamma, config.gae_lambda, config.inner_steps
        )

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior."""
        return State(self.theta.expand(tasks, -1))

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
        """Roll out K times, with the prior and after each inner step but the last.

        The update takes the last step itself, on the last rollouts, so that no rollout is for
        nothing: `return_after` is that of K − 1 steps.
        """
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner.collect(worlds, self, state, tasks, key, self.config.inner_steps - 1)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        """Move the prior to the mean of the adapted policies, by a share of the way."""
        data, decay = Phases.joined(shards), self.config.lr_decay_iterations
        state = self.begin(len(data.returns[0]), 1)
        for batch in data.batches:
            state = self.inner.adapt(state, batch)
        tasks = self.sum_tasks(torch.ones_like(data.returns[0]))
        way = self.sum_tasks(state.params - self.theta) / tasks.to(self.theta.dtype)
        lr = self.config.lr * (max(1 - int(self.iteration) / decay, 0.02) if decay else 1.0)
        self.theta = self.theta + lr * way
        self.iteration = self.iteration + 1
        return data.metrics(self.sum_tasks) | {"step": float(way.norm()), "lr": lr}

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (D,)."""
        return {"theta": self.theta}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, and how many updates it has had."""
        return {"theta": self.theta, "iteration": self.iteration}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
