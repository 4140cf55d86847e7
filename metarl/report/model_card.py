"""The model card of a shared agent: what it was trained on, how well it adapts, where it fails."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.errors import quoted
from metarl.evaluation import Report
from metarl.family import TaskFamily
from metarl.plugins import first_line
from metarl.progress import counted, si
from metarl.registry import find_family, find_learner
from metarl.report.page import duration
from metarl.report.run_summary import units
from metarl.report.svg import number
from metarl.report.tasks import RANKED, Scores, in_words, scores, task_words, verdict
from metarl.tasks import TaskDistribution


def model_card(result: dict[str, Any], folder: str, note: str = "") -> str:
    """Return the card as Markdown.

    Args:
        result: a result file's object: the held-out report, ood, curve, config, versions, hardware,
            command.
        folder: how commands name the agent.
        note: a sentence to add to the limits.
    """
    family, algorithm = find_family(result["family"]), find_learner(result["algorithm"])
    heldout = Report.from_json(result, "result")
    reports = {"heldout": heldout}
    if result.get("ood") is not None:
        reports["ood"] = Report.from_json(result["ood"], "result, ood")
    title = f"{heldout.family}, {heldout.algorithm}"
    what = first_line(type(family))
    parts = [
        f"# {title}",
        f"{first_line(algorithm)} Trained on `{heldout.family}`: {what[:1].lower()}{what[1:]}",
        _use(family, folder),
        "## Trained on",
        _trained_on(family, result),
        "## Results",
        _results(reports, result),
        "![Learning and adaptation](curve.png)",
        "## Where it fails",
        _failures(reports),
        "## Limits",
        _limits(family, reports, result, note),
    ]
    return "\n\n".join(parts) + "\n"


def _use(family: TaskFamily, folder: str) -> str:
    nominal = TaskDistribution(family).nominal()
    setting = ""
    if nominal.names:
        first = family.params[0].train.at(np.asarray(_NEARLY_TOP))
        setting = f" --set {quoted(f'{nominal.names[0]}={float(first):.2g}')}"
    split = "ood" if any(param.ood for param in family.params) else "heldout"
    folder = quoted(folder)
    return "\n".join(
        [
            "```sh",
            f"metarl adapt {folder}{setting}",
            f"metarl render {folder} --split {split} --out adapts.mp4",
            f"metarl evaluate {folder} --split {split}",
            f"metarl report {folder} --out report.html",
            "```",
        ]
    )


def _trained_on(family: TaskFamily, result: dict[str, Any]) -> str:
    lines = ["| parameter | unit | trained on | tested outside, on |", "|---|---|---|---|"]
    for param in family.params:
        ood = ", ".join(map(str, param.ood)) or "—"
        lines.append(f"| `{param.name}` | {param.unit or '1'} | {param.train} | {ood} |")
    last, train = result["curve"][-1], result["config"]["train"]
    hardware = result["hardware"]
    seconds = duration(float(last["seconds"])) if "seconds" in last else "?"
    packages = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    machine = ", ".join(
        str(part)
        for part in (hardware.get("cpu"), f"{hardware.get('cores')} cores", hardware.get("gpu"))
        if part
    )
    lines += [
        "",
        f"{si(last['env_steps'])} env steps in "
        f"{counted(last.get('iteration', '?'), 'iteration')} of "
        f"{counted(train['tasks_per_iteration'], 'task')} × "
        f"{counted(train['rollouts_per_task'], 'world')}, "
        f"{seconds}, seed {train['seed']}, on "
        f"{counted(result['config'].get('threads') or 'all', 'thread')} of: "
        f"{machine}. Versions: {packages}.",
        "",
        "```sh",
        result["command"],
        "```",
    ]
    return "\n".join(lines)


def _results(reports: dict[str, Report], result: dict[str, Any]) -> str:
    lines = [
        "| tasks | episodes seen | mean return | interquartile mean, 95 % interval |",
        "|---|---|---|---|",
    ]
    for split, report in reports.items():
        table = zip(report.experience, report.mean, report.iqm, report.ci95, strict=True)
        for seen, mean, centre, (low, high) in table:
            lines.append(
                f"| {split} | {seen} | {number(mean)} | {number(centre)} "
                f"[{number(low)}, {number(high)}] |"
            )
        lines.append(f"| {split} | standing still | {number(report.stand_still)} | |")
    lines.append("")
    for split, report in reports.items():
        gain, low, high = report.difference()
        lines.append(
            f"Gain on {report.distinct_tasks} {split} tasks{report.mark()} over the same policy "
            f"before adaptation: {number(gain, True)} (interquartile mean, 95 % interval "
            f"{number(low, True)} to {number(high, True)}). {verdict(report)}"
        )
    if reports["heldout"].train_is_heldout:
        lines.append("The held-out tasks of this family are its training tasks.")
    worlds, seed = reports["heldout"].rollouts_per_task, reports["heldout"].seed
    lines.append(
        f"Actions are deterministic, {counted(worlds, 'world')} a task, evaluation seed {seed}; "
        f"the raw numbers are in `result.json`."
    )
    return "\n".join(lines)


def _failures(reports: dict[str, Report]) -> str:
    found: dict[str, Scores] = {split: scores(report) for split, report in reports.items()}
    unit = units(reports["heldout"].family)
    lines = [" ".join(task_words(found)), ""]
    rows = sorted(
        (float(one.after[i] - one.before[i]), split, i)
        for split, one in found.items()
        for i in range(len(one.tasks))
    )
    lines += ["| adaptation helps least on | before | after | gain |", "|---|---|---|---|"]
    for gain, split, i in rows[: min(RANKED, (len(rows) + 1) // 2)]:
        one = found[split]
        words = in_words(one.names, one.tasks[i].tolist(), unit)
        lines.append(
            f"| {words} ({split}) | {number(one.before[i])} | {number(one.after[i])} "
            f"| {number(gain, True)} |"
        )
    return "\n".join(lines)


def _limits(
    family: TaskFamily, reports: dict[str, Report], result: dict[str, Any], note: str
) -> str:
    heldout = reports["heldout"]
    seen = heldout.experience
    lines = [
        f"- Trained and tested in simulation only, with episodes of {family.horizon} steps "
        f"({family.horizon * family.dt:g} s).",
        f"- Each round of adaptation takes {counted(seen[1] - seen[0], 'episode')} of the task."
        if len(seen) > 1
        else "- It was tested without adaptation.",
        f"- One training seed ({result['config']['train']['seed']}) out of many possible ones; "
        f"another seed gives another policy.",
    ]
    ood = reports.get("ood")
    if ood is not None:
        lines.append(
            f"- Outside the training box the return after adaptation is {number(ood.mean[-1])}, "
            f"within it {number(heldout.mean[-1])}; standing still scores "
            f"{number(ood.stand_still)} and {number(heldout.stand_still)} on those tasks."
        )
    else:
        lines.append("- Nothing is known of tasks outside the training box.")
    return "\n".join([*lines, f"- {note}"] if note else lines)


_NEARLY_TOP = 0.7
