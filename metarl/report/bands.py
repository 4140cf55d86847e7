"""Curves over several seeds: where all of them have data, the mean and its interval.

What some seeds lack is not averaged over the others: such a point would be of other runs than its
neighbours. It is drawn as a hollow point that no line leads to. Nor does a line lead over episodes
after which nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarl.base.keys import Key
from metarl.evaluation.statistics import centre_over_seeds, mean_over_seeds

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report

Curve = Sequence[Mapping[str, Any]]
"""A learning curve: its held-out evaluations, with env_steps, before, after and their intervals."""


class Band(NamedTuple):
    """A curve over X places, with NaN where there is nothing and the line is to break."""

    x: np.ndarray
    """(X,), increasing but for the breaks"""
    y: np.ndarray
    """(X,) the centre, where every seed has data"""
    low: np.ndarray
    high: np.ndarray
    """(X,) each, the interval"""
    partial: np.ndarray
    """(X,) the mean of the seeds that have data, where others have none"""


def learning_band(seeds: Sequence[Curve], key: str) -> Band:
    """Return the mean over seeds of a quantity over millions of environment steps.

    The band is the 95 % bootstrap interval over seeds; of one seed it is what its file says, the
    interval over tasks.

    Args:
        seeds: the curve of each.
        key: 'before' or 'after'.
    """
    x = sorted({entry["env_steps"] for seed in seeds for entry in seed})
    values = _aligned([{entry["env_steps"]: entry[key] for entry in seed} for seed in seeds], x)
    y, partial = _split(values)
    low, high = y.copy(), y.copy()
    whole = np.isfinite(y)
    if len(seeds) == 1:
        known = {entry["env_steps"]: entry.get(f"{key}_ci") for entry in seeds[0]}
        for at, place in enumerate(x):
            if known[place] is not None:
                low[at], high[at] = np.array(known[place], float)
    elif whole.any():
        _, low[whole], high[whole] = mean_over_seeds(values[:, whole], Key("band").numpy())
    return Band(np.array(x) / 1e6, y, low, high, partial)


def adaptation_band(reports: Sequence[Report], *, centre: str = "iqm") -> Band:
    """Return the return over the episodes of the task seen, over tasks and seeds.

    The band is the 95 % bootstrap interval over tasks, and over seeds where there are several.

    Args:
        reports: of one learner on one split, one of each seed.
        centre: "iqm", the interquartile mean over tasks, or "mean"; both as the reports have them.
    """
    x = sorted({seen for report in reports for seen in report.experience})
    rows = [dict(zip(r.experience, getattr(r, centre), strict=True)) for r in reports]
    y, partial = _split(_aligned(rows, x))
    low, high = y.copy(), y.copy()
    for at in np.flatnonzero(np.isfinite(y)):
        columns = [report.experience.index(x[at]) for report in reports]
        if len(reports) == 1 and centre == "iqm":
            low[at], high[at] = reports[0].ci95[columns[0]]
        elif all(report.tasks == reports[0].tasks for report in reports):
            returns = np.array(
                [[row[k] for row in r.returns] for r, k in zip(reports, columns, strict=True)],
                float,
            )
            rng = Key("band", x[at]).numpy()
            _, low[at], high[at] = centre_over_seeds(
                returns, reports[0].tasks, rng, mean=centre == "mean"
            )
    return _broken(Band(np.array(x, float), y, low, high, partial), 1.0)


def _broken(band: Band, most: float) -> Band:
    """Return a band with a break wherever two places are more than `most` apart."""
    breaks = np.flatnonzero(np.diff(band.x) > most) + 1
    return Band(*(np.insert(part, breaks, np.nan) for part in band))


def _aligned(rows: Sequence[Mapping[Any, Any]], x: Sequence[Any]) -> np.ndarray:
    """Return (S, X) values of seeds at the places x, NaN where a seed has none."""
    return np.array([[_number(row.get(place)) for place in x] for row in rows], float)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (X,) means where every seed has data, and those where only some have."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    mean = np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan),
                     where=known.any(0))  # fmt: skip
    every = known.all(0)
    return np.where(every, mean, np.nan), np.where(every, np.nan, mean)
