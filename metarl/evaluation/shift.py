"""Test tasks by how far they are from the training tasks: those, unseen ones, near and far ood."""

from __future__ import annotations

import numpy as np

from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.params import Interval

NEAR = 0.5
"""Share of an ood interval, from its end that touches the training box, that is near."""
_MOST_DRAWS = 16
"""Tasks of the ood split that are looked at, for each one that is wanted."""


def task_sets(distribution: TaskDistribution, n: int, pool: int | None) -> dict[str, Tasks]:
    """Return the sets of tasks on which overfitting and shift are measured.

    Args:
        distribution: of the family.
        n: tasks of each set, at most.
        pool: the number of training tasks, which are the first of the train split; None where
            training draws new ones for ever: then the split's are new draws from the same box.

    Returns:
        ``train``, ``heldout``, and, if the family has them, ``near ood`` and ``far ood``: tasks of
        the ood split by `distance`. Those without a distance, of a choice of values, are ``ood``.
    """
    sets = {
        "train": distribution.split("train", min(n, pool or n)),
        "heldout": distribution.split("heldout", n),
    }
    if not distribution.has_ood:
        return sets
    drawn = distribution.split("ood", _MOST_DRAWS * n)
    far = distance(distribution, drawn)
    for name, chosen in (
        ("near ood", far <= NEAR), ("far ood", far > NEAR), ("ood", np.isnan(far)),
    ):  # fmt: skip
        if rows := np.flatnonzero(chosen)[:n].tolist():
            sets[name] = Tasks(drawn.family, drawn.names, drawn.values[rows])
    return sets


def distance(distribution: TaskDistribution, tasks: Tasks) -> np.ndarray:
    """Return (M,) how deep each task lies in an ood interval: 0 at the training box, 1 at its end.

    The deepest of its parameters counts. In a logarithmic interval it is measured on that scale,
    and it is NaN for a task that is outside by a choice of values alone.
    """
    found, column = np.full(len(tasks), np.nan), 0
    for param in distribution.params:
        for _ in param.names:
            values = tasks.values[:, column]
            column += 1
            if isinstance(param.train, Interval):
                for interval in param.ood:
                    if isinstance(interval, Interval):
                        found = np.fmax(found, _depth(param.train, interval, values))
    return found


def _depth(box: Interval, interval: Interval, values: np.ndarray) -> np.ndarray:
    """(M,) depth of the values in an interval beside the box; NaN for those that are not in it."""
    inside = (values >= interval.low) & (values <= interval.high)
    inside &= (values < box.low) | (values > box.high)
    log = interval.log and interval.low > 0
    low, high, at = (
        np.log(x) if log else x
        for x in (interval.low, interval.high, np.where(inside, values, interval.high))
    )
    share = (at - low) / (high - low)
    return np.where(inside, share if interval.low >= box.high else 1 - share, np.nan)
