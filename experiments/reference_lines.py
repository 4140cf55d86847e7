"""The returns that a learner must beat: standing still, random actions, the best blind constant.

    python experiments/reference_lines.py                    # every family that is registered
    python experiments/reference_lines.py ant-goal ant-vel

Standing still and random actions (U[-1, 1) at every step) are simulated for one episode on the
frozen held-out and ood tasks. The third line is arithmetic: the mean return, over the training
box, of a robot that holds the one velocity or place that is best on average, at no cost and without
falling. No task-blind policy does better than it by much, so what a learner gains beyond it is
adaptation. It exists where the reward is about a velocity or a place; how fast a robot of unknown
mass can run is no matter of arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from metarl import TaskDistribution, Tasks, TaskWorlds, find_family
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.tasks.registry import list_families

RESULTS = Path(__file__).parent / "results" / "reference-lines.json"
DRAWS = 100_000
"""Training draws over which the best constant is chosen."""


def _speed(tasks: Tasks) -> float:
    """The best constant speed is the median of the goals."""
    goal = tasks.column("goal_velocity")
    return -float(np.abs(goal - np.median(goal)).mean())


def _place_l1(tasks: Tasks) -> float:
    """The best place is the median of the goals, coordinate by coordinate."""
    radius, angle = tasks.column("goal_radius"), tasks.column("goal_angle")
    goal = radius * np.stack((np.cos(angle), np.sin(angle)))
    return -float(np.abs(goal - np.median(goal, axis=1, keepdims=True)).mean(1).sum())


def _place_sparse(tasks: Tasks) -> float:
    """Any place whose surroundings lie within the disc is as good as its middle."""
    radius = tasks.column("goal_radius")
    return float(np.where(radius <= 0.75, 1.0 - radius, -0.75).mean())


def _place_l2(tasks: Tasks) -> float:
    """The best place is the middle of a square, by symmetry."""
    return -float(np.hypot(tasks.column("goal_x"), tasks.column("goal_y")).mean())


def _nothing(tasks: Tasks) -> float:
    """Directions cancel: what a constant velocity wins on one, it loses on the opposite one."""
    return 0.0


BLIND: dict[str, tuple[Callable[[Tasks], float], float]] = {
    "half-cheetah-vel": (_speed, 0.0), "half-cheetah-dir": (_nothing, 0.0),
    "ant-vel": (_speed, 1.0), "ant-goal": (_place_l1, 0.0), "ant-dir": (_nothing, 1.0),
    "ant-fwd-back": (_nothing, 1.0), "humanoid-dir": (_nothing, 5.0),
    "point-goal": (_place_l2, 0.0), "ant-goal-sparse": (_place_sparse, 0.0),
    "half-cheetah-dir-sparse": (_nothing, 0.0),
}  # fmt: skip
"""Per family: the best mean gain of a step, and what every step pays for being alive."""


def blind_constant(name: str) -> float | None:
    """Return the expected return of the best constant, or None where arithmetic gives none."""
    if name not in BLIND:
        return None
    gain, alive = BLIND[name]
    family = find_family(name)
    tasks = TaskDistribution(family).sample(DRAWS, Key("reference lines", name).numpy())
    return family.horizon * (gain(tasks) + alive)


def episode_returns(worlds: TaskWorlds, *, random: bool) -> np.ndarray:
    """Return the (B,) return of one episode with zero or random actions; NaN where it diverged."""
    worlds.seed(Key("reference lines"))
    worlds.reset()
    generator = Key("reference lines", "actions").torch()
    size = (worlds.num_worlds, worlds.spec.action_size)
    total = torch.zeros(worlds.num_worlds, dtype=torch.float64)
    running = torch.ones(worlds.num_worlds, dtype=torch.bool)
    for _ in range(worlds.spec.horizon):
        action = 2 * torch.rand(*size, generator=generator) - 1 if random else torch.zeros(*size)
        got = worlds.step(action)
        total += got.reward * running
        total[got.diverged & running] = torch.nan
        running &= ~(got.terminated | got.truncated | got.diverged)
        if not running.any():
            break
    return total.numpy()


def _mean(returns: np.ndarray) -> float:
    """Return the mean of the returns that are not NaN; NaN if all are."""
    known = returns[~np.isnan(returns)]
    return float(known.mean()) if len(known) else float("nan")


def reference_lines(name: str, tasks: int, worlds_per_task: int, threads: int) -> dict[str, Any]:
    """Return the lines of one family: a mean over tasks, for each split and policy."""
    family = find_family(name)
    distribution = TaskDistribution(family)
    worlds = TaskWorlds(family, tasks * worlds_per_task, threads)
    lines: dict[str, Any] = {"horizon": family.horizon, "blind_constant": blind_constant(name)}
    for split in ("heldout", "ood") if distribution.has_ood else ("heldout",):
        worlds.set_tasks(distribution.split(split, tasks), worlds_per_task)
        lines[split] = {
            name: _mean(episode_returns(worlds, random=random))
            for name, random in (("stand_still", False), ("random", True))
        }
    return lines


def main(argv: list[str]) -> int:
    """Parse the flags, simulate, and write after each family; other families stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="default: all that are registered")
    parser.add_argument("--tasks", type=int, default=30, help="tasks of each split")
    parser.add_argument("--worlds-per-task", type=int, default=5, help="episodes of each task")
    parser.add_argument("--threads", type=int, default=None, help="default: every core")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    threads = set_threads(args.threads)
    for name in args.families or list_families():
        lines = reference_lines(name, args.tasks, args.worlds_per_task, threads)
        found = json.loads(args.out.read_text())["families"] if args.out.is_file() else {}
        found[name] = {"tasks": args.tasks, "worlds_per_task": args.worlds_per_task, **lines}
        result = {
            "command": "python experiments/reference_lines.py",
            "versions": versions(),
            "hardware": hardware(),
            "families": dict(sorted(found.items())),
        }
        draft = args.out.with_name(args.out.name + ".tmp")
        draft.write_text(json.dumps(result, indent=1) + "\n")
        draft.rename(args.out)
        print(name, json.dumps(lines))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
