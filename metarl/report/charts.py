"""Charts of runs, drawn with matplotlib: as PNG files, TensorBoard figures and inline SVG.

A function ``draw_*`` draws into axes. `save_figure` and TensorBoard take a whole figure with titles
and legends in it; `panel` gives the page an SVG whose title and legend are HTML. The colours are
those of `PALETTE`, each of which is a CSS variable of the same name in the page, so that an SVG
follows the reader's light or dark scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from metarl.base.errors import UserError
from metarl.base.text import counted
from metarl.evaluation.protocol import Report
from metarl.report.bands import Band, Curve, adaptation_band, learning_band
from metarl.report.text import first_label

PALETTE = {
    "after": "#1f6fb2", "ood": "#c8641b", "third": "#2f8f5b", "fourth": "#8a4fb0",
    "fifth": "#00838f", "sixth": "#a5711a", "seventh": "#c2367f", "eighth": "#5b6abf",
    "before": "#8a8f98", "still": "#c0393f", "edge": "#e3e6eb", "soft": "#5c6470",
    "card": "#f7f8fa",
}  # fmt: skip
"""The name of a CSS variable in page.css -> its colour in the light scheme."""
RUN_COLOURS = tuple(PALETTE)[:8]
"""The colours of several runs or algorithms, in order."""
SPLITS = {"heldout": "after", "ood": "ood", "train": "before"}
"""The colour of a split in the charts of one run."""

_STYLE: dict[Any, Any] = {
    "font.size": 10.5, "axes.titlesize": 10, "axes.labelsize": 10.5, "legend.fontsize": 8.5,
    "legend.edgecolor": "none", "legend.framealpha": 0.8, "axes.grid": True,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "grid.color": PALETTE["edge"], "axes.edgecolor": PALETTE["soft"],
    "axes.labelcolor": PALETTE["soft"], "xtick.color": PALETTE["soft"],
    "ytick.color": PALETTE["soft"], "text.color": PALETTE["soft"], "lines.markersize": 5,
    "svg.fonttype": "none", "text.parse_math": False,
}  # fmt: skip
_SIZE = (5.4, 3.8)
"""Width and height of one chart in inches, so 389 by 274 units of its SVG."""


class Group(NamedTuple):
    """Evaluations that are one line of a chart."""

    label: str
    colour: str
    reports: Sequence[Report]
    """One, or one of each seed."""


class Panel(NamedTuple):
    """A chart for the page."""

    title: str
    svg: str
    """SVG markup; the names in it are escaped."""
    legend: list[tuple[str, str]]
    """(CSS of the key, label)"""
    note: str


# --- what is drawn -----------------------------------------------------------------------------


def draw_learning(
    axes: Axes, curves: Mapping[str, Sequence[Curve]], tasks: str = "held-out",
    report: Report | None = None,
) -> None:  # fmt: skip
    """Draw the held-out return over training; see `learning_band`.

    Args:
        axes: where to draw.
        curves: name -> the curves of its seeds. A single name is drawn before and after
            adaptation, several after it.
        tasks: what the tasks of the evaluations are.
        report: an evaluation of a single name; it says what the first round is, see `first_label`.
    """
    for n, (name, seeds) in enumerate(curves.items()):
        seen = seeds[0][-1].get("experience")
        after = f"after {counted(seen[-1], 'episode')}" if seen else "after"
        series = [("after", RUN_COLOURS[n], f"{name}, {after}" if len(curves) > 1 else after)]
        if len(curves) == 1:
            series.insert(0, ("before", "before", first_label(report)))
        for key, colour, label in series:
            _line(axes, learning_band(seeds, key), colour, label)
    every = [seed[-1] for seeds in curves.values() for seed in seeds]
    still = [last["stand_still"] for last in every if last.get("stand_still") is not None]
    if still:
        _rule(axes, float(np.mean(np.array(still, float))), "still", "--", "standing still")
    axes.set(xlabel="environment steps (millions)", ylabel=f"return on {tasks} tasks")


def draw_adaptation(
    axes: Axes, groups: Sequence[Group], *, centre: str = "iqm", task_blind: bool = False
) -> None:
    """Draw the return over the episodes of the task that the learner has seen.

    Args:
        axes: where to draw.
        groups: the lines. Learners that see very different numbers of episodes share a
            logarithmic axis.
        centre: "iqm" or "mean", over tasks; see `adaptation_band`.
        task_blind: also draw the first group's return of round 0 as a line.
    """
    for label, colour, reports in groups:
        _line(axes, adaptation_band(reports, centre=centre), colour, label)
    first = groups[0]
    if task_blind:
        before = float(np.mean([getattr(report, centre)[0] for report in first.reports]))
        _rule(axes, before, "before", ":", first_label(first.reports[0]))
    heldout = [r for group in groups for r in group.reports if r.split == "heldout"]
    still = heldout or [r for group in groups for r in group.reports]
    _rule(axes, float(np.mean([r.stand_still for r in still])), "still", "--", "standing still")
    schedules = {tuple(report.experience) for group in groups for report in group.reports}
    seen = sorted({k for schedule in schedules for k in schedule})
    if len(schedules) > 1 and seen[-1] > 8 * next((k for k in seen if k > 0), 1):
        axes.set_xscale("function", functions=(_log_from_one, np.expm1))
        axes.xaxis.set_major_locator(FixedLocator(_apart(seen)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="episodes of the task seen", ylabel="return")


def draw_points(
    axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str, hollow: bool = False
) -> None:
    """Draw a circle at each point; `panel` gives it a text that shows under the pointer."""
    fill = "none" if hollow else PALETTE[colour]
    axes.plot(x, y, "o", mfc=fill, mec=PALETTE[colour], label=label, gid="points")


def draw_map(
    axes: Axes, xy: np.ndarray, values: np.ndarray, limits: tuple[float, float], label: str, *,
    diverging: bool, cells: int = 28,
) -> None:  # fmt: skip
    """Draw a value over two parameters: each cell has the colour of the nearest task.

    Args:
        axes: where to draw.
        xy: (M, 2), the tasks, drawn as dots.
        values: (M,)
        limits: values of the first and the last colour; maps to be compared share them.
        label: of the values.
        diverging: use two colours with grey between, for limits on both sides of zero.
        cells: of the map in each direction.
    """
    low, high = xy.min(0), xy.max(0)
    margin = np.where(high > low, 0.03 * (high - low), 0.5)
    low, span = low - margin, high - low + 2 * margin
    grid = (np.arange(cells) + 0.5) / cells
    centres = np.stack(np.meshgrid(grid, grid), -1)[:, :, None]
    nearest = np.square(centres - (xy - low) / span).sum(-1).argmin(-1)
    (left, bottom), (right, top) = low, low + span
    image = axes.imshow(
        values[nearest], "RdBu" if diverging else "magma", aspect="auto", origin="lower",
        extent=(left, right, bottom, top), vmin=limits[0], vmax=limits[1],
    )  # fmt: skip
    axes.plot(*xy.T, "o", mfc="white", mec="black", ms=4.5, gid="points")
    axes.grid(visible=False)
    bar = axes.figure.colorbar(image, ax=axes, label=label)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _line(axes: Axes, band: Band, colour: str, label: str) -> None:
    """Draw a line through what has data side by side, with its band.

    What stands alone is a point with its interval, and what only some seeds have a hollow point.
    """
    paint = PALETTE[colour]
    # Not clipped: on a logarithmic axis the first points stand on its edge.
    axes.plot(band.x, band.y, "o-", ms=4.5, color=paint, label=label, clip_on=False)
    axes.fill_between(band.x, band.low, band.high, color=paint, alpha=0.17, lw=0)
    known = np.concatenate([[False], np.isfinite(band.y), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.vlines(band.x[alone], band.low[alone], band.high[alone], color=paint, alpha=0.5, lw=2,
                clip_on=False)  # fmt: skip
    some = np.isfinite(band.partial)
    if some.any():
        axes.plot(band.x[some], band.partial[some], "o", ms=4.5, mfc="none", mec=paint)


def _rule(axes: Axes, y: float, colour: str, style: str, label: str) -> None:
    if np.isfinite(y):  # it is not if every episode behind it diverged
        axes.axhline(y, color=PALETTE[colour], ls=style, lw=1.2, label=label)


def _log_from_one(seen: np.ndarray) -> np.ndarray:
    """Return log(1 + n); a margin to the left of 0 stays at 0."""
    return np.log1p(np.maximum(seen, 0.0))


def _apart(seen: Sequence[int]) -> list[int]:
    """Return those numbers of episodes whose labels have room beside each other on a log axis."""
    kept = [seen[0]]
    for k in seen:
        if np.log1p(k) - np.log1p(kept[-1]) > 0.07 * np.log1p(seen[-1]):
            kept.append(k)
    return kept


# --- for the page ------------------------------------------------------------------------------


def panel(
    title: str, draw: Callable[[Axes], None], note: str = "", points: Sequence[str] = ()
) -> Panel:
    """Return a chart for the page, the same bytes for the same arguments.

    Args:
        title: of the chart, different from that of any other one in the page.
        draw: draws into axes.
        note: small print under the chart.
        points: a text for each point of `draw_points` and `draw_map`, in the order of drawing.
    """
    page: dict[Any, Any] = {
        "font.size": 12,
        "axes.labelsize": 12,
        "lines.markersize": 6,
        "svg.hashsalt": title,
    }
    with mpl.rc_context(_STYLE | page):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.locator_params(nbins=5)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        keys, labels = axes.get_legend_handles_labels()
    legend = [(_key(key), str(label)) for key, label in zip(keys, labels, strict=True)]
    return Panel(title, _inline(text.getvalue(), title, points), legend, note)


def _inline(svg: str, title: str, points: Sequence[str]) -> str:
    """Return the SVG of a file as an element of HTML, with colours as CSS variables."""
    body = svg[svg.index("<g id=") : svg.rindex("</svg>")]
    texts = iter(points)
    parts = body.split('<g id="points">')
    for n, part in enumerate(parts[1:], 1):
        drawn, end, rest = part.partition("<g id=")
        drawn = re.sub(r"(<use [^>]*)/>", lambda use: _titled(use[1], next(texts, "")), drawn)
        parts[n] = drawn + end + rest
    body = "<g>".join(parts)
    used = set(re.findall(r'#([\w-]+)[")]', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = body.replace("xlink:href", "href")
    for name, colour in PALETTE.items():
        body = body.replace(colour, f"var(--{name})")
    width, height = (72 * inches for inches in _SIZE)
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def _titled(use: str, text: str) -> str:
    return f"{use}><title>{escape(text)}</title></use>" if text else f"{use}/>"


def _key(handle: Any) -> str:
    """Return the CSS of the key of a line, of points or of a shaded range in a legend."""
    names = {colour: f"var(--{name})" for name, colour in PALETTE.items()}
    if not hasattr(handle, "get_linestyle") or not hasattr(handle, "get_marker"):
        return "height: 10px; background: var(--before); opacity: 0.3"
    line = {"-": "solid", "--": "dashed", ":": "dotted"}.get(handle.get_linestyle())
    if line is not None:
        return f"border-top: 2px {line} {names[handle.get_color()]}"
    fill, edge = handle.get_markerfacecolor(), names[handle.get_markeredgecolor()]
    background = "none" if fill == "none" else edge
    return f"width: 9px; height: 9px; border-radius: 5px; border: 1.5px solid {edge}; " \
           f"background: {background}"  # fmt: skip


# --- files and figures -------------------------------------------------------------------------


def plot_adaptation(reports: Sequence[Report], path: Path | str) -> Path:
    """Draw adaptation curves over the episodes seen, one line a split, as a PNG.

    Args:
        reports: of one family; those of the same split (seeds) are averaged.
        path: where to write it.
    """
    return _write(adaptation_figure(reports), path)


@mpl.rc_context(_STYLE)
def adaptation_figure(reports: Sequence[Report]) -> Figure:
    """Return the figure of `plot_adaptation`."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    _draw_splits(figure.subplots(), reports)
    return figure


@mpl.rc_context(_STYLE)
def plot_results(results: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Draw the learning and adaptation curves of one experiment side by side, as a PNG.

    Args:
        results: its result files, one a seed.
        path: where to write it.
    """
    splits = [part for result in results for part in (result, result["ood"]) if part is not None]
    reports = [Report.from_json(part) for part in splits]
    figure = Figure(figsize=(2 * _SIZE[0], _SIZE[1]), layout="constrained")
    left, right = figure.subplots(1, 2)
    where = "train = held-out" if reports[0].train_is_heldout else "held-out"
    draw_learning(left, {"": [result["curve"] for result in results]}, where, reports[0])
    band = "95 % interval over seeds" if len(results) > 1 else "95 % interval over tasks"
    _finish(left, f"learning (band: {band})")
    _draw_splits(right, reports)
    seeds = f"{len(results)} seed{'s' if len(results) > 1 else ''}"
    figure.suptitle(f"{reports[0].family}, {reports[0].algorithm}, {seeds}", fontsize=11)
    return _write(figure, path)


@mpl.rc_context(_STYLE)
def plot_comparison(results: Mapping[str, Sequence[dict[str, Any]]], path: Path | str) -> Path:
    """Draw the adaptation curves of several algorithms on one family, heldout and ood, as a PNG.

    Args:
        results: algorithm -> its result files, one a seed.
        path: where to write it.
    """
    charts: dict[str, list[Group]] = {"held-out tasks": [], "outside the training box": []}
    for n, (name, seeds) in enumerate(results.items()):
        for title, parts in zip(charts, (seeds, [r["ood"] for r in seeds]), strict=True):
            if all(part is not None for part in parts):
                reports = [Report.from_json(part) for part in parts]
                charts[title].append(Group(name, RUN_COLOURS[n], reports))
    charts = {title: groups for title, groups in charts.items() if groups}
    figure = Figure(figsize=(_SIZE[0] * len(charts), _SIZE[1]), layout="constrained")
    panels = figure.subplots(1, len(charts), squeeze=False)[0]
    for axes, (title, groups) in zip(panels, charts.items(), strict=True):
        draw_adaptation(axes, groups, centre="mean")
        first = groups[0].reports[0]
        same = f"{first.distinct_tasks} tasks (train = held-out)"
        _finish(axes, same if first.train_is_heldout else title)
    figure.suptitle(next(iter(results.values()))[0]["family"], fontsize=11)
    return _write(figure, path)


def _draw_splits(axes: Axes, reports: Sequence[Report]) -> None:
    """Draw a line for each split of one experiment."""
    by_split = {split: [r for r in reports if r.split == split] for split in SPLITS}
    groups = []
    for split, found in by_split.items():
        if found:
            name = "train = heldout" if found[0].train_is_heldout else split
            groups.append(Group(f"{name}, IQM", SPLITS[split], found))
    if not groups:
        raise UserError("there is no evaluation to draw")
    draw_adaptation(axes, groups, task_blind=True)
    several = max(len(group.reports) for group in groups) > 1
    over = "tasks and seeds" if several else "tasks"
    _finish(axes, f"adaptation (band: 95 % interval over {over})")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.legend()


def _write(figure: Figure, path: Path | str) -> Path:
    from PIL import Image

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=130, facecolor="white")
        # A quarter of the size, and no difference to the eye: a plot has few colours.
        Image.open(drawn).convert("RGB").quantize(128).save(path, "PNG", optimize=True)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None
    return path
