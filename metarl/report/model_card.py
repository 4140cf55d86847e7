"""The model card of a shared agent: what it was trained on, how well it adapts, where it fails.

`templates/card.md` is the card; this module has its numbers and sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl.base.errors import quoted
from metarl.base.plugins import first_line
from metarl.base.text import counted, si
from metarl.evaluation.protocol import Report
from metarl.learning.registry import find_learner
from metarl.report.page import TEMPLATES
from metarl.report.sections.measures import measured
from metarl.report.tasks import (
    RANKED,
    per_task_scores,
    ranked_tasks,
    task_words,
    verdict,
)
from metarl.report.text import duration, first_column, first_round, number, param_units
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family


def model_card(
    result: dict[str, Any], folder: str, note: str = "", scores: Sequence[str] = ()
) -> str:
    """Return the card as Markdown.

    Args:
        result: a result file's object: the held-out report, ood, curve, config, versions, hardware,
            command.
        folder: how commands name the agent.
        note: a sentence to add to the limits.
        scores: sentences on the adaptation score, which needs runs that the result does not hold.
    """
    family = find_family(result["family"])
    reports = {"heldout": Report.from_json(result, "result")}
    if result.get("ood") is not None:
        reports["ood"] = Report.from_json(result["ood"], "result, ood")
    by_task = {split: per_task_scores(report) for split, report in reports.items()}
    worst = ranked_tasks(by_task, param_units(family.name))[::-1]
    adapted = len(reports["heldout"].experience) > 1
    if not adapted:
        worst.sort(key=lambda row: row.before)
    what = first_line(type(family))
    return TEMPLATES.get_template("card.md").render(
        heldout=reports["heldout"], reports=reports, family=family, folder=quoted(folder),
        algorithm=first_line(find_learner(result["algorithm"])).rstrip("."),
        what=what[:1].lower() + what[1:], setting=_setting(family),
        split="ood" if any(param.ood for param in family.params) else "heldout",
        training=_training(result), command=result["command"], gains=[*_gains(reports), *scores],
        protocol=_protocol(reports["heldout"]), words=" ".join(task_words(by_task)),
        adapted=adapted, first=first_column(reports.values()),
        worst=worst[: min(RANKED, (len(worst) + 1) // 2)],
        limits=[*_limits(family, reports, result), *([note] if note else [])],
    )  # fmt: skip


def _setting(family: TaskFamily) -> str:
    """Return the flag that sets the first parameter to a value towards its upper end."""
    nominal = TaskDistribution(family).nominal()
    if not nominal.names:
        return ""
    value = float(family.params[0].train.at(np.asarray(0.7)))
    return f" --set {quoted(f'{nominal.names[0]}={value:.2g}')}"


def _training(result: dict[str, Any]) -> str:
    last, train = result["curve"][-1], result["config"]["train"]
    hardware = result["hardware"]
    seconds = duration(float(last["seconds"])) if "seconds" in last else "?"
    packages = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    cores = f"{hardware.get('cores')} cores"
    machine = ", ".join(filter(None, (hardware.get("cpu"), cores, hardware.get("gpu"))))
    return (
        f"{si(last['env_steps'])} env steps in "
        f"{counted(last.get('iteration', '?'), 'iteration')} of "
        f"{counted(train['tasks_per_iteration'], 'task')} × "
        f"{counted(train['rollouts_per_task'], 'world')}, "
        f"{seconds}, seed {train['seed']}, on "
        f"{counted(result['config'].get('threads') or 'all', 'thread')} of: "
        f"{machine}. Versions: {packages}."
    )


def _gains(reports: dict[str, Report]) -> list[str]:
    """Return a sentence for each split on what adaptation gains, and one on shared tasks."""
    lines = []
    for split, report in reports.items():
        if len(report.experience) == 1:
            lines.append(
                f"On {report.distinct_tasks} {split} tasks{report.mark()}: {report.verdict()}."
            )
            continue
        gain, low, high = report.difference()
        lines.append(
            f"Gain on {counted(report.distinct_tasks, f'{split} task')}{report.mark()} over "
            f"{_over(report)}: {number(gain, True)} (interquartile mean, 95 % interval "
            f"{number(low, True)} to {number(high, True)}). {verdict(report)}"
        )
    for split, report in reports.items():
        lines += [
            f"On {split} tasks, {name}: {number(values[0])} → {number(values[-1])}."
            for name, values in measured(report).items()
        ]
    if reports["heldout"].train_is_heldout:
        lines.append("The held-out tasks of this family are its training tasks.")
    return lines


def _over(report: Report) -> str:
    """Return what the gain is measured against."""
    words = first_round(report)
    return f"{'its' if report.adapts_within else 'the same policy'} {words}"


def _protocol(report: Report) -> str:
    return (
        f"Actions are deterministic, {counted(report.rollouts_per_task, 'world')} a task, "
        f"evaluation seed {report.seed}; the raw numbers are in `result.json`."
    )


def _limits(family: TaskFamily, reports: dict[str, Report], result: dict[str, Any]) -> list[str]:
    heldout, ood = reports["heldout"], reports.get("ood")
    seen = heldout.experience
    lines = [
        f"Trained and tested in simulation only, with episodes of {family.horizon} steps "
        f"({family.horizon * family.dt:g} s).",
        f"Each round of adaptation takes {counted(seen[1] - seen[0], 'episode')} of the task."
        if len(seen) > 1
        else "It was tested without adaptation.",
        f"One training seed ({result['config']['train']['seed']}) out of many possible ones; "
        f"another seed gives another policy.",
    ]
    after = " after adaptation" if len(seen) > 1 else ""
    if ood is None:
        return [*lines, "Nothing is known of tasks outside the training box."]
    return [
        *lines,
        f"Outside the training box the return{after} is {number(ood.mean[-1])}, "
        f"within it {number(heldout.mean[-1])}; standing still scores {number(ood.stand_still)} "
        f"and {number(heldout.stand_still)} on those tasks.",
    ]
