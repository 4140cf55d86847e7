"""Ant: a quadruped with eight motors (gymnasium's ant.xml, dt 0.05 s).

Goal families, a dynamics family and one of faults. The literature's contact cost is left out: with
the MuJoCo versions that most results were obtained on it was zero, and the batched engine never
computes the forces that it is made of. Positions are those after the step; older code read
``xpos``, which lags one physics step behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.variations import dynamics, faults, gymnasium_model
from metarl import Choices, Interval, Param, TaskFamily, Variation
from metarl.simulation.backend import Backend, State

CONTROL_COST = 0.5
"""Weight of the squared norm of the action."""
GOAL_CONTROL_COST = 0.1
"""The same in ant-goal."""
SPARSE_CONTROL_COST = 0.01
"""The same in ant-goal-sparse."""
SPARSE_RADIUS = 0.75
"""m around the goal of ant-goal-sparse within which the distance shows in the reward."""
SURVIVAL = 1.0
"""Reward for each step in which the robot has not fallen or jumped."""
HEALTHY_Z = (0.2, 1.0)
"""Heights of the torso, in m, outside which an episode ends."""
LEGS = tuple(
    {f"hip_{k}": 0.0, f"ankle_{k}": math.copysign(math.radians(50), bend)}
    for k, bend in enumerate((1, -1, -1, 1), start=1)
)
"""The joints of each leg with the middle of their ranges, in rad: front left, front right, back
left, back right."""

DYNAMICS = dynamics("torso", payload=1.0)
"""The robot weighs 0.88 kg, so the heaviest payload of the training more than doubles that."""
CRIPPLED = faults(
    "fault", LEGS, "0 sound; 1 to 4: that leg is dead; 5 to 8: leg 1 to 4 is locked",
    unseen=(4,),
)  # fmt: skip

OBSERVATION_SCALE = (
    0.25, *(0.4,) * 4, *(0.3, 0.4) * 4, *(1.0,) * 3, *(1.8,) * 3, *(4.0,) * 8
)  # fmt: skip
"""Standard deviations under random actions, of the observation without the position."""


def fault_in_words(fault: int) -> str:
    """Return what a value of ``fault`` means."""
    legs = len(LEGS)
    if fault == 0:
        return "no fault"
    return f"leg {fault} dead" if fault <= legs else f"leg {fault - legs} locked"


class _Ant(TaskFamily):
    """The robot, its observation, its failure, and what its rewards are made of."""

    model = gymnasium_model("ant.xml")
    frame_skip = 5
    horizon = 200
    observation_scale = OBSERVATION_SCALE
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload"),
        "crippled": Variation(CRIPPLED, doc="a leg that is dead or locked"),
        "terrain": "envs.on_terrain:ANT",
        "terrain-scan": "envs.on_terrain:ANT_SCAN",
    }

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 27): qpos[2:] (m, a quaternion, rad), then qvel (m/s, rad/s)."""
        return torch.cat((sim.qpos[:, 2:], sim.qvel), dim=1)

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: the torso's height is outside [0.2, 1] m."""
        height = sim.qpos[:, 2]
        return (height < HEALTHY_Z[0]) | (height > HEALTHY_Z[1])

    def velocity(self, sim: Backend, before: State) -> Tensor:
        """Return (B, 2) the torso's mean velocity over the step, in m/s."""
        return (sim.qpos[:, :2] - before.qpos[:, :2]) / self.dt

    def forward_velocity(self, sim: Backend, before: State) -> Tensor:
        """Return (B,) the torso's mean velocity along x over the step, in m/s."""
        return (sim.qpos[:, 0] - before.qpos[:, 0]) / self.dt

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return words for a video, with a fault told in full: "leg 2 dead"."""
        words = super().describe(task)
        if "fault" in task:
            words[words.index(f"fault {task['fault']:.3g}")] = fault_in_words(int(task["fault"]))
        return words

    def upkeep(self, action: Tensor) -> Tensor:
        """Return (B,) what every step gives whatever the task: 1 − 0.5‖a‖²."""
        return SURVIVAL - CONTROL_COST * action.square().sum(1)


class AntDir(_Ant):
    """Run in a direction of the plane that the reward reveals: v·(cos θ, sin θ) + 1 − 0.5‖a‖²."""

    name = "ant-dir"
    params = (
        Param("goal_angle", Interval(0.0, 2 * math.pi), unit="rad",
              doc="direction to run in, 0 is +x"),
    )  # fmt: skip

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v·(cos θ, sin θ) + 1 − 0.5‖a‖²."""
        angle = task["goal_angle"]
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        return (self.velocity(sim, before) * direction).sum(1) + self.upkeep(action)


class AntFwdBack(_Ant):
    """Run forward or backward, as the reward reveals: d·v_x + 1 − 0.5‖a‖²."""

    name = "ant-fwd-back"
    params = (Param("direction", Choices((-1.0, 1.0)), doc="-1 backward, 1 forward"),)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) d·v_x + 1 − 0.5‖a‖²."""
        return task["direction"] * self.forward_velocity(sim, before) + self.upkeep(action)


class AntVel(_Ant):
    """Run at a velocity that the reward alone reveals: −|v_x − v*| + 1 − 0.5‖a‖²."""

    name = "ant-vel"
    horizon = 100
    params = (
        Param("goal_velocity", Interval(0.0, 3.0), ood=(Interval(3.0, 3.5),), unit="m/s",
              doc="forward velocity to hold"),
    )  # fmt: skip

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) −|v_x − v*| + 1 − 0.5‖a‖²."""
        error = (self.forward_velocity(sim, before) - task["goal_velocity"]).abs()
        return self.upkeep(action) - error


class AntGoal(_Ant):
    """Go to a point of a disc that only the reward reveals: −‖xy − g‖₁ − 0.1‖a‖²."""

    name = "ant-goal"
    params = (
        Param("goal_radius", Interval(0.0, 3.0, area=True), ood=(Interval(3.0, 3.5, area=True),),
              unit="m", doc="the goal's distance from the origin"),
        Param("goal_angle", Interval(0.0, 2 * math.pi), unit="rad",
              doc="the goal's direction, 0 is +x"),
    )  # fmt: skip

    observation_scale = (1.0, 1.0, *OBSERVATION_SCALE)

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 29): qpos with the position (m), then qvel: a place must be told apart."""
        return torch.cat((sim.qpos, sim.qvel), dim=1)

    terminated = TaskFamily.terminated
    """Never: a robot that fell goes on."""

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor | dict[str, Tensor]:
        """Return (B,) −‖xy − g‖₁ − 0.1‖a‖², xy after the step, in m."""
        distance = (sim.qpos[:, :2] - self.goal(task)).abs().sum(1)
        return -distance - GOAL_CONTROL_COST * action.square().sum(1)

    def goal(self, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 2) where the goal is, in m."""
        radius, angle = task["goal_radius"], task["goal_angle"]
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


class AntGoalSparse(AntGoal):
    """Go to a point that shows in the reward within 0.75 m of it alone (HyperX's AntGoalSparse)."""

    name = "ant-goal-sparse"
    probe_steps = 0  # random actions do not get to most goals

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return (B,) terms: ``goal``, 1 − ‖xy − g‖ within 0.75 m, else −0.75; ``control``."""
        distance = torch.linalg.vector_norm(sim.qpos[:, :2] - self.goal(task), dim=1)
        near = distance <= SPARSE_RADIUS
        effort = action.square().sum(1)
        return {
            "goal": (1.0 - distance).where(near, -SPARSE_RADIUS),
            "control": -SPARSE_CONTROL_COST * effort,
        }


class _AntForward(_Ant):
    """Run forward as fast as it can: v_x + 1 − 0.5‖a‖²."""

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v_x + 1 − 0.5‖a‖²."""
        return self.forward_velocity(sim, before) + self.upkeep(action)


class AntDynamics(_AntForward):
    """Run forward, v_x + 1 − 0.5‖a‖², in a body, on a ground and under a load that vary."""

    name = "ant-dynamics"
    params = DYNAMICS


class AntCrippled(_AntForward):
    """Run forward, v_x + 1 − 0.5‖a‖², with a leg that is dead or locked."""

    name = "ant-crippled"
    params = CRIPPLED
