"""The natural-gradient step with a bounded KL divergence (TRPO, Schulman et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


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
