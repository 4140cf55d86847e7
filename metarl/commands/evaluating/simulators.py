"""``metarl evaluate RUN --simulator …``: what another simulator than that of training changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.base.errors import UserError
from metarl.base.text import counted, shown
from metarl.runs.progress import bar

if TYPE_CHECKING:
    from metarl.commands.evaluating.evaluate import Evaluate
    from metarl.evaluation.protocol import Report
    from metarl.learning.checkpoint import Checkpoint
    from metarl.learning.learner import Learner
    from metarl.simulation.warp.choice import Physics


def across_simulators(
    args: Evaluate, checkpoint: Checkpoint, learner: Learner, report: Report, physics: Physics
) -> tuple[list[str], dict[str, Any]]:
    """Compare a report with the same evaluation on the simulator that the agent was trained on.

    Args:
        args: of the command.
        checkpoint: of the agent.
        learner: the agent.
        report: what was just evaluated.
        physics: on what.

    Returns:
        Lines to print, and what to add to the JSON: the simulators, and where they differ the mean
        of each round on both and the differences with their intervals over tasks.
    """
    from metarl.run import train_config

    trained = train_config(checkpoint).simulator
    found: dict[str, Any] = {"simulator": physics.simulator, "trained_on": trained}
    if trained == physics.simulator:
        return [], found if trained != "mujoco" else {}
    try:
        other = _evaluated(args, checkpoint, learner, report, trained)
    except UserError as error:
        return [f"no comparison with the simulator {trained} of its training: {error}"], found
    lines = [f"on {physics.simulator} instead of {trained}, where it was trained, same tasks:"]
    here, there = np.array(report.returns, float), np.array(other.returns, float)
    differences = []
    for k, seen in enumerate(report.experience):
        numbers = _difference(here[:, k] - there[:, k], report)
        differences.append([None if np.isnan(x) else x for x in numbers])
        lines.append(
            f"  after {counted(seen, 'episode')}: {shown(report.mean[k], 1)} instead of "
            f"{shown(other.mean[k], 1)}, a difference of {numbers[0]:.2f} "
            f"[{numbers[1]:.2f}, {numbers[2]:.2f}]"
        )
    return lines, found | {"trained_on_mean": other.mean, "difference": differences}


def _evaluated(
    args: Evaluate, checkpoint: Checkpoint, learner: Learner, report: Report, simulator: str
) -> Report:
    """Evaluate on another simulator, with the same tasks and seeds."""
    from metarl.evaluation.protocol import evaluate
    from metarl.run import physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution
    from metarl.tasks.registry import find_family

    physics, family = physics_for(checkpoint, simulator, args.device), find_family(report.family)
    count = worlds_per_task(checkpoint, args.rollouts_per_task, args.tasks)
    tasks = TaskDistribution(family).split(args.split, args.tasks)
    worlds = worlds_for(family, learner, len(tasks) * count, args.threads, physics)
    with bar(f"evaluating on {simulator}") as show:
        return evaluate(
            learner, worlds, tasks, episodes=args.episodes, seed=args.seed, split=args.split,
            progress=show,
        )  # fmt: skip


def _difference(gain: np.ndarray, report: Report) -> tuple[float, float, float]:
    """Return the interquartile mean of (M,) differences, NaN left out, and its interval."""
    from metarl.evaluation.statistics import gain_interval

    known = np.isfinite(gain)
    if not known.any():
        return (np.nan, np.nan, np.nan)
    return gain_interval(gain[known], np.array(report.tasks)[known], report.seed)
