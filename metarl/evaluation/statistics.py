"""Interquartile means over tasks, and bootstrap intervals of them that cover 95 times in 100."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, stdtrit

from metarl.base.keys import Key

RESAMPLES = 2000
"""Bootstrap resamples behind every interval."""
FEWEST = 5
"""Tasks beyond one a stratum that an interval needs: no resampling of fewer covers 95 times in 100,
since none goes beyond the worst and the best of them."""


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the interquartile mean: the mean of the middle half (Agarwal et al. 2021)."""
    size = values.shape[axis]
    cut = size // 4
    middle = np.partition(values, (cut, size - cut - 1), axis).take(range(cut, size - cut), axis)
    return np.asarray(middle.mean(axis))


def iqm_interval(
    returns: np.ndarray, tasks: np.ndarray | list[list[float]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interquartile mean over tasks and its 95 % bootstrap interval.

    Rows of one and the same task (two directions, 15 rollouts each) form a stratum. The middle half
    is taken in each stratum, and the strata are averaged by their sizes: over all rows together it
    would be the upper half of the worse task and the lower half of the better one.

    Args:
        returns: (M, K+1), or differences of returns; of each column, tasks that are NaN in it are
            left out, and it gives NaN if all of them are.
        tasks: (M, P), which rows are the same task; see `resampled_rows`.
        rng: of the resampling.

    Returns:
        (K+1,) and (K+1, 2).
    """
    known = np.isfinite(returns)
    if not known.all():
        tasks = np.asarray(tasks, np.float64)
        parts = [
            iqm_interval(one[k, None], tasks[k], rng)
            if k.any()
            else (np.full(1, np.nan), np.full((1, 2), np.nan))
            for one, k in zip(returns.T, known.T, strict=True)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    label = _strata(tasks)
    resampled = _stratified_iqm(returns[_resampled(label, rng, RESAMPLES)], label, axis=1)
    low, high = np.percentile(resampled, _levels(label), axis=0)
    return _stratified_iqm(returns, label, axis=0), np.stack([low, high], axis=1)


def interval_over_seeds(
    returns: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the interquartile mean over seeds and tasks, and its 95 % bootstrap interval.

    Seeds are drawn anew, and tasks within each of them. Few seeds make it too narrow: of one, it
    says nothing of what another would give.

    Args:
        returns: (S, M), of S seeds on M tasks; tasks that are NaN for a seed are left out.
        rng: of the resampling.
    """
    returns = returns[:, np.isfinite(returns).all(0)]
    seeds, tasks = returns.shape
    if not tasks:
        return np.nan, np.nan, np.nan
    chosen = rng.integers(0, seeds, (RESAMPLES, seeds, 1))
    drawn = returns[chosen, rng.integers(0, tasks, (RESAMPLES, seeds, tasks))]
    low, high = np.percentile(iqm(drawn.reshape(RESAMPLES, -1), 1), [2.5, 97.5])
    return float(iqm(returns.flatten())), float(low), float(high)


def centre_over_seeds(
    returns: np.ndarray, tasks: np.ndarray | list[list[float]], rng: np.random.Generator, *,
    mean: bool = False,
) -> tuple[float, float, float]:  # fmt: skip
    """Return the mean over seeds of the interquartile mean over tasks, and its 95 % interval.

    Seeds are drawn anew, and tasks within each of them, by strata as in `iqm_interval`. Few seeds
    make it too narrow: of one, it says nothing of what another would give.

    Args:
        returns: (S, M), of S seeds on M tasks; tasks that are NaN for a seed are left out.
        tasks: (M, P), which columns are the same task; see `resampled_rows`.
        rng: of the resampling.
        mean: take the mean over tasks, and not the interquartile mean.
    """
    known = np.isfinite(returns).all(0)
    returns, tasks = returns[:, known], np.asarray(tasks, np.float64)[known]
    seeds = len(returns)
    if not known.any():
        return np.nan, np.nan, np.nan
    label = _strata(tasks)

    def of(values: np.ndarray, axis: int) -> np.ndarray:
        return values.mean(axis) if mean else _stratified_iqm(values, label, axis)

    chosen = rng.integers(0, seeds, (RESAMPLES, seeds))
    drawn = np.zeros(RESAMPLES)
    for column in chosen.T:  # a seed of each resample
        rows = resampled_rows(tasks, rng)
        drawn += of(returns[column[:, None], rows], 1) / seeds
    low, high = np.percentile(drawn, levels(tasks))
    return float(of(returns, 1).mean()), float(low), float(high)


def mean_over_seeds(
    values: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the (T,) means of (S, T) values of S seeds, and their 95 % bootstrap intervals.

    Seeds are drawn anew, the same ones for all of T. Of up to five, all resamples are taken. Few
    seeds make it too narrow: it never goes beyond the lowest and the highest of them.
    """
    seeds = len(values)
    if seeds <= 5:
        chosen = np.stack(np.meshgrid(*[np.arange(seeds)] * seeds), -1).reshape(-1, seeds)
    else:
        chosen = rng.integers(0, seeds, (RESAMPLES, seeds))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5], axis=0)
    return values.mean(0), low, high


def performance_profile(scores: Sequence[np.ndarray], above: np.ndarray) -> np.ndarray:
    """Return the (T,) fractions of runs whose score is above each threshold (Agarwal et al. 2021).

    A run is a seed on a task. Each family counts alike, however many runs it has.

    Args:
        scores: of each family, (S, M): of S seeds on M tasks.
        above: (T,) thresholds.
    """
    return np.mean([(s[..., None] > above).mean((0, 1)) for s in scores], axis=0)


def profile_band(
    scores: Sequence[np.ndarray],
    tasks: Sequence[np.ndarray],
    above: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the (T, 2) pointwise 95 % bootstrap band of a performance profile.

    Families are the strata: in each of them seeds are drawn anew, and tasks, the same for all
    seeds. With one seed, what another one would give is not in the band.

    Args:
        scores: of each family, (S, M).
        tasks: of each family, (M, P); see `resampled_rows`.
        above: (T,) thresholds.
        rng: of the resampling.
    """
    drawn = np.zeros((RESAMPLES, len(above)))
    for family, values in zip(scores, tasks, strict=True):
        count, size = family.shape
        seeds = _counts(rng.integers(0, count, (RESAMPLES, count)), count)
        rows = _counts(resampled_rows(values, rng), size)
        over = (family[..., None] > above).astype(np.float64)
        drawn += np.einsum("rs,rm,smt->rt", seeds, rows, over, optimize=True) / family.size
    return np.percentile(drawn / len(scores), widest(tasks), axis=0).T


def iqm_over_families(
    values: np.ndarray, drawn: np.ndarray, percentiles: Sequence[float], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the interquartile mean of the scores of families, and its bootstrap interval.

    The interval is of these families: what other ones would give is not in it. Of three and fewer
    families the interquartile mean is the mean.

    Args:
        values: (F,) scores.
        drawn: (F, R) scores of resamples; put in an order of its own for each family, so that one
            stream of draws may serve them all.
        percentiles: of the interval; see `widest`.
        rng: of the order.
    """
    centres = iqm(rng.permuted(drawn, axis=1), 0)
    low, high = np.percentile(centres, percentiles)
    return float(iqm(values)), float(low), float(high)


def mean_of_tasks(returns: np.ndarray) -> np.ndarray:
    """Return the (K,) means of (M, K) returns over the tasks that have one; NaN where none has."""
    known = np.isfinite(returns)
    if known.all():
        return returns.mean(0)
    return np.array(
        [one[k].mean() if k.any() else np.nan for one, k in zip(returns.T, known.T, strict=True)]
    )


def worst_tail(returns: list[list[float]], share: float = 0.05) -> list[float]:
    """Return [K], the conditional value at risk of each round: the mean of the worst tasks.

    Args:
        returns: (M, K) nested lists; tasks of which every world diverged (NaN) are left out.
        share: of the tasks, at least 10 of which must be in the tail: with fewer than 10 / share
            tasks, the list is empty.
    """
    array = np.sort(np.asarray(returns)[np.isfinite(returns).all(1)], axis=0)
    worst = int(share * len(array))
    return array[:worst].mean(0).tolist() if worst >= 10 else []


def gain_interval(
    gain: np.ndarray, tasks: np.ndarray | list[list[float]], seed: int
) -> tuple[float, float, float]:
    """Return the interquartile mean of paired differences (M,) over tasks, and its 95 % interval.

    The interval of their plain mean would be too narrow where a few tasks gain far more than the
    others: on skewed differences bootstraps and Student's t cover it 80 to 93 times in 100.
    """
    centre, interval = iqm_interval(gain[:, None], tasks, Key("difference", seed).numpy())
    return float(centre[0]), float(interval[0, 0]), float(interval[0, 1])


def too_few(tasks: np.ndarray | list[list[float]]) -> bool:
    """Whether tasks are too few for intervals that cover 95 times in 100."""
    return len(tasks) - len(np.unique(_strata(tasks))) < FEWEST


def resampled_rows(
    tasks: np.ndarray | list[list[float]], rng: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
    """Return (resamples, M) row numbers of a stratified bootstrap.

    Rows of the same task (one of two directions, say) form a stratum and are drawn with
    replacement among themselves; tasks that occur once are draws from one distribution, and form
    one stratum together.
    """
    return _resampled(_strata(tasks), rng, resamples)


def _resampled(label: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    rows = np.empty((resamples, len(label)), np.int64)
    for stratum in np.unique(label):
        members = np.flatnonzero(label == stratum)
        rows[:, members] = members[rng.integers(0, len(members), (resamples, len(members)))]
    return rows


def _stratified_iqm(values: np.ndarray, label: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over rows of the interquartile means of their strata (M,)."""
    strata, rows = np.unique(label, return_counts=True)
    centres = [iqm(np.compress(label == stratum, values, axis), axis) for stratum in strata]
    return np.average(centres, axis=0, weights=rows) if len(strata) > 1 else centres[0]


def levels(tasks: np.ndarray | list[list[float]]) -> list[float]:
    """Return the percentiles of a 95 % interval, wider where tasks are few.

    The percentile bootstrap is too narrow for n draws by a factor of √((n−1)/n) and by that of the
    normal to Student's t; the expanded percentiles make up for both (Hesterberg 2015, 5.3).
    """
    return _levels(_strata(tasks))


def _levels(label: np.ndarray) -> list[float]:
    strata, n = len(np.unique(label)), len(label)
    if n == strata:  # nothing varies, and nothing is known of what would
        return [0.0, 100.0]
    low = 100 * float(ndtr(stdtrit(n - strata, 0.025) * np.sqrt(n / (n - strata))))
    return [low, 100 - low]


def widest(tasks: Sequence[np.ndarray]) -> list[float]:
    """Return the `levels` of that of several families whose are the widest."""
    return min(levels(values) for values in tasks)


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """Return (R, size): how often each of `size` numbers was drawn in (R, N)."""
    flat = drawn + size * np.arange(len(drawn))[:, None]
    return np.bincount(flat.ravel(), minlength=size * len(drawn)).reshape(len(drawn), size)


def _strata(tasks: np.ndarray | list[list[float]]) -> np.ndarray:
    """Return (M,) stratum numbers; see `resampled_rows`."""
    values = np.asarray(tasks, np.float64).reshape(len(tasks), -1)
    _, label, count = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    return np.where(count[label.ravel()] > 1, label.ravel(), -1)
