"""Numbers, durations and tasks as text, for pages, model cards and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metarl.base.errors import UserError
from metarl.base.text import ALL_DIVERGED, counted
from metarl.tasks.params import Param

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report


def number(value: float, signed: bool = False) -> str:
    """Return a number with about three digits, a true minus sign and no exponent up to 10 M.

    NaN is a mean over episodes of which all diverged, and is said to be that.
    """
    if math.isnan(value):
        return ALL_DIVERGED
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.2g}"
    else:
        digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(digits, 6)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    text = "0" if text in ("-0", "") else text
    return ("+" if signed and value > 0 and text != "0" else "") + text.replace("-", "−")


def first_round(report: Report | None) -> str:
    """Return what round 0 is called: before adaptation, or the first episode.

    It is the first episode where the learner adapts to what is scored (RL², PEARL): it may adapt
    within that episode, or explore in it.
    """
    if report is None or not report.adapts_within:
        return "before adaptation"
    return "first episode, exploring" if report.exploring else "first episode"


def first_label(report: Report | None) -> str:
    """Return the label of round 0 in a chart, where it is drawn beside what comes after it."""
    words = first_round(report)
    return f"task-blind ({words})" if words == "before adaptation" else words


def first_name(adapts_within: bool) -> str:
    """Return the short name of round 0, of a panel or a column; see `first_round`."""
    return "first episode" if adapts_within else "before"


def first_column(reports: Iterable[Report]) -> str:
    """Return the heading of the returns of round 0 in a table of several evaluations."""
    words = sorted(first_name(report.adapts_within) for report in reports)
    return " / ".join(dict.fromkeys(words)) or "before"


def duration(seconds: float) -> str:
    """Return a time in words: 7 min, 2 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def format_task(names: Sequence[str], values: Sequence[float], units: dict[str, str]) -> str:
    """Return a task as text, such as ``goal_velocity 1.7 m/s``."""
    parts = (
        f"{name} {number(value)} {units.get(name, '')}".rstrip()
        for name, value in zip(names, values, strict=True)
    )
    return ", ".join(parts) or "the one task"


def family_params(family: str) -> dict[str, Param]:
    """Return the parameter of each parameter name of a registered family; else nothing.

    A family in a file has none here: a report must not run a file that a run folder names.
    """
    from metarl.tasks.registry import find_family

    if ":" in family:
        return {}
    try:
        return {name: param for param in find_family(family).params for name in param.names}
    except UserError:
        return {}


def param_units(family: str) -> dict[str, str]:
    """Return the unit of each parameter name of a registered family."""
    return {name: param.unit for name, param in family_params(family).items()}


def stream_divergence(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each run of a stream in which the physics failed, on what that means.

    Args:
        found: what `metarl stream` wrote.
    """
    lines = []
    for run in found["runs"]:
        if not run.get("diverged"):
            continue
        who = f"{run['algorithm']} on {run['family']}"
        failed = f"{counted(run['diverged'], 'step')} of {who} diverged"
        if "left_out" not in run:  # of a version that did so
            lines.append(f"{failed} and counted as a reward of 0: run `metarl stream` again")
            continue
        total = found["streams"] * run["worlds_each"] * found["episodes"]
        text = f"{failed}: {run['left_out']} of {counted(total, 'episode')} are left out"
        if run["gaps"]:
            of = counted(found["streams"], "stream")
            text += (
                f"; {run['gaps']} of {of} have no world left in some, and no regret from there on"
            )
        lines.append(text)
    return lines
