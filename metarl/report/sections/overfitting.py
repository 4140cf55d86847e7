"""The figure of `metarl overfitting`: the return on four sets of tasks, by training tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.base.errors import UserError
from metarl.base.files import read_json
from metarl.report.charts import PALETTE, Panel, panel
from metarl.report.run_summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "overfitting.json"
COLOURS = {
    "train": "before", "heldout": "after", "near ood": "ood", "far ood": "still", "ood": "third",
}  # fmt: skip
"""A set of tasks -> the colour of its line."""


def overfitting_panels(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return the figure, if all runs are of one folder that `metarl overfitting` has filled."""
    folders = {run.path.resolve().parent for run in runs}
    path = folders.pop() / FILE
    if folders or not path.is_file():
        return []
    try:
        rows = read_json(path)["rows"]
        draw = partial(draw_overfitting, rows=rows)
        note = "Interquartile means over tasks and seeds after adaptation; bands: 95 % intervals."
        return [panel("Overfitting and shift", draw, note)]
    except (UserError, KeyError, TypeError, ValueError, IndexError):
        return []  # it is being written, or no longer what it was: the page is for the runs


def draw_overfitting(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Draw a line for each set of tasks, the numbers of training tasks side by side.

    Args:
        axes: where to draw.
        rows: of overfitting.json.
    """
    labels = ["∞" if row["num_tasks"] is None else str(row["num_tasks"]) for row in rows]
    for name, colour in COLOURS.items():
        at = [x for x, row in enumerate(rows) if name in row["sets"]]
        found = [rows[x]["sets"][name] for x in at]
        known = [one["iqm"] is not None for one in found]
        at = [x for x, is_known in zip(at, known, strict=True) if is_known]
        if not at:
            continue
        found = [one for one, is_known in zip(found, known, strict=True) if is_known]
        low, high = np.array([one["ci95"] for one in found], float).T
        y = np.array([one["iqm"] for one in found], float)
        axes.plot(at, y, "o-", ms=4.5, color=PALETTE[colour], label=name)
        axes.fill_between(at, low, high, color=PALETTE[colour], alpha=0.17, lw=0)
    axes.set_xticks(range(len(rows)), labels)
    axes.set(xlabel="training tasks", ylabel="return after adaptation")
