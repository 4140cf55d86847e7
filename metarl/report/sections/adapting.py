"""Does adapting pay, and where: scores against a blind policy and an oracle, and probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from metarl.base.text import ALL_DIVERGED, counted
from metarl.evaluation.probe import INTERVENTIONS, WINDOW, effect_words
from metarl.evaluation.protocol import Report
from metarl.evaluation.score import adaptation_score, is_blind, is_oracle
from metarl.report.charts import PALETTE, RUN_COLOURS
from metarl.report.run_summary import RunSummary
from metarl.report.tasks import TITLES, common_rows
from metarl.report.text import number


class ScoreTable(NamedTuple):
    """The scores on the tasks of a split."""

    title: str
    columns: list[str]
    """What each score is after."""
    rows: list[tuple[str, list[str]]]
    """The learner's name, and its scores in words."""
    worth: str
    """What knowing the task is worth."""


def score_tables(runs: Sequence[RunSummary]) -> list[ScoreTable]:
    """Return a table for each split in which a blind policy, an oracle and a learner have reports.

    Runs of the same learner are rows of their own; several blind policies, or oracles, are seeds of
    one.
    """
    tables = []
    for split, title in TITLES.items():
        shown = [(run.label, run.reports[split]) for run in runs if split in run.reports]
        if table := _table(title, shown):
            tables.append(table)
    return tables


def _table(title: str, shown: list[tuple[str, Report]]) -> ScoreTable | None:
    rows, count = common_rows([report for _, report in shown]) if shown else ([], 0)
    if not count:
        return None
    returns = [np.array(report.returns)[own] for (_, report), own in zip(shown, rows, strict=True)]
    tasks = [shown[0][1].tasks[row] for row in rows[0]]
    below, above = (
        [values[:, 0] for (_, report), values in zip(shown, returns, strict=True) if of(report)]
        for of in (is_blind, is_oracle)
    )
    learners = [
        (label, report, values)
        for (label, report), values in zip(shown, returns, strict=True)
        if not (is_blind(report) or is_oracle(report))
    ]
    if not (below and above and learners):
        return None
    seen = max((report.experience for _, report, _ in learners), key=len)
    scores = [
        (label, [adaptation_score([column], below, above, tasks).words for column in values.T])
        for label, _, values in learners
    ]
    worth = adaptation_score(below, below, above, tasks).worth
    worth_words = f"{number(worth[0])}, 95 % interval {number(worth[1])} to {number(worth[2])}"
    same = all(report.experience == seen[: len(report.experience)] for _, report, _ in learners)
    columns = [
        f"after {counted(episodes, 'episode')}" if same else f"round {k}"
        for k, episodes in enumerate(seen)
    ]
    return ScoreTable(title, columns, scores, worth_words)


class ProbeTable(NamedTuple):
    """What a probe found."""

    label: str
    effects: list[tuple[str, str, str, str]]
    """What is done to the policy, what that means, its mean return, and the change."""
    verdicts: list[str]
    """What is shown of each intervention, or why nothing is."""
    readable: list[tuple[str, str]]
    """A task parameter, and the R² of its linear readout."""
    identified: str
    """When the first episode's reward reaches the final rate."""


def probe_tables(runs: Sequence[RunSummary]) -> list[ProbeTable]:
    """Return a table for each run that was probed."""
    return [_probe_table(run.label, run.probe) for run in runs if run.probe]


def _probe_table(label: str, found: dict[str, Any]) -> ProbeTable:
    effects, verdicts, whole = [], [], found["effects"]["as it is"]["returns"]
    tasks = np.array(found.get("tasks", [[m] for m in range(len(whole))]), float)
    for name, effect in found["effects"].items():
        returns = [value for value in effect["returns"] if value is not None]
        change = ALL_DIVERGED if None in effect["change"] else (
            "{} [{}, {}]".format(*(number(value, True) for value in effect["change"]))
        )  # fmt: skip
        mean = number(float(np.mean(returns))) if returns else ALL_DIVERGED
        what = "" if name == "as it is" else change
        effects.append((name, INTERVENTIONS.get(name, ""), mean, what))
        if name != "as it is":
            words = effect_words(effect["returns"], whole, effect["change"], tasks)
            verdicts.append(f"{name[:1].upper()}{name[1:]}: {words}.")
    readable = [(k, "—" if r2 is None else f"{r2:.2f}") for k, r2 in found["readable"].items()]
    steps = found["identified"]
    words = (
        f"In the first episode the reward makes 90 % of its way to the final rate by step {steps}."
        if steps is not None
        else "The first episode does not come to 90 % of the final reward."
    )
    return ProbeTable(label, effects, verdicts, readable, words)


def draw_sweep(axes: Axes, runs: Sequence[RunSummary], parameter: str) -> None:
    """Draw the return over one parameter, before adapting and after; grey is outside training."""
    for n, run in enumerate(runs):
        if not (found := run.probe.get("sweeps", {}).get(parameter)):
            continue
        values, colour = np.array(found["values"], float), PALETTE[RUN_COLOURS[n]]
        of = "" if len(runs) == 1 else f"{run.label}: "
        first, last = (np.array(found[name], float) for name in ("first", "last"))
        axes.plot(
            values, first, color=colour, ls="--", marker="o", ms=3, label=f"{of}first episode"
        )
        axes.plot(values, last, color=colour, marker="o", ms=3, label=f"{of}last")
        for low, high in _outside(values, found["trained"]):
            axes.axvspan(low, high, color="0.93", zorder=0)
    axes.set(xlabel=parameter, ylabel="return")


def _outside(values: np.ndarray, trained: Sequence[bool]) -> list[tuple[float, float]]:
    """Return the stretches between neighbouring values of which one is outside training."""
    pairs = zip(values[:-1], values[1:], trained[:-1], trained[1:], strict=True)
    return [(a, b) for a, b, one, other in pairs if not (one and other)]


def draw_first_episode(axes: Axes, runs: Sequence[RunSummary]) -> None:
    """Draw the reward over the first episode of each run that was probed, and when it knows.

    Blind policies and oracles are dashed: a learner that adapts goes from the one to the other.
    """
    probed = [(n, run) for n, run in enumerate(runs) if run.probe]
    for n, run in probed:
        first = np.array(run.probe["first"], float)
        window = min(WINDOW, len(first))
        smooth = np.convolve(first, np.ones(window) / window, "valid")
        colour, steps = PALETTE[RUN_COLOURS[n]], run.probe["identified"]
        kind = ", oracle" if is_oracle(run) else ", blind" if is_blind(run) else ""
        axes.plot(
            np.arange(len(smooth)) + window, smooth, color=colour, label=run.label + kind,
            ls="--" if kind and len(probed) > 1 else "-",
        )  # fmt: skip
        if steps is not None and not kind:
            axes.axvline(steps + 1, color=colour, ls=":", lw=1.2)
    axes.set(xlabel="step of the first episode", ylabel="reward in a step")
