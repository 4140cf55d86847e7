"""What a mean return does not say: the worst tasks, failures, and terms that are not paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.evaluation.measures import MEASURED
from metarl.evaluation.protocol import Report
from metarl.evaluation.statistics import worst_tail
from metarl.report.run_summary import RunSummary
from metarl.report.tasks import TITLES
from metarl.report.text import first_column, number

WORST = "mean return of the worst 5 % of tasks"


class MeasureTable(NamedTuple):
    """What was measured on the tasks of a split."""

    title: str
    first: str
    """What round 0 is called."""
    rows: list[tuple[str, str, str, str]]
    """The run, what is measured, and its means in round 0 and in the last one."""


def measure_tables(runs: Sequence[RunSummary]) -> list[MeasureTable]:
    """Return a table for each split in which something was measured besides mean returns."""
    tables = []
    for split, title in TITLES.items():
        shown = [(run.label, run.reports[split]) for run in runs if split in run.reports]
        rows = [
            (label, name, number(values[0]), number(values[-1]))
            for label, report in shown for name, values in measured(report).items()
        ]  # fmt: skip
        if rows:
            tables.append(MeasureTable(title, first_column(report for _, report in shown), rows))
    return tables


def measured(report: Report) -> dict[str, list[float]]:
    """Return what was measured besides mean returns -> its mean over tasks in each round.

    The worst tail is there from 200 tasks on, since 5 % of fewer are too few for a mean.
    """
    tail = worst_tail(report.returns)
    found = {WORST: tail} if tail else {}
    for name, rounds in report.diagnostics.items():
        if name.startswith(MEASURED):
            tables = [np.array(values, float) for values in rounds]
            words = name.removeprefix(MEASURED).replace("_", " ")
            found[words] = [
                float(np.nanmean(t)) if np.isfinite(t).any() else np.nan for t in tables
            ]
    return found
