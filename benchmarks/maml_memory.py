"""Peak memory of MAML-TRPO's meta-update by the number of tasks, whole and in chunks of tasks.

    python benchmarks/maml_memory.py --tasks 20 80 320 --chunks 0 20 --json out.json

Each combination runs in a process of its own, which makes the data of an iteration at random and
then the meta-update on it. The difference of its peak resident memory before and after is what the
update takes beside the data (Python's own tracing of memory does not see torch's tensors); an
update on a few samples comes first, which loads what it needs of torch. The digest of the new prior
tells whether all chunks make the same step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from common import environment, write_json


def peak() -> float:
    """Return this process's peak resident memory so far, in MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(tasks: int, chunk: int, args: argparse.Namespace) -> dict:
    """Make one meta-update on random data of a half-cheetah's sizes, in this process."""
    import torch

    from metarl import Key, Spec
    from metarl.algorithms import MamlTrpo, MamlTrpoConfig
    from metarl.modules.gradients.inner_loop import Batch, Phases

    config = MamlTrpoConfig(task_chunk=chunk or None, inner_steps=args.inner_steps)
    agent = MamlTrpo(Spec(17, 6, 200), config)
    rng = Key(0).torch()

    def phases(tasks: int, samples: int) -> Phases:
        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(tasks, samples, *shape, generator=rng)

        weight = torch.full((tasks, samples), 1 / samples)
        batches = [
            Batch(draw(17), 0.1 * draw(6), draw(), weight) for _ in range(config.inner_steps + 1)
        ]
        returns = torch.zeros(tasks, dtype=torch.float64)
        return Phases(batches, [returns] * len(batches), torch.zeros(tasks))

    agent.update([phases(4, 50)], Key(0))
    data = phases(tasks, args.samples)
    before, began = peak(), time.process_time()
    metrics = agent.update([data], Key(0))
    return {
        "tasks": tasks, "chunk": chunk, "data_mib": round(before, 1),
        "update_mib": round(peak() - before, 1), "accepted": metrics["accepted"],
        "cpu_seconds": round(time.process_time() - began, 2),
        "prior": hashlib.sha256(agent.theta.numpy().tobytes()).hexdigest()[:16],
    }  # fmt: skip


def main() -> None:
    """Parse the flags, measure each combination in a process of its own, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[20, 80, 320])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 20], help="0: all at once")
    parser.add_argument("--samples", type=int, default=4000, help="of a task and phase")
    parser.add_argument("--inner-steps", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(measure(*args.one, args)))
        return
    rows = []
    for tasks in args.tasks:
        for chunk in args.chunks:
            words = [sys.executable, __file__, "--one", str(tasks), str(chunk)]
            words += ["--samples", str(args.samples), "--inner-steps", str(args.inner_steps)]
            # freed blocks go back to the system at once, so that the peak is of what is in use
            free = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(words, env=free, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(f"{tasks:>4} tasks, {chunk or 'all':>4} at once"
                  f"{row['update_mib']:>8,.0f} MiB beside the data, "
                  f"{row['cpu_seconds']:>5.0f} CPU s, {row['prior']}", flush=True)  # fmt: skip
    write_json(args.json, {"benchmark": "MAML memory", **environment(1), "results": rows})


if __name__ == "__main__":
    main()
