"""Environment steps per second: TaskWorlds against the bare engine and other vector environments.

    python benchmarks/simulation.py --worlds 40 400 800 --rounds 5 --seconds 1 --json out.json
    python benchmarks/simulation.py --all --rounds 5 --json families.json

TaskWorlds runs half-cheetah-dynamics: every world has dynamics of its own, observations and
rewards are computed, episodes end and restart. `mujoco.batch` is the engine alone on the same
models: write the controls, step, nothing else. That is the ceiling. The other three run gymnasium's
HalfCheetah-v5, with the same frame skip and horizon but one and the same dynamics everywhere.

With --all every registered family, and some products, are compared with the bare engine. What a
physics step costs depends on what the robot touches, and robots that nobody resets end up lying on
the ground; so here the engine replays the very states that TaskWorlds went through, one Batch.step
from each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from common import environment, interleave, paired_ratio, write_json
from mujoco.batch import Batch
from rich.console import Console
from rich.table import Table

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.base.keys import Key
from metarl.base.threads import sampling, set_threads
from metarl.tasks.registry import list_families

FAMILY = "half-cheetah-dynamics"
GYMNASIUM = "HalfCheetah-v5"
PRODUCTS = (
    "half-cheetah-vel+dynamics+latency",
    "half-cheetah-dynamics+sensor-bias",
    "half-cheetah-dir+dynamics+terrain-scan",
    "ant-goal+crippled",
    "ant-goal+crippled+terrain",
)
"""Compositions that stand for the others in the table of all families."""
POOL = 16  # different random actions, drawn before the clock starts


class Contender:
    """A named thing that steps `worlds` worlds at once."""

    def __init__(self, name: str, worlds: int, step: Callable[[int], None], **hooks: Any) -> None:
        self.name = name
        self.worlds = worlds
        self.step = step
        self.between: Callable[[], Any] = hooks.get("between", lambda: None)
        self.close: Callable[[], Any] = hooks.get("close", lambda: None)

    def measure_steps(self, steps: int) -> float:
        """Return env steps per second over exactly `steps` steps of every world."""
        self.between()
        start = time.perf_counter()
        for k in range(steps):
            self.step(k)
        return steps * self.worlds / (time.perf_counter() - start)

    def measure(self, seconds: float) -> float:
        """Return env steps per second over at least `seconds`."""
        self.between()
        calls, start = 0, time.perf_counter()
        while True:
            self.step(calls)
            calls += 1
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                return calls * self.worlds / elapsed


def task_worlds(count: int, threads: int) -> Contender:
    """The worlds that a learner trains in: a task each."""
    family = find_family(FAMILY)
    worlds = TaskWorlds(family, count, threads)
    worlds.seed(Key(0))
    worlds.set_tasks(_tasks(count), 1)
    worlds.reset()
    actions = torch.from_numpy(_actions(count, worlds.spec.action_size))

    def step(k: int) -> None:
        worlds.step(actions[k % POOL])

    return Contender("TaskWorlds", count, step)


def bare_batch(count: int, threads: int) -> Contender:
    """The engine alone, on the same per-world models."""
    family = find_family(FAMILY)
    model = family.compile()
    source = TaskWorlds(family, count, threads)
    source.set_tasks(_tasks(count), 1)
    batch = Batch(model, count, threads)
    for field in {edit.field for param in family.params for edit in param.edits}:
        batch.expand(field)[...] = source.simulator.batch.expand(field)
    batch.set_const()
    ctrl = batch.bind("ctrl")
    low, high = model.actuator_ctrlrange.T
    actions = low + (high - low) * (_actions(count, model.nu).astype(np.float64) + 1) / 2

    def step(k: int) -> None:
        ctrl[...] = actions[k % POOL]
        batch.step(nstep=family.frame_skip)

    return Contender("mujoco.batch", count, step, between=batch.reset)


class Replay:
    """The bare engine, taking the steps that worlds of a family took from the same states."""

    def __init__(self, worlds: TaskWorlds, actions: torch.Tensor, steps: int) -> None:
        """Run the worlds, which have their tasks and were just reset, and write down `steps`."""
        source = worlds.simulator.batch
        self.states: list[np.ndarray] = []
        self.ctrl: list[np.ndarray] = []
        for k in range(steps):
            self.states.append(source.state.copy())
            worlds.step(actions[k % POOL])
            self.ctrl.append(worlds.simulator.ctrl.numpy().copy())
        family = worlds.family
        self.frame_skip = family.frame_skip
        self.batch = Batch(family.compile(), worlds.num_worlds, source.nthread)
        for field in {edit.field for param in family.params for edit in param.edits}:
            self.batch.expand(field)[...] = source.expand(field)
        self.batch.set_const()
        self.controls = self.batch.bind("ctrl")

    def step(self, k: int) -> None:
        """Take step k."""
        k %= len(self.states)
        self.batch.state[...] = self.states[k]
        self.controls[...] = self.ctrl[k]
        self.batch.step(nstep=self.frame_skip)


def family_pair(name: str, count: int, threads: int, steps: int) -> tuple[Contender, Contender]:
    """TaskWorlds of a family over `steps` steps of an episode, and the engine on the same states.

    Each measurement takes the same steps from the same start, whatever the time it is given.
    """
    family = find_family(name)
    worlds = TaskWorlds(family, count, threads)
    worlds.set_tasks(TaskDistribution(family).sample(count, Key(0, "benchmark").numpy()), 1)
    actions = torch.from_numpy(_actions(count, worlds.spec.action_size))

    def rewind() -> None:
        worlds.seed(Key(0))
        worlds.reset()

    rewind()
    replay = Replay(worlds, actions, steps)
    return (
        Contender("TaskWorlds", count, lambda k: worlds.step(actions[k % POOL]), between=rewind),
        Contender("mujoco.batch", count, replay.step),
    )


def run_family(name: str, args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Compare TaskWorlds of one family with the bare engine, step for step."""
    count = args.worlds[0]
    pair = family_pair(name, count, threads, args.steps)
    interleave({c.name: lambda c=c: c.measure_steps(5) for c in pair}, 1)  # warm up
    figures = interleave(
        {c.name: lambda c=c: c.measure_steps(args.steps) for c in pair}, args.rounds
    )
    return {
        "family": name,
        "worlds": count,
        "task_worlds": statistics.median(figures["TaskWorlds"]),
        "mujoco_batch": statistics.median(figures["mujoco.batch"]),
        "ratio": paired_ratio(figures["TaskWorlds"], figures["mujoco.batch"]),
        "rounds": figures,
    }


def run_all(args: argparse.Namespace, threads: int) -> None:
    """Print and write the table of all families and some products."""
    console = Console()
    table = Table(title=f"env steps/s, {args.worlds[0]} worlds, {threads} threads")
    for column in ("family", "TaskWorlds", "mujoco.batch", "ratio"):
        table.add_column(column, justify="left" if column == "family" else "right")
    rows = []
    for name in args.families or [*list_families(), *PRODUCTS]:
        row = run_family(name, args, threads)
        rows.append(row)
        ours, bare = row["task_worlds"], row["mujoco_batch"]
        table.add_row(name, f"{ours:,.0f}", f"{bare:,.0f}", f"{row['ratio']:.2f}")
    console.print(table)
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    console.print(f"load average {load}; on a busy machine only the ratios mean something")
    write_json(args.json, {"benchmark": "families", **environment(threads), "results": rows})


def gymnasium_vector(count: int, mode: str, horizon: int) -> Contender:
    """gymnasium's own vector environments."""
    envs = gymnasium.make_vec(
        GYMNASIUM, num_envs=count, vectorization_mode=mode, max_episode_steps=horizon
    )
    envs.reset(seed=0)
    actions = _actions(count, envs.single_action_space.shape[0])
    name = f"gymnasium {mode}"
    return Contender(name, count, lambda k: envs.step(actions[k % POOL]), close=envs.close)


def envpool_vector(count: int, threads: int, horizon: int) -> Contender | None:
    """EnvPool's C++ environments, or None if it is not installed or lacks the environment."""
    try:
        import envpool

        envs = envpool.make_gymnasium(
            GYMNASIUM, num_envs=count, num_threads=threads, max_episode_steps=horizon, seed=0
        )
    except Exception as error:  # whatever is missing, the other contenders go on
        print(f"EnvPool left out: {type(error).__name__}: {error}")
        return None
    envs.reset()
    actions = _actions(count, envs.action_space.shape[0]).astype(np.float64)
    return Contender("EnvPool", count, lambda k: envs.step(actions[k % POOL]))


def run(count: int, args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Measure all contenders with `count` worlds; return a row each."""
    horizon = find_family(FAMILY).horizon
    found = [
        task_worlds(count, threads),
        bare_batch(count, threads),
        envpool_vector(count, threads, horizon),
        gymnasium_vector(count, "sync", horizon),
        gymnasium_vector(min(count, args.async_worlds), "async", horizon),
    ]
    contenders = [c for c in found if c is not None]
    try:
        interleave({c.name: lambda c=c: c.measure(0.1) for c in contenders}, 1)  # warm up
        figures = interleave(
            {c.name: lambda c=c: c.measure(args.seconds) for c in contenders}, args.rounds
        )
    finally:
        for contender in contenders:
            contender.close()
    ours = figures["TaskWorlds"]
    return [
        {
            "worlds": count,
            "name": c.name,
            "stepped_at_once": c.worlds,
            "env_steps_per_second": statistics.median(figures[c.name]),
            "rounds": figures[c.name],
            "task_worlds_over_this": paired_ratio(ours, figures[c.name]),
        }
        for c in contenders
    ]


def main() -> None:
    """Parse the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", help="default: 40 400 800, or 400")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--all", action="store_true", help="every family against the bare engine")
    parser.add_argument("--families", nargs="*", help="with --all: only these")
    parser.add_argument("--steps", type=int, default=100, help="with --all: steps a measurement")
    parser.add_argument("--threads", type=int, default=None, help="default: every core")
    parser.add_argument(
        "--async-worlds", type=int, default=40, help="most processes for AsyncVectorEnv"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args()
    args.worlds = args.worlds or ([400] if args.all else [40, 400, 800])
    threads = set_threads(args.threads)
    mujoco.set_mju_user_warning(lambda _: None)  # gymnasium's model file uses a deprecated word
    if args.all:
        with sampling():  # torch keeps to one thread, as in collect()
            run_all(args, threads)
        return
    console = Console()
    rows: list[dict[str, Any]] = []
    with sampling():
        for count in args.worlds:
            rows += run(count, args, threads)
    table = Table(title=f"env steps/s, {threads} threads, median of {args.rounds} rounds")
    for column in ("worlds", "what", "at once", "env steps/s", "TaskWorlds is"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(
            str(row["worlds"]),
            row["name"],
            str(row["stepped_at_once"]),
            f"{row['env_steps_per_second']:,.0f}",
            f"{row['task_worlds_over_this']:.2f}x",
            end_section=row is rows[-1] or row["worlds"] != rows[rows.index(row) + 1]["worlds"],
        )
    console.print(table)
    write_json(args.json, {"benchmark": "simulation", **environment(threads), "results": rows})


def _tasks(count: int):
    return TaskDistribution(find_family(FAMILY)).sample(count, Key(0, "benchmark").numpy())


def _actions(count: int, size: int) -> np.ndarray:
    rng = Key(0, "actions").numpy()
    return rng.uniform(-1, 1, (POOL, count, size)).astype(np.float32)


if __name__ == "__main__":
    main()
