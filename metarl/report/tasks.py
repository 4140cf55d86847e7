"""The parts of a report that go task by task: where adaptation helps, where it fails, and who wins.

Tasks are told apart by their parameter values, so runs are compared on those they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from metarl.evaluation import Report
from metarl.report.run_summary import RunSummary, train_ranges, units
from metarl.report.svg import COLOURS, Chart, heat_map, number
from metarl.statistics import gain_interval, mean_of_tasks

MOST_CHARTS = 9
"""Parameters that are drawn; of more, those that the gain depends on most."""
RANKED = 5
"""Tasks in each list of best and worst."""


class Scores(NamedTuple):
    """The distinct tasks of a report; repeated ones (two directions) are averaged."""

    names: list[str]
    tasks: np.ndarray
    """(N, P)"""
    before: np.ndarray
    """(N,)"""
    after: np.ndarray
    """(N,)"""
    times: np.ndarray
    """(N,), how often the report has each task"""
    left_out: int = 0
    """Tasks without a return before or after, since every world of theirs diverged"""


def scores(report: Report) -> Scores:
    """Return the return of each distinct task before and after adaptation."""
    values = np.asarray(report.tasks, np.float64).reshape(len(report.tasks), -1)
    returns = np.asarray(report.returns, np.float64)
    known = np.isfinite(returns[:, [0, -1]]).all(1)
    values, returns = values[known], returns[known]
    tasks, group, times = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    before, after = (np.bincount(group.ravel(), returns[:, k]) / times for k in (0, -1))
    return Scores(report.task_names, tasks, before, after, times, int((~known).sum()))


def in_words(names: Sequence[str], values: Sequence[float], unit: dict[str, str]) -> str:
    """Return a task as text, such as ``goal_velocity 1.7 m/s``."""
    parts = (
        f"{name} {number(value)} {unit.get(name, '')}".rstrip()
        for name, value in zip(names, values, strict=True)
    )
    return ", ".join(parts) or "the one task"


# --- several runs ------------------------------------------------------------------------------


def comparison_section(runs: Sequence[RunSummary]) -> str:
    """Return a table of several runs on the tasks that they share; for one run, nothing."""
    if len(runs) < 2:
        return ""
    body = ""
    for split, title in (("heldout", "Held-out tasks"), ("ood", "Outside the training box")):
        shown = [(run, run.reports[split]) for run in runs if split in run.reports]
        if not shown:
            continue
        rows, shared = common_rows([report for _, report in shown])
        if not shared:
            body += f"<h3>{title}</h3><p>These runs were evaluated on different tasks.</p>"
            continue
        body += f"<h3>{title}: {_counted(shown[0][1], rows[0])}</h3>"
        body += _comparison_table(shown, rows)
        if any(len(report.tasks) != shared for _, report in shown):
            body += '<p class="small">Not every run was evaluated on every task; these are those '
            body += "that all of them share.</p>"
    return f"<h2>Compared on the same tasks</h2>{body}" if body else ""


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


def _counted(report: Report, rows: Sequence[int]) -> str:
    shared = replace(report, tasks=[report.tasks[row] for row in rows])
    return f"{shared.distinct_tasks} tasks{shared.mark()}"


def _comparison_table(
    shown: Sequence[tuple[RunSummary, Report]], rows: Sequence[Sequence[int]]
) -> str:
    first = np.asarray(shown[0][1].returns)[rows[0]]
    tasks = np.asarray(shown[0][1].tasks)[rows[0]]
    heads = ("before", "after", "episodes seen", "gain (IQM), 95 % interval",
             "against the first run")  # fmt: skip
    out = "<tr><th>run</th>" + "".join(f'<th class="n">{head}</th>' for head in heads) + "</tr>"
    for (run, report), mine in zip(shown, rows, strict=True):
        returns = np.asarray(report.returns)[mine]
        gain = gain_interval(returns[:, -1] - returns[:, 0], tasks, report.seed)
        versus = "—"
        if report is not shown[0][1]:
            better = returns[:, -1] - first[:, -1]
            versus = _interval(gain_interval(better, tasks, report.seed))
        cells = (
            *(number(mean) for mean in mean_of_tasks(returns[:, [0, -1]])),
            str(report.experience[-1]), _interval(gain), versus,
        )  # fmt: skip
        out += f"<tr><td>{escape(run.label)}</td>"
        out += "".join(
            f'<td class="n" data-of="{head}"><span>{cell}</span></td>'
            for head, cell in zip(heads, cells, strict=True)
        )
        out += "</tr>"
    return f'<table class="stack">{out}</table>'


def _interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    css = "good" if low > 0 else "bad" if high < 0 else "soft"
    return (
        f'<span class="{css}">{number(mean, True)}</span> '
        f"[{number(low, True)}, {number(high, True)}]"
    )


# --- task by task ------------------------------------------------------------------------------


def task_sections(runs: Sequence[RunSummary]) -> str:
    """Return the return over each task parameter, and the ranked tasks of each run."""
    runs = [run for run in runs if run.reports]
    if not runs:
        return ""
    found = {
        (n, split): scores(report)
        for n, run in enumerate(runs)
        for split, report in run.reports.items()
    }
    unit = units(runs[0].family)
    names = next(iter(found.values())).names
    found = {key: one for key, one in found.items() if one.names == names and len(one.tasks)}
    if not found:
        return ""
    order = _most_telling(found, len(names))
    charts = [_scatter(runs, found, p, unit) for p in order[:MOST_CHARTS]]
    if len(names) == 2:
        charts += _maps(runs, found, unit)
    text = ""
    if len(order) > MOST_CHARTS:
        text = f"<p>The {MOST_CHARTS} of {len(order)} parameters that the gain goes with most.</p>"
    body = ""
    if charts:
        body = f"<h2>Return over the task</h2>{text}<div class='grid2'>{''.join(charts)}</div>"
    ranked = "".join(
        _ranked(run, {split: found[n, split] for split in run.reports if (n, split) in found}, unit,
                title=len(runs) > 1)
        for n, run in enumerate(runs)
    )  # fmt: skip
    return f"{body}<h2>Where adaptation helps, and where it fails</h2>{ranked}"


def _most_telling(found: dict[tuple[int, str], Scores], count: int) -> list[int]:
    """Parameters by how much the gain goes with them, the strongest first, if they are many."""
    if count <= MOST_CHARTS:
        return list(range(count))
    first = next(iter(found.values()))
    strength = [abs(rank_correlation(first.tasks[:, p], first.after - first.before))
                for p in range(count)]  # fmt: skip
    return sorted(range(count), key=lambda p: -strength[p])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where one of them does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y)[0])  # type: ignore[index]


def _scatter(
    runs: Sequence[RunSummary], found: dict[tuple[int, str], Scores], p: int, unit: dict[str, str]
) -> str:
    """Before and after over one parameter; of several runs, after."""
    name = next(iter(found.values())).names[p]
    label = f"{name} ({unit[name]})" if unit.get(name) else name
    chart = Chart(f"Return over {name}", label, "return")
    box = train_ranges(runs[0].family).get(name)
    if box is not None and any(split == "ood" for _, split in found):
        chart.span(*box, "training box")
    for (n, split), one in found.items():
        xs, titles = one.tasks[:, p].tolist(), _titles(one, unit)
        after = ("after" if split == "heldout" else "ood") if len(runs) == 1 else COLOURS[n]
        if len(runs) == 1:
            chart.stems(xs, one.before.tolist(), one.after.tolist(), after)
            chart.points(
                xs, one.before.tolist(), "before", "before adaptation", titles, hollow=True
            )
            chart.points(xs, one.after.tolist(), after, f"{split}, after", titles)
        else:
            text = f"{runs[n].label}, {split}, after"
            chart.points(xs, one.after.tolist(), after, text, titles, hollow=split == "ood")
    return chart.html()


def _titles(one: Scores, unit: dict[str, str]) -> list[str]:
    return [
        f"{in_words(one.names, task, unit)}: {number(before)} → {number(after)}"
        for task, before, after in zip(one.tasks, one.before, one.after, strict=True)
    ]


def _maps(
    runs: Sequence[RunSummary], found: dict[tuple[int, str], Scores], unit: dict[str, str]
) -> list[str]:
    """Heat maps over two parameters: return after adaptation and gain, on one scale for all."""
    after, gain = (
        np.concatenate([pick(one) for one in found.values()])
        for pick in (lambda one: one.after, lambda one: one.after - one.before)
    )
    most = float(np.abs(gain).max())
    scales = {"return": (float(after.min()), float(after.max())), "gain": (-most, most)}
    charts = []
    for n, run in enumerate(runs):
        parts = [one for (m, _), one in found.items() if m == n]
        if not parts:
            continue
        tasks = np.concatenate([one.tasks for one in parts])
        after = np.concatenate([one.after for one in parts])
        gain = after - np.concatenate([one.before for one in parts])
        titles = [title for one in parts for title in _titles(one, unit)]
        axes = [f"{x} ({unit[x]})" if unit.get(x) else x for x in parts[0].names]
        of = f", {run.label}" if len(runs) > 1 else ""
        for title, values, what in (
            (f"Return after adaptation{of}", after, "return"),
            (f"Gain by adaptation{of}", gain, "gain"),
        ):
            charts.append(
                heat_map(title, tasks, values, (axes[0], axes[1], what), limits=scales[what],
                         diverging=what == "gain", titles=titles)
            )  # fmt: skip
    return charts


def _ranked(
    run: RunSummary, by_split: dict[str, Scores], unit: dict[str, str], *, title: bool
) -> str:
    if not by_split:
        return ""
    rows = sorted(
        (
            (float(one.after[i] - one.before[i]), split, i)
            for split, one in by_split.items()
            for i in range(len(one.tasks))
        ),
        reverse=True,
    )
    out = f"<h3>{escape(run.label)}</h3>" if title else ""
    out += "".join(f"<p>{escape(line)}</p>" for line in task_words(by_split))
    most = RANKED if len(rows) >= 2 * RANKED else (len(rows) + 1) // 2
    lists = [
        ("It helps most", rows[:most]),
        ("It helps least, or harms", rows[most:][-most:][::-1]),
    ]
    tables = ""
    for heading, part in lists:
        lines = "<tr><th>task</th>"
        lines += "".join(f'<th class="n">{h}</th>' for h in ("before", "after", "gain")) + "</tr>"
        for gain, split, i in part:
            one = by_split[split]
            words = in_words(one.names, one.tasks[i].tolist(), unit)
            tag = " <span class='soft'>ood</span>" if split == "ood" else ""
            css = "good" if gain > 0 else "bad"
            lines += (
                f'<tr><td>{escape(words)}{tag}</td><td class="n">{number(one.before[i])}</td>'
                f'<td class="n">{number(one.after[i])}</td>'
                f'<td class="n {css}">{number(gain, True)}</td></tr>'
            )
        if part:
            tables += f"<div><h3>{heading}</h3><table>{lines}</table></div>"
    return f'{out}<div class="grid2">{tables}</div>'


def verdict(report: Report) -> str:
    """Return the verdict of a report as sentences."""
    words = f"Verdict: {report.verdict()}."
    if "no gain" in words:
        words += " What a learner with a memory gains within its first episode is in both returns."
    return words


def task_words(by_split: dict[str, Scores]) -> list[str]:
    """Return sentences on how many tasks gain, and on which parameters the gain goes with."""
    lines = []
    for split, one in by_split.items():
        gain = one.after - one.before
        where = "held-out tasks" if split == "heldout" else "tasks outside the box"
        up, count = int((gain > 0).sum()), len(gain)
        if one.left_out:
            lines.append(f"Every episode of {one.left_out} {where} diverged: they are left out.")
        text = f"Adaptation raises the return on {up} of {count} {where}"
        text += f" and lowers it on {count - up}." if up < count else "."
        strong = [
            (name, rho)
            for p, name in enumerate(one.names)
            if abs(rho := rank_correlation(one.tasks[:, p], gain)) >= 0.5 and count >= 8
        ]
        for name, rho in sorted(strong, key=lambda pair: -abs(pair[1])):
            way = "larger" if rho > 0 else "smaller"
            rho_text = number(round(rho, 2), True)
            text += f" The gain is larger where {name} is {way} (rank correlation {rho_text})."
        lines.append(text)
    return lines
