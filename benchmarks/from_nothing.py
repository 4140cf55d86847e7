"""Minutes and held-out returns of whole trainings, each a command of its own.

    python benchmarks/from_nothing.py --threads 2 --json benchmarks/results/from_nothing.json
    python benchmarks/from_nothing.py --preset ladder/mingru --family walker2d-params \\
        --env-steps 1e6 --seeds 1

On the clock is all that ``metarl train`` does: imports, the model, training, and its evaluations
before and after. Then, off the clock, the run is evaluated anew by the protocol of
``metarl evaluate``, with four rollouts of each frozen held-out task. Returns do not depend on how
busy the machine is; minutes do, so the CPU time is noted too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, write_json

import metarl
from metarl.base.errors import UserError
from metarl.base.threads import set_threads
from metarl.cli import guarded
from metarl.runs.presets import presets
from metarl.runs.progress import say


def train(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, float]:
    """Train a seed in a process of its own; return its wall and CPU seconds."""
    command = [
        sys.executable, "-m", "metarl", "train", args.family, presets()[args.preset].algorithm,
        "--preset", args.preset, "--seed", str(seed), "--threads", str(args.threads),
        "--device", "cpu", "--out", str(folder), "--no-progress",
    ]  # fmt: skip
    if args.env_steps is not None:
        command += ["--env-steps", str(int(args.env_steps))]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"the training of seed {seed} failed")
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train and test every seed, and write what there is after each."""
    if args.preset not in presets():
        raise UserError(f"unknown preset '{args.preset}'; `metarl presets` lists them")
    args.family = args.family or args.preset.partition("/")[0]
    args.threads, rows, result = set_threads(args.threads), [], {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            row = {"seed": seed, **train(args, seed, run)}
            report = metarl.evaluate(
                run, tasks=args.tasks, episodes=1, rollouts_per_task=4, threads=args.threads
            )
            steps = json.loads((run / "curve.json").read_text())[-1]["env_steps"]
        row |= {"env_steps": steps, "returns": report.mean, "stand_still": report.stand_still}
        rows.append(row)
        say(
            f"seed {seed}: {row['seconds'] / 60:.2f} minutes, return "
            + " → ".join(f"{value:.1f}" for value in row["returns"])
        )
        result = {
            "benchmark": "from_nothing", "family": args.family, "preset": args.preset,
            "tasks": args.tasks, "seconds": statistics.median(row["seconds"] for row in rows),
            "return": statistics.mean(row["returns"][0] for row in rows),
            **environment(args.threads), "results": rows,
        }  # fmt: skip
        write_json(args.json, result)
    return result


def main(argv: list[str]) -> int:
    """Parse the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="half-cheetah-vel/rl2-fast", metavar="FAMILY/NAME")
    parser.add_argument("--family", help="default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--env-steps", type=float, help="default: the preset's")
    parser.add_argument("--tasks", type=int, default=40, help="held-out tasks of the test")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    result = measure(parser.parse_args(argv))
    seeds = len(result["results"])
    say(
        f"{result['preset']}: {result['seconds'] / 60:.2f} minutes (median of {seeds}), "
        f"return {result['return']:.1f} (mean of {seeds})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
