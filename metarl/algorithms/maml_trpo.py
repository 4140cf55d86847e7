"""MAML-TRPO (Finn et al. 2017): an initial policy from which one gradient step adapts.

For each task, roll out the prior θ, take K inner policy-gradient steps, and roll out the adapted
policy φ; then improve θ by a trust-region step on the adapted policies' surrogate, differentiating
through the inner steps:

    φ_0 = θ,   φ_{k+1} = φ_k − α ∇ L_k(φ_k),      L_k(φ) = −E_k[log π_φ(a|s) A]
    min_θ  E_m E[−π_φ(a|s) / π_old(a|s) A]   s.t.   E_m E[KL(π_old ‖ π_φ)] ≤ δ

With `learn_inner_lr` every parameter has a step size of its own, which is learned with the prior
(Meta-SGD, Li et al. 2017): the trust-region step is on (θ, log α), and is measured at φ(θ, α).

All tasks are one tensor: parameters are (M, D), data (M, N, …), and no loop runs over tasks.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.gradients.inner_loop import (
    Batch,
    Chunk,
    InnerLoop,
    MetaGradientSettings,
    Phases,
    State,
)
from metarl.modules.gradients.trust_region import TrustRegionStep, trust_region_step
from metarl.modules.settings import Count, Fraction, NonNegative, Positive
from metarl.networks.task_mlp import Gaussian
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds

Linear = Callable[[Tensor], Tensor]
"""A linear map of vectors, one for each task."""


@dataclass(frozen=True)
class MamlTrpoConfig(MetaGradientSettings):
    """Settings of MAML-TRPO; the defaults follow the ProMP authors' sweep (ICLR 2019)."""

    learn_inner_lr: bool = False
    """Learn a step size for each parameter, which begins as inner_lr (Meta-SGD)."""
    max_kl: Positive = 0.01
    """Trust region δ: mean KL divergence of the adapted policies, in nats."""
    cg_iterations: Count = 10
    """Conjugate-gradient iterations."""
    cg_damping: NonNegative = 1e-3
    """Added to the Fisher matrix's diagonal."""
    fisher_fraction: Fraction = 0.2
    """Share of each task's samples that the Fisher matrix is estimated on: every n-th of them."""


class MamlTrpo(Learner):
    """Model-agnostic meta-learning with a trust-region meta-update."""

    name = "maml-trpo"
    Config = MamlTrpoConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: MamlTrpoConfig

    def __init__(
        self, spec: Spec, config: MamlTrpoConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior policy θ."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = config.policy(spec)
        self.theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)
        self.log_lr = torch.full_like(self.theta, math.log(config.inner_lr))

    @property
    def inner(self) -> InnerLoop:
        """The inner loop, with the step sizes as they are now."""
        config = self.config
        lr = self.log_lr.exp() if config.learn_inner_lr else config.inner_lr
        return InnerLoop(self.policy, lr, config.gamma, config.gae_lambda, config.inner_steps)

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
        """Roll out with the prior, and after each inner step."""
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        return self.inner.collect(worlds, self, state, tasks, key, self.config.inner_steps)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        """Make one trust-region step on the prior."""
        data = Phases.joined(shards)
        chunks = data.chunks(self.config.task_chunk, self.sum_tasks)
        tasks = int(self.sum_tasks(torch.ones_like(data.returns[0])))
        cosines = [
            self.inner.agreement(self.theta.expand(len(chunk.merit), -1), chunk.batches[0])
            for chunk in chunks
        ]
        agreement = float(self.sum_tasks(torch.cat(cosines))) / tasks
        step = self._trust_region_step(chunks, tasks)
        std = self.policy(self.theta[None], data.batches[0].obs[:1, :1]).log_std.exp().mean()
        return {
            **data.metrics(self.sum_tasks),
            "kl": step.kl,
            "loss": step.loss,
            "accepted": float(step.accepted),
            "line_search_trials": float(step.trials),
            "std": float(std),
            "inner_agreement": agreement,
            **({"inner_lr": float(self.log_lr.mean().exp())} if self.config.learn_inner_lr else {}),
        }

    @torch.enable_grad()
    def _trust_region_step(self, chunks: list[Chunk], tasks: int) -> TrustRegionStep:
        """Make the trust-region step on θ, given this process's share of the data of all tasks."""
        rows, losses, old = zip(*(self._gradient(chunk, tasks) for chunk in chunks), strict=True)

        @torch.enable_grad()
        def objective(params: Tensor) -> tuple[Tensor, Tensor]:
            both = [self._moved(params, *of) for of in zip(chunks, old, strict=True)]
            loss, kl = self.sum_tasks(torch.cat(both)) / tasks
            return loss, kl

        step = trust_region_step(
            self._learned(), self.sum_tasks(torch.cat(rows)), self._fisher_product(chunks, tasks),
            objective, float(self.sum_tasks(torch.cat(losses))), max_kl=self.config.max_kl,
            iterations=self.config.cg_iterations,
        )  # fmt: skip
        if self.config.learn_inner_lr:
            self.theta, self.log_lr = (part.clone() for part in step.params.chunk(2))
        else:
            self.theta = step.params
        return step

    def _gradient(self, chunk: Chunk, tasks: int) -> tuple[Tensor, Tensor, list[Gaussian]]:
        """Return each task's share of the gradient and of the loss, and the old policies."""
        start = self._start(self._learned(), len(chunk.merit))
        new = self._policies(start, chunk, second_order=not self.config.first_order)
        old = [policy.detach() for policy in new]
        losses = self._losses(new, old, chunk) / tasks
        (rows,) = grad(losses.sum(), start)
        return rows, losses.detach(), old

    def _moved(self, params: Tensor, chunk: Chunk, old: list[Gaussian]) -> Tensor:
        """(m, 2) losses, and KL divergences of the adapted policies, with `params` learned."""
        start = self._start(params, len(chunk.merit))
        new = [policy.detach() for policy in self._policies(start, chunk, second_order=False)]
        kl = (old[-1].kl(new[-1]) * chunk.batches[-1].weight).sum(1)
        return torch.stack((self._losses(new, old, chunk), kl), 1)

    def _policies(self, start: Tensor, chunk: Chunk, *, second_order: bool) -> list[Gaussian]:
        """Return the adapted policy, and before it those of the inner steps if it is credited."""
        chain = self._adapted(start, chunk.batches[:-1], second_order=second_order)
        first = 0 if self.config.exploration_credit else -1
        pairs = zip(chain[first:], chunk.batches[first:], strict=True)
        return [self.policy(phi, batch.obs) for phi, batch in pairs]

    def _losses(self, new: list[Gaussian], old: list[Gaussian], chunk: Chunk) -> Tensor:
        """(m,) mean over samples of −π_new / π_old A, less the credit of the exploration."""
        last = chunk.batches[-1]
        losses = -(last.ratio(new[-1], old[-1]) * last.advantage * last.weight).sum(1)
        if self.config.exploration_credit:
            credit = chunk.credit(new[:-1], old[:-1])
            losses = losses - self.config.exploration_credit * credit
        return losses

    def _learned(self) -> Tensor:
        """(D,) the prior, or (2 D,) with the logarithms of the step sizes behind it."""
        return torch.cat((self.theta, self.log_lr)) if self.config.learn_inner_lr else self.theta

    def _start(self, params: Tensor, tasks: int) -> Tensor:
        """Return M copies of what is learned, to differentiate by."""
        return params.expand(tasks, -1).clone().requires_grad_()

    def _adapted(self, start: Tensor, batches: list[Batch], *, second_order: bool) -> list[Tensor]:
        """Return [φ_0, …, φ_K] of M copies of what is learned; see `InnerLoop.adapted`."""
        if not self.config.learn_inner_lr:
            return self.inner.adapted(start, batches, second_order=second_order)
        theta, log_lr = start.chunk(2, dim=1)
        return self.inner.adapted(theta, batches, second_order=second_order, lr=log_lr.exp())

    def _fisher_product(self, chunks: list[Chunk], tasks: int) -> Linear:
        """Return v -> Jᵀ F J v, the Hessian of the mean KL at the old policy.

        F is the Fisher matrix of the adapted policy and J = ∂φ/∂θ; with step sizes that are
        learned, J = ∂φ/∂(θ, log α). The inner steps of one chunk are kept for all products; of
        several, they are computed anew for each, so that no two chunks' are in memory.
        """
        stride = max(1, round(1 / self.config.fisher_fraction))
        thin = [[batch.every(stride) for batch in chunk.batches] for chunk in chunks]
        kept = self._fisher_rows(thin[0], tasks) if len(thin) == 1 else None

        def product(vector: Tensor) -> Tensor:
            rows = [(kept or self._fisher_rows(batches, tasks))(vector) for batches in thin]
            return self.sum_tasks(torch.cat(rows)) + self.config.cg_damping * vector

        return product

    def _fisher_rows(self, batches: list[Batch], every: int) -> Linear:
        """Return v -> (m, D) each task's share of Jᵀ F J v."""
        *inner, last = batches
        tasks = len(last.obs)
        with torch.enable_grad():
            start = self._start(self._learned(), tasks)
            chain = self._adapted(start, inner, second_order=not self.config.first_order)
            forward, back = self._jacobian(start, chain)
        phi = chain[-1].detach()
        pull_back = torch.func.vjp(lambda p: self.policy.mean(p, last.obs), phi)[1]
        log_std = self.policy(phi, last.obs[:, :1]).log_std
        inverse_variance = torch.exp(-2 * log_std) * last.weight[..., None] / every
        stds = log_std.shape[-1]
        free = phi[:, -stds:] > self.policy.min_log_std

        def product(vector: Tensor) -> Tensor:
            by_task = forward(vector.expand(tasks, -1))
            tangent = _jvp(lambda p: self.policy.mean(p, last.obs), phi, by_task)
            (fisher,) = pull_back(inverse_variance * tangent)
            # the log std is free of the state, and its Fisher information is 2, 0 at the floor
            fisher[:, -stds:] += 2 * (free * by_task[:, -stds:]) / every
            return back(fisher)

        return product

    def _jacobian(self, start: Tensor, chain: list[Tensor]) -> tuple[Linear, Linear]:
        """Return v -> J v and u -> Jᵀ u, task by task, J = ∂φ_K/∂start.

        An inner step's Jacobian I − α∇²L is symmetric where α is one number, so one vector-Jacobian
        product serves as both J_k and J_kᵀ. Otherwise J v is the derivative of ⟨Jᵀ u, v⟩ by u.
        """
        pairs = [] if self.config.first_order else list(itertools.pairwise(chain))

        def through(pairs: list[tuple[Tensor, Tensor]]) -> Linear:
            def product(vector: Tensor) -> Tensor:
                for of, by in pairs:
                    (vector,) = grad(of, by, vector, retain_graph=True)
                return vector

            return product

        if not self.config.learn_inner_lr:
            steps = [(after, before) for before, after in pairs]
            return through(steps), through(steps[::-1])
        u = torch.zeros_like(chain[-1], requires_grad=True)
        (pulled,) = grad(chain[-1], start, u, create_graph=True)
        return through([(pulled, u)]), through([(chain[-1], start)])

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (D,), and the logarithms of the step sizes, (D,), if learned."""
        sizes = {"log_inner_lr": self.log_lr} if self.config.learn_inner_lr else {}
        return {"theta": self.theta} | sizes

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over a prior."""
        load_tensors(self.state_dict(), tensors, self.name)

    def upgrade_adapted(self, tensors: dict[str, Tensor], rounds: int) -> dict[str, Tensor]:
        """Add the number of inner steps, which earlier versions did not save."""
        return {"state.steps": torch.tensor(rounds), **tensors}


def _jvp(function: Callable[[Tensor], Tensor], point: Tensor, tangent: Tensor) -> Tensor:
    """Return the Jacobian-vector product, without the warning that torch's first one gives.

    torch loads its rules of forward differentiation by torch.jit.script, which it deprecates.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch\\.jit")
        return torch.func.jvp(function, (point,), (tangent,))[1]
