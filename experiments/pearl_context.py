"""What PEARL's context is worth: does z carry the task, and does the policy need it?

    python experiments/pearl_context.py RUN [--out FILE.png] [--json FILE]

On held-out tasks that differ in one number: a linear probe from the posterior mean to that number,
fitted on half of the tasks and scored (R²) on the other half; and the return of the episode after
adapting, with the own context and with that of another task.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metarl.algorithms.pearl import Pearl
from metarl.base.errors import UserError
from metarl.base.files import write_json
from metarl.base.keys import Key
from metarl.cli import guarded
from metarl.modules.context import Posterior
from metarl.run import load_run
from metarl.tasks.distribution import TaskDistribution
from metarl.worlds.rollout import collect
from metarl.worlds.task_worlds import TaskWorlds


@dataclass(frozen=True)
class Findings:
    """What was measured, over M tasks."""

    task: np.ndarray
    """(M,) the number in which the tasks differ"""
    predicted: np.ndarray
    """(M,) by the probe fitted on the other half of the tasks"""
    r2: float
    """Of those predictions."""
    own: np.ndarray
    """(M,) returns with the task's own context"""
    shuffled: np.ndarray
    """(M,) returns with the context of the task half the list away, in order of the number"""


@torch.no_grad()
def explored(learner: Pearl, worlds: TaskWorlds, episodes: int, seed: int) -> Posterior:
    """Return the beliefs after some episodes, a world a task."""
    state = learner.begin(len(worlds.tasks), 1)
    for k in range(episodes):
        key = Key(seed, "explore", k)
        worlds.seed(key)
        worlds.reset()
        rollout, state = collect(worlds, learner, state, worlds.spec.horizon, key, explore=False)
        state = learner.adapt(state, rollout)
    return state


def returns(learner: Pearl, worlds: TaskWorlds, state: Posterior, seed: int) -> np.ndarray:
    """Return (M,) the returns of an episode with a belief."""
    worlds.seed(Key(seed, "score"))
    worlds.reset()
    rollout, _ = collect(
        worlds, learner, state, worlds.spec.horizon, Key(seed, "score"), explore=False
    )
    return rollout.first_episode_return().cpu().numpy()


def probe(z: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, float]:
    """Predict each half of the tasks by least squares on the other half; return it and its R²."""
    inputs = np.hstack([z, np.ones((len(z), 1))])
    predicted = np.empty_like(task)
    even = np.arange(len(task)) % 2 == 0
    for half in (even, ~even):
        weights, *_ = np.linalg.lstsq(inputs[~half], task[~half], rcond=None)
        predicted[half] = inputs[half] @ weights
    residual = np.square(task - predicted).sum()
    return predicted, float(1 - residual / np.square(task - task.mean()).sum())


def measure(run: str, tasks: int, seed: int) -> tuple[Findings, str]:
    """Measure a run's newest checkpoint."""
    _, family, learner = load_run(run, "auto", None)
    if not isinstance(learner, Pearl) or len(TaskDistribution(family).names) != 1:
        raise UserError(f"'{run}' must be a run of pearl on tasks that differ in one number")
    heldout = TaskDistribution(family).split("heldout", tasks)
    worlds = TaskWorlds(family, tasks)
    worlds.set_tasks(heldout, 1)
    state = explored(learner, worlds, max(learner.config.exploration_episodes, 1), seed)
    task = heldout.values[:, 0]
    predicted, r2 = probe(state.posterior()[0].cpu().numpy(), task)
    order = np.argsort(task)
    other = np.empty_like(order)
    other[order] = np.roll(order, tasks // 2)
    swapped = state._replace(precision=state.precision[other], weighted=state.weighted[other])
    own, shuffled = (returns(learner, worlds, s, seed) for s in (state, swapped))
    return Findings(task, predicted, r2, own, shuffled), heldout.names[0]


def draw(found: Findings, name: str, path: Path) -> None:
    """Draw the probe's predictions, and the returns with the own and another task's context."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.4, 3.8), layout="constrained")
    ends = [found.task.min(), found.task.max()]
    left.plot(ends, ends, color="#8a8f98", lw=1)
    left.plot(found.task, found.predicted, "o", color="#1f6fb2", ms=4)
    left.set(xlabel=name, ylabel="linear probe of z")
    left.set_title(f"z carries the task: R² = {found.r2:.3f}", fontsize=10)
    right.plot(found.task, found.own, "o", color="#1f6fb2", ms=4, label="own context")
    right.plot(found.task, found.shuffled, "x", color="#c44e52", ms=4, label="another task's")
    right.set(xlabel=name, ylabel="return after adapting")
    right.set_title(
        f"mean {found.own.mean():.1f} with its own context, {found.shuffled.mean():.1f} without",
        fontsize=10,
    )
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(argv: list[str]) -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("run")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    found, name = measure(args.run, args.tasks, args.seed)
    print(
        f"linear probe from z to {name} on {args.tasks} held-out tasks: R² {found.r2:.3f}\n"
        f"return with the own context {found.own.mean():.1f}, "
        f"with another task's {found.shuffled.mean():.1f}"
    )
    if args.out is not None:
        draw(found, name, args.out)
    if args.json is not None:
        result = {
            "r2": found.r2, "tasks": args.tasks, "seed": args.seed,
            "mean_own": float(found.own.mean()), "mean_shuffled": float(found.shuffled.mean()),
            name: found.task.tolist(), "predicted": found.predicted.tolist(),
            "own": found.own.tolist(), "shuffled": found.shuffled.tolist(),
        }  # fmt: skip
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
