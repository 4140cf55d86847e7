"""The ladder's table and page from experiments/results/ladder/: ``ladder.py [--write]``.

For each family: what a blind policy gets, what an oracle gets, where each learner stands between
the two, and what it cost. ``--write`` writes docs/ladder.md, the picture of the performance
profiles (`ladder_profiles.py`) and the table of README.md; `run_queue.py` makes the results.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import ladder_curves
import numpy as np
from ladder_profiles import PICTURE, draw, profiles
from result_files import teacher_steps
from run_queue import LINES, MILLIONS, OWN, RESULTS, ROOT, lines_of, outdated, stale
from witness import RESULTS as WITNESSED

from metarl.base.keys import Key
from metarl.cli import guarded
from metarl.evaluation.score import Score, adaptation_score, score_draws, task_scores
from metarl.evaluation.statistics import iqm_over_families, widest

PAGE, README = ROOT / "docs" / "ladder.md", ROOT / "README.md"
BEGIN, END = "<!-- ladder -->", "<!-- /ladder -->"
INTRO = """\
# Does adapting pay?

Every learner beside the *blind* policy (PPO over all tasks: domain randomisation) and the *oracle*
(the same PPO on `FAMILY+told`, which observes the task's parameters), on the same held-out tasks.
The adaptation score is (X − blind) / (oracle − blind), of mean returns: 0 is domain randomisation,
1 is as good as being told the task; in brackets the 95 % interval of a bootstrap over tasks and
seeds. With one seed, what another one would give is not in the interval. *No score*: the oracle is
not shown to be better than the blind policy, so that there is nothing to be gained by knowing the
task, or the training was too short to show it. *Episodes* is how many of the task the learner had
seen: those that adapt between episodes have in a round as many as in training, others one.

Made by `python experiments/ladder.py --write` from the files that `make results` wrote. All of it
ran on CPUs, one thread each, on a machine that was busy with other work: minutes are wall-clock
time of training, and no more than a hint.
"""

AFTER = """\
Interquartile means of the adaptation score over the families that have one, after the last round,
with the 95 % interval of a bootstrap over tasks and seeds within each family. A family where the
oracle is not shown to be better than the blind policy is not in them. Of three families and fewer
the interquartile mean is the mean. The intervals are of the families listed, and of the seeds
listed: they do not say what other families would give, nor, with one seed, what another seed would.
Learners with other families in their rows are not to be compared."""
PROFILES = f"""\
The fraction of runs (a seed on a held-out task) whose score is above τ, after the last round, over
the families of the table above, each of which counts alike (Agarwal et al. 2021). The score of a
run is what the learner gains on the task over the blind policy, divided by what knowing the task is
worth in the mean over the family's tasks; its mean is the adaptation score. Above 1 is therefore
not above the oracle on that task: where knowing the task is worth more than in the mean, the
oracle is above 1 too, and its own profile is the one to compare with (dashed; over all families
in which a learner has a score). Learners with a score in fewer than half as many families as
another are left out. The band is the pointwise 95 % interval of a bootstrap over tasks and the
learner's seeds; the blind policy and the oracle are taken as they are.

![The fraction of runs above each score, for each learner](images/{PICTURE.name})"""
COST = """\
What training took, and how many episodes of a new task the learner has seen by its last round.
`finetune` starts from the policy of `ppo`: its training is that of `ppo`, and its episodes come on
top. `distil` learns from the oracle, whose env steps stand behind its own. *Evaluation* is the time
of the held-out evaluation, with all of its tasks and rounds."""
WITNESSES = """\
Agents of stable-baselines3 and sb3-contrib with the settings of those libraries, trained through
`SB3VecEnv` on the same tasks and tested on the same held-out ones by the same protocol: what
another code base makes of a family, made by `python experiments/witness.py FAMILY AGENT`. PPO and
SAC are blind to the task, and so is `ppo`; RecurrentPPO has a memory and sees no rewards, so that
it can infer dynamics and no goals. *Our ppo* and *our rl2* are those of the table above."""

STUDENT = (
    "`distil` is a student of the oracle: it learned from that one's actions, and not from rewards."
)

Results = dict[str, dict[str, list[dict[str, Any]]]]


def load(folder: Path) -> Results:
    """Read the results: family -> line -> one for each seed."""
    found: Results = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["family"].replace("+told", "")][result["line"]].append(result)
    return found


def column(result: dict[str, Any], episode: int) -> np.ndarray:
    """Return (M,) returns of a round, NaN where all worlds of a task diverged."""
    return np.array([row[episode] for row in result["returns"]], np.float64)


def compared(
    lines: dict[str, list[dict[str, Any]]], line: str, episode: int
) -> tuple[Any, ...] | None:
    """Return the arguments of `adaptation_score`, or None without a blind policy or an oracle.

    Fine-tuning starts from the blind policy of its seed, and is compared with those alone; with
    none if that one is no longer there, since the settings are others.
    """
    if line in ("ppo", "oracle") or not lines.get("ppo") or not lines.get("oracle"):
        return None
    mine, blind = lines[line], lines["ppo"]
    if line == "finetune":
        seeds = [result["config"]["train"]["seed"] for result in mine]
        blind = [one for one in blind if one["config"]["train"]["seed"] in seeds]
        if not blind or any(map(outdated, mine)) != any(map(outdated, blind)):
            return None
    returns = [column(one, episode) for one in mine]
    below, above = ([column(one, 0) for one in found] for found in (blind, lines["oracle"]))
    return returns, below, above, mine[0]["tasks"]


def score(lines: dict[str, list[dict[str, Any]]], line: str, episode: int) -> Score | None:
    """Return the adaptation score of a line, or None without a blind policy or an oracle."""
    arguments = compared(lines, line, episode)
    return None if arguments is None else adaptation_score(*arguments)


def rows(results: Results) -> list[str]:
    """Return the table: a row for each family, line that was trained, and first and last round."""
    table = [
        "| family | line | episodes | held-out | ood | score | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, lines in _trained(results):
        for line in filter(lines.get, lines_of(family)):
            table += [_row(family, line, lines, k) for k in sorted({0, last(lines[line])})]
    return table


def missing(results: Results) -> list[str]:
    """Return a line for each family, with what is not trained on it."""
    found = []
    for family in MILLIONS:
        lacks = [line for line in lines_of(family) if not results.get(family, {}).get(line)]
        if len(lacks) == len(lines_of(family)):
            found.append(f"- {family}: nothing is")
        elif lacks:
            found.append(f"- {family}: {', '.join(lacks)}")
    return ["Not trained yet, of what `make results` trains:", "", *found] if found else []


def _trained(results: Results) -> list[tuple[str, dict[str, list[dict[str, Any]]]]]:
    return [(family, results[family]) for family in MILLIONS if results.get(family)]


def last(found: list[dict[str, Any]]) -> int:
    """Return the number of the last round of a line."""
    return len(found[0]["experience"]) - 1


def _row(family: str, line: str, lines: dict[str, list[dict[str, Any]]], episode: int) -> str:
    found, got = lines[line], score(lines, line, episode)
    ood = [r["ood"]["mean"][episode] for r in found if r["ood"]]
    return (
        f"| {family} | {line}{dagger(found)} | {found[0]['experience'][episode]} "
        f"| {mean_of(found, episode):.1f} "
        f"| {f'{np.mean(ood):.1f}' if ood else 'none'} "
        f"| {got.words if got else ''} | {len(found)} |"
    )


def dagger(found: list[dict[str, Any]]) -> str:
    """Return the mark of results whose line has other settings by now."""
    return " †" if any(map(stale, found)) else ""


def daggers(results: Results) -> list[str]:
    """Return a paragraph on what rows with a † had that their lines have no longer, if any."""
    had: dict[str, set[str]] = {}
    for lines in results.values():
        for line, found in lines.items():
            for name, value in (pair for one in found for pair in stale(one).items()):
                had.setdefault(line, set()).add(f"{name}={value}")
    if not had:
        return []
    said = "; ".join(f"{line} {', '.join(sorted(of))}" for line, of in had.items())
    text = f"† Of settings or a test of before, until `make results` makes it anew: {said}."
    return ["", *textwrap.wrap(text, 100)]


def costs(results: Results) -> list[str]:
    """Return the table of what each line cost: a row for each family and line that was trained."""
    table = [
        "| family | line | env steps | minutes | episodes to adapt | evaluation (s) | hardware |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in MILLIONS:
        for line in lines_of(family):
            found = results.get(family, {}).get(line, [])
            if not found:
                continue
            took = [r["seconds"] for r in found if "seconds" in r]
            on = sorted({_hardware(r["hardware"]) for r in found if "hardware" in r})
            table.append(
                f"| {family} | {line} | {steps(found)} "
                f"| {minutes(found)} "
                f"| {found[0]['experience'][-1]} | {f'{np.mean(took):.0f}' if took else ''} "
                f"| {'; '.join(on)} |"
            )
    return table


def witnesses(ours: Results, theirs: Results) -> list[str]:
    """Return the table of the witnesses: a row a family and agent, beside lines of ours."""
    table = [
        "| family | agent | env steps | held-out | ood | our ppo | our rl2 | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, agents in sorted(theirs.items()):
        beside = [ours.get(family, {}).get(line) for line in ("ppo", "rl2")]
        mine = " | ".join(
            f"{mean_of(found, 0):.1f} at {steps(found)}" if found else "" for found in beside
        )
        for agent, found in sorted(agents.items()):
            ood = [one["ood"]["mean"][0] for one in found if one["ood"]]
            table.append(
                f"| {family} | {agent} | {steps(found)} | {mean_of(found, 0):.1f} "
                f"| {f'{np.mean(ood):.1f}' if ood else 'none'} | {mine} | {len(found)} |"
            )
    return table


def steps(found: list[dict[str, Any]]) -> str:
    """Return for how many environment steps a line was trained, and its teacher, in words."""
    own, before = (
        np.mean([count(one) for one in found]) / 1e6
        for count in (lambda one: one["curve"][-1]["env_steps"], teacher_steps)
    )
    return f"{own:.1f} M" + (f" + {before:.1f} M" if before else "")


def _hardware(of: dict[str, Any]) -> str:
    return f"{of['cpu']}, {of['cores']} cores" + (f", {of['gpu']}" if of["gpu"] else "")


def scored(results: Results) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Return, for each learner, the families that have a score after the last round.

    Returns:
        line -> family -> the arguments of `adaptation_score`.
    """
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for line in LINES:
        for family, lines in results.items():
            one = compared(lines, line, last(lines[line])) if line in lines else None
            if one is not None and not np.isnan(adaptation_score(*one).value):
                found.setdefault(line, {})[family] = one
    return found


def summary(results: Results) -> list[str]:
    """Return the table over families: for each learner, the IQM of its scores."""
    table = ["| line | IQM | families | seeds |", "|---|---|---|---|"]
    for line, families in scored(results).items():
        values = np.array([adaptation_score(*one).value for one in families.values()])
        drawn = np.stack([score_draws(*one) for one in families.values()])
        tasks = [task_scores(*one)[1] for one in families.values()]
        centre, low, high = iqm_over_families(
            values, drawn, widest(tasks), Key("ladder", line).numpy()
        )
        names, seeds = ", ".join(families), sorted({len(one[0]) for one in families.values()})
        table.append(
            f"| {line} | {centre:.2f} [{low:.2f}, {high:.2f}] | {len(families)}: {names} "
            f"| {' or '.join(map(str, seeds))} of each |"
        )
    return table if len(table) > 2 else ["No family has a score yet."]


def best(results: Results) -> list[str]:
    """Return the table of README.md: a row a family, with the learner that gets most from it.

    Families whose blind policy, oracle and a learner are trained. The best learner is that of the
    highest mean return after its last round.
    """
    table = [
        "| family | blind | best learner | zero-shot | K-shot | oracle | score | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, lines in ((name, results.get(name, {})) for name in MILLIONS):
        learners = [line for line in lines if line not in ("ppo", "oracle")]
        if not ({"ppo", "oracle"} <= lines.keys() and learners):
            continue
        line = max(learners, key=lambda one: mean_of(lines[one], last(lines[one])))
        k = last(lines[line])
        got = score(lines, line, k)
        table.append(
            f"| {family} | {mean_of(lines['ppo'], 0):.0f}{dagger(lines['ppo'])} "
            f"| **{line}**{dagger(lines[line])} | {mean_of(lines[line], 0):.0f} "
            f"| {mean_of(lines[line], k):.0f} (K = {lines[line][0]['experience'][k]}) "
            f"| {mean_of(lines['oracle'], 0):.0f}{dagger(lines['oracle'])} | {_short(got)} "
            f"| {len(lines[line])} |"
        )
    return table


def _short(got: Score | None) -> str:
    return "–" if got is None or np.isnan(got.value) else got.words


def minutes(found: list[dict[str, Any]]) -> str:
    """Return how many minutes a training of the line took."""
    return f"{np.mean([one['curve'][-1]['seconds'] for one in found]) / 60:.0f}"


def mean_of(found: list[dict[str, Any]], episode: int) -> float:
    """Return what a round of a line returned, on average over tasks and seeds."""
    return float(np.mean([result["mean"][episode] for result in found]))


def readme(text: str, results: Results) -> str:
    """Return README.md with the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = best(results)
    student = ["", STUDENT] if any("**distil**" in row for row in table) else []
    return "\n".join([before + BEGIN, *table, *daggers(results), *student, END + after])


def own_settings() -> list[str]:
    """Return a paragraph for each family and settings that some of its lines have there."""
    found: dict[tuple[str, str], list[str]] = {}
    for family, lines in OWN.items():
        for line, settings in lines.items():
            said = ", ".join(f"{name}={value}" for name, value in settings.items())
            found.setdefault((family, said), []).append(line)
    return [
        f"On {family}, {', '.join(lines)}: {said}.\n" for (family, said), lines in found.items()
    ]


def page(results: Results) -> str:
    """Return docs/ladder.md."""
    parts = [INTRO, *own_settings(), "## By family\n", *rows(results)]
    parts += [*daggers(results), "", *missing(results)]
    parts += ["\n## Over families\n", f"{AFTER}\n", *summary(results)]
    if scored(results):
        parts += ["\n## Performance profiles\n", PROFILES]
    if learned := ladder_curves.curves(dict(_trained(results))):
        parts += ["\n## Learning curves\n", f"{ladder_curves.TEXT}\n"]
        parts += ladder_curves.table(learned)
    if theirs := load(WITNESSED):
        parts += ["\n## Independent witnesses\n", f"{WITNESSES}\n", *witnesses(results, theirs)]
    return "\n".join([*parts, "\n## What it cost\n", f"{COST}\n", *costs(results)]) + "\n"


def main(argv: list[str]) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write the page and its pictures")
    results = load(RESULTS)
    text = page(results)
    if parser.parse_args(argv).write:
        PAGE.write_text(text, encoding="utf-8")
        README.write_text(readme(README.read_text("utf-8"), results), encoding="utf-8")
        if found := scored(results):
            draw(profiles(found), PICTURE)
        trained = dict(_trained(results))
        still = {name: lines["ppo"][0]["stand_still"] for name, lines in trained.items()
                 if lines.get("ppo")}  # fmt: skip
        ladder_curves.draw(ladder_curves.curves(trained), still, ladder_curves.PICTURE)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
