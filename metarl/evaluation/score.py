"""The adaptation score: what a learner makes of what knowing the task is worth.

    score = (X − blind) / (oracle − blind)

X is the learner's mean return over tasks and seeds, `blind` that of PPO over the task distribution,
and `oracle` that of the same PPO on the family with ``+told``, all of them on the same tasks: 0 is
domain randomisation, and 1 is as good as being told the task. It may exceed 1, and be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.evaluation.statistics import RESAMPLES, levels, resampled_rows

Lines = Sequence[np.ndarray]
Tasks = np.ndarray | Sequence[Sequence[float]]


class OfRun(Protocol):
    """What says which policy something is of, such as a report."""

    @property
    def algorithm(self) -> str:
        """Its name."""
        ...

    @property
    def family(self) -> str:
        """The name of the family that it was trained on."""
        ...


def is_oracle(report: OfRun) -> bool:
    """Whether a report is of a policy that is told the task, and does not adapt."""
    return report.algorithm == "ppo" and "+told" in report.family


def is_blind(report: OfRun) -> bool:
    """Whether a report, or a run, is of PPO over the task distribution."""
    return report.algorithm == "ppo" and "+told" not in report.family


class Score(NamedTuple):
    """An adaptation score with its 95 % interval; all NaN where it has no meaning."""

    value: float
    low: float
    high: float
    worth: tuple[float, float, float]
    """What knowing the task is worth, oracle − blind, in units of the return, and its interval."""

    @property
    def words(self) -> str:
        """The score in words."""
        if np.isnan(self.value):
            return "no score: the oracle is not shown to be better than the blind policy"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def adaptation_score(learner: Lines, blind: Lines, oracle: Lines, tasks: Tasks) -> Score:
    """Return the score of a learner and its bootstrap interval.

    The bootstrap is stratified: tasks are drawn anew for all three together, since they share
    them, and seeds within each of the three. The interval is of these tasks' distribution and of
    the seeds that were trained; with one seed, what another one would give is not in it.

    Args:
        learner: (S, M) returns, of S seeds on M tasks.
        blind: (S', M), of `ppo`.
        oracle: (S'', M), of `ppo` on the family with ``+told``.
        tasks: (M, P); those on which an episode of any line diverged throughout are left out.

    Raises:
        UserError: the lines have not the same tasks.
    """
    lines, tasks = _whole(learner, blind, oracle, tasks)
    drawn = _drawn(lines, tasks)
    x, b, o = (float(line.mean()) for line in lines)
    worth = (o - b, *_interval(drawn[2] - drawn[1], tasks))
    if not worth[1] > 0:
        return Score(np.nan, np.nan, np.nan, worth)
    return Score(_ratio(x, b, o), *_interval(_ratio(*drawn), tasks), worth)


def score_draws(learner: Lines, blind: Lines, oracle: Lines, tasks: Tasks) -> np.ndarray:
    """Return the (R,) scores of the resamples behind the interval of `adaptation_score`."""
    return _ratio(*_drawn(*_whole(learner, blind, oracle, tasks)))


def _ratio(learner: Any, blind: Any, oracle: Any) -> Any:
    return (learner - blind) / (oracle - blind)


def task_scores(
    learner: Lines, blind: Lines, oracle: Lines, tasks: Tasks
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (S, M') score of each seed on each task, and the (M', P) tasks.

    What the learner gains on a task over the blind policy (the mean of its seeds on that task), in
    units of what knowing the task is worth in the mean over tasks. Their mean is the adaptation
    score. The unit is not the task's own: where knowing a task is worth next to nothing, a ratio
    to it would be noise.

    The arguments and errors are those of `adaptation_score`.
    """
    (mine, below, above), kept = _whole(learner, blind, oracle, tasks)
    return (mine - below.mean(0)) / (above.mean() - below.mean()), kept


def _whole(
    learner: Lines, blind: Lines, oracle: Lines, tasks: Tasks
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the three lines and the tasks, without those on which a line diverged."""
    lines = [np.asarray(line, np.float64) for line in (learner, blind, oracle)]
    if any(line.ndim != 2 or line.shape[1] != len(tasks) for line in lines):
        counts = ", ".join(str(line.shape[-1]) for line in lines)
        raise UserError(f"a score needs the same {len(tasks)} tasks in every line, not {counts}")
    whole = np.isfinite(np.concatenate(lines)).all(0)
    if not whole.any():
        raise UserError("a score needs a task on which no line diverged, and there is none")
    return [line[:, whole] for line in lines], np.asarray(tasks, np.float64)[whole]


def _drawn(lines: list[np.ndarray], tasks: np.ndarray) -> list[np.ndarray]:
    """Return the (R,) resampled means of each line."""
    rows = resampled_rows(tasks, Key("score").numpy())
    return [_resampled(line, rows, Key("score", i).numpy()) for i, line in enumerate(lines)]


def _interval(drawn: np.ndarray, tasks: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, levels(tasks))
    return float(low), float(high)


def _resampled(line: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (R,) means of (S, M) returns over seeds drawn anew, and over the tasks `rows`."""
    seeds = rng.integers(0, len(line), (RESAMPLES, len(line)))
    by_task = np.mean(line[seeds], axis=1)  # (R, M)
    return np.mean(np.take_along_axis(by_task, rows, axis=1), axis=1)
