"""The parts of a report that go task by task: where adaptation helps, and which run is better.

Tasks are identified by their parameter values, so runs are compared on the tasks that they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from metarl.evaluation.protocol import Report
from metarl.evaluation.statistics import gain_interval, mean_of_tasks
from metarl.report.charts import (
    PALETTE,
    RUN_COLOURS,
    SPLITS,
    Panel,
    draw_map,
    draw_points,
    panel,
)
from metarl.report.run_summary import RunSummary
from metarl.report.text import (
    family_params,
    first_column,
    first_round,
    format_task,
    number,
    param_units,
)
from metarl.tasks.distribution import Interval

MOST_CHARTS = 9
"""Parameters that are drawn; of more, those that the gain depends on most."""
RANKED = 5
"""Tasks in each list of best and worst."""
TITLES = {"heldout": "Held-out tasks", "ood": "Outside the training box"}


class Scores(NamedTuple):
    """The distinct tasks of a report; repeated ones (two directions) are averaged."""

    names: list[str]
    tasks: np.ndarray
    """(N, P)"""
    before: np.ndarray
    """(N,)"""
    after: np.ndarray
    """(N,)"""
    left_out: int = 0
    """Tasks without a return before or after adaptation, since all of their episodes diverged"""

    @property
    def gain(self) -> np.ndarray:
        """(N,) the return after adaptation minus that before."""
        return self.after - self.before


def per_task_scores(report: Report) -> Scores:
    """Return the return of each distinct task before and after adaptation."""
    values = np.asarray(report.tasks, np.float64).reshape(len(report.tasks), -1)
    returns = np.asarray(report.returns, np.float64)
    known = np.isfinite(returns[:, [0, -1]]).all(1)
    values, returns = values[known], returns[known]
    tasks, group, times = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    before, after = (np.bincount(group.ravel(), returns[:, k]) / times for k in (0, -1))
    return Scores(report.task_names, tasks, before, after, int((~known).sum()))


# --- several runs ------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Several runs on the tasks of one split that they share."""

    title: str
    shared: str
    """How many distinct tasks they share; empty: none"""
    partial: bool
    """Whether a run was evaluated on other tasks as well"""
    rows: list[tuple[str, list[tuple[str, str, str]]]]
    """A label for each run, with (column, CSS class, text) of its cells"""


def compare(runs: Sequence[RunSummary]) -> list[Comparison]:
    """Return a table for each split in which several runs have reports."""
    tables = []
    for split, title in TITLES.items():
        shown = [(run.label, run.reports[split]) for run in runs if split in run.reports]
        if len(runs) > 1 and shown:
            rows, count = common_rows([report for _, report in shown])
            first = shown[0][1]
            same = replace(first, tasks=[first.tasks[row] for row in rows[0]])
            shared = f"{same.distinct_tasks} tasks{same.mark()}" if count else ""
            partial = any(len(report.tasks) != count for _, report in shown)
            cells = _comparison_rows(shown, rows) if count else []
            tables.append(Comparison(title, shared, partial, cells))
    return tables


def common_rows(reports: Sequence[Report]) -> tuple[list[list[int]], int]:
    """Return the rows of each report that hold the tasks which all of them have, in one order.

    A task that occurs several times counts as often as in the report that has it least often.
    """
    keys = []
    for report in reports:
        seen: dict[tuple[float, ...], int] = {}
        rows: dict[tuple, int] = {}
        for row, task in enumerate(report.tasks):
            values = tuple(task)
            seen[values] = seen.get(values, -1) + 1
            rows[values, seen[values]] = row
        keys.append(rows)
    shared = [key for key in keys[0] if all(key in rows for rows in keys)]
    return [[rows[key] for key in shared] for rows in keys], len(shared)


def _comparison_rows(
    shown: Sequence[tuple[str, Report]], rows: Sequence[Sequence[int]]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the cells of each run; the first run is the one that the others are compared to."""
    first = np.asarray(shown[0][1].returns, float)[rows[0]]
    tasks = np.asarray(shown[0][1].tasks)[rows[0]]
    table, first_words = [], first_column(report for _, report in shown)
    for n, ((label, report), mine) in enumerate(zip(shown, rows, strict=True)):
        returns = np.asarray(report.returns, float)[mine]
        before, after = mean_of_tasks(returns[:, [0, -1]])
        gain = gain_interval(returns[:, -1] - returns[:, 0], tasks, report.seed)
        better = gain_interval(returns[:, -1] - first[:, -1], tasks, report.seed)
        cells = [
            (first_words, "", number(before)),
            ("after", "", number(after)),
            ("episodes seen", "", str(report.experience[-1])),
            ("gain (IQM), 95 % interval", *_interval(gain)),
            ("against the first run", *(_interval(better) if n else ("", "—"))),
        ]
        table.append((label, cells))
    return table


def _interval(found: tuple[float, float, float]) -> tuple[str, str]:
    """Return the CSS class and the text of a difference with its interval."""
    mean, low, high = found
    css = "good" if low > 0 else "bad" if high < 0 else "soft"
    return css, f"{number(mean, True)} [{number(low, True)}, {number(high, True)}]"


# --- charts over the task parameters -----------------------------------------------------------

Found = Mapping[tuple[int, str], Scores]
"""(index of the run, split) -> its scores."""


def scores_of(runs: Sequence[RunSummary]) -> Found:
    """Return the scores of all reports that have the parameters of the first one."""
    found = {
        (n, split): per_task_scores(report)
        for n, run in enumerate(runs)
        for split, report in run.reports.items()
    }
    names = next(iter(found.values())).names if found else []
    return {
        key: scores for key, scores in found.items() if scores.names == names and len(scores.tasks)
    }


def task_charts(runs: Sequence[RunSummary], found: Found) -> list[Panel]:
    """Return the return over each task parameter, and for two parameters also maps."""
    if not found:
        return []
    names, units = next(iter(found.values())).names, param_units(runs[0].reference)
    charts = [_scatter(runs, found, p, units) for p in _most_telling(found)]
    return charts + (_maps(runs, found, units) if len(names) == 2 else [])


def _most_telling(found: Found) -> list[int]:
    """Return the parameters to draw: of many, those that go with the gain most strongly."""
    first = next(iter(found.values()))
    count = len(first.names)
    if count <= MOST_CHARTS:
        return list(range(count))
    strength = [abs(rank_correlation(first.tasks[:, p], first.gain)) for p in range(count)]
    return sorted(range(count), key=lambda p: -strength[p])[:MOST_CHARTS]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where one of them does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each of (n,) values; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _scatter(runs: Sequence[RunSummary], found: Found, p: int, units: dict[str, str]) -> Panel:
    """Draw the return before and after over one parameter; of several runs, only after."""
    name = next(iter(found.values())).names[p]
    points = [text for scores in found.values() for text in _point_texts(scores, units)]
    param = family_params(runs[0].reference).get(name)
    box = param.train if param is not None else None

    def draw(axes: Axes) -> None:
        if isinstance(box, Interval) and any(split == "ood" for _, split in found):
            axes.axvspan(box.low, box.high, color=PALETTE["before"], alpha=0.13, lw=0,
                         label="training box")  # fmt: skip
        for (n, split), scores in found.items():
            x = scores.tasks[:, p]
            if len(runs) > 1:
                label = f"{runs[n].label}, {split}, after"
                draw_points(axes, x, scores.after, RUN_COLOURS[n], label, hollow=split == "ood")
                continue
            axes.vlines(
                x, scores.before, scores.after, colors=PALETTE["before"], alpha=0.35, lw=1.5
            )
            before = (
                first_round(runs[n].reports[split]) if split == min(s for _, s in found) else "_"
            )
            draw_points(axes, x, scores.before, "before", before, hollow=True)
            draw_points(axes, x, scores.after, SPLITS[split], f"{split}, after")
        axes.set(xlabel=f"{name} ({units[name]})" if units.get(name) else name, ylabel="return")

    if len(runs) == 1:  # each task has two points
        points = [
            text for scores in found.values() for text in 2 * _point_texts(scores, units)
        ]  # fmt: skip
    return panel(f"Return over {name}", draw, points=points)


def _point_texts(scores: Scores, units: dict[str, str]) -> list[str]:
    return [
        f"{format_task(scores.names, task, units)}: {number(before)} → {number(after)}"
        for task, before, after in zip(scores.tasks, scores.before, scores.after, strict=True)
    ]


def _maps(runs: Sequence[RunSummary], found: Found, units: dict[str, str]) -> list[Panel]:
    """Draw the return after adaptation and the gain over two parameters, on one scale for all."""
    returns = np.concatenate([scores.after for scores in found.values()])
    most = max(float(np.abs(scores.gain).max()) for scores in found.values())
    panels = []
    for n in dict.fromkeys(n for n, _ in found):
        parts = [scores for (m, _), scores in found.items() if m == n]
        xy = np.concatenate([part.tasks for part in parts])
        after = np.concatenate([part.after for part in parts])
        gain = np.concatenate([part.gain for part in parts])
        labels = [f"{x} ({units[x]})" if units.get(x) else x for x in parts[0].names]
        of = f", {runs[n].label}" if len(runs) > 1 else ""
        texts = [text for part in parts for text in _point_texts(part, units)]
        for title, values, limits, label in (
            (f"Return after adaptation{of}", after, (returns.min(), returns.max()), "return"),
            (f"Gain by adaptation{of}", gain, (-most, most), "gain"),
        ):

            def draw(axes: Axes, values: Any = values, limits: Any = limits, label: str = label,
                     xy: np.ndarray = xy, labels: list[str] = labels) -> None:  # fmt: skip
                draw_map(axes, xy, values, limits, label, diverging=label == "gain")
                axes.set(xlabel=labels[0], ylabel=labels[1])

            panels.append(panel(title, draw, "Dots are tasks.", texts))
    return panels


# --- ranked tasks ------------------------------------------------------------------------------


class Ranked(NamedTuple):
    """A task of a list."""

    words: str
    split: str
    before: float
    after: float
    gain: float


def ranked_tasks(by_split: Mapping[str, Scores], units: dict[str, str]) -> list[Ranked]:
    """Return the tasks of all splits, the one with the largest gain first."""
    rows = [
        Ranked(format_task(scores.names, task, units), split, before, after, after - before)
        for split, scores in by_split.items()
        for task, before, after in zip(
            scores.tasks.tolist(), scores.before.tolist(), scores.after.tolist(), strict=True
        )
    ]
    return sorted(rows, key=lambda row: (row.gain, row.split), reverse=True)


def best_and_worst(rows: Sequence[Ranked]) -> list[tuple[str, Sequence[Ranked]]]:
    """Return the heading and the tasks of two lists, which do not overlap."""
    most = RANKED if len(rows) >= 2 * RANKED else (len(rows) + 1) // 2
    lists = [("It helps most", rows[:most]),
             ("It helps least, or harms", rows[most:][-most:][::-1])]  # fmt: skip
    return [(heading, part) for heading, part in lists if part]


def verdict(report: Report) -> str:
    """Return the verdict of a report as sentences."""
    words = f"Verdict: {report.verdict()}."
    if "no gain" in words:
        words += " What a learner with a memory gains within its first episode is in both returns."
    return words


def task_words(by_split: Mapping[str, Scores]) -> list[str]:
    """Return sentences on how many tasks gain, and on which parameters the gain goes with."""
    lines = []
    for split, scores in by_split.items():
        gain = scores.gain
        where = "held-out tasks" if split == "heldout" else "tasks outside the box"
        up, count = int((gain > 0).sum()), len(gain)
        if scores.left_out:
            lines.append(f"Every episode of {scores.left_out} {where} diverged: they are left out.")
        text = f"Adaptation raises the return on {up} of {count} {where}"
        text += f" and lowers it on {count - up}." if up < count else "."
        strong = [
            (name, rho)
            for p, name in enumerate(scores.names)
            if abs(rho := rank_correlation(scores.tasks[:, p], gain)) >= 0.5 and count >= 8
        ]
        for name, rho in sorted(strong, key=lambda pair: -abs(pair[1])):
            way = "larger" if rho > 0 else "smaller"
            rho_text = number(round(rho, 2), True)
            text += f" The gain is larger where {name} is {way} (rank correlation {rho_text})."
        lines.append(text)
    return lines
