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

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.inner_loop import Batch, InnerLoop, Phases, State
from metarl.modules.settings import Count, Fraction, Layers, NonNegative, Positive, Settings
from metarl.modules.trust_region import TrustRegionStep, trust_region_step
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds

Linear = Callable[[Tensor], Tensor]
"""A linear map of vectors, one for each task."""


@dataclass(frozen=True)
class MamlTrpoConfig(Settings):
    """Settings of MAML-TRPO; the defaults follow the ProMP authors' sweep (ICLR 2019)."""

    inner_steps: Count = 1
    """Gradient steps that adapt the policy, each on fresh rollouts."""
    inner_lr: Positive = 0.1
    """Step size α of the adaptation."""
    learn_inner_lr: bool = False
    """Learn a step size for each parameter, which begins as inner_lr (Meta-SGD)."""
    first_order: bool = False
    """Drop the second derivative through the inner steps (FOMAML)."""
    max_kl: Positive = 0.01
    """Trust region δ: mean KL divergence of the adapted policies, in nats."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 1.0
    """λ of the advantage estimation; 1 is Monte Carlo."""
    hidden: Layers = (64, 64)
    """Units of the hidden layers (tanh)."""
    action_scale: Positive = 0.1
    """Action that one unit of network output stands for."""
    init_std: Positive = 1.0
    """Initial exploration, in network output: times action_scale it is an action's std."""
    min_std: Positive = 1e-3
    """Floor of the exploration, in network output: the inner gradient needs some to be told apart
    from noise."""
    cg_iterations: Count = 10
    """Conjugate-gradient iterations."""
    cg_damping: NonNegative = 1e-3
    """Added to the Fisher matrix's diagonal."""
    fisher_fraction: Fraction = 0.2
    """Share of each task's samples that the Fisher matrix is estimated on: every n-th of them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")


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
        self.policy = GaussianMLP(
            spec.observation_size, spec.action_size, config.hidden,
            action_scale=config.action_scale, init_std=config.init_std, min_std=config.min_std,
        )  # fmt: skip
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
        prior = self.theta.expand(len(data.batches[0].obs), -1)
        agreement = self.sum_tasks(self.inner.agreement(prior, data.batches[0]))
        agreement = float(agreement) / self._count(data.batches[0])
        step = self._trust_region_step(data.batches)
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

    def _count(self, batch: Batch) -> int:
        """Return the number of tasks of the iteration, in all processes together."""
        return int(self.sum_tasks(torch.ones(len(batch.obs), device=self.device)))

    @torch.enable_grad()
    def _trust_region_step(self, batches: list[Batch]) -> TrustRegionStep:
        """Make the trust-region step on θ, given the data of every phase."""
        *inner, last = batches
        tasks, every = len(last.obs), self._count(last)
        start = self._start(self._learned(), tasks)
        phi = self._adapted(start, inner, second_order=not self.config.first_order)[-1]
        new = self.policy(phi, last.obs)
        old = new.detach()
        losses = self._surrogate(new, old, last) / every
        (by_task,) = grad(losses.sum(), start)
        del phi, new

        @torch.enable_grad()
        def objective(params: Tensor) -> tuple[Tensor, Tensor]:
            start = self._start(params, tasks)
            adapted = self._adapted(start, inner, second_order=False)[-1].detach()
            with torch.no_grad():
                policy = self.policy(adapted, last.obs)
                kl = (old.kl(policy) * last.weight).sum(1)
                both = torch.stack((self._surrogate(policy, old, last), kl), 1)
                loss, kl = self.sum_tasks(both) / every
                return loss, kl

        step = trust_region_step(
            self._learned(), self.sum_tasks(by_task), self._fisher_product(batches), objective,
            float(self.sum_tasks(losses.detach())), max_kl=self.config.max_kl,
            iterations=self.config.cg_iterations,
        )  # fmt: skip
        if self.config.learn_inner_lr:
            self.theta, self.log_lr = (part.clone() for part in step.params.chunk(2))
        else:
            self.theta = step.params
        return step

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

    def _surrogate(self, new: Gaussian, old: Gaussian, batch: Batch) -> Tensor:
        """(M,) mean over samples of −π_new / π_old A."""
        ratio = torch.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
        return -(ratio * batch.advantage * batch.weight).sum(1)

    def _fisher_product(self, batches: list[Batch]) -> Callable[[Tensor], Tensor]:
        """Return v -> Jᵀ F J v, the Hessian of the mean KL at the old policy.

        F is the Fisher matrix of the adapted policy and J = ∂φ/∂θ; with step sizes that are
        learned, J = ∂φ/∂(θ, log α).
        """
        stride = max(1, round(1 / self.config.fisher_fraction))
        *inner, last = [batch.every(stride) for batch in batches]
        tasks, every = len(last.obs), self._count(last)
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
            return self.sum_tasks(back(fisher)) + self.config.cg_damping * vector

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
