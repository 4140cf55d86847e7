"""Does adapting pay: the adaptation scores of a page that has a blind policy and an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.base.text import counted
from metarl.learning.evaluation import Report
from metarl.learning.score import adaptation_score, is_blind, is_oracle
from metarl.report.run_summary import RunSummary
from metarl.report.tasks import TITLES, common_rows
from metarl.report.text import number


class ScoreTable(NamedTuple):
    """The scores on the tasks of a split."""

    title: str
    columns: list[str]
    """What each score is after."""
    rows: list[tuple[str, list[str]]]
    """The learner's name, and its scores in words."""
    worth: str
    """What knowing the task is worth."""


def score_tables(runs: Sequence[RunSummary]) -> list[ScoreTable]:
    """Return a table for each split in which a blind policy, an oracle and a learner have reports.

    Runs of the same learner are rows of their own; several blind policies, or oracles, are seeds of
    one.
    """
    tables = []
    for split, title in TITLES.items():
        shown = [(run.label, run.reports[split]) for run in runs if split in run.reports]
        if table := _table(title, shown):
            tables.append(table)
    return tables


def _table(title: str, shown: list[tuple[str, Report]]) -> ScoreTable | None:
    rows, count = common_rows([report for _, report in shown]) if shown else ([], 0)
    if not count:
        return None
    returns = [np.array(report.returns)[own] for (_, report), own in zip(shown, rows, strict=True)]
    tasks = [shown[0][1].tasks[row] for row in rows[0]]
    below, above = (
        [values[:, 0] for (_, report), values in zip(shown, returns, strict=True) if of(report)]
        for of in (is_blind, is_oracle)
    )
    learners = [
        (label, report, values)
        for (label, report), values in zip(shown, returns, strict=True)
        if not (is_blind(report) or is_oracle(report))
    ]
    if not (below and above and learners):
        return None
    seen = max((report.experience for _, report, _ in learners), key=len)
    scores = [
        (label, [adaptation_score([column], below, above, tasks).words for column in values.T])
        for label, _, values in learners
    ]
    worth = adaptation_score(below, below, above, tasks).worth
    worth_words = f"{number(worth[0])}, 95 % interval {number(worth[1])} to {number(worth[2])}"
    same = all(report.experience == seen[: len(report.experience)] for _, report, _ in learners)
    columns = [
        f"after {counted(episodes, 'episode')}" if same else f"round {k}"
        for k, episodes in enumerate(seen)
    ]
    return ScoreTable(title, columns, scores, worth_words)
