"""The report of one or several runs: one HTML page that needs nothing but itself.

The page has no scripts and loads nothing: style, charts and videos are in it. What a run lacks is
named in a line at the top, and the rest is shown. `templates/page.html` has the markup, and escapes
every text; this module has the numbers and the sentences.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2

from metarl.base.errors import UserError
from metarl.base.files import file_errors, open_regular, write_bytes
from metarl.base.text import counted, si
from metarl.evaluation.probe import WINDOW
from metarl.evaluation.protocol import Report
from metarl.report.charts import (
    RUN_COLOURS,
    SPLITS,
    Group,
    Panel,
    draw_adaptation,
    draw_learning,
    panel,
)
from metarl.report.run_summary import RunSummary
from metarl.report.sections.adapting import (
    draw_first_episode,
    draw_sweep,
    probe_tables,
    score_tables,
)
from metarl.report.sections.measures import measure_tables
from metarl.report.sections.overfitting import overfitting_panels
from metarl.report.sections.seeds import seed_panels
from metarl.report.sections.streaming import stream_panels, stream_tables
from metarl.report.sections.terms import draw_terms
from metarl.report.tasks import (
    MOST_CHARTS,
    best_and_worst,
    compare,
    ranked_tasks,
    scores_of,
    task_charts,
    task_words,
    verdict,
)
from metarl.report.text import duration, first_column, first_round, number, param_units

LARGEST_VIDEO = 16 * 2**20
"""Bytes of a video that is put into the page; a larger one is named in a line."""
LARGEST_PAGE = 48 * 2**20
"""Bytes of all videos in the page together."""
MOST_RUNS = len(RUN_COLOURS)
"""That a page compares."""

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("metarl.report"), autoescape=jinja2.select_autoescape(),
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
"""The templates; those named ``*.html`` escape what they are given."""
TEMPLATES.globals |= {"number": number}


def write_page(
    runs: Sequence[RunSummary], out: Path, *, live: bool = False, running: bool = False
) -> Path:
    """Write the page, whole or not at all; see `render`. Raises UserError if it cannot."""
    page = render(runs, live=live, running=running).encode()
    with file_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page)
    return out


def render(runs: Sequence[RunSummary], *, live: bool = False, running: bool = False) -> str:
    """Return the page.

    Args:
        runs: one, or several of one family to compare.
        live: the page is the one that training keeps in its folder: videos are linked, not copied.
        running: training goes on, so the browser is asked to read the page again every half minute.
    """
    check_runs(runs)
    _tell_apart(runs)
    one = runs[0] if len(runs) == 1 else None
    found, units = scores_of(runs), param_units(runs[0].reference)
    parameters = len(next(iter(found.values())).names) if found else 0
    ranked = []
    for n, run in enumerate(runs):
        by_split = {split: scores for (m, split), scores in found.items() if m == n}
        lists = best_and_worst(ranked_tasks(by_split, units))
        first = first_column(run.reports.values())
        ranked += [(run.label, task_words(by_split), lists, first)] if by_split else []
    return TEMPLATES.get_template("page.html").render(
        runs=runs, one=one, live=live, running=running,
        title=f"{runs[0].family}: {', '.join(dict.fromkeys(run.algorithm for run in runs))}",
        cost=_cost(runs[0]), notes=_notes(runs, live), cards=_cards(runs[0]) if one else [],
        comparisons=compare(runs), scored=score_tables(runs), probed=probe_tables(runs),
        measures=measure_tables(runs), curves=_curves(runs), streamed=stream_tables(runs),
        stream_charts=stream_panels(runs),
        words=adaptation_words(runs[0]) if one else [], task_charts=task_charts(runs, found),
        most=MOST_CHARTS, parameters=parameters, ranked=ranked, videos=_videos(runs, live),
        tables=_settings(runs),
    )  # fmt: skip


def check_runs(runs: Sequence[RunSummary]) -> None:
    """Raise UserError for what no page can show together: for before the work."""
    if not runs:
        raise UserError("a report needs at least one run")
    if len({run.tasks_of for run in runs}) > 1:
        names = ", ".join(f"{run.label} ({run.tasks_of})" for run in runs)
        raise UserError(f"runs of different families cannot be compared: {names}")
    if len(runs) > MOST_RUNS:
        raise UserError(f"a report compares at most {MOST_RUNS} runs, not {len(runs)}")


def _tell_apart(runs: Sequence[RunSummary]) -> None:
    """Give runs of the same folder name labels that differ."""
    labels = [run.label for run in runs]
    for n, run in enumerate(runs):
        if labels.count(run.label) > 1 or run.label in labels[:n]:
            run.label = f"{run.path.resolve().parent.name}/{run.label}"
    seen: set[str] = set()
    for n, run in enumerate(runs):
        run.label = f"{run.label} ({n + 1})" if run.label in seen else run.label
        seen.add(run.label)


def _cost(run: RunSummary) -> str:
    made = counted(run.iteration, "iteration")
    return f"{made}, {si(run.env_steps)} env steps, {duration(run.seconds)}"


def _notes(runs: Sequence[RunSummary], live: bool) -> list[str]:
    """Return what is missing, though not what a running training has yet to evaluate."""
    lines = []
    for run in runs:
        of = "" if len(runs) == 1 else f"{run.label}: "
        lines += [of + text for split, text in run.notes if not (live and split)]
        lines += [
            f"{run.label}, {split}: {report.divergence()}."
            for split, report in run.reports.items() if report.diverged
        ]  # fmt: skip
    return lines


def _in(report: Report) -> str:
    return f"{'in the ' if report.adapts_within else ''}{first_round(report)}"


def _cards(run: RunSummary) -> list[tuple[str, str]]:
    """Return (number, what it is) of the main results."""
    cards = []
    for split, report in run.reports.items():
        gain, low, high = report.difference()
        interval = f"95 % interval {number(low, True)} to {number(high, True)}"
        seen = report.experience[-1]
        cards += [
            (number(report.mean[0]), f"{split}: return {_in(report)}"),
            (number(report.mean[-1]), f"{split}: after {counted(seen, 'episode')} of the task"),
            (number(gain, signed=True), f"{split}: gain (IQM), {interval}"),
            (number(report.stand_still), f"{split}: standing still"),
        ]
    return cards


# --- learning and adaptation -------------------------------------------------------------------


def _curves(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return the learning curve, the reward's terms, and an adaptation curve for each split."""
    panels = []
    if curves := {run.label: [run.curve] for run in runs if run.curve}:
        note = "Bands: 95 % intervals of the interquartile mean over tasks; lines: means."
        report = next(iter(runs[0].reports.values()), None)
        draw = partial(draw_learning, curves=curves, report=report)
        panels.append(panel("Learning", draw, note))
    one = len(runs) == 1
    if one and runs[0].terms:
        note = "Means over the transitions of an iteration, each times its weight."
        panels.append(panel("Terms of the reward", partial(draw_terms, terms=runs[0].terms), note))
    for name, points in (list(runs[0].curriculum.items()) if one else [])[:MOST_CHARTS]:
        draw = partial(draw_terms, terms={name: points}, ylabel=name)
        note = "Of each iteration; of a parameter, the mean over the training tasks drawn."
        panels.append(panel(f"Curriculum: {name}", draw, note))
    panels += _checks(runs)
    for split, title in (
        ("heldout", "Adaptation to held-out tasks"),
        ("ood", "Adaptation outside the box (ood)"),
    ):
        groups = [
            Group("interquartile mean over tasks" if one else run.label,
                  SPLITS[split] if one else RUN_COLOURS[n], [run.reports[split]])
            for n, run in enumerate(runs) if split in run.reports
        ]  # fmt: skip
        if groups:
            same = groups[0].reports[0].train_is_heldout
            title += " (train = held-out)" if same else ""
            draw = partial(draw_adaptation, groups=groups, task_blind=one)
            panels.append(panel(title, draw, "Bands: 95 % intervals over tasks."))
    panels += seed_panels(runs)
    panels += overfitting_panels(runs)
    if any(run.probe for run in runs):
        note = f"Means over held-out tasks and {WINDOW} steps. Dotted: 90 % of the way is made."
        draw = partial(draw_first_episode, runs=runs)
        panels.append(panel("Within the first episode", draw, note))
    return panels + _sweeps(runs)


def _checks(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return whether inner gradients point anywhere, where a learner logs it."""
    terms = {run.label: points for run in runs if (points := run.checks.get("inner_agreement"))}
    note = (
        "Cosine between the inner gradients of two halves of a task's rollouts, with the prior: "
        "near 0 an inner step follows noise, and more rollouts of a task help."
    )
    draw = partial(draw_terms, terms=terms, ylabel="inner_agreement")
    return [panel("Agreement of inner gradients", draw, note)] if terms else []


def _sweeps(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return the return over each parameter that `metarl probe --sweep` went through."""
    names = dict.fromkeys(name for run in runs for name in run.probe.get("sweeps", {}))
    note = "Means over a value's worlds, the other parameters nominal. Grey: outside training."
    return [
        panel(f"Sweep of {name}", partial(draw_sweep, runs=runs, parameter=name), note)
        for name in names
    ]


def adaptation_words(run: RunSummary) -> list[str]:
    """Return what the curves say, a sentence or two a split."""
    lines = []
    for split, where in (("heldout", "held-out tasks"), ("ood", "tasks outside the training box")):
        report = run.reports.get(split)
        if report is None or len(report.mean) < 2:
            continue
        gain, low, high = report.difference()
        first = report.mean[1] - report.mean[0]
        shown = (
            f"On {report.distinct_tasks} {where}{report.mark()}, adaptation changes the mean "
            f"return from {number(report.mean[0])} to {number(report.mean[-1])}"
        )
        if low > 0 and len(report.mean) > 2:
            seen = report.experience[1]
            episodes = "episode" if seen == 1 else f"{seen} episodes"
            shown += f", by {number(first, True)} after the first {episodes}"
        shown += (
            f". The interquartile mean of the gain is {number(gain, True)}, 95 % interval "
            f"{number(low, True)} to {number(high, True)}. {verdict(report)}"
        )
        lines.append(shown)
    return lines


# --- videos and settings -----------------------------------------------------------------------


@dataclass
class _Video:
    """A video of the page, or why it is not there."""

    label: str
    source: str = ""
    missing: str = ""


def _videos(runs: Sequence[RunSummary], live: bool) -> list[_Video]:
    shown, left = [], LARGEST_PAGE
    for run in runs:
        for path in run.videos:
            name = re.sub(r"^step_0*(\d+)$", r"iteration \1", path.stem)
            video = _Video(name if len(runs) == 1 else f"{run.label}: {name}")
            shown.append(video)
            try:
                size = path.stat().st_size
                if live:
                    video.source = f"videos/{path.name}"
                elif size > min(LARGEST_VIDEO, left):
                    mib = f"{size / 2**20:.0f} MiB"
                    video.missing = f"too large for this page ({mib}); see videos/{path.name}"
                else:
                    kind = "video/mp4" if path.suffix == ".mp4" else "image/gif"
                    with open_regular(path, "rb") as file:
                        data = base64.b64encode(file.read()).decode()
                    video.source, left = f"data:{kind};base64,{data}", left - size
            except OSError as error:
                video.missing = error.strerror or str(error)
    return shown


def _settings(runs: Sequence[RunSummary]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return tables of settings, versions and cost: a title, and (name, a value for each run)."""
    unshown = ("out", "progress", "print_every")
    tables = {
        "Cost": [_costs(run) for run in runs],
        "Training": [{k: v for k, v in run.train.items() if k not in unshown} for run in runs],
        "Algorithm": [{"algorithm": run.algorithm} | run.learner for run in runs],
        "Versions and machine": [run.versions | run.machine for run in runs],
    }
    return [
        (title, [(name, [_plain(column.get(name)) for column in columns])
                 for name in dict.fromkeys(name for column in columns for name in column)])
        for title, columns in tables.items()
    ]  # fmt: skip


def _costs(run: RunSummary) -> dict[str, object]:
    costs: dict[str, object] = {
        "iterations": run.iteration,
        "env steps": f"{run.env_steps:,}",
        "training time": duration(run.seconds),
    }
    if run.seconds > 0:
        costs["env steps a second"] = f"{run.env_steps / run.seconds:,.0f}"
    for split, report in run.reports.items():
        costs[f"{split} evaluation"] = _evaluation_cost(report)
    return costs


def _evaluation_cost(report: Report) -> str:
    text = (
        f"{counted(report.distinct_tasks, 'task')} × {report.worlds_each()}, "
        f"{report.env_steps:,} env steps, {report.seconds:.1f} s, seed {report.seed}"
    )
    return text + (f", {counted(report.diverged, 'episode')} diverged" if report.diverged else "")


def _plain(value: object) -> str:
    """Return a setting as text."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "—" if value is None else str(value)
