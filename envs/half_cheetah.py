"""HalfCheetah: a planar runner with six motors (gymnasium's half_cheetah.xml, dt 0.05 s).

The observation has 17 numbers: qpos without the root's x, then qvel; the absolute x, which some
older code included, would leak the distance covered. It is there in the sparse family alone, whose
reward depends on the place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.variations import gymnasium_model
from metarl import Choices, Interval, Param, TaskFamily, Variation, scale, when
from metarl.simulation.backend import Backend, State

CONTROL_COST = 0.05
"""Weight of the squared norm of the action, as in the literature of meta-RL (gymnasium: 0.1)."""

DYNAMICS = (
    Param("mass", Interval(0.5, 2.0, log=True), ood=(Interval(2.0, 3.0),),
          edit=(scale("body_mass"), scale("body_inertia")),
          doc="scale of every link's mass and inertia"),
    Param("friction", Interval(0.4, 2.0, log=True), ood=(Interval(0.2, 0.4),),
          edit=scale("geom_friction"), doc="scale of all friction coefficients"),
    Param("damping", Interval(0.5, 2.0, log=True), ood=(Interval(2.0, 3.0),),
          edit=scale("dof_damping"), doc="scale of all joint damping"),
    Param("strength", Interval(0.5, 1.25), ood=(Interval(0.3, 0.5),),
          edit=scale("actuator_gear"), doc="scale of all motor torques"),
)  # fmt: skip
"""What varies in the body and on the ground, in `half-cheetah-dynamics` and as ``+dynamics``."""

MOTORS = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
"""The joints in the order of the actions; each has one motor."""
CRIPPLED = (
    Param("dead_motor", Choices((2, 3, 4, 5, 6), ood=(1,)), nominal=0,
          edit=tuple(when(k, scale("actuator_gear", joint), 0.0)
                     for k, joint in enumerate(MOTORS, start=1)),
          doc="the motor that gives no torque, by its place in the action; 0 is a sound robot"),
)  # fmt: skip
"""One dead motor (Nagabandi et al. 2019): the first of them, the back thigh's, is never dead in
training and is the ood split. The sound robot is no task, but what ``+switch`` begins with."""

SPARSE_DISTANCE = 5.0
"""m from the origin, on either side, from which on half-cheetah-dir-sparse pays for running."""

OBSERVATION_SCALE = (0.1, 0.5, *(0.3,) * 6, 0.75, 0.75, 1.5, *(6.0,) * 6)
"""Standard deviations of the observation under random actions, rounded."""


class _HalfCheetah(TaskFamily):
    """The robot, its observation, and the two quantities that its rewards are made of."""

    model = gymnasium_model("half_cheetah.xml")
    frame_skip = 5
    horizon = 200
    observation_scale = OBSERVATION_SCALE
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors"),
        "crippled": Variation(CRIPPLED, doc="a motor that is dead"),
        "terrain": "envs.on_terrain:CHEETAH",
        "terrain-scan": "envs.on_terrain:CHEETAH_SCAN",
    }

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 17): qpos[1:] (m, rad), then qvel (m/s, rad/s)."""
        return torch.cat((sim.qpos[:, 1:], sim.qvel), dim=1)

    def velocity(self, sim: Backend, before: State) -> Tensor:
        """Return (B,) the mean forward velocity over the step, in m/s."""
        return (sim.qpos[:, 0] - before.qpos[:, 0]) / self.dt

    def control_cost(self, action: Tensor) -> Tensor:
        """Return (B,) the weighted squared norm of the action."""
        return CONTROL_COST * action.square().sum(1)


class HalfCheetahVel(_HalfCheetah):
    """Run at a velocity that the reward alone reveals: −|v − v*| − 0.05‖a‖² (Finn et al. 2017)."""

    name = "half-cheetah-vel"
    params = (
        Param("goal_velocity", Interval(0.0, 3.0), ood=(Interval(3.0, 3.5),), unit="m/s",
              doc="forward velocity to hold"),
    )  # fmt: skip

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) −|v − v*| − 0.05‖a‖²."""
        error = (self.velocity(sim, before) - task["goal_velocity"]).abs()
        return -error - self.control_cost(action)


class HalfCheetahDir(_HalfCheetah):
    """Run forward or backward, as the reward reveals: d·v − 0.05‖a‖² (Finn et al. 2017)."""

    name = "half-cheetah-dir"
    params = (Param("direction", Choices((-1.0, 1.0)), doc="-1 backward, 1 forward"),)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor | dict[str, Tensor]:
        """Return (B,) d·v − 0.05‖a‖²."""
        return task["direction"] * self.velocity(sim, before) - self.control_cost(action)

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return the direction as a word."""
        return ["run forward" if task["direction"] > 0 else "run backward"]


class HalfCheetahDirSparse(HalfCheetahDir):
    """Run forward or backward, paid for from 5 m on: [|x| ≥ 5 m] d·v − 0.05‖a‖² (HyperX)."""

    name = "half-cheetah-dir-sparse"
    observation_scale = (1.0, *OBSERVATION_SCALE)
    probe_steps = 0  # random actions do not get as far as where the direction matters

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 18): qpos with the place x (m), which tells where the reward begins; qvel."""
        return torch.cat((sim.qpos, sim.qvel), dim=1)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return (B,) terms: ``run``, d·v at 5 m or more from the origin, and ``control``."""
        run = task["direction"] * self.velocity(sim, before)
        paid = sim.qpos[:, 0].abs() >= SPARSE_DISTANCE
        return {"run": run.where(paid, 0.0), "control": -self.control_cost(action)}


class _HalfCheetahForward(_HalfCheetah):
    """Run forward as fast as it can: v − 0.05‖a‖²."""

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v − 0.05‖a‖²."""
        return self.velocity(sim, before) - self.control_cost(action)


class HalfCheetahDynamics(_HalfCheetahForward):
    """Run forward as fast as it can, v − 0.05‖a‖², in a body and on a ground that vary."""

    name = "half-cheetah-dynamics"
    params = DYNAMICS


class HalfCheetahCrippled(_HalfCheetahForward):
    """Run forward as fast as it can, v − 0.05‖a‖², with one motor that is dead."""

    name = "half-cheetah-crippled"
    params = CRIPPLED

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return which motor is dead."""
        dead = int(task["dead_motor"])
        return [f"{MOTORS[dead - 1]} is dead" if dead else "every motor works"]
