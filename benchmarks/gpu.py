"""What a machine with a GPU must run to fill in what was never run on one.

    python benchmarks/gpu.py                       every piece, one after the other
    python benchmarks/gpu.py --piece throughput    or one of them, each at most nine minutes
    python benchmarks/gpu.py --device cpu --tiny   whether it runs at all, in a few minutes

Each piece adds what it measured to the JSON, so a machine that is lent for minutes at a time can go
on later; `python benchmarks/summarise.py --write` makes docs/gpu.md from it.

throughput: env steps a second on MuJoCo Warp by number of worlds, with dynamics of each world's
own, random actions, observations and rewards included.  pearl-update: PEARL's captured gradient
step against the plain eager one.  iterations: RL² and MAML-TRPO meta-iterations with the physics
on the CPU and on the GPU, and each as a share of the simulation's own speed.  pearl: PEARL on
half-cheetah-vel until a held-out return of −45; call it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from common import environment, write_json

HERE = Path(__file__).parent
FAMILIES = {
    "half-cheetah": "half-cheetah-vel+dynamics", "ant": "ant-dynamics",
    "humanoid": "humanoid-dir", "quadruped": "quadruped-terrain",
}  # fmt: skip
LIMIT = 9 * 60
"""Seconds of a piece."""
WANTED = -45.0
"""PEARL's held-out return on half-cheetah-vel."""


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


def throughput(args: argparse.Namespace, ends: float) -> dict[str, Any]:
    """Env steps a second by family and number of worlds."""
    found: dict[str, Any] = {}
    counts = (4, 16) if args.tiny else (1024, 4096, 16384, 65536)
    names = ("half-cheetah",) if args.tiny else FAMILIES
    for name in names:
        for count in counts:
            if time.monotonic() > ends - 60 and found:
                return found
            worlds = make(FAMILIES[name], count, args.device)
            speed = steps_per_second(worlds, args.device, 1.0 if args.tiny else 5.0)
            found.setdefault(name, {})[str(count)] = speed
            print(f"{name:<14}{count:>7} worlds {speed:>14,.0f} env steps/s", flush=True)
            del worlds
    return found


def pearl_update(args: argparse.Namespace, ends: float) -> dict[str, Any]:
    """PEARL's gradient step, captured where there is a GPU, against the plain eager one."""
    out = Path(args.json).with_suffix(".pearl.tmp")
    words = ["--rounds", "2", "--steps", "2", "--hidden", "32", "--batch", "32", "--tasks", "4"]
    words = words if args.tiny else ["--rounds", "7", "--steps", "50"]
    command = [sys.executable, HERE / "pearl_update.py", "--device", args.device, *words]
    subprocess.run([*command, "--json", out], check=True, timeout=ends - time.monotonic())
    got = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    return {name: got[name] for name in ("steps_per_second", "speedup", "tasks", "batch")}


def iterations(args: argparse.Namespace, ends: float) -> dict[str, Any]:
    """Meta-iterations with the physics on the CPU and on Warp."""
    from metarl import find_learner
    from metarl.base.keys import Key

    found: dict[str, Any] = {}
    for name, tasks, each in (("rl2", 4096, 1), ("maml-trpo", 40, 100)):
        tasks, each = (4, 1 if name == "rl2" else 2) if args.tiny else (tasks, each)
        cls = find_learner(name)
        for simulator in ("mujoco", "warp"):
            if time.monotonic() > ends - 60 and found:
                return found
            horizon = 10 if args.tiny else None
            worlds = make("half-cheetah-dynamics", tasks * each, args.device, simulator, horizon)
            speed = steps_per_second(worlds, args.device, 0.5 if args.tiny else 5.0)
            learner = cls(worlds.spec, cls.Config(), seed=0, device=args.device)
            drawn = worlds.family.distribution.split("train", tasks)
            took = []
            for k in range(2 if args.tiny else 4):
                before, begun = worlds.env_steps, synchronised(args.device)
                learner.meta_step(worlds, drawn, Key(0, k))
                took.append(synchronised(args.device) - begun)
            rate = (worlds.env_steps - before) / statistics.median(took[1:])
            found.setdefault(name, {})[simulator] = {
                "seconds": statistics.median(took[1:]), "env_steps_per_second": rate,
                "simulation_alone": speed, "share": rate / speed, "worlds": tasks * each,
            }  # fmt: skip
            print(f"{name:<10} physics by {simulator}: {rate:,.0f} env steps/s, "
                  f"{rate / speed:.0%} of the simulation alone", flush=True)  # fmt: skip
    return found


def pearl(args: argparse.Namespace, ends: float) -> dict[str, Any]:
    """Train PEARL on Warp until the held-out return is reached, or time is up; it goes on later."""
    run = Path(args.out)
    family = "point-goal" if args.tiny else "half-cheetah-vel"
    words = [family, "pearl", "--simulator", "warp", "--device", args.device]
    words += ["--simulator-room", "3", "--evaluate-every", "5", "--out", str(run)]
    if args.tiny:
        words += ["--iterations", "1", "--train-tasks", "2", "--rollouts-per-task", "1",
                  "--tasks-per-iteration", "2", "--evaluate-tasks", "1", "--gradient-steps", "2",
                  "--initial-episodes", "1", "--meta-batch", "2"]  # fmt: skip
    if (run / "checkpoints").is_dir():
        words = ["--resume", str(run)]
    training = subprocess.Popen([sys.executable, "-m", "metarl", "train", *words])
    curve: list[dict[str, Any]] = []
    while training.poll() is None and time.monotonic() < ends - 30:
        time.sleep(2)
        if (run / "curve.json").is_file():
            curve = json.loads((run / "curve.json").read_text(encoding="utf-8"))
            if any(entry["after"] >= WANTED for entry in curve):
                break
    if training.poll() is None:
        training.send_signal(signal.SIGTERM)  # it saves, and can go on
    training.wait(60)
    curve = json.loads((run / "curve.json").read_text(encoding="utf-8"))
    there = [entry for entry in curve if entry["after"] >= WANTED]
    return {
        "wanted": WANTED, "seconds": there[0]["seconds"] if there else None,
        "best": max(entry["after"] for entry in curve),
        "curve": [[entry["seconds"], entry["env_steps"], entry["after"]] for entry in curve],
    }  # fmt: skip


PIECES: dict[str, Callable[[argparse.Namespace, float], dict[str, Any]]] = {
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
        got = PIECES[name](args, begun + LIMIT)
        known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
        gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
        where = environment(torch.get_num_threads()) | {"gpu": gpu}
        write_json(args.json, known | {name: got | {"environment": where}})
        print(f"{name}: {time.monotonic() - begun:.0f} s, in {args.json}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
