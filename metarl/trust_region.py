"""The natural-gradient step with a bounded KL divergence (TRPO, Schulman et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from sb3_contrib.common.utils import conjugate_gradient_solver
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
    direction = conjugate_gradient_solver(fisher_product, gradient, max_iter=iterations)
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
