"""How time and memory of an iteration grow with its tasks, and shrink with the ranks that share it.

    python benchmarks/growth.py --json benchmarks/results/growth.json
    python benchmarks/growth.py --tasks 4 8 --ranks 1 2 --shared 4 --horizon 20

Each point is a training of a few iterations in processes of its own, so that its peak memory is its
own; several ranks are started by torchrun. What the ranks exchange is counted, for the `model` of
more ranks than there are cores here. `benchmarks/summarise.py --write` puts the result into
docs/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, write_json
from meta_step import MIB, peak_memory

from metarl.base.threads import available_cores

ALGORITHMS: dict[str, dict[str, Any]] = {
    "maml-trpo": {"rollouts": 2},
    "rl2": {"rollouts": 1},
    "pearl": {
        "rollouts": 1,
        "learner": {
            "gradient_steps": 20, "initial_episodes": 1, "replay_capacity": 1000, "meta_batch": 4,
        },
    },
    "ppo": {"rollouts": 2},
}  # fmt: skip
"""Algorithm -> worlds of each task, and settings that are not the defaults."""
LATENCY = 50e-6
"""Seconds of one exchange between two machines."""
BANDWIDTHS = {"1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9}
"""Bytes a second that a machine sends."""


def model(row: Mapping[str, Any], ranks: int, bandwidth: float) -> float:
    """Return the seconds of an iteration on so many ranks, each on a machine of its own.

    What one rank computes is shared evenly. An all-gather goes round a ring in W - 1 steps, and the
    slices of a sum before it, which two ranks do without, take one more. Of a sum, a rank sends a
    slice of its shard's tensor to each of the others, and then the sum of its own slice: 2 (W - 1)
    / W tensors. Of rows, it sends those of its own tasks to W - 1 others, which is as much: one of
    two ranks sends half of all rows.

    Args:
        row: seconds of one rank, and the messages and bytes of an iteration that one of two sends.
        ranks: W.
        bandwidth: bytes a second that leave a machine.
    """
    computing = (row["seconds_sampling"] + row["seconds_update"]) / ranks
    waiting = row["messages"] * LATENCY * (ranks - 1 + (ranks > 2))
    return computing + waiting + 2 * (ranks - 1) / ranks * row["bytes"] / bandwidth


def train(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train a point in this process, or this rank's part of it. Returns rank 0's figures."""
    from metarl import TaskDistribution, TaskWorlds, find_family, find_learner
    from metarl.base import distributed
    from metarl.base.threads import using
    from metarl.runs.config import TrainConfig
    from metarl.runs.runner import meta_train

    algorithm, (tasks,) = args.algorithms[0], args.tasks
    how = ALGORITHMS[algorithm]
    family, ranks = find_family(args.family), distributed.ranks(None)
    family.horizon = args.horizon
    rows: list[dict[str, float]] = []
    exchange, counted = ranks._exchange, [0]

    def count(call: Any, size: int) -> None:
        counted[0] += 1
        exchange(call, size)

    ranks._exchange = count
    config = TrainConfig(
        tasks_per_iteration=tasks, rollouts_per_task=how["rollouts"], iterations=1 + args.rounds,
        evaluate_every=10**9, evaluate_tasks=ranks.shards, evaluate_episodes=1,
        checkpoint_every=10**9, threads=args.threads, device="cpu", progress=False, out=args.out,
        task_shards=None if ranks.shards == 1 else ranks.shards,
    )  # fmt: skip
    with using(args.threads, one_for_torch=ranks.shards > 1):
        worlds = TaskWorlds(family, tasks * how["rollouts"] // ranks.shards, args.threads)
        cls = find_learner(algorithm)
        settings = how.get("learner", {}) | ({"train_tasks": tasks} if algorithm == "pearl" else {})
        learner = cls(worlds.spec, cls.Config(**settings), seed=0)
        learner.ranks = ranks
        imported, began = peak_memory(), [counted[0]]

        def note(_: int, learner: Any, metrics: dict[str, float]) -> None:
            rows.append(metrics | {"messages": counted[0] - began[0]})
            began[0] = counted[0]

        meta_train(learner, worlds, TaskDistribution(family), config, [note])
    if not ranks.leads:
        return None
    measured = rows[1:]  # the first warms up
    names = ("seconds_sampling", "seconds_update", "messages")
    return {
        "algorithm": algorithm, "tasks": tasks, "ranks": ranks.size,
        "rollouts_per_task": how["rollouts"], "threads": args.threads,
        **{name: statistics.median(row[name] for row in measured) for name in names},
        "bytes": 1e6 * statistics.median(row.get("megabytes_sent", 0) for row in measured),
        "peak_memory_mib": peak_memory() / MIB, "memory_at_start_mib": imported / MIB,
    }  # fmt: skip


def measure(args: argparse.Namespace, algorithm: str, tasks: int, ranks: int) -> dict[str, Any]:
    """Measure one point in processes of its own."""
    threads = args.threads if ranks == 1 else max(1, args.threads // ranks)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        words = [
            str(Path(__file__).resolve()), "--child", str(answer), "--algorithms", algorithm,
            "--tasks", str(tasks), "--threads", str(threads), "--rounds", str(args.rounds),
            "--horizon", str(args.horizon), "--family", args.family, "--out", f"{folder}/run",
        ]  # fmt: skip
        run = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        local = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform.startswith("linux") else {}
        subprocess.run([sys.executable, *run, *words], check=True, env=os.environ | local)
        return json.loads(answer.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure each point, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100, 1000])
    cores = available_cores()
    ranks = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cores]
    parser.add_argument("--ranks", type=int, nargs="+", default=ranks)
    parser.add_argument("--shared", type=int, default=64, help="tasks that the ranks share")
    parser.add_argument("--rounds", type=int, default=3, help="iterations that are measured")
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--family", default="half-cheetah-vel")
    parser.add_argument("--threads", type=int, default=cores, help="of one rank with all tasks")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--out", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        if figures := train(args):
            args.child.write_text(json.dumps(figures))
        return
    began = time.monotonic()
    points = [("tasks", name, tasks, 1) for tasks in args.tasks for name in args.algorithms]
    points += [("ranks", name, args.shared, n) for n in args.ranks for name in args.algorithms]
    result: dict[str, Any] = {"benchmark": "growth", **environment(args.threads)}
    result |= {"family": args.family, "horizon": args.horizon, "rounds": args.rounds}
    result |= {"tasks": [], "ranks": []}
    for part, algorithm, tasks, count in points:
        one = argparse.Namespace(**vars(args))
        if part == "ranks" and count == 1:
            one.threads = 1  # as each of several has
        row = measure(one, algorithm, tasks, count)
        result[part].append(row)
        seconds = row["seconds_sampling"] + row["seconds_update"]
        print(
            f"{algorithm:<10}{tasks:>6} tasks{count:>4} ranks{seconds:>9.2f} s"
            f"{row['peak_memory_mib']:>8.0f} MiB{row['messages']:>6.0f} messages"
            f"{row['bytes'] / 1e6:>9.3f} MB sent", flush=True,
        )  # fmt: skip
        write_json(args.json, result)
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
