"""Plots of a run: how it learned, and how it adapts, with the reference lines beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.errors import UserError
from metarl.progress import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metarl.evaluation import Report

BEFORE, AFTER, STILL = "#8a8f98", "#1f6fb2", "#c44e52"
OOD = "#dd8452"


def plot_adaptation(reports: Sequence[Report], path: Path | str) -> Path:
    """Draw adaptation curves over the episodes seen, one line a split, as a PNG.

    Args:
        reports: of one family; those of the same split (seeds) are averaged.
        path: where to write it.
    """
    return _write(adaptation_figure(reports), path)


def adaptation_figure(reports: Sequence[Report]) -> Figure:
    """Return the figure of `plot_adaptation`."""
    figure = _figure(5.4, 3.8)
    _draw_adaptation(figure.subplots(), reports)
    return figure


def plot_results(results: Sequence[dict[str, Any]], path: Path | str) -> Path:
    """Draw the result files of one experiment, one a seed, as a PNG."""
    from metarl.evaluation import Report

    splits = [result for r in results for result in (r, r["ood"]) if result is not None]
    reports = [Report.from_json(split) for split in splits]
    return plot_run([result["curve"] for result in results], reports, path)


def plot_run(
    curves: Sequence[Sequence[dict[str, Any]]], reports: Sequence[Report], path: Path | str
) -> Path:
    """Draw learning and adaptation curves side by side, as a PNG.

    Args:
        curves: one a seed, each a list of {env_steps, before, after}.
        reports: of all seeds, heldout and ood.
        path: where to write it.
    """
    figure = _figure(10.4, 3.9)
    left, right = figure.subplots(1, 2)
    _draw_learning(left, curves, reports)
    _draw_adaptation(right, reports)
    seeds = len(curves)
    first = reports[0]
    figure.suptitle(
        f"{first.family}, {first.algorithm}, {seeds} seed{'s' if seeds > 1 else ''}", fontsize=11
    )
    return _write(figure, path)


def plot_comparison(results: Mapping[str, Sequence[dict[str, Any]]], path: Path | str) -> Path:
    """Draw the adaptation curves of several algorithms on one family, heldout and ood, as a PNG.

    Args:
        results: algorithm -> its result files, one a seed.
        path: where to write it.
    """
    by_split = {
        split: {
            name: [r if split == "heldout" else r["ood"] for r in seeds]
            for name, seeds in results.items()
            if split == "heldout" or all(r["ood"] is not None for r in seeds)
        }
        for split in ("heldout", "ood")
    }
    shown = {split: by_name for split, by_name in by_split.items() if by_name}
    figure = _figure(5.2 * len(shown), 3.9)
    for axes, by_name in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.values(), strict=True
    ):
        for n, (name, reports) in enumerate(by_name.items()):
            _draw_seeds(axes, reports, f"C{n}", name)
        still = [r["stand_still"] for reports in by_name.values() for r in reports]
        axes.axhline(_mean(still), color=STILL, ls="--", lw=1, label="standing still")
        seen = sorted({k for reports in by_name.values() for k in reports[0]["experience"]})
        if seen[-1] > 8 * next((k for k in seen if k > 0), 1):
            axes.set_xscale("function", functions=(_log_from_one, np.expm1))
            axes.set_xticks(seen)
        axes.set(xlabel="episodes of the task seen", ylabel="return")
        _finish(axes, _where(next(iter(by_name.values()))))
    figure.suptitle(next(iter(results.values()))[0]["family"], fontsize=11)
    return _write(figure, path)


def _where(reports: Sequence[dict[str, Any]]) -> str:
    """What tasks the reports of one split are on."""
    from metarl.evaluation import Report

    report = Report.from_json(reports[0])
    if report.train_is_heldout:
        return f"{report.distinct_tasks} tasks (train = held-out)"
    return {"heldout": "held-out tasks", "ood": "outside the training box"}[report.split]


def _draw_seeds(axes: Axes, reports: Sequence[dict[str, Any]], colour: str, label: str) -> None:
    """A line for the mean over seeds, and a band from the lowest to the highest."""
    means = np.array([report["mean"] for report in reports], float)  # a null becomes NaN
    seen = reports[0]["experience"]
    axes.plot(seen, means.mean(0), "o-", color=colour, label=label)
    if len(means) > 1:
        axes.fill_between(seen, means.min(0), means.max(0), color=colour, alpha=0.2, lw=0)


def _draw_learning(
    axes: Axes, curves: Sequence[Sequence[dict[str, Any]]], reports: Sequence[Report]
) -> None:
    """The curves of all seeds; their band is the seeds' spread, that of one seed its interval."""
    last = curves[0][-1]
    seen = last.get("experience", [0, 0])[-1]
    length = min(len(curve) for curve in curves)
    steps = np.array([entry["env_steps"] for entry in curves[0][:length]]) / 1e6
    for key, colour, label in (
        ("before", BEFORE, "before adaptation (task-blind)"),
        ("after", AFTER, f"after adaptation to {counted(seen, 'episode')}"),
    ):
        values = np.array([[entry[key] for entry in curve[:length]] for curve in curves], float)
        axes.plot(steps, values.mean(0), color=colour, label=label)
        low, high = values.min(0), values.max(0)
        if len(curves) == 1 and all(f"{key}_ci" in entry for entry in curves[0]):
            low, high = np.array([entry[f"{key}_ci"] for entry in curves[0]], float).T
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    still = [curve[-1]["stand_still"] for curve in curves if "stand_still" in curve[-1]]
    still = still or [report.stand_still for report in reports if report.split == "heldout"]
    axes.axhline(_mean(still), color=STILL, ls="--", lw=1, label="standing still")
    where = "train = held-out" if reports[0].train_is_heldout else "held-out"
    axes.set(xlabel="environment steps (millions)", ylabel=f"return on {where} tasks")
    band = "lowest to highest seed" if len(curves) > 1 else "95 % interval over tasks"
    _finish(axes, f"learning (band: {band})")


def _draw_adaptation(axes: Axes, reports: Sequence[Report]) -> None:
    if not reports:
        raise UserError("there is no evaluation to draw")
    for split, colour in (("heldout", AFTER), ("ood", OOD), ("train", BEFORE)):
        group = [report for report in reports if report.split == split]
        if not group:
            continue
        seen = group[0].experience
        centre = np.mean([report.iqm for report in group], axis=0)
        interval = np.mean([report.ci95 for report in group], axis=0)
        name = "train = heldout" if group[0].train_is_heldout else split
        axes.plot(seen, centre, "o-", color=colour, label=f"{name}, IQM")
        axes.fill_between(seen, interval[:, 0], interval[:, 1], color=colour, alpha=0.2, lw=0)
        if split == "heldout" or len({report.split for report in reports}) == 1:
            still = _mean([report.stand_still for report in group])
            axes.axhline(centre[0], color=colour, ls=":", lw=1, label="task-blind (episode 0)")
            axes.axhline(still, color=STILL, ls="--", lw=1, label="standing still")
    axes.set(xlabel="episodes of the task seen", ylabel="return")
    _finish(axes, "adaptation (band: 95 % interval over tasks)")


def _mean(values: Sequence[float | None]) -> float:
    """The mean; NaN, which is not drawn, if every episode diverged in one of them."""
    return float(np.mean(np.array(values, float)))


def _log_from_one(seen: np.ndarray) -> np.ndarray:
    """Return log(1 + n); a margin to the left of 0 stays at 0."""
    return np.log1p(np.maximum(seen, 0.0))


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches: pyplot would choose a backend for the whole process."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


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
