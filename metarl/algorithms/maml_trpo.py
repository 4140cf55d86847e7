"""MAML-TRPO (Finn et al. 2017): an initial policy from which one gradient step adapts.

For each task, roll out the prior θ, take K inner policy-gradient steps, and roll out the adapted
policy φ; then improve θ by a trust-region step on the adapted policies' surrogate, differentiating
through the inner steps:

    φ_0 = θ,   φ_{k+1} = φ_k − α ∇ L_k(φ_k),      L_k(φ) = −E_k[log π_φ(a|s) A]
    min_θ  E_m E[−π_φ(a|s) / π_old(a|s) A]   s.t.   E_m E[KL(π_old ‖ π_φ)] ≤ δ

All tasks are one tensor: parameters are (M, D), data (M, N, …), and no loop runs over tasks.
"""

from __future__ import annotations

import itertools
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


@dataclass(frozen=True)
class MamlTrpoConfig(Settings):
    """Settings of MAML-TRPO; the defaults follow the ProMP authors' sweep (ICLR 2019)."""

    inner_steps: Count = 1
    """Gradient steps that adapt the policy, each on fresh rollouts."""
    inner_lr: Positive = 0.1
    """Step size α of the adaptation."""
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
        self.inner = InnerLoop(
            self.policy, config.inner_lr, config.gamma, config.gae_lambda, config.inner_steps
        )
        self.theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)

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
        }

    def _count(self, batch: Batch) -> int:
        """Return the number of tasks of the iteration, in all processes together."""
        return int(self.sum_tasks(torch.ones(len(batch.obs), device=self.device)))

    @torch.enable_grad()
    def _trust_region_step(self, batches: list[Batch]) -> TrustRegionStep:
        """Make the trust-region step on θ, given the data of every phase."""
        *inner, last = batches
        tasks, every = len(last.obs), self._count(last)
        theta = self.theta.expand(tasks, -1).clone().requires_grad_()
        phi = self.inner.adapted(theta, inner, second_order=not self.config.first_order)[-1]
        new = self.policy(phi, last.obs)
        old = new.detach()
        losses = self._surrogate(new, old, last) / every
        (by_task,) = grad(losses.sum(), theta)
        del phi, new

        @torch.enable_grad()
        def objective(params: Tensor) -> tuple[Tensor, Tensor]:
            start = params.expand(tasks, -1).clone().requires_grad_()
            adapted = self.inner.adapted(start, inner, second_order=False)[-1].detach()
            with torch.no_grad():
                policy = self.policy(adapted, last.obs)
                kl = (old.kl(policy) * last.weight).sum(1)
                both = torch.stack((self._surrogate(policy, old, last), kl), 1)
                loss, kl = self.sum_tasks(both) / every
                return loss, kl

        step = trust_region_step(
            self.theta, self.sum_tasks(by_task), self._fisher_product(batches), objective,
            float(self.sum_tasks(losses.detach())), max_kl=self.config.max_kl,
            iterations=self.config.cg_iterations,
        )  # fmt: skip
        self.theta = step.params
        return step

    def _surrogate(self, new: Gaussian, old: Gaussian, batch: Batch) -> Tensor:
        """(M,) mean over samples of −π_new / π_old A."""
        ratio = torch.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
        return -(ratio * batch.advantage * batch.weight).sum(1)

    def _fisher_product(self, batches: list[Batch]) -> Callable[[Tensor], Tensor]:
        """Return v -> Jᵀ F J v, the Hessian of the mean KL at the old policy.

        F is the Fisher matrix of the adapted policy and J = ∂φ/∂θ. An inner step's Jacobian
        I − α∇²L is symmetric, so one vector-Jacobian product serves as both J_k and J_kᵀ.
        """
        stride = max(1, round(1 / self.config.fisher_fraction))
        *inner, last = [batch.every(stride) for batch in batches]
        tasks, every = len(last.obs), self._count(last)
        second_order = not self.config.first_order
        with torch.enable_grad():
            theta = self.theta.expand(tasks, -1).clone().requires_grad_()
            chain = self.inner.adapted(theta, inner, second_order=second_order)
        phi = chain[-1].detach()
        pull_back = torch.func.vjp(lambda p: self.policy.mean(p, last.obs), phi)[1]
        log_std = self.policy(phi, last.obs[:, :1]).log_std
        inverse_variance = torch.exp(-2 * log_std) * last.weight[..., None] / every
        stds = log_std.shape[-1]
        free = phi[:, -stds:] > self.policy.min_log_std

        def product(vector: Tensor) -> Tensor:
            by_task = vector.expand(tasks, -1)
            if second_order:
                for before, after in itertools.pairwise(chain):
                    (by_task,) = grad(after, before, by_task, retain_graph=True)
            tangent = _jvp(lambda p: self.policy.mean(p, last.obs), phi, by_task)
            (fisher,) = pull_back(inverse_variance * tangent)
            # the log std is free of the state, and its Fisher information is 2, 0 at the floor
            fisher[:, -stds:] += 2 * (free * by_task[:, -stds:]) / every
            if second_order:
                for before, after in reversed(list(itertools.pairwise(chain))):
                    (fisher,) = grad(after, before, fisher, retain_graph=True)
            return self.sum_tasks(fisher) + self.config.cg_damping * vector

        return product

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (D,)."""
        return {"theta": self.theta}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over a prior."""
        load_tensors({"theta": self.theta}, tensors, self.name)

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
