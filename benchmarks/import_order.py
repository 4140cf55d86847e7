"""Env steps/s by the order of imports, the view, and torch's threads, against the bare engine.

    python benchmarks/import_order.py --worlds 400 --rounds 5 --json out.json

Each combination runs in a process of its own. In it the view and the bare engine (`mujoco.batch`
on the same models: write the controls, step, nothing else) are timed in turns. OpenMP's waiting
threads spin against the physics where nothing keeps them from it, and a script that imports torch
first has had no chance to ask OpenMP for anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ORDERS = ("metarl first", "torch first")
VIEWS = ("TaskWorlds", "gymnasium", "SB3")


def measure(order: str, view: str, torch_threads: int | None, args: argparse.Namespace) -> dict:
    """Time one combination, in this process."""
    if order == "torch first":
        import torch
    import torch

    import metarl  # noqa: F401  (the order of imports is what is measured)

    if torch_threads is not None:
        torch.set_num_threads(torch_threads)
    from common import interleave, paired_ratio
    from simulation import _actions, bare_batch, task_worlds

    threads = len(os.sched_getaffinity(0))
    bare = bare_batch(args.worlds, threads)
    if view == "TaskWorlds":
        other = task_worlds(args.worlds, threads)
    else:
        other = vector(view, args.worlds, threads, _actions)
    for contender in (bare, other):
        contender.measure(0.2)  # warm up
    figures = interleave(
        {c.name: lambda c=c: c.measure(args.seconds) for c in (other, bare)}, args.rounds
    )
    ratio = paired_ratio(figures[other.name], figures[bare.name])
    return {
        "order": order, "view": view, "torch_threads": torch.get_num_threads(),
        "env_steps_per_second": sorted(figures[other.name])[args.rounds // 2],
        "share_of_bare": ratio,
    }  # fmt: skip


def vector(view: str, count: int, threads: int, actions: Any) -> Any:
    """The worlds as gymnasium's or SB3's vector environment, as a contender."""
    from simulation import FAMILY, Contender

    if view == "gymnasium":
        from metarl.adapters import GymVectorEnv

        env = GymVectorEnv(FAMILY, count, threads=threads)
    else:
        from metarl.adapters import SB3VecEnv

        env = SB3VecEnv(FAMILY, count, threads=threads)
    env.reset()
    drawn = actions(count, env.action_space.shape[-1])
    return Contender(view, count, lambda k: env.step(drawn[k % len(drawn)]))


def main() -> None:
    """Parse the flags, measure each combination in a process of its own, print and write."""
    # metarl is imported in `measure` first, in the order that is asked for
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        order, view, threads = args.one
        print(json.dumps(measure(order, view, int(threads) or None, args)))
        return
    rows = []
    free = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    for view in VIEWS:
        for order in ORDERS:
            for threads in (0, 1):
                words = [sys.executable, __file__, "--one", order, view, str(threads)]
                words += ["--worlds", str(args.worlds), "--rounds", str(args.rounds)]
                words += ["--seconds", str(args.seconds)]
                done = subprocess.run(
                    words, env=free, stdout=subprocess.PIPE, text=True, check=True
                )
                row = json.loads(done.stdout.splitlines()[-1])
                rows.append(row)
                print(f"{view:<12}{order:<14}{row['torch_threads']} torch threads  "
                      f"{row['env_steps_per_second']:>9,.0f} env steps/s  "
                      f"{row['share_of_bare']:.2f} of the bare engine", flush=True)  # fmt: skip
    from common import environment, write_json

    count = len(os.sched_getaffinity(0))
    write_json(args.json, {"benchmark": "import order", **environment(count), "results": rows})


if __name__ == "__main__":
    main()
