"""Kills ranks of a shared run at random moments, and compares its end with that of a whole one.

    python benchmarks/rank_kills.py --kills 20

torchrun starts the ranks again after each kill (--max-restarts), and the run goes on from its
newest checkpoint. The weights at the end must be those of a run of one rank that was left alone.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metarl.learning import checkpoint as checkpoints

RUN = (
    "-m", "metarl", "train", "point-goal", "maml-trpo", "--tasks-per-iteration", "4",
    "--rollouts-per-task", "2", "--evaluate-every", "1000", "--evaluate-tasks", "2",
    "--checkpoint-every", "1", "--task-shards", "2", "--device", "cpu", "--hidden", "8",
)  # fmt: skip


def launch(ranks: int, out: Path, iterations: int, restarts: int, log: Path) -> subprocess.Popen:
    """Start the run under torchrun."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
                "--max-restarts", str(restarts), *RUN, "--iterations", str(iterations),
                "--out", str(out),
            ],
            stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def newest(run: Path) -> int:
    """Return the iteration of the newest checkpoint, -1 without any."""
    steps = [int(path.name[5:]) for path in run.glob("checkpoints/step_*")]
    return max(steps, default=-1)


def digest(run: Path) -> str:
    """Return the sha256 of the newest weights."""
    file = checkpoints.newest(run) / "weights.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    """Kill, wait, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=6, help="iterations between kills, at least")
    args = parser.parse_args()
    moment, iterations = random.Random(args.seed), (args.kills + 2) * args.each
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        launch(1, whole, iterations, 0, Path(folder) / "whole.log").wait()
        process = launch(2, killed, iterations, args.kills + 3, Path(folder) / "killed.log")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for number in range(args.kills):
            goal = newest(killed) + moment.randint(1, args.each)
            while newest(killed) < goal and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moment.uniform(0, 0.1))
            ranks = [int(word) for word in children.read_text().split()]
            if ranks:
                os.kill(moment.choice(ranks), signal.SIGKILL)
            print(f"kill {number + 1} at iteration {newest(killed)} of {iterations}", flush=True)
        code = process.wait()
        same = code == 0 and digest(whole) == digest(killed)
        print(f"code {code}; {args.kills} kills; weights {'equal' if same else 'DIFFER'}")
        if code:
            print((Path(folder) / "killed.log").read_text(errors="replace")[-3000:])
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
