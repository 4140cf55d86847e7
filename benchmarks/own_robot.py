"""What a robot dog costs with everything that one of its own would have, against the bare engine.

    python benchmarks/own_robot.py --rounds 5 --json benchmarks/results/own_robot.json

The robot is that of quadruped-vel, with PD control at the physics rate, an IMU, and its feet's
places observed; then with pushes and a history; then with noise and unknown dynamics, too; then
with delays that vary; and then with contact sensors, whose forces take a solver's run more after
each step. The bare engine takes one `Batch.step` from the same states, as in
``simulation.py --all``. All of it on one thread, and by the time that the CPU took, which other
work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mujoco
import simulation
import torch
from common import environment, interleave, paired_ratio, write_json
from torch import Tensor

from envs.quadruped_vel import QuadrupedVel
from metarl import Contacts, contact, position_targets, torques
from metarl.base.threads import sampling, set_threads
from metarl.simulation.backend import Backend

EFFORT = {"*": 23.7, "*_knee": 35.5}
SCALE = {"*_abduction": 0.25, "*_hip_pitch": 0.5, "*_knee": 0.6}
EVERYTHING = "+dynamics+history+noise+push"
ROBOTS = (
    "GoLike", "GoLike+history+push", f"GoLike{EVERYTHING}",
    f"GoLike{EVERYTHING}+varying-latency", f"GoLikeWithContacts{EVERYTHING}",
)  # fmt: skip


class GoLike(QuadrupedVel):
    """The robot of quadruped-vel with an IMU and the places of its feet, torques by PD control."""

    actions = torques(60.0, 2.0, EFFORT, position_targets(SCALE))

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Add an IMU to the trunk."""
        spec.body("trunk").add_site(name="imu")
        for name, kind in (("gyro", "GYRO"), ("turn", "FRAMEQUAT"), ("speed", "VELOCIMETER")):
            spec.add_sensor(
                name=name, type=getattr(mujoco.mjtSensor, f"mjSENS_{kind}"), objname="imu",
                objtype=mujoco.mjtObj.mjOBJ_SITE,
            )  # fmt: skip
        return super().build(spec)

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 66): those of quadruped-vel, the IMU's (7), the feet's places (12, m)."""
        feet = (self.feet(sim) - sim.qpos[:, None, :3]).flatten(1)
        imu = sim.sensor("gyro"), sim.sensor("turn")
        return torch.cat((super().observe(sim, task), *imu, feet), 1)


class GoLikeWithContacts(GoLike):
    """The same, which feels how hard its feet are on the ground."""

    contacts = {"soles": contact("*_foot")}  # noqa: RUF012

    def __init__(self) -> None:
        """Find the contact sensors."""
        super().__init__()
        self.soles = Contacts(self.compiled, "soles")

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 70): the same, and the force on each foot, in 100 N."""
        force = self.soles.force(sim).norm(dim=2) / 100.0
        return torch.cat((super().observe(sim, task), force), 1)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=400, help="worlds")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--steps", type=int, default=100, help="steps of a measurement")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args()
    set_threads(1)
    rows = []
    print(f"{'env steps a second of the CPU':<60}{'TaskWorlds':>12}{'bare':>10}{'ratio':>7}")
    with sampling():
        for robot in ROBOTS:
            row = measured(robot, args)
            rows.append(row)
            ours, bare = row["task_worlds"], row["mujoco_batch"]
            print(f"{robot:<60}{ours:>12,.0f}{bare:>10,.0f}{row['ratio']:>7.2f}", flush=True)
    write_json(args.json, {"benchmark": "own_robot", **environment(1), "results": rows})


def measured(robot: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return a row: the worlds of one robot and the bare engine, in turns."""
    name = f"{Path(__file__).resolve()}:{robot}"
    ours, bare = simulation.family_pair(name, args.worlds, 1, args.steps)

    def cpu(contender: simulation.Contender) -> float:
        contender.between()
        start = time.process_time()
        for k in range(args.steps):
            contender.step(k)
        return args.steps * args.worlds / (time.process_time() - start)

    pair = {"TaskWorlds": lambda: cpu(ours), "mujoco.batch": lambda: cpu(bare)}
    interleave(pair, 1)  # warm up
    found = interleave(pair, args.rounds)
    return {
        "family": robot, "worlds": args.worlds, "rounds": found,
        "task_worlds": statistics.median(found["TaskWorlds"]),
        "mujoco_batch": statistics.median(found["mujoco.batch"]),
        "ratio": paired_ratio(found["TaskWorlds"], found["mujoco.batch"]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
