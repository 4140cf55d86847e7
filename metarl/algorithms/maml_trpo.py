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
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.errors import UserError
from metarl.keys import Key
from metarl.learner import Learner
from metarl.modules.networks import Gaussian, GaussianMLP
from metarl.modules.returns import LinearBaseline, generalized_advantages
from metarl.modules.trust_region import TrustRegionStep, trust_region_step
from metarl.rollout import Rollout, collect
from metarl.tasks import Tasks
from metarl.worlds import Spec, Step, TaskWorlds


@dataclass(frozen=True)
class MamlTrpoConfig:
    """Settings of MAML-TRPO; the defaults follow the ProMP authors' sweep (ICLR 2019)."""

    inner_steps: int = 1
    """Gradient steps that adapt the policy, each on fresh rollouts."""
    inner_lr: float = 0.1
    """Step size α of the adaptation."""
    first_order: bool = False
    """Drop the second derivative through the inner steps (FOMAML)."""
    max_kl: float = 0.01
    """Trust region δ: mean KL divergence of the adapted policies, in nats."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 1.0
    """λ of the advantage estimation; 1 is Monte Carlo."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers (tanh)."""
    action_scale: float = 0.1
    """Action that one unit of network output stands for."""
    init_std: float = 1.0
    """Initial exploration, in network output: times action_scale it is an action's std."""
    min_std: float = 1e-3
    """Floor of the exploration, in network output: the inner gradient needs some to be told apart
    from noise."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-3
    """Added to the Fisher matrix's diagonal."""
    fisher_fraction: float = 0.2
    """Share of each task's samples that the Fisher matrix is estimated on: every n-th of them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, least in (("inner_steps", 1), ("cg_iterations", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("inner_lr", "max_kl", "action_scale", "init_std", "min_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be positive and finite, not {value}")
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")
        for name in ("gamma", "gae_lambda", "fisher_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        if not (math.isfinite(self.cg_damping) and self.cg_damping >= 0):
            raise UserError(f"cg_damping must not be negative, not {self.cg_damping}")
        if not self.hidden or any(units < 1 for units in self.hidden):
            raise UserError(
                f"hidden must name at least one layer of positive size, not {self.hidden}"
            )


class State(NamedTuple):
    """M policies."""

    params: Tensor
    """(M, D)"""


class Batch(NamedTuple):
    """The data of one rollout phase, by task."""

    obs: Tensor
    """(M, N, O)"""
    action: Tensor
    """(M, N, A)"""
    advantage: Tensor
    """(M, N), normalised in each task"""
    weight: Tensor
    """(M, N), sums to 1 in each task, 0 where the physics diverged"""


class MamlTrpo(Learner):
    """Model-agnostic meta-learning with a trust-region meta-update."""

    name = "maml-trpo"
    Config = MamlTrpoConfig
    pools_worlds = True
    explores_to_adapt = True
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
        self.baseline = LinearBaseline(config.gamma)
        self.theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior."""
        return State(self.theta.expand(tasks, -1))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each task's own parameters: the mean, plus noise times the std to explore."""
        tasks = len(state.params)
        policy = self.policy(state.params, step.obs.unflatten(0, (tasks, -1)))
        action = policy.mean
        if explore and noise is not None:
            action = action + noise.unflatten(0, (tasks, -1)) * policy.log_std.exp()
        return action.flatten(0, 1), state

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take one inner policy-gradient step in every task."""
        return self._inner_step(state, self._batch(rollout))

    def _inner_step(self, state: State, batch: Batch) -> State:
        with torch.enable_grad():
            params = state.params.detach().clone().requires_grad_()
            (gradient,) = grad(self._inner_loss(params, batch), params)
        return State((params - self.config.inner_lr * gradient).detach())

    def _inner_loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Sum over tasks of the mean over samples of −log π(a|s) A."""
        log_prob = self.policy(params, batch.obs).log_prob(batch.action)
        return -(log_prob * batch.advantage * batch.weight).sum()

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> Batch:
        """Fit the baseline, estimate advantages, and regroup by task, N = E T."""
        rollout = rollout.before_divergence()
        value, next_value = self.baseline.values(rollout)
        advantage = generalized_advantages(
            rollout.reward.double(), value, next_value, rollout.terminated | rollout.diverged,
            rollout.done, gamma=self.config.gamma, gae_lambda=self.config.gae_lambda,
        )  # fmt: skip
        weight = rollout.per_task(rollout.valid.double()).flatten(1)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1.0)
        advantage = rollout.per_task(advantage).flatten(1)
        action = rollout.action.where(rollout.valid[..., None], 0.0)  # 0 times NaN is not 0
        mean = (advantage * weight).sum(1, keepdim=True)
        centred = torch.where(weight > 0, advantage - mean, 0.0)
        std = (centred.square() * weight).sum(1, keepdim=True).sqrt()
        return Batch(
            rollout.per_task(rollout.obs).flatten(1, 2),
            rollout.per_task(action).flatten(1, 2),
            (centred / (std + 1e-8)).to(rollout.obs.dtype),
            weight.to(rollout.obs.dtype),
        )

    # --- the meta-update -----------------------------------------------------------------------

    def meta_step(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> dict[str, float]:
        """Collect, adapt, collect, …, and make one trust-region step on the prior."""
        started = time.perf_counter()
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        state = self.begin(len(tasks), worlds.worlds_per_task)
        batches: list[Batch] = []
        returns: list[float] = []
        diverged = 0
        for k in range(self.config.inner_steps + 1):
            worlds.seed(key.fold("reset", k))
            worlds.reset()
            rollout, state = collect(
                worlds, self, state, self.spec.horizon, key.fold("noise", k), explore=True
            )
            returns.append(float(rollout.first_episode_return().mean()))
            diverged += int(rollout.diverged.sum())
            batches.append(self._batch(rollout))
            if k < self.config.inner_steps:
                state = self._inner_step(state, batches[k])
        sampled = time.perf_counter()
        step = self._update(batches)
        return {
            "return_before": returns[0],
            "return_after": returns[-1],
            "diverged": float(diverged),
            "kl": step.kl,
            "loss": step.loss,
            "accepted": float(step.accepted),
            "line_search_trials": float(step.trials),
            "std": float(
                self.policy(self.theta[None], batches[0].obs[:1, :1]).log_std.exp().mean()
            ),
            "seconds_sampling": sampled - started,
            "seconds_update": time.perf_counter() - sampled,
        }

    @torch.enable_grad()
    def _update(self, batches: list[Batch]) -> TrustRegionStep:
        """Make the trust-region step on θ, given the data of every phase."""
        tasks = len(batches[0].obs)
        theta = self.theta.expand(tasks, -1).clone().requires_grad_()
        phi = self._adapted(theta, batches, second_order=not self.config.first_order)[-1]
        new = self.policy(phi, batches[-1].obs)
        old = new.detach()
        loss = self._surrogate(new, old, batches[-1])
        (by_task,) = grad(loss, theta)
        del phi, new

        @torch.enable_grad()
        def objective(params: Tensor) -> tuple[Tensor, Tensor]:
            start = params.expand(tasks, -1).clone().requires_grad_()
            adapted = self._adapted(start, batches, second_order=False)[-1].detach()
            with torch.no_grad():
                policy = self.policy(adapted, batches[-1].obs)
                kl = (old.kl(policy) * batches[-1].weight).sum(1).mean()
                return self._surrogate(policy, old, batches[-1]), kl

        step = trust_region_step(
            self.theta, by_task.sum(0), self._fisher_product(batches), objective, loss.item(),
            max_kl=self.config.max_kl, iterations=self.config.cg_iterations,
        )  # fmt: skip
        self.theta = step.params
        return step

    def _adapted(self, theta: Tensor, batches: list[Batch], *, second_order: bool) -> list[Tensor]:
        """Recompute the inner steps from the stored data: [θ, φ_1, …, φ_K], each (M, D)."""
        chain = [theta]
        for batch in batches[:-1]:
            loss = self._inner_loss(chain[-1], batch)
            (gradient,) = grad(loss, chain[-1], create_graph=second_order)
            chain.append(chain[-1] - self.config.inner_lr * gradient)
        return chain

    def _surrogate(self, new: Gaussian, old: Gaussian, batch: Batch) -> Tensor:
        """Mean over tasks and samples of −π_new / π_old A."""
        ratio = torch.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
        return -(ratio * batch.advantage * batch.weight).sum(1).mean()

    def _fisher_product(self, batches: list[Batch]) -> Callable[[Tensor], Tensor]:
        """Return v -> Jᵀ F J v, the Hessian of the mean KL at the old policy.

        F is the Fisher matrix of the adapted policy and J = ∂φ/∂θ. An inner step's Jacobian
        I − α∇²L is symmetric, so one vector-Jacobian product serves as both J_k and J_kᵀ.
        """
        data = [self._subset(batch) for batch in batches]
        tasks, second_order = len(data[0].obs), not self.config.first_order
        with torch.enable_grad():
            theta = self.theta.expand(tasks, -1).clone().requires_grad_()
            chain = self._adapted(theta, data, second_order=second_order)
        phi, last = chain[-1].detach(), data[-1]
        pull_back = torch.func.vjp(lambda p: self.policy.mean(p, last.obs), phi)[1]
        log_std = self.policy(phi, last.obs[:, :1]).log_std
        inverse_variance = torch.exp(-2 * log_std) * last.weight[..., None] / tasks
        stds = log_std.shape[-1]
        free = phi[:, -stds:] > self.policy.min_log_std

        def product(vector: Tensor) -> Tensor:
            by_task = vector.expand(tasks, -1)
            if second_order:
                for before, after in itertools.pairwise(chain):
                    (by_task,) = grad(after, before, by_task, retain_graph=True)
            tangent = torch.func.jvp(lambda p: self.policy.mean(p, last.obs), (phi,), (by_task,))[1]
            (fisher,) = pull_back(inverse_variance * tangent)
            # the log std is free of the state, and its Fisher information is 2, 0 at the floor
            fisher[:, -stds:] += 2 * (free * by_task[:, -stds:]) / tasks
            if second_order:
                for before, after in reversed(list(itertools.pairwise(chain))):
                    (fisher,) = grad(after, before, fisher, retain_graph=True)
            return fisher.sum(0) + self.config.cg_damping * vector

        return product

    def _subset(self, batch: Batch) -> Batch:
        """Keep every n-th sample, a fraction `fisher_fraction` of each task's."""
        stride = max(1, round(1 / self.config.fisher_fraction))
        obs, action, advantage, weight = (part[:, ::stride] for part in batch)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
        return Batch(obs.contiguous(), action.contiguous(), advantage.contiguous(), weight)

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (D,)."""
        return {"theta": self.theta}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over a prior."""
        theta = tensors.get("theta")
        if set(tensors) != {"theta"} or theta is None or theta.shape != self.theta.shape:
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise UserError(
                f"the weights do not fit this maml-trpo: expected theta {tuple(self.theta.shape)}, "
                f"found {found}"
            )
        self.theta = theta.to(self.device, self.theta.dtype).clone()
