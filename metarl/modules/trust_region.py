"""Meta-updates that stay near the old policy: by a bound on the KL divergence, or by clipping.

The natural-gradient step with a bounded divergence (TRPO, Schulman et al. 2015), for any loss; and
the steps of Adam on a clipped surrogate of policies that inner steps adapt (ProMP, Rothfuss et al.
2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.modules.inner_loop import Batch, Chunk, MetaGradientSettings, Phases
from metarl.modules.optim import FlatAdam
from metarl.modules.ppo import clipped_surrogate
from metarl.modules.settings import Count, NonNegative, Positive
from metarl.networks.task_mlp import Gaussian


class TrustRegionStep(NamedTuple):
    """What a step did."""

    params: Tensor
    """(D,) the new parameters, the old ones if nothing was accepted"""
    accepted: bool
    loss: float
    """of the new parameters"""
    kl: float
    """of the new parameters, at most max_kl if accepted"""
    trials: int
    """line-search trials made"""


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """Solve A x = b for a symmetric positive definite A, from x = 0 (Hestenes and Stiefel 1952).

    sb3-contrib's solver starts from random numbers of torch's global generator, so the same seed
    would not give the same weights; hence one of our own.

    Args:
        product: v -> A v, (D,) to (D,).
        b: (D,).
        iterations: at most.
        tolerance: stop when the squared residual has fallen to this fraction of |b|².
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = start = residual @ residual
    for _ in range(iterations):
        if squared <= tolerance * start:
            break
        image = product(direction)
        curvature = direction @ image
        if not curvature > 0:  # A is not positive definite along it, or not finite
            break
        step = squared / curvature
        x += step * direction
        residual -= step * image
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
    return x


def trust_region_step(
    params: Tensor,
    gradient: Tensor,
    fisher_product: Callable[[Tensor], Tensor],
    objective: Callable[[Tensor], tuple[Tensor, Tensor]],
    loss: float,
    *,
    max_kl: float,
    iterations: int = 10,
    backtrack: float = 0.8,
    max_trials: int = 15,
) -> TrustRegionStep:
    """Minimise a loss within a KL ball: s ∝ F⁻¹g, scaled to ½ sᵀFs = max_kl, then backtracked.

    Args:
        params: (D,) where the gradient was taken.
        gradient: (D,) of the loss.
        fisher_product: v -> F v, with F the Hessian of the KL at `params`.
        objective: params -> (loss, KL from the old policy).
        loss: the loss at `params`.
        max_kl: δ; a candidate is accepted only with a lower loss and a KL of at most δ.
        iterations: of conjugate gradients.
        backtrack: factor from one trial to the next.
        max_trials: candidates before giving up and keeping `params`.
    """
    unchanged = TrustRegionStep(params, False, loss, 0.0, 0)
    if not torch.isfinite(gradient).all() or gradient.norm() == 0:
        return unchanged
    direction = conjugate_gradient(fisher_product, gradient, iterations)
    curvature = float(direction @ fisher_product(direction))
    if not math.isfinite(curvature) or curvature <= 0:
        return unchanged
    full = math.sqrt(2 * max_kl / curvature) * direction
    for trial in range(max_trials):
        candidate = params - backtrack**trial * full
        new_loss, kl = (float(x) for x in objective(candidate))
        if math.isfinite(new_loss) and new_loss < loss and kl <= max_kl:
            return TrustRegionStep(candidate, True, new_loss, kl, trial + 1)
    return unchanged._replace(trials=max_trials)


# --- clipping --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProximalSettings(MetaGradientSettings):
    """Settings of a clipped meta-gradient (ProMP, Rothfuss et al. 2019)."""

    lr: Positive = 1e-3
    """Step size of Adam in the meta-update."""
    epochs: Count = 5
    """Gradient steps of a meta-update."""
    clip: Positive = 0.3
    """ε: how far the probability of an action may move before its gain stops to count."""
    kl_weight: NonNegative = 5e-4
    """η, of the mean KL divergence of the policies before each inner step; its first value where
    desired_kl is given."""
    desired_kl: NonNegative = 0.0
    """KL divergence of the policies before each inner step, in nats, that η is adapted to after
    each meta-update; 0 keeps η."""


MetaPolicies = Callable[[Tensor, Sequence[Batch], Sequence[Gaussian]], list[Gaussian]]
"""(m, D) copies of what is learned, the batches of m tasks, and the old policies or none -> the
policies of every phase; with old policies they can be differentiated by the copies."""


@torch.enable_grad()
def proximal_update(
    learned: FlatAdam,
    kl_weight: float,
    data: Phases,
    policies: MetaPolicies,
    config: ProximalSettings,
    sum_tasks: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Make steps of Adam on the clipped surrogate of the policies after adaptation, in place.

        J = mean_m[−E[min(r A, clip(r, 1 ± ε) A)] + η mean_k KL(π_old,k ‖ π_k)],  r = π_K / π_old,K

    Args:
        learned: (D,) what is learned, and Adam's state.
        kl_weight: η.
        data: of this process's tasks.
        policies: how the policies depend on what is learned.
        config: the settings.
        sum_tasks: `Learner.sum_tasks`.

    Returns:
        Metrics: the loss and the KL divergences after adaptation and, of inner steps, before it.
    """
    tasks = float(sum_tasks(torch.ones_like(data.returns[-1])))
    chunks = data.chunks(config.task_chunk, sum_tasks)

    def copies(chunk: Chunk) -> Tensor:
        rows = learned.params.detach().expand(len(chunk.merit), -1)
        return rows.clone().requires_grad_()

    def terms(chunk: Chunk, start: Tensor, before: list[Gaussian]) -> Tensor:
        new = policies(start, chunk.batches, before)
        return _proximal_terms(new, before, chunk, kl_weight, config)

    old = [
        [policy.detach() for policy in policies(copies(chunk), chunk.batches, ())]
        for chunk in chunks
    ]
    for _ in range(config.epochs):
        rows = []
        for chunk, before in zip(chunks, old, strict=True):
            start = copies(chunk)
            rows += grad(terms(chunk, start, before)[:, 0].sum(), start)
        learned.step(sum_tasks(torch.cat(rows)) / tasks)
    after = [terms(c, copies(c), before).detach() for c, before in zip(chunks, old, strict=True)]
    means = (sum_tasks(torch.cat(after)) / tasks).tolist()
    return dict(zip(("loss", "inner_kl", "kl"), means, strict=True))


def _proximal_terms(
    new: list[Gaussian], old: list[Gaussian], chunk: Chunk, kl_weight: float,
    config: ProximalSettings,
) -> Tensor:  # fmt: skip
    """(m, 3) J of each task, and the KL divergences before adaptation and after it."""
    last = chunk.batches[-1]
    log_ratio = new[-1].log_prob(last.action) - old[-1].log_prob(last.action)
    gain = (clipped_surrogate(log_ratio, last.advantage, config.clip) * last.weight).sum(1)
    if config.exploration_credit:
        gain = gain + config.exploration_credit * chunk.credit(new[:-1], old[:-1])
    kl = [
        (o.kl(n) * batch.weight).sum(1) for o, n, batch in zip(old, new, chunk.batches, strict=True)
    ]
    inner_kl = torch.stack(kl[:-1]).mean(0)
    return torch.stack((kl_weight * inner_kl - gain, inner_kl, kl[-1]), 1)


def adapted_kl_weight(weight: float, kl: float, desired_kl: float) -> float:
    """Return η for the next meta-update: half or twice as much where KL is far from desired.

    That is 1.5 times less or more than desired (Schulman et al. 2017, section 4). A desired
    divergence of 0 keeps it.
    """
    if desired_kl and kl < desired_kl / 1.5:
        return weight / 2
    return weight * 2 if desired_kl and kl > 1.5 * desired_kl else weight
