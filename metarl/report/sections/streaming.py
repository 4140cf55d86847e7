"""Tasks that change without notice: regret and returns over time, and recovery from changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from metarl.base.text import ALL_DIVERGED, counted
from metarl.report.charts import PALETTE, RUN_COLOURS, Panel, panel
from metarl.report.run_summary import RunSummary
from metarl.report.text import number, stream_divergence

NOTE = "Interquartile means over streams, and 95 % intervals."


class StreamTable(NamedTuple):
    """What `metarl stream` found for one run and those that it was compared with."""

    label: str
    words: str
    """What changed, and when."""
    rows: list[tuple[str, str, str, str]]
    """Who, mean return of a window, regret in the end, and how it recovers."""
    diverged: list[str]
    """Sentences on runs in which the physics failed."""


def stream_tables(runs: Sequence[RunSummary]) -> list[StreamTable]:
    """Return a table for each run that was streamed."""
    tables = []
    for run in runs:
        if found := run.stream:
            moves = "drift to another and change" if found["drift"] else "change"
            words = (
                f"Tasks {moves} every {number(found['every'])} steps on average, in "
                f"{counted(found['streams'], 'stream')} of {counted(found['episodes'], 'episode')}."
            )
            rows = [_row(one, found) for one in found["runs"]]
            lost = [f"{text[:1].upper()}{text[1:]}." for text in stream_divergence(found)]
            tables.append(StreamTable(run.label, words, rows, lost))
    return tables


def _row(run: dict[str, Any], found: dict[str, Any]) -> tuple[str, str, str, str]:
    who = f"{run['algorithm']} on {run['family']}"
    means = [mean for mean in run["windows"]["mean"] if mean is not None]
    mean = number(float(np.mean(means)) if means else math.nan)
    regret = found["reference"] if run["reference"] else "—"
    if run["regret"] is not None and not run["reference"]:
        centre, (low, high) = run["regret"]["iqm"][-1], run["regret"]["ci95"][-1]
        regret = ALL_DIVERGED
        if centre is not None:
            regret = f"{number(centre)} [{number(low)}, {number(high)}]"
    back = run["recovery"]
    if back is None:
        return who, mean, regret, "—"
    steps = "not seen" if back["steps"] is None else counted(back["steps"], "step")
    if back["low"] is not None:
        steps += f" [{back['low']}, {back['high']}]"
    return who, mean, regret, f"{steps}, after a loss of {number(back['drop'])} a step"


def stream_panels(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return the regret over the steps of each streamed run, and the returns of its windows."""
    panels, several = [], sum(bool(run.stream) for run in runs) > 1
    for run in runs:
        if not (found := run.stream):
            continue
        of = f", {run.label}" if several else ""
        if found["reference"] is not None:
            whom = "the oracle" if found["reference"] == "oracle" else "the run that earns most"
            draw = partial(_draw, found=found, what="regret", ylabel="cumulative regret")
            panels.append(panel(f"Regret against {whom}{of}", draw, NOTE))
        draw = partial(
            _draw, found=found, what="windows", ylabel=f"return in {found['window']} steps"
        )
        panels.append(panel(f"Return while tasks change{of}", draw, NOTE))
    return panels


def _draw(axes: Axes, found: dict[str, Any], what: str, ylabel: str) -> None:
    """Draw a curve of each run over the steps of the streams."""
    for run, colour in zip(found["runs"], RUN_COLOURS, strict=False):
        curve = run[what]
        if curve is None:
            continue
        steps = found["window"] * np.arange(1, len(curve["iqm"]) + 1)
        style = "--" if run["reference"] else "-"
        label = f"{run['algorithm']} on {run['family']}"
        axes.plot(steps, np.array(curve["iqm"], float), style, color=PALETTE[colour], label=label)
        band = np.array(curve["ci95"], float).T
        axes.fill_between(steps, *band, color=PALETTE[colour], alpha=0.17, lw=0)
    axes.set(xlabel="steps of a stream", ylabel=ylabel)
