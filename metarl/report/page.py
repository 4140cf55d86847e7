"""The report of one or several runs: one HTML page that needs nothing but itself.

No scripts, no network, no fonts from elsewhere: style, charts (`metarl.report.svg`) and videos
are in the page. What a run lacks is said in a line at the top, and the rest is shown.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from metarl.errors import UserError
from metarl.evaluation import Report
from metarl.progress import counted, si
from metarl.report.run_summary import RunSummary
from metarl.report.svg import COLOURS, Chart, number
from metarl.report.tasks import comparison_section, task_sections, verdict
from metarl.run_folder import disk_errors, write_bytes

LARGEST_VIDEO = 16 * 2**20
"""Bytes of a video that is put into the page; a larger one is named in a line."""
LARGEST_PAGE = 48 * 2**20
"""Bytes of all of them together."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def write_page(
    runs: Sequence[RunSummary], out: Path, *, live: bool = False, running: bool = False
) -> Path:
    """Write the page, whole or not at all; see `render`. Raises UserError if it cannot."""
    page = render(runs, live=live, running=running).encode()
    with disk_errors(out):
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
    if not runs:
        raise UserError("a report needs at least one run")
    if len({run.family for run in runs}) > 1:
        names = ", ".join(f"{run.label} ({run.family})" for run in runs)
        raise UserError(f"runs of different families cannot be compared: {names}")
    if len(runs) > len(COLOURS):
        raise UserError(f"a report compares at most {len(COLOURS)} runs, not {len(runs)}")
    _tell_apart(runs)
    sections = [
        _header(runs, running), _notes(runs, live), _cards(runs[0]) if len(runs) == 1 else "",
        comparison_section(runs), _learning_section(runs), task_sections(runs),
        _videos(runs, live), _settings(runs),
    ]  # fmt: skip
    style = files("metarl.report").joinpath("page.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "" if live else f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta http-equiv="refresh" content="30">' if running else "",
        f"<title>{escape(_title(runs))}</title><style>{style}</style>",
    ]
    return (
        f'<!doctype html><html lang="en"><head>{"".join(head)}</head>'
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


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


def _title(runs: Sequence[RunSummary]) -> str:
    algorithms = ", ".join(dict.fromkeys(run.algorithm for run in runs))
    return f"{runs[0].family}: {algorithms}"


def _header(runs: Sequence[RunSummary], running: bool) -> str:
    if len(runs) > 1:
        text = f"{len(runs)} runs, compared on the same tasks: " + ", ".join(
            f"<strong>{escape(run.label)}</strong> ({escape(run.algorithm)})" for run in runs
        )
    else:
        run = runs[0]
        seed = "" if run.seed is None else f", seed {run.seed}"
        text = f"Run <strong>{escape(run.label)}</strong>{seed}: {_cost(run)}"
        if running:
            text += "; training goes on, and this page is written anew at each evaluation"
    return f'<h1>{escape(_title(runs))}</h1><p class="soft">{text}.</p>'


def _cost(run: RunSummary) -> str:
    made = counted(run.iteration, "iteration")
    return f"{made}, {si(run.env_steps)} env steps, {duration(run.seconds)}"


def duration(seconds: float) -> str:
    """Return a time in words: 7 min, 2 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _notes(runs: Sequence[RunSummary], live: bool) -> str:
    lines = []
    for run in runs:
        for split, text in run.notes:
            if live and split:  # what a running training has not evaluated yet is no news
                continue
            lines.append(text if len(runs) == 1 else f"{run.label}: {text}")
        for split, report in run.reports.items():
            if report.diverged:
                lines.append(f"{run.label}, {split}: {report.divergence()}.")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _cards(run: RunSummary) -> str:
    cards = []
    for split in ("heldout", "ood"):
        report = run.reports.get(split)
        if report is None:
            continue
        gain, low, high = report.difference()
        seen = report.experience[-1]
        cards += [
            (number(report.mean[0]), f"{split}: return before adaptation"),
            (number(report.mean[-1]), f"{split}: after {counted(seen, 'episode')} of the task"),
            (
                number(gain, signed=True),
                f"{split}: gain (IQM), 95 % interval {number(low, True)} to {number(high, True)}",
            ),
            (number(report.stand_still), f"{split}: standing still"),
        ]
    body = "".join(
        f'<div class="card"><b>{value}</b><span>{escape(what)}</span></div>'
        for value, what in cards
    )
    return f'<div class="cards">{body}</div>' if body else ""


# --- learning and adaptation -------------------------------------------------------------------


def _learning_section(runs: Sequence[RunSummary]) -> str:
    charts = [learning_chart(runs)] if any(run.curve for run in runs) else []
    charts += [
        adaptation_chart(runs, split)
        for split in ("heldout", "ood")
        if any(split in run.reports for run in runs)
    ]
    if not charts:
        return "<h2>Learning and adaptation</h2><p>There is no evaluation to draw yet.</p>"
    lines = adaptation_words(runs[0]) if len(runs) == 1 else []
    words = "".join(f"<p>{escape(line)}</p>" for line in lines)
    body = "".join(chart.html() for chart in charts)
    return f'<h2>Learning and adaptation</h2>{words}<div class="grid2">{body}</div>'


def learning_chart(runs: Sequence[RunSummary]) -> Chart:
    """Return the held-out return over training, with 95 % intervals where the curve has them."""
    chart = Chart("Learning", "environment steps (millions)", "return on held-out tasks")
    for n, run in enumerate(run for run in runs if run.curve):
        steps = [entry["env_steps"] / 1e6 for entry in run.curve]
        colour = COLOURS[n] if len(runs) > 1 else "after"
        seen = run.curve[-1].get("experience")
        after = "after"
        if isinstance(seen, list) and seen:
            after += f" {counted(seen[-1], 'episode')}"
        series = [("after", colour, f"{run.label}, {after}" if len(runs) > 1 else after)]
        if len(runs) == 1:
            series.insert(0, ("before", "before", "before adaptation (task-blind)"))
        for key, css, label in series:
            ends = np.array([entry[f"{key}_ci"] for entry in run.curve])
            chart.band(steps, ends[:, 0].tolist(), ends[:, 1].tolist(), css)
            chart.line(steps, [entry[key] for entry in run.curve], css, label, "dots")
    still = [run.curve[-1]["stand_still"] for run in runs if _has_still(run)]
    if still:
        chart.rule(float(np.mean(still)), "still", "standing still")
    chart.note = "Bands: 95 % intervals of the interquartile mean over tasks; lines: means."
    return chart


def _has_still(run: RunSummary) -> bool:
    return bool(run.curve) and isinstance(run.curve[-1].get("stand_still"), float | int)


def adaptation_chart(runs: Sequence[RunSummary], split: str) -> Chart:
    """Return the curve over the episodes seen, beside standing still and not adapting."""
    shown = [(n, run.reports[split]) for n, run in enumerate(runs) if split in run.reports]
    seen = sorted({k for _, report in shown for k in report.experience})
    spread = seen[-1] > 8 * next((k for k in seen if k > 0), 1) and len(runs) > 1
    title = {"heldout": "Adaptation to held-out tasks", "ood": "Adaptation outside the box (ood)"}
    same = " (train = held-out)" if shown[0][1].train_is_heldout else ""
    chart = Chart(title[split] + same, "episodes of the task seen", "return", log=spread)
    chart.xticks = [float(k) for k in seen]
    for n, report in shown:
        colour = COLOURS[n] if len(runs) > 1 else {"heldout": "after", "ood": "ood"}[split]
        label = runs[n].label if len(runs) > 1 else "interquartile mean over tasks"
        ends = np.array(report.ci95)
        chart.band(report.experience, ends[:, 0].tolist(), ends[:, 1].tolist(), colour)
        chart.line(report.experience, report.iqm, colour, label, "dots")
        if len(runs) == 1:
            chart.rule(report.iqm[0], "before", "task-blind (before adaptation)", "dot")
    still = float(np.mean([report.stand_still for _, report in shown]))
    chart.rule(still, "still", "standing still")
    chart.note = "Bands: 95 % intervals over tasks."
    return chart


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


# --- videos ------------------------------------------------------------------------------------


def _videos(runs: Sequence[RunSummary], live: bool) -> str:
    shown, left = [], LARGEST_PAGE
    for run in runs:
        for path in run.videos:
            name = re.sub(r"^step_0*(\d+)$", r"iteration \1", path.stem)
            label = name if len(runs) == 1 else f"{run.label}: {name}"
            try:
                size = path.stat().st_size
                if live:
                    source = f"videos/{path.name}"
                elif size > min(LARGEST_VIDEO, left):
                    shown.append(
                        f'<p class="small">{escape(label)}: too large for this page '
                        f"({size / 2**20:.0f} MiB); see {escape(f'videos/{path.name}')}.</p>"
                    )
                    continue
                else:
                    kind = "video/mp4" if path.suffix == ".mp4" else "image/gif"
                    data = base64.b64encode(path.read_bytes()).decode()
                    source, left = f"data:{kind};base64,{data}", left - size
            except OSError as error:
                reason = error.strerror or str(error)
                shown.append(f'<p class="small">{escape(f"{label}: {reason}")}.</p>')
                continue
            shown.append(_player(escape(source), escape(label), path.suffix))
    if not shown:
        return ""
    return f'<h2>Before and after, seen</h2><div class="grid2">{"".join(shown)}</div>'


def _player(source: str, label: str, suffix: str) -> str:
    if suffix == ".gif":
        body = f'<img src="{source}" alt="{label}">'
    else:
        body = f'<video src="{source}" controls loop muted playsinline preload="metadata"></video>'
    return f"<figure><figcaption>{label}</figcaption>{body}</figure>"


# --- settings ----------------------------------------------------------------------------------


def _settings(runs: Sequence[RunSummary]) -> str:
    """Settings, versions and cost, a column a run; a row that differs is bold."""
    tables = [
        ("Cost", [_costs(run) for run in runs]),
        ("Training", [{k: v for k, v in run.train.items() if k not in _UNSHOWN} for run in runs]),
        ("Algorithm", [{"algorithm": run.algorithm} | run.learner for run in runs]),
        ("Versions and machine", [run.versions | run.machine for run in runs]),
    ]
    body = ""
    for title, columns in tables:
        rows = ""
        for name in dict.fromkeys(name for column in columns for name in column):
            values = [_shown(column.get(name)) for column in columns]
            cells = "".join(f"<td>{escape(value)}</td>" for value in values)
            css = ' class="differs"' if len(set(values)) > 1 else ""
            rows += f"<tr{css}><td>{escape(name)}</td>{cells}</tr>"
        heads = "".join(f"<th>{escape(run.label)}</th>" for run in runs)
        head = f"<tr><th></th>{heads}</tr>" if len(runs) > 1 else ""
        opened = " open" if title == "Cost" else ""
        body += (
            f"<details{opened}><summary>{title}</summary>"
            f'<div class="scroll"><table>{head}{rows}</table></div></details>'
        )
    commands = "".join(
        f"<p>{escape(run.label if len(runs) > 1 else 'Made')} by "
        f"<code>{escape(run.command)}</code></p>"
        for run in runs
        if run.command
    )
    return f"<h2>Settings, versions and cost</h2>{commands}{body}"


_UNSHOWN = ("out", "progress", "print_every")


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


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "—" if value is None else str(value)


__all__ = ["adaptation_chart", "duration", "learning_chart", "render", "write_page"]
