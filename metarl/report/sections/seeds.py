"""Charts of runs that differ in their seed alone: one line for all of them, with an interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from metarl.base.text import counted
from metarl.report.charts import RUN_COLOURS, Group, Panel, draw_adaptation, draw_learning, panel
from metarl.report.run_summary import RunSummary

OF_THE_MACHINE = (
    "seed", "out", "threads", "device", "progress", "print_every", "checkpoint_every",
    "keep_checkpoints", "video_every", "track", "evaluate_ood", "simulator_room",
)  # fmt: skip
"""Settings in which runs of one experiment may differ."""
NOTE = (
    "Lines: over seeds. Bands: 95 % bootstrap intervals over {}; of few seeds they are too narrow. "
    "Hollow points: some seeds have no data."
)


def seed_panels(runs: Sequence[RunSummary]) -> list[Panel]:
    """Return the curves over seeds, if any of the runs are seeds of one experiment."""
    groups = by_experiment(runs)
    if all(len(group) == 1 for group in groups.values()):
        return []
    panels = []
    curves = {name: [run.curve for run in group if run.curve] for name, group in groups.items()}
    if curves := {name: seeds for name, seeds in curves.items() if seeds}:
        draw = partial(draw_learning, curves=curves)
        panels.append(panel("Learning, over seeds", draw, NOTE.format("seeds")))
    lines = [
        Group(name, RUN_COLOURS[n], reports)
        for n, (name, group) in enumerate(groups.items())
        if (reports := [run.reports["heldout"] for run in group if "heldout" in run.reports])
    ]
    if lines:
        draw = partial(draw_adaptation, groups=lines)
        note = NOTE.format("tasks and seeds")
        panels.append(panel("Adaptation to held-out tasks, over seeds", draw, note))
    return panels


def by_experiment(runs: Sequence[RunSummary]) -> dict[str, list[RunSummary]]:
    """Return the runs that differ in their seed alone, together, under a name of their own."""
    found: dict[str, list[list[RunSummary]]] = {}
    for run in runs:
        train = {k: v for k, v in run.train.items() if k not in OF_THE_MACHINE}
        key = json.dumps([run.family, run.algorithm, train, run.learner], sort_keys=True,
                         default=str)  # fmt: skip
        same = found.setdefault(key, [[]])
        if run.seed in [other.seed for other in same[-1]]:
            same.append([])  # one seed twice is another run
        same[-1].append(run)
    groups: dict[str, list[RunSummary]] = {}
    for group in (group for same in found.values() for group in same):
        first, count = group[0], counted(len(group), "seed")
        told = " told" * ("+told" in first.family)
        name = f"{first.algorithm}{told}, {count}" if len(group) > 1 else first.label
        while name in groups:
            name += f" ({first.label})"
        groups[name] = group
    return groups
