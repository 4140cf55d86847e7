"""The inner loop of gradient-based meta-learning: a policy-gradient step in every task at once.

Algorithms that adapt by gradients (MAML and its kin) share it: a Gaussian policy with parameters of
its own in each task, a baseline fitted to each task's data, and the step

    φ_{k+1} = φ_k − α ∇ L_k(φ_k),      L_k(φ) = −E_k[log π_φ(a|s) A]

All tasks are one tensor: parameters are (M, D), data (M, N, …), and no loop runs over tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.errors import UserError
from metarl.modules.returns import LinearBaseline, generalized_advantages
from metarl.modules.settings import Count, Fraction, Layers, NonNegative, Positive, Settings
from metarl.networks.task_mlp import Gaussian, GaussianMLP
from metarl.worlds.rollout import Rollout, collect, mean_over_tasks

if TYPE_CHECKING:
    from metarl.base.keys import Key
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.policy import Policy
    from metarl.worlds.vector import Spec, Step, VecWorlds

TaskPolicy = Callable[[Tensor, Tensor], Gaussian]
"""What adapts, (M, D), and observations (M, N, O) -> the action distributions of M policies."""


@dataclass(frozen=True)
class InnerSettings(Settings):
    """Settings of what adapts by policy gradients, and of the policy."""

    inner_steps: Count = 1
    """Gradient steps that adapt the policy, each on fresh rollouts."""
    inner_lr: Positive = 0.1
    """Step size α of the adaptation."""
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

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")

    def policy(self, spec: Spec, context: int = 0) -> GaussianMLP:
        """Return the layout of the policies, which see `context` numbers beside the observation."""
        return GaussianMLP(
            spec.observation_size + context, spec.action_size, self.hidden,
            action_scale=self.action_scale, init_std=self.init_std, min_std=self.min_std,
        )  # fmt: skip


@dataclass(frozen=True)
class MetaGradientSettings(InnerSettings):
    """Settings of a meta-gradient that passes through the inner steps."""

    first_order: bool = False
    """Drop the second derivative through the inner steps (FOMAML)."""
    exploration_credit: NonNegative = 0.0
    """Weight of the return after adaptation as the merit of the actions before it (E-MAML)."""
    task_chunk: Count | None = None
    """Tasks whose meta-gradient is computed at once, at least 2; fewer take less memory, for the
    same result; default: all of them."""


class State(NamedTuple):
    """M policies."""

    params: Tensor
    """(M, D)"""
    steps: int = 0
    """Inner steps taken since the prior"""


class Batch(NamedTuple):
    """The data of one rollout phase, by task."""

    obs: Tensor
    """(M, N, O)"""
    action: Tensor
    """(M, N, A)"""
    advantage: Tensor
    """(M, N), normalized in each task"""
    weight: Tensor
    """(M, N), sums to 1 in each task, 0 where the physics diverged"""

    def every(self, stride: int) -> Batch:
        """Return every `stride`-th sample of each task, with weights that sum to 1 again."""
        obs, action, advantage, weight = (part[:, ::stride] for part in self)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
        return Batch(obs.contiguous(), action.contiguous(), advantage.contiguous(), weight)

    def ratio(self, new: Gaussian, old: Gaussian) -> Tensor:
        """Return (M, N) how many times as likely the actions are as they were."""
        return torch.exp(new.log_prob(self.action) - old.log_prob(self.action))


class Chunk(NamedTuple):
    """Some of the tasks of an iteration, whose meta-gradient is computed at once."""

    batches: list[Batch]
    """K + 1 batches of m tasks"""
    merit: Tensor
    """(m,) the return after adaptation, with mean 0 and variance 1 over all tasks"""

    def credit(self, new: Sequence[Gaussian], old: Sequence[Gaussian]) -> Tensor:
        """Return (m,) Σ_k E[π_new,k / π_old,k] Ā: what E-MAML (Stadie et al. 2018) maximises.

        Its gradient is that of E[log π(a before)] Ā, with Ā the merit: rollouts that were adapted
        to well become likelier.

        Args:
            new: the policies of the phases before the last one.
            old: those that collected them.
        """
        terms = [
            (batch.ratio(n, o) * batch.weight).sum(1)
            for batch, n, o in zip(self.batches[:-1], new, old, strict=True)
        ]
        return self.merit * torch.stack(terms).sum(0)


class Phases(NamedTuple):
    """What one shard of an iteration collected: a batch and a return for each rollout phase."""

    batches: list[Batch]
    """K + 1 batches of M tasks: with the prior, and after each of K inner steps"""
    returns: list[Tensor]
    """K + 1 times (M,), the mean return of each task; NaN where all of its worlds diverged"""
    diverged: Tensor
    """(M,) diverged transitions of each task"""

    @classmethod
    def joined(cls, shards: Sequence[Phases]) -> Phases:
        """Return the data of several shards as those of one, in their order."""
        if len(shards) == 1:
            return shards[0]
        batches = [
            Batch(*(torch.cat(parts) for parts in zip(*same, strict=True)))
            for same in zip(*(shard.batches for shard in shards), strict=True)
        ]
        returns = [torch.cat(same) for same in zip(*(s.returns for s in shards), strict=True)]
        return cls(batches, returns, torch.cat([shard.diverged for shard in shards]))

    def chunks(self, size: int | None, sum_tasks: Callable[[Tensor], Tensor]) -> list[Chunk]:
        """Return the data cut evenly into chunks of about `size` tasks; None leaves them in one.

        No chunk has one task if there are more: on several threads its matrix products add up in
        another order than those of two or more, and the result would depend on the size.
        """
        after = self.returns[-1]
        known = ~after.isnan()
        count = sum_tasks(known.to(after.dtype)).clamp(min=1.0)
        centred = torch.where(known, after - sum_tasks(after.nan_to_num()) / count, 0.0)
        merit = centred / ((sum_tasks(centred.square()) / count).sqrt() + 1e-8)
        merit = merit.to(self.batches[0].obs.dtype)
        parts = min(-(-len(merit) // size), max(len(merit) // 2, 1)) if size else 1
        cut = [[part.tensor_split(parts) for part in batch] for batch in self.batches]
        return [
            Chunk([Batch(*(part[i] for part in batch)) for batch in cut], some)
            for i, some in enumerate(merit.tensor_split(parts))
        ]

    def metrics(self, sum_tasks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the mean training returns before and after adaptation, and what diverged."""
        return {
            "return_before": mean_over_tasks(self.returns[0], sum_tasks),
            "return_after": mean_over_tasks(self.returns[-1], sum_tasks),
            "diverged": float(sum_tasks(self.diverged)),
        }


@dataclass(frozen=True)
class InnerLoop:
    """Acting with, and adapting, one Gaussian policy a task."""

    policy: TaskPolicy
    """The policies; what adapts of them is passed in."""
    lr: float | Tensor
    """Step size α, or (D,) one of each parameter (Meta-SGD, Li et al. 2017)."""
    gamma: float
    """Discount."""
    gae_lambda: float
    """λ of the advantage estimation."""
    steps: int = 1
    """K, the inner steps that the prior is trained for; see `adapt`."""

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

    def adapt(self, state: State, batch: Batch) -> State:
        """Return the state after one inner step in every task.

        The prior is trained so that K steps of size α end well, and further ones of that size
        overshoot. So step k is α K / k long beyond the K-th.
        """
        steps = state.steps + 1
        lr = self.lr * min(1.0, self.steps / steps)
        with torch.enable_grad():
            params = state.params.detach().clone().requires_grad_()
            (gradient,) = grad(self.loss(params, batch), params)
        return State((params - lr * gradient).detach(), steps)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Return the sum over tasks of the mean over samples of −log π(a|s) A."""
        log_prob = self.policy(params, batch.obs).log_prob(batch.action)
        return -(log_prob * batch.advantage * batch.weight).sum()

    def agreement(self, params: Tensor, batch: Batch) -> Tensor:
        """Return (M,) cosines between the inner gradients of two halves of a task's rollouts.

        Near 1 the inner step follows the task; near 0 it is noise, and more rollouts are needed.

        Args:
            params: (M, D).
            batch: its N samples are rollout after rollout.
        """
        half = batch.weight.shape[1] // 2
        gradients = []
        with torch.enable_grad():
            for part in (slice(None, half), slice(half, None)):
                start = params.detach().clone().requires_grad_()
                chosen = Batch(*(tensor[:, part] for tensor in batch))
                gradients.append(grad(self.loss(start, chosen), start)[0])
        return torch.cosine_similarity(*gradients, dim=1)

    def adapted(
        self,
        params: Tensor,
        batches: Sequence[Batch],
        *,
        second_order: bool,
        loss: Callable[[Tensor, int], Tensor] | None = None,
        lr: Tensor | None = None,
    ) -> list[Tensor]:
        """Return [φ_0, …, φ_K], (M, D) each: one inner step on each of K batches, from φ_0.

        Args:
            params: (M, D) φ_0, which requires a gradient.
            batches: K of them.
            second_order: whether the steps themselves can be differentiated.
            loss: (φ_k, k) -> the loss of inner step k, summed over tasks; the default is `loss`.
            lr: (M, D) step sizes to differentiate by; the default is `lr`.
        """
        chain = [params]
        for k, batch in enumerate(batches):
            value = loss(chain[-1], k) if loss else self.loss(chain[-1], batch)
            (gradient,) = grad(value, chain[-1], create_graph=second_order)
            chain.append(chain[-1] - (self.lr if lr is None else lr) * gradient)
        return chain

    def policies(
        self,
        params: Tensor,
        batches: Sequence[Batch],
        old: Sequence[Gaussian] = (),
        *,
        second_order: bool,
        lr: Tensor | None = None,
    ) -> list[Gaussian]:
        """Return the policies that collected K + 1 batches, as functions of φ_0.

        The inner losses are −E[π_φ(a|s) / π_old(a|s) A]. Where π_φ is π_old, their gradient is that
        of the policy-gradient loss, and their second derivative has one part more of that of the
        return, E[∇log π ∇log πᵀ A] (low-variance curvature, Rothfuss et al. 2019).

        Args:
            params: (M, D) φ_0, which requires a gradient.
            batches: K + 1 of them.
            old: the policies π_old; the default is those that this returns.
            second_order: whether the inner steps themselves can be differentiated.
            lr: see `adapted`.
        """

        def loss(params: Tensor, k: int) -> Tensor:
            new, batch = self.policy(params, batches[k].obs), batches[k]
            gain = batch.ratio(new, old[k] if old else new.detach()) * batch.advantage
            return -(gain * batch.weight).sum()

        chain = self.adapted(params, batches[:-1], second_order=second_order, loss=loss, lr=lr)
        return [self.policy(phi, batch.obs) for phi, batch in zip(chain, batches, strict=True)]

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> Batch:
        """Fit the baseline, estimate advantages, and regroup by task, N = E T."""
        rollout = rollout.before_divergence()
        value, next_value = LinearBaseline(self.gamma).values(rollout)
        advantage = generalized_advantages(
            rollout.reward.double(), value, next_value, rollout.terminated | rollout.diverged,
            rollout.done, gamma=self.gamma, gae_lambda=self.gae_lambda,
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

    def collect(
        self, worlds: VecWorlds, actor: Policy, state: Any, tasks: Tasks, key: Key, steps: int,
        adapt: Callable[[Any, Batch], Any] | None = None,
    ) -> Phases:  # fmt: skip
        """Roll out and adapt in turns: with the prior, and after each of `steps` inner steps.

        Args:
            worlds: E for each task.
            actor: acts in the states that this makes.
            state: the prior in every task.
            tasks: M.
            key: of the iteration.
            steps: K.
            adapt: makes an inner step; the default is `adapt`.
        """
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        batches, returns = [], []
        diverged = torch.zeros(len(tasks), device=state.params.device)
        adapt = adapt or self.adapt
        for k in range(steps + 1):
            worlds.seed(key.fold("reset", k))
            worlds.reset()
            rollout, state = collect(
                worlds, actor, state, worlds.spec.horizon, key.fold("noise", k), explore=True
            )
            returns.append(rollout.return_by_task())
            diverged += rollout.per_task(rollout.diverged).flatten(1).sum(1)
            batches.append(self.batch(rollout))
            if k < steps:
                state = adapt(state, batches[k])
        return Phases(batches, returns, diverged)
