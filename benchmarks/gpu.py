"""What a machine with a GPU must run to fill in what was never run on one.

    python benchmarks/gpu.py                       every piece, one after the other
    python benchmarks/gpu.py --piece throughput    or one of them, each at most nine minutes
    python benchmarks/gpu.py --device cpu --tiny   whether it runs at all, in a few minutes

Each piece adds what it measured to the JSON at once, and leaves out what is there of the same GPU:
so a machine that is lent for minutes at a time can go on later. `python benchmarks/summarise.py
--write` makes docs/gpu.md of it.

throughput: env steps a second on MuJoCo Warp by number of worlds, with dynamics of each world's
own, random actions, observations and rewards included.  pearl-update: PEARL's captured gradient
step against the plain eager one.  iterations: RL² and MAML-TRPO meta-iterations with the physics
on the CPU and on the GPU, and each as a share of the simulation's own speed.  pearl: PEARL on
half-cheetah-vel until a held-out return of −45; call it again, and it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, write_json

from metarl.base.errors import UserError

HERE = Path(__file__).parent
FAMILIES = {
    "half-cheetah": "half-cheetah-vel+dynamics", "ant": "ant-dynamics",
    "humanoid": "humanoid-dir", "quadruped": "quadruped-terrain",
}  # fmt: skip
LIMIT = 9 * 60
"""Seconds of a piece."""
WANTED = -45.0
"""PEARL's held-out return on half-cheetah-vel."""


class Piece:
    """What one piece has measured, also earlier on the same GPU."""

    def __init__(self, name: str, path: Path, where: dict[str, Any]) -> None:
        """Read what is there."""
        self.name, self.path, self.where = name, path, where
        self.ends = time.monotonic() + LIMIT
        known = self._all().get(name, {})
        same = known.get("environment", {}).get("gpu") == where["gpu"]
        self.found: dict[str, Any] = known if same else {}

    def save(self) -> None:
        """Write all that was found."""
        write_json(self.path, self._all() | {self.name: self.found | {"environment": self.where}})

    def late(self) -> bool:
        """Whether another measurement might not end in time: a new robot compiles for minutes."""
        return time.monotonic() > self.ends - 150

    @contextlib.contextmanager
    def going_on_without(self, what: str) -> Iterator[None]:
        """Say in a line that something does not run, such as for want of memory, and go on."""
        try:
            yield
        except (RuntimeError, MemoryError, UserError) as error:
            print(f"{what}: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)

    def _all(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))


def synchronised(device: str) -> float:
    """Wait for the GPU, and return the time."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def make(
    name: str, count: int, device: str, simulator: str = "warp", horizon: int | None = None
) -> Any:
    """Return worlds of a family with as many training tasks as there may be, up to 64."""
    from metarl import TaskDistribution, find_family, make_worlds
    from metarl.simulation.warp.choice import Physics

    family = find_family(name)
    family.horizon = horizon or family.horizon
    physics = Physics(simulator, room=3.0, device=device)
    worlds = make_worlds(family, count, None, physics)
    tasks = min(count, 64)
    worlds.set_tasks(TaskDistribution(family).split("train", tasks), count // tasks)
    worlds.reset()
    return worlds


def steps_per_second(worlds: Any, device: str, seconds: float) -> float:
    """Step with random actions, drawn before, for so long; the first steps are not counted."""
    import torch

    size = 16, worlds.num_worlds, worlds.spec.action_size
    actions = torch.rand(*size, device=worlds.device) * 2 - 1
    for action in actions[:3]:
        worlds.step(action)
    begun, count = synchronised(device), 0
    while (now := synchronised(device)) - begun < seconds:
        for action in actions:
            worlds.step(action)
        count += len(actions)
    return count * worlds.num_worlds / (now - begun)


def throughput(args: argparse.Namespace, piece: Piece) -> None:
    """Env steps a second by family and number of worlds."""
    counts = (4, 16) if args.tiny else (4096, 16384, 1024, 65536)
    families = {"point-goal": "point-goal"} if args.tiny else FAMILIES
    for count in counts:
        for name, family in families.items():
            if str(count) in piece.found.get(name, {}):
                continue
            if piece.late():
                return
            with piece.going_on_without(f"{name} in {count} worlds"):
                worlds = make(family, count, args.device)
                speed = steps_per_second(worlds, args.device, 0.2 if args.tiny else 5.0)
                piece.found.setdefault(name, {})[str(count)] = speed
                piece.save()
                print(f"{name:<14}{count:>7} worlds {speed:>14,.0f} env steps/s", flush=True)
                del worlds


def pearl_update(args: argparse.Namespace, piece: Piece) -> None:
    """PEARL's gradient step, captured where there is a GPU, against the plain eager one."""
    out = Path(args.json).with_suffix(".pearl.tmp")
    words = ["--rounds", "2", "--steps", "2", "--hidden", "32", "--batch", "32", "--tasks", "4"]
    words = words if args.tiny else ["--rounds", "7", "--steps", "50"]
    command = [sys.executable, HERE / "pearl_update.py", "--device", args.device, *words]
    subprocess.run([*command, "--json", out], check=True, timeout=piece.ends - time.monotonic())
    got = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    piece.found |= {name: got[name] for name in ("steps_per_second", "speedup", "tasks", "batch")}


def iterations(args: argparse.Namespace, piece: Piece) -> None:
    """Meta-iterations with the physics on the CPU and on Warp."""
    from metarl import find_learner
    from metarl.base.keys import Key

    family = "point-goal" if args.tiny else "half-cheetah-dynamics"
    for name, tasks, each in (("rl2", 4096, 1), ("maml-trpo", 40, 100)):
        tasks, each = (4, 1 if name == "rl2" else 2) if args.tiny else (tasks, each)
        cls = find_learner(name)
        for simulator in ("warp", "mujoco"):
            if simulator in piece.found.get(name, {}):
                continue
            if piece.late():
                return
            horizon = 10 if args.tiny else None
            worlds = make(family, tasks * each, args.device, simulator, horizon)
            speed = steps_per_second(worlds, args.device, 0.2 if args.tiny else 5.0)
            learner = cls(worlds.spec, cls.Config(), seed=0, device=args.device)
            drawn = worlds.family.distribution.split("train", tasks)
            took = []
            for k in range(2 if args.tiny else 4):
                before, begun = worlds.env_steps, synchronised(args.device)
                learner.meta_step(worlds, drawn, Key(0, k))
                took.append(synchronised(args.device) - begun)
            rate = (worlds.env_steps - before) / statistics.median(took[1:])
            piece.found.setdefault(name, {})[simulator] = {
                "seconds": statistics.median(took[1:]), "env_steps_per_second": rate,
                "simulation_alone": speed, "share": rate / speed, "worlds": tasks * each,
            }  # fmt: skip
            piece.save()
            print(f"{name:<10} physics by {simulator}: {rate:,.0f} env steps/s, "
                  f"{rate / speed:.0%} of the simulation alone", flush=True)  # fmt: skip


def pearl(args: argparse.Namespace, piece: Piece) -> None:
    """Train PEARL on Warp until the held-out return is reached, or time is up; it goes on later."""
    run, wanted = Path(args.out), math.inf if args.tiny else WANTED
    family = "point-goal" if args.tiny else "half-cheetah-vel"
    words = [family, "pearl", "--simulator", "warp", "--device", args.device]
    words += ["--simulator-room", "3", "--evaluate-every", "5", "--out", str(run)]
    if args.tiny:
        words += ["--iterations", "1", "--train-tasks", "2", "--rollouts-per-task", "1",
                  "--tasks-per-iteration", "2", "--evaluate-tasks", "1", "--gradient-steps", "2",
                  "--initial-episodes", "1", "--meta-batch", "2", "--hidden", "8",
                  "--evaluate-episodes", "1", "--preset", "none"]  # fmt: skip
    if (run / "checkpoints").is_dir():
        words = ["--resume", str(run)]
    training = subprocess.Popen([sys.executable, "-m", "metarl", "train", *words])
    curve: list[dict[str, Any]] = []
    while training.poll() is None and time.monotonic() < piece.ends - 30:
        time.sleep(2)
        if (run / "curve.json").is_file():
            curve = json.loads((run / "curve.json").read_text(encoding="utf-8"))
            if any(entry["after"] >= wanted for entry in curve):
                break
    if training.poll() is None:
        training.send_signal(signal.SIGTERM)  # it saves, and can go on
    training.wait(60)
    curve = json.loads((run / "curve.json").read_text(encoding="utf-8"))
    there = [entry for entry in curve if entry["after"] >= wanted]
    piece.found |= {
        "wanted": WANTED, "seconds": there[0]["seconds"] if there else None,
        "best": max(entry["after"] for entry in curve),
        "curve": [[entry["seconds"], entry["env_steps"], entry["after"]] for entry in curve],
    }  # fmt: skip


PIECES: dict[str, Callable[[argparse.Namespace, Piece], None]] = {
    "throughput": throughput, "pearl-update": pearl_update, "iterations": iterations,
    "pearl": pearl,
}  # fmt: skip


def main() -> int:
    """Run the pieces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--piece", choices=PIECES, action="append", help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that it runs")
    parser.add_argument("--out", default="runs/gpu-pearl", help="PEARL's run folder")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "gpu.json")
    args = parser.parse_args()
    if (args.tiny or args.device == "cpu") and args.json == parser.get_default("json"):
        args.json = Path("gpu-tiny.json")  # never among the results
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here: --device cpu --tiny tries whether it runs", file=sys.stderr)
        return 2
    for name in args.piece or PIECES:
        begun = time.monotonic()
        gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
        piece = Piece(name, args.json, environment(torch.get_num_threads()) | {"gpu": gpu})
        PIECES[name](args, piece)
        piece.save()
        print(f"{name}: {time.monotonic() - begun:.0f} s, in {args.json}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
