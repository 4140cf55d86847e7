"""How the ladder's lines learn: held-out return by env steps, and from when one is ahead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from result_files import drawn_numbers, teacher_steps

from metarl.report.charts import PALETTE

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "ladder-curves.svg"
COLOURS = {"ppo": "before", "oracle": "fourth", "rl2": "after", "distil": "third"}
"""Line -> its colour; these lines are drawn."""
POINTS = 31
TEXT = f"""\
The first episode on held-out tasks during training, mean over seeds, with their range as a band:
where the line of a learner leaves that of the blind policy (`ppo`), its adapting begins to pay. The
dots are no action at all. `distil` begins where the oracle that teaches it is trained.

![Held-out return by env steps, on each family](images/{PICTURE.name})

From how many env steps on a line stays ahead of the blind policy, of means over seeds at equal env
steps, as far as both were trained; – if it is not ahead at the end."""

Curves = dict[str, dict[str, dict[str, list[float]]]]


def curves(results: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]) -> Curves:
    """Return family -> line -> "steps" (millions), and "mean", "low" and "high" over seeds."""
    found: Curves = {}
    for family, lines in results.items():
        tests = {line: list(map(_tests, lines.get(line, ()))) for line in COLOURS}
        learned = {line: _curve(seeds) for line, seeds in tests.items() if seeds and all(seeds)}
        if "ppo" in learned:
            found[family] = learned
    return found


def _tests(result: dict[str, Any]) -> list[tuple[float, float]]:
    """Return env steps and first episode of each test in a training; nothing of fewer than two."""
    taught = teacher_steps(result)
    rows = [row for row in result["curve"] if row.get("before") is not None]
    return [(row["env_steps"] + taught, row["before"]) for row in rows] if len(rows) > 1 else []


def _curve(seeds: Sequence[list[tuple[float, float]]]) -> dict[str, list[float]]:
    """Return the seeds on common steps, since not all were tested at the same ones."""
    tests = list(map(np.array, seeds))
    steps = np.linspace(max(t[0, 0] for t in tests), min(t[-1, 0] for t in tests), POINTS)
    returns = np.array([np.interp(steps, *test.T) for test in tests])
    parts = {
        "steps": steps / 1e6, "mean": returns.mean(0), "low": returns.min(0),
        "high": returns.max(0),
    }  # fmt: skip
    digits = {"steps": 3}
    return {
        name: [round(float(x), digits.get(name, 1)) for x in part] for name, part in parts.items()
    }


def ahead_from(mine: Mapping[str, list[float]], blind: Mapping[str, list[float]]) -> float | None:
    """Return the millions of env steps from which a line stays above the blind one.

    None if it is not above where the shorter of both ends.
    """
    end = min(mine["steps"][-1], blind["steps"][-1])
    steps = np.linspace(mine["steps"][0], end, POINTS)
    mean, below = (np.interp(steps, one["steps"], one["mean"]) for one in (mine, blind))
    behind = np.flatnonzero(mean <= below)
    if not len(behind):
        return float(steps[0])
    return None if behind[-1] == POINTS - 1 else float(steps[behind[-1] + 1])


def table(found: Curves) -> list[str]:
    """Return the table of `ahead_from`, in Markdown."""
    rows = ["| family | oracle | rl2 | rl2's env steps |", "|---|---|---|---|"]
    for family, lines in found.items():
        cells = [_cell(lines, "oracle"), _cell(lines, "rl2")]
        cells.append(f"{lines['rl2']['steps'][-1]:.1f} M" if "rl2" in lines else "")
        rows.append(f"| {family} | {' | '.join(cells)} |")
    return rows


def _cell(lines: Mapping[str, dict[str, list[float]]], line: str) -> str:
    if line not in lines:
        return ""
    at = ahead_from(lines[line], lines["ppo"])
    return "–" if at is None else f"{at:.1f} M" if at else "the start"


def draw(found: Curves, still: Mapping[str, float], path: Path) -> None:
    """Draw the curves of each family as SVG, the numbers in its description."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "ladder", "font.size": 9, "svg.fonttype": "none", "axes.titlesize": 9,
        "xtick.color": PALETTE["soft"], "ytick.color": PALETTE["soft"],
    }  # fmt: skip
    with mpl.rc_context(style):
        columns = 3
        rows = max(1, -(-len(found) // columns))
        figure = Figure(figsize=(8.0, 1.9 * rows + 0.6), layout="constrained")
        every = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in every[len(found) :]:
            axes.set_visible(False)
        for axes, (family, lines) in zip(every, found.items(), strict=False):
            _draw_family(axes, lines, still[family])
            axes.set_title(family.replace("+", "\n+", 1))
        figure.supxlabel("million env steps")
        figure.supylabel("return of the first episode")
        named = {h.get_label(): h for axes in every for h in axes.get_lines()}
        shown = [named[line] for line in COLOURS if line in named]
        figure.legend(handles=shown, frameon=False, loc="outside upper center", ncols=len(COLOURS))
        about: dict[str, Any] = {"Date": None, "Description": json.dumps(found)}
        figure.savefig(path, format="svg", facecolor="white", metadata=about)


def _draw_family(axes: Axes, lines: Mapping[str, dict[str, list[float]]], still: float) -> None:
    for line, one in lines.items():
        colour = PALETTE[COLOURS[line]]
        axes.plot(one["steps"], one["mean"], color=colour, label=line, lw=1.5)
        axes.fill_between(one["steps"], one["low"], one["high"], color=colour, alpha=0.2, lw=0)
    axes.axhline(still, color=PALETTE["still"], lw=0.8, ls=":")
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def drawn(path: Path) -> Curves:
    """Return the curves of a picture, from its description."""
    return drawn_numbers(path)
