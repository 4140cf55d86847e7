"""Seconds of an iteration of RL² with each memory that the ladder compares, family by family.

    python benchmarks/memories.py --json benchmarks/results/memories.json

Each is trained as the ladder trains it, on one thread. The memories take turns, and their time is
that of the CPU: so how they compare survives a noisy machine. `experiments/memories.py` sets
what they have learned after so many minutes beside each other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, interleave, write_json

from metarl import TaskDistribution, TaskWorlds, find_family, find_learner
from metarl.base.keys import Key
from metarl.base.threads import set_threads

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
from run_queue import FOUR, MEMORIES, Item


def iteration(family: str, line: str) -> tuple[Callable[[], float], int]:
    """Return a function that times one iteration of a line, and the environment steps of one."""
    preset = Item(family, line, 1).preset
    train, config = preset.configs()
    tasks, rollouts = train.tasks_per_iteration, train.rollouts_per_task
    worlds = TaskWorlds(find_family(family), tasks * rollouts, 1)
    learner = find_learner(preset.algorithm)(worlds.spec, config, seed=0)
    drawn = TaskDistribution(worlds.family).sample(tasks, Key(0, "benchmark").numpy())
    done = 0

    def run() -> float:
        nonlocal done
        start = time.process_time()
        learner.meta_step(worlds, drawn, Key(0, done))
        done += 1
        return time.process_time() - start

    run()  # warm up
    return run, worlds.env_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=FOUR)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    set_threads(1)
    results = []
    for family in args.families:
        contenders = {line: iteration(family, line) for line in ("rl2", *MEMORIES)}
        figures = interleave({line: run for line, (run, _) in contenders.items()}, args.rounds)
        for line, seconds in figures.items():
            row = {
                "family": family, "line": line, "env_steps": contenders[line][1],
                "seconds": statistics.median(seconds), "rounds": seconds,
            }  # fmt: skip
            results.append(row)
            print(f"{family:24} {line:8} {row['env_steps']:6} env steps in {row['seconds']:.2f} s")
    write_json(args.json, environment(1) | {"results": results})


if __name__ == "__main__":
    main()
