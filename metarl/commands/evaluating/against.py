"""``metarl evaluate RUN --against RUN…``: several runs on the same tasks, and the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.base.text import counted, shown
from metarl.runs.progress import bar

if TYPE_CHECKING:
    from metarl.commands.evaluating.evaluate import Evaluate
    from metarl.commands.evaluating.opened import Opened
    from metarl.evaluation.protocol import Report


def evaluate_others(args: Evaluate, others: Sequence[Opened]) -> list[Report]:
    """Evaluate the runs of ``--against``, which have been opened, as the first one was."""
    from metarl.evaluation.protocol import evaluate

    reports, how = [], {"seed": args.seed, "split": args.split, "episodes": args.episodes}
    for one in others:
        worlds = one.worlds(len(one.tasks) * one.each, args.threads)
        with bar(f"evaluating {one.run}") as show:
            reports.append(evaluate(one.learner, worlds, one.tasks, **how, progress=show))
    return reports


def comparison(
    report: Report, others: Sequence[Report], runs: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """Return the lines that compare a report with others, and the scores as JSON.

    Args:
        report: of the first run.
        others: of the others, on the same tasks.
        runs: the names of all of them, which tell those of one learner apart.
    """
    from metarl.evaluation.score import adaptation_score, is_blind, is_oracle
    from metarl.tasks.composition import untold

    lines, every = ["mean return of each round, on the same tasks:"], (report, *others)
    width = max(len(one.family) for one in every)
    learners = [f"{one.algorithm} on {one.family}" for one in every]
    alike = len(set(learners)) < len(learners)
    labels = _unique([f"{a} ({b})" if alike else a for a, b in zip(learners, runs, strict=True)])
    for one, run in zip(every, runs, strict=True):
        curve = " ".join(f"{shown(mean, 1):>9}" for mean in one.mean)
        whose = f"  {run}" if alike else ""
        lines.append(f"  {one.family:<{width}}  {one.algorithm:<10}{curve}{whose}")
    blind, oracle = ([o for o in every if of(o)] for of in (is_blind, is_oracle))
    if not blind or not oracle:
        plain = untold(report.family)
        missing = " and ".join(
            words for words, found in (
                (f"of ppo on {plain} (the blind policy)", blind),
                (f"of ppo on {plain}+told (the oracle)", oracle),
            ) if not found
        )  # fmt: skip
        lines.append(f"no adaptation score: add a run {missing} to --against")
        return lines, {}
    below, above = ([np.array(o.returns)[:, 0] for o in line] for line in (blind, oracle))
    scores: dict[str, Any] = {}
    for label, one in zip(labels, every, strict=True):
        if is_blind(one) or is_oracle(one):
            continue
        for k, seen in enumerate(one.experience):
            score = adaptation_score([np.array(one.returns)[:, k]], below, above, one.tasks)
            after = counted(seen, "episode")
            lines.append(f"adaptation score of {label} after {after}: {score.words}")
            numbers = [None if np.isnan(x) else x for x in score[:3]]
            scores.setdefault(label, []).append(numbers)
    worth = adaptation_score(below, below, above, report.tasks).worth
    lines.append(f"knowing the task is worth {worth[0]:.1f} [{worth[1]:.1f}, {worth[2]:.1f}] here")
    return lines, {"scores": scores, "worth": list(worth)}


def _unique(labels: Sequence[str]) -> list[str]:
    """Number labels that repeat, as those of one run that is named twice."""
    found = [(one, labels[:k].count(one)) for k, one in enumerate(labels)]
    return [f"{one} [{before + 1}]" if before else one for one, before in found]
