"""Humanoid: a body with 17 motors that walks in a direction (gymnasium's humanoid.xml, dt 0.015 s).

The literature's contact cost is left out: with the MuJoCo versions that most results were obtained
on it was zero, and the batched engine never computes the forces that it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from envs.variations import dynamics, gymnasium_model
from metarl import Interval, Param, TaskFamily, Variation
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend, State

PROGRESS = 0.25
"""Weight of the displacement of the centre of mass, in m, over one timestep of the physics."""
CONTROL_COST = 0.1
"""Weight of the squared norm of the controls, which are 0.4 times the action."""
SURVIVAL = 5.0
"""Reward for each step in which the robot has not fallen."""
HEALTHY_Z = (1.0, 2.0)
"""Heights of the torso, in m, outside which an episode ends."""

DYNAMICS = dynamics("torso", payload=8.0)
"""The torso weighs 8.9 kg, the robot 42.1 kg."""


class HumanoidDir(TaskFamily):
    """Walk in a direction of the plane that only the reward reveals, and do not fall.

    The reward is 0.25 (cos θ, sin θ)·Δc/timestep − 0.1‖u‖² + 5, with c the centre of mass and u
    the controls. The timestep is that of the physics, 3 ms, as in the literature, so the first
    term is 1.25 times the velocity.
    """

    name = "humanoid-dir"
    model = gymnasium_model("humanoid.xml")
    frame_skip = 5
    horizon = 200
    reset_noise = 1e-2
    keep = ("subtree_com",)
    observation_scale = (0.1, *(0.1,) * 4, *(0.3,) * 17, *(0.7,) * 3, *(2.0,) * 3, *(4.0,) * 17)
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload")
    }
    params = (
        Param("goal_angle", Interval(0.0, 2 * math.pi), unit="rad",
              doc="direction to walk in, 0 is +x"),
    )  # fmt: skip

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Add U[−0.01, 0.01) to every position and velocity of the standing robot."""
        super().initial_state(sim, ids, rng)
        noise = self.reset_noise
        sim.qvel[ids] = rng.uniform(-noise, noise, sim.qvel.shape[1])

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 45): qpos[2:] (m, a quaternion, rad), then qvel (m/s, rad/s)."""
        return torch.cat((sim.qpos[:, 2:], sim.qvel), dim=1)

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: the torso's height is outside [1, 2] m."""
        height = sim.qpos[:, 2]
        return (height < HEALTHY_Z[0]) | (height > HEALTHY_Z[1])

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) 0.25 (cos θ, sin θ)·Δc/timestep − 0.1‖u‖² + 5, c of the whole body."""
        body = 1  # the torso, whose subtree is the robot
        moved = (sim.bind("subtree_com") - before.kept["subtree_com"])[:, body, :2]
        angle = task["goal_angle"]
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        progress = (moved * direction).sum(1) / float(self.compiled.opt.timestep)
        effort = sim.ctrl.square().sum(1)
        return PROGRESS * progress - CONTROL_COST * effort + SURVIVAL
