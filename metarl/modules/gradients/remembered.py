"""Rollouts that are learned from again, when the policies that collected them have moved on.

What is kept of a transition are W = O + A + 3 numbers: observation, action, advantage, weight, and
the action's log-probability under the policy that took it. Learning from them is by

    L(φ; D) = −E[r A],    r = π_φ(a|s) / π_then(a|s)

with importance weights that are cut off: where r is above c, its gradient is as if r were c (as in
V-trace, Espeholt et al. 2018). PPO's clip would leave out what has become likelier already, which
after an inner step is much of what a policy would learn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.modules.gradients.inner_loop import Batch, TaskPolicy

LARGEST_LOG_RATIO = 20.0
"""Beyond it the numbers would overflow, and the gradient is 0."""


def width(observation_size: int, action_size: int) -> int:
    """Return W."""
    return observation_size + action_size + 3


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Cut rollouts, rollout after rollout, into those to adapt to and those to judge by."""
    half = batch.weight.shape[1] // 2
    return Batch(*(part[:, :half] for part in batch)), Batch(*(part[:, half:] for part in batch))


@torch.no_grad()
def kept(
    policy: TaskPolicy, batches: Sequence[Batch], params: Sequence[Tensor], count: int
) -> Tensor:
    """Return (M, P, S, W): of P batches, S = `count` transitions each, evenly spread.

    Args:
        policy: the layout of the policies.
        batches: (M, N, …) each.
        params: (M, D), who collected each of them.
        count: S; if there are fewer transitions, some are there more than once.
    """
    found = []
    for batch, own in zip(batches, params, strict=True):
        every = torch.arange(count, device=own.device) * batch.weight.shape[1] // count
        part = Batch(*(tensor[:, every] for tensor in batch))
        numbers = part.advantage, part.weight, policy(own, part.obs).log_prob(part.action)
        found.append(torch.cat((part.obs, part.action, torch.stack(numbers, -1)), -1))
    return torch.stack(found, 1)


def weighted_loss(
    policy: TaskPolicy, params: Tensor, rows: Tensor, actions: int, max_ratio: float
) -> Tensor:
    """Return L(φ; D) summed over m policies, each on rows of its own.

    Args:
        policy: the layout of the policies.
        params: (m, D) φ.
        rows: (m, N, W).
        actions: A.
        max_ratio: c.
    """
    obs, action, *rest = rows.split((rows.shape[-1] - actions - 3, actions, 1, 1, 1), -1)
    advantage, weight, then = (part[..., 0] for part in rest)
    log_ratio = policy(params, obs).log_prob(action) - then
    ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    ratio = ratio * (max_ratio / ratio.detach().clamp(min=max_ratio))
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    return -(ratio * advantage * weight).sum()
