"""Adam on a clipped surrogate of policies that inner steps adapt (ProMP, Rothfuss et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.modules.gradients.inner_loop import Batch, Chunk, MetaGradientSettings, Phases
from metarl.modules.optim import FlatAdam
from metarl.modules.ppo import clipped_surrogate
from metarl.modules.settings import Count, NonNegative, Positive
from metarl.networks.task_mlp import Gaussian


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
    learned: FlatAdam, kl_weight: float | Tensor, data: Phases, policies: MetaPolicies,
    config: ProximalSettings, sum_tasks: Callable[[Tensor], Tensor],
) -> tuple[dict[str, float], Tensor]:  # fmt: skip
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
        Metrics: those of the data, η, the loss, and the KL divergences after adaptation and, of
        inner steps, before it. Then η for the next meta-update, in float64.
    """
    eta = float(kl_weight)
    tasks = float(sum_tasks(torch.ones_like(data.returns[-1])))
    chunks = data.chunks(config.task_chunk, sum_tasks)

    def copies(chunk: Chunk) -> Tensor:
        rows = learned.params.detach().expand(len(chunk.merit), -1)
        return rows.clone().requires_grad_()

    def terms(chunk: Chunk, start: Tensor, before: list[Gaussian]) -> Tensor:
        new = policies(start, chunk.batches, before)
        return _terms(new, before, chunk, eta, config)

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
    moved = [terms(c, copies(c), before).detach() for c, before in zip(chunks, old, strict=True)]
    means = (sum_tasks(torch.cat(moved)) / tasks).tolist()
    metrics = dict(zip(("loss", "inner_kl", "kl"), means, strict=True))
    after = adapted_kl_weight(eta, metrics["inner_kl"], config.desired_kl)
    metrics = data.metrics(sum_tasks) | metrics | {"kl_weight": eta}
    return metrics, torch.tensor(after, dtype=torch.float64)


def _terms(
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
