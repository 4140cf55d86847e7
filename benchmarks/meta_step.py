"""Seconds of one meta-iteration, by number of tasks, beside the bare physics of the same steps.

    python benchmarks/meta_step.py --tasks 10 20 40 80 --rounds 5 --json out.json
    python benchmarks/meta_step.py --algorithm rl2 --tasks 400 --rollouts 1 --settings memory=lstm
    python benchmarks/meta_step.py --algorithm varibad --rollouts 1 --threads 1 --cpu-time

Each number of tasks runs in a process of its own, so that its peak memory is its own. In there,
meta-iterations take turns with `mujoco.batch` alone, in as many worlds and with the same actions:
the ratio says what everything but physics costs, and survives a noisy machine. Its inverse is the
throughput of the whole iteration as a share of bare simulation speed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, interleave, paired_ratio, write_json

MIB = 2**20


def measure(tasks: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one number of tasks, in this process."""
    from metarl import TaskDistribution, TaskWorlds, find_family, find_learner
    from metarl.base.keys import Key
    from metarl.base.threads import set_threads

    threads = set_threads(args.threads)
    family = find_family(args.family)
    if args.horizon is not None:
        family.horizon = args.horizon
    imported = peak_memory()
    worlds = TaskWorlds(family, tasks * args.rollouts, threads)
    algorithm = find_learner(args.algorithm)
    learner = algorithm(worlds.spec, config(algorithm.Config, args.settings), seed=0)
    drawn = TaskDistribution(family).sample(tasks, Key(0, "benchmark").numpy())
    metrics: list[dict[str, float]] = []

    def meta_step() -> float:
        start = args.clock()
        metrics.append(learner.meta_step(worlds, drawn, Key(0, len(metrics))))
        return args.clock() - start

    with recording(worlds) as actions:
        meta_step()  # warm up
    env_steps = worlds.env_steps
    peak = peak_memory()  # before the bare engine has worlds of its own
    bare = bare_seconds(family, worlds, actions, args, threads)
    figures = interleave({"meta_step": meta_step, "bare": bare}, args.rounds)
    measured = metrics[1:]
    return {
        "tasks": tasks,
        "rollouts_per_task": args.rollouts,
        "horizon": family.horizon,
        "env_steps": env_steps,
        "threads": threads,
        "seconds": statistics.median(figures["meta_step"]),
        "seconds_sampling": statistics.median(m["seconds_sampling"] for m in measured),
        "seconds_update": statistics.median(m["seconds_update"] for m in measured),
        "seconds_bare_physics": statistics.median(figures["bare"]),
        "over_bare_physics": paired_ratio(figures["meta_step"], figures["bare"]),
        "share_of_bare_speed": paired_ratio(figures["bare"], figures["meta_step"]),
        "sampling_over_bare_physics": paired_ratio(
            [m["seconds_sampling"] for m in measured], figures["bare"]
        ),
        "peak_memory_mib": peak / MIB,
        "memory_after_imports_mib": imported / MIB,
        "rounds": figures,
    }


def config(cls: Any, settings: list[str]) -> Any:
    """Return the algorithm's configuration with the given NAME=VALUE settings."""
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            changes[name] = ast.literal_eval(value)
        except ValueError:
            changes[name] = value  # a word
    return cls(**changes)


@contextmanager
def recording(worlds: Any) -> Iterator[list[Any]]:
    """Record the actions that the worlds are stepped with, (B, A) each."""
    actions, step = [], worlds.step

    def recorded(action: Any) -> Any:
        actions.append(action.double().clamp(-1, 1).numpy().copy())
        return step(action)

    worlds.step = recorded
    try:
        yield actions
    finally:
        del worlds.step


def bare_seconds(
    family: Any, worlds: Any, actions: list[Any], args: argparse.Namespace, threads: int
) -> Any:
    """Return a function that times the bare engine on the learner's own actions and models.

    The same actions, since they decide how much there is to compute: a robot that hardly moves has
    all its feet on the ground, and costs a third more than one that is thrown about at random.
    """
    from mujoco.batch import Batch

    model = family.compile()
    batch = Batch(model, worlds.num_worlds, threads)
    fields = {edit.field for param in family.params for edit in param.edits}
    for field in fields:
        batch.expand(field)[...] = worlds.simulator.batch.expand(field)
    if fields:
        batch.set_const()
    ctrl = batch.bind("ctrl")
    low, high = model.actuator_ctrlrange.T
    controls = [low + (high - low) * (action + 1) / 2 for action in actions]

    def run() -> float:
        total = 0.0
        for start in range(0, len(controls), family.horizon):
            batch.reset()  # episodes of the same length; the reset is not on the clock
            begin = args.clock()
            for control in controls[start : start + family.horizon]:
                ctrl[...] = control
                batch.step(nstep=family.frame_skip)
            total += args.clock() - begin
        return total

    return run


def peak_memory() -> float:
    """Return the most bytes of memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, not inherited from the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Parse the flags, measure each number of tasks in a process, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--rollouts", type=int, default=20, help="worlds per task")
    parser.add_argument("--horizon", type=int, default=None, help="default: the family's")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each configuration")
    parser.add_argument("--threads", type=int, default=None, help="default: every core")
    parser.add_argument("--family", default="half-cheetah-vel")
    parser.add_argument("--algorithm", default="maml-trpo")
    parser.add_argument("--settings", nargs="*", default=[], help="NAME=VALUE of the algorithm's")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    parser.add_argument(
        "--cpu-time", dest="clock", action="store_const", default=time.perf_counter,
        const=time.process_time,
        help="count CPU time, which other work does not change as much; sample and update do not",
    )  # fmt: skip
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.tasks[0], args)))
        return
    rows = []
    for tasks in args.tasks:
        flags = [*sys.argv[1:], "--child", "--tasks", str(tasks)]
        command = [sys.executable, str(Path(__file__).resolve()), *flags]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(answer.splitlines()[-1]))
    show(rows, args)
    described = environment(rows[0]["threads"])
    settings = {"family": args.family, "algorithm": args.algorithm, "settings": args.settings}
    write_json(args.json, {"benchmark": "meta_step", **settings, **described, "results": rows})


def show(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    title = f"{args.algorithm} on {args.family}, {rows[0]['threads']} threads, "
    table = Table(title=title + f"median of {args.rounds} rounds")
    columns = ("tasks", "steps", "total s", "sample s", "update s", "bare s", "total/bare",
               "steps/s", "of bare", "MiB")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['tasks']}x{row['rollouts_per_task']}",
            f"{row['env_steps'] / 1000:.4g}k",
            f"{row['seconds']:.2f}",
            f"{row['seconds_sampling']:.2f}",
            f"{row['seconds_update']:.2f}",
            f"{row['seconds_bare_physics']:.2f}",
            f"{row['over_bare_physics']:.2f}x",
            f"{row['env_steps'] / row['seconds'] / 1000:.3g}k",
            f"{row['share_of_bare_speed']:.0%}",
            f"{row['peak_memory_mib']:.0f}",
        )
    console = Console()
    console.width = max(console.width, 110)  # a pipe counts as 80 columns wide
    console.print(table)


if __name__ == "__main__":
    main()
