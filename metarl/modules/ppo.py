"""Proximal policy optimisation (Schulman et al. 2017): the parts that do not depend on the network.

Also how its gradients get every core: see `thread_pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.distributed import ALONE, Ranks
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.base.threads import worker_threads
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Fraction, NonNegative, Positive, Settings
from metarl.networks.categorical import Categorical
from metarl.networks.task_mlp import Gaussian


@dataclass(frozen=True)
class ClippedSettings(Settings):
    """Settings of the objective and its optimiser, whatever the network."""

    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 0.95
    """λ of the advantage estimation; 1 is Monte Carlo."""
    clip: Positive = 0.2
    """ε: how far the probability of an action may move before its gain stops to count."""
    lr: Positive = 1e-3
    """Initial step size of Adam."""
    desired_kl: NonNegative = 0.02
    """KL divergence of an iteration, in nats, that the step size is adapted to; 0 keeps it."""
    lr_decay_steps: Count | None = None
    """Environment steps over which the desired divergence, or a step size that is kept, falls
    linearly to a fiftieth; default: never."""
    entropy_weight: NonNegative = 0.0
    """Weight of the policy's entropy."""
    value_weight: NonNegative = 0.5
    """Weight of the value function's loss."""
    max_grad_norm: Positive = 0.5
    """Longer gradients are scaled down to this."""
    init_std: Positive = 0.5
    """Initial exploration: standard deviation of an action, in units of half its range."""
    min_std: Positive = 0.02
    """Floor of the exploration."""
    state_std: bool = False
    """Whether the standard deviation of an action depends on the state."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.init_std < self.min_std:  # below the floor it has no gradient
            raise UserError(f"init_std must be at least min_std = {self.min_std}")


class Batch(NamedTuple):
    """What gradient steps are made on: in a row, steps of a task or of a trial."""

    inputs: Tensor
    """(…, N, I)"""
    action: Tensor
    """(…, N, A)"""
    log_prob: Tensor
    """(…, N), when it was chosen"""
    advantage: Tensor
    """(…, N); gradient steps are made on normalised ones"""
    target: Tensor
    """(…, N), for the value function"""
    weight: Tensor
    """(…, N), 1, or 0 where the physics diverged"""
    begins: Tensor | None = None
    """(…, N) bool, where a trial begins, of trials that begin within the rows"""

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Return batches side by side in the second axis."""
        names = [name for name, part in parts[0]._asdict().items() if part is not None]
        columns = {name: torch.cat([getattr(part, name) for part in parts], 1) for name in names}
        return parts[0]._replace(**columns)

    def select(self, ids: Tensor) -> Batch:
        """Return the columns `ids` of the second axis: transitions of a task, or worlds."""
        parts = self._asdict().items()
        return self._replace(**{name: part[:, ids] for name, part in parts if part is not None})


def objective(
    policy: Gaussian | Categorical, error: Tensor, part: Batch, total: Tensor,
    config: ClippedSettings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the loss of steps, and metrics: sums over the steps by their weights.

    Args:
        policy: the distribution of each step's action.
        error: (…) of the value function at each step.
        part: the steps.
        total: weight of all steps that the mean is over, of which these may be a part.
        config: clipping, and the weights of the loss's terms.

    Returns:
        The loss; and (5,) policy loss, value loss, KL divergence, share of clipped ratios, entropy.
    """
    weight = part.weight / total
    log_ratio = policy.log_prob(part.action) - part.log_prob
    gain = (clipped_surrogate(log_ratio, part.advantage, config.clip) * weight).sum()
    value_loss, entropy = (error * weight).sum(), (policy.entropy() * weight).sum()
    loss = -gain + config.value_weight * value_loss - config.entropy_weight * entropy
    with torch.no_grad():
        ratio = log_ratio.exp()
        kl = ((ratio - 1 - log_ratio) * weight).sum()  # Schulman's estimate: never negative
        outside = (((ratio - 1).abs() > config.clip) * weight).sum()
        return loss, torch.stack((-gain, value_loss, kl, outside, entropy))


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return PPO's objective min(ρ A, clip(ρ, 1 ± ε) A), to be maximised, element by element.

    Args:
        log_ratio: log ρ, new minus old log-probability.
        advantage: A.
        clip: ε.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def adapted_lr(lr: float, kl: float, desired_kl: float) -> float:
    """Return the step size for the next iteration, given the KL divergence of this one.

    Half as much again where the policy moved by less than half the desired divergence, and a third
    less where by more than twice; within [1e-5, 1e-2]. A desired divergence of 0 keeps it.
    """
    if not desired_kl:
        return lr
    if kl > 2 * desired_kl:
        return max(lr / 1.5, 1e-5)
    return min(lr * 1.5, 1e-2) if kl < desired_kl / 2 else lr


def next_lr(lr: float, kl: float, env_steps: float, config: ClippedSettings) -> float:
    """Return the step size for the next iteration, by `adapted_lr` and the schedule.

    Args:
        lr: that of this one.
        kl: its divergence.
        env_steps: environment steps learned from so far.
        config: `lr`, `desired_kl` and `lr_decay_steps`.
    """
    left = 1.0
    if config.lr_decay_steps is not None:
        left = max(1 - env_steps / config.lr_decay_steps, 0.02)
    if not config.desired_kl:
        return config.lr * left
    return adapted_lr(lr, kl, config.desired_kl * left)


def normalized(x: Tensor, weight: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Return x with mean 0 and variance 1 where `weight` is 1, and 0 where that is 0.

    Args:
        x: of the shards that this process owns, side by side in its last dimension.
        weight: like x.
        ranks: over whose shards mean and variance are taken.
    """

    def total(values: Tensor) -> Tensor:
        parts = values.tensor_split(len(ranks.owned), -1)
        return ranks.sum([part.contiguous().sum() for part in parts])  # or the order would differ

    count = total(weight).clamp(min=1.0)
    centred = (x - total(x * weight) / count) * weight
    return centred / ((total(centred.square()) / count).sqrt() + 1e-8)


def discounted_sums(reward: Tensor, gamma: float) -> Tensor:
    """Return (T, B) sums of the rewards so far, each discounted by its age.

    Their spread is that of the returns, whatever the state: what to divide rewards by.
    """
    total, out = torch.zeros_like(reward[0]), torch.empty_like(reward)
    for t in range(len(out)):
        total = reward[t] + gamma * total
        out[t] = total
    return out


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """Give torch's threads to as many workers, on one thread each.

    A recurrence is many small products one after the other. Several threads to each of them wait
    for each other more than they compute; one thread to a share of the worlds does not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        workers = worker_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def minibatches(
    weight: Tensor, parts: int, key: Key, ranks: Ranks = ALONE
) -> list[tuple[list[Tensor], Tensor]]:
    """Cut a shuffled pass over N samples into at most `parts` minibatches of the same size.

    Args:
        weight: (M, N) of each sample in each of M losses; those of the shards that this process
            owns, side by side.
        parts: how many; each holds a part of every shard.
        key: orders the samples.
        ranks: whose shards they are.

    Returns:
        For each minibatch the ids of its samples in each shard that this process owns, and the
        weight (M, 1) of its samples in all shards, at least 1.
    """
    count, cut = weight.shape[1] // len(ranks.owned), []
    for place, shard in enumerate(ranks.owned):
        own = key if ranks.shards == 1 else key.fold("shard", shard)
        order = place * count + torch.randperm(count, generator=own.torch())
        cut.append(order.to(weight.device).chunk(parts))
    totals = ranks.sum(
        [torch.stack([weight[:, ids].sum(1, keepdim=True) for ids in chunks]) for chunks in cut]
    )
    return list(zip(map(list, zip(*cut, strict=True)), totals.clamp(min=1.0), strict=True))


def parts_of_trials(trials: int, most: int, least: int, device: torch.device) -> int:
    """Return in how many parts to compute trials side by side: on a GPU all of them at once.

    Args:
        trials: how many.
        most: parts, at most.
        least: trials in a part, for which a thread is worth its while.
        device: on which they are computed.
    """
    return max(1, min(most, trials // least)) if device.type == "cpu" else 1


def trial_ids(part: slice, most: int, least: int, device: torch.device) -> Sequence[Tensor]:
    """Return the ids of a shard's trials, cut for `parallel_gradient`; see `parts_of_trials`."""
    ids = torch.arange(part.start, part.stop, device=device)
    return ids.chunk(parts_of_trials(len(ids), most, least, device))


def parallel_gradient(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    params: Sequence[Tensor],
    shards: Sequence[Sequence[Tensor]],
    pool: ThreadPoolExecutor,
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], Tensor]:
    """Differentiate a loss that is a sum over worlds, part by part and side by side.

    The parts are added in order, so the sum has the same bits on any number of threads or ranks.

    Args:
        loss: ids of worlds -> their share of the loss, and metrics that add up likewise.
        params: what to differentiate with respect to.
        shards: the ids in each shard that this process owns, cut into parts.
        pool: who computes.
        ranks: over whose shards the gradients are added up.

    Returns:
        The gradient of each parameter, and the metrics.
    """

    def one(ids: Tensor) -> Tensor:
        with torch.enable_grad():
            value, metrics = loss(ids)
            gradient = torch.autograd.grad(value, params)
            return torch.cat([*(g.flatten() for g in gradient), metrics])

    done = iter(list(pool.map(one, [ids for parts in shards for ids in parts])))
    flat = ranks.sum([torch.stack([next(done) for _ in parts]).sum(0) for parts in shards])
    sizes = [param.numel() for param in params]
    *gradient, metrics = flat.split([*sizes, len(flat) - sum(sizes)])
    return [g.view_as(param) for g, param in zip(gradient, params, strict=True)], metrics


def gradient_steps(
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], adam: ClippedAdam, weight: Tensor,
    key: Key, *, epochs: int, parts: int, most: Callable[[int], int], max_norm: float,
    ranks: Ranks = ALONE,
) -> Tensor:  # fmt: skip
    """Pass over N samples several times in minibatches, with a step of Adam for each.

    Args:
        loss: ids of samples and the weight of the whole minibatch -> see `parallel_gradient`.
        adam: of the parameters, which change in place.
        weight: (N,) of each sample; those of the shards that this process owns, side by side.
        key: orders the samples.
        epochs: passes.
        parts: minibatches of a pass, at most.
        most: samples -> parts, at most, that are computed side by side.
        max_norm: longer gradients are scaled down to this.
        ranks: whose shards the samples are of.

    Returns:
        The mean metrics of the last pass.
    """
    metrics: list[Tensor] = []
    with thread_pool() as pool:
        for epoch in range(epochs):
            metrics, order = [], key.fold("minibatches", epoch)
            for chosen, total in minibatches(weight[None], parts, order, ranks):
                gradient, found = parallel_gradient(
                    lambda ids, total=total: loss(ids, total[0, 0]), adam.params,
                    [ids.chunk(most(len(ids))) for ids in chosen], pool, ranks,
                )  # fmt: skip
                adam.step(gradient, max_norm)
                metrics.append(found)
    return torch.stack(metrics).mean(0)
