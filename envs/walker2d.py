"""Walker2d: a planar biped with six motors (gymnasium's walker2d.xml, dt 0.016 s).

The feet differ in friction, 0.9 and 1.9, as in the model of the random-parameter literature. That
has a timestep of 4 ms and a frame skip of 4; here 8 steps of 2 ms give the same 16 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from envs.variations import dynamics, gymnasium_model, random_params
from metarl import TaskFamily, Variation
from metarl.keys import WorldDraws
from metarl.simulator import Simulator, State

CONTROL_COST = 1e-3
"""Weight of the squared norm of the action."""
SURVIVAL = 1.0
"""Reward for each step in which the robot has not fallen."""
HEALTHY_Z = (0.8, 2.0)
"""Heights of the torso, in m, between which an episode goes on."""
HEALTHY_PITCH = 1.0
"""Inclination of the torso, in rad, up to which an episode goes on."""
JOINTS = (
    "thigh_joint", "leg_joint", "foot_joint", "thigh_left_joint", "leg_left_joint",
    "foot_left_joint",
)  # fmt: skip
"""The joints with a motor and damping."""

PARAMS = random_params(JOINTS)
"""7 + 8 + 6 numbers."""
PARAMS_LITERATURE = random_params(JOINTS, literature=True)
"""7 + 21 + 24 + 9 numbers."""
DYNAMICS = dynamics("torso", payload=4.0)
"""The torso weighs 3.7 kg, the robot 23.7 kg."""


class _Walker2d(TaskFamily):
    """The robot, its observation, its failure, and its reward, v + 1 − 1e-3‖a‖²."""

    model = gymnasium_model("walker2d.xml")
    frame_skip = 8
    horizon = 200
    reset_noise = 5e-3
    observation_scale = (0.1, 0.3, *(0.4,) * 6, 0.75, 1.0, 5.0, *(6.0,) * 6)
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload")
    }

    def initial_state(self, sim: Simulator, ids: Tensor, rng: WorldDraws) -> None:
        """Add U[−0.005, 0.005) to every position and velocity of the upright robot at rest."""
        noise = self.reset_noise
        sim.qpos[ids] += rng.uniform(-noise, noise, sim.qpos.shape[1])
        sim.qvel[ids] = rng.uniform(-noise, noise, sim.qvel.shape[1])

    def observe(self, sim: Simulator, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 17): qpos[1:] (m, rad), then qvel (m/s, rad/s) clipped to ±10."""
        return torch.cat((sim.qpos[:, 1:], sim.qvel.clamp(-10.0, 10.0)), dim=1)

    def terminated(self, sim: Simulator) -> Tensor:
        """Return (B,) bool: not 0.8 m < z < 2 m, or not |pitch| < 1 rad."""
        height, pitch = sim.qpos[:, 1], sim.qpos[:, 2]
        upright = (height > HEALTHY_Z[0]) & (height < HEALTHY_Z[1]) & (pitch.abs() < HEALTHY_PITCH)
        return ~upright

    def reward(
        self, sim: Simulator, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v + 1 − 1e-3‖a‖², v the forward velocity over the step, in m/s."""
        velocity = (sim.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        return velocity + SURVIVAL - CONTROL_COST * action.square().sum(1)


class Walker2dParams(_Walker2d):
    """Walk, v + 1 − 1e-3‖a‖², with every link, joint and contact scaled by a draw of its own."""

    name = "walker2d-params"
    params = PARAMS


class Walker2dParamsLiterature(_Walker2d):
    """walker2d-params with the literature's 61 independent draws, mass apart from inertia."""

    name = "walker2d-params-literature"
    params = PARAMS_LITERATURE


class Walker2dDynamics(_Walker2d):
    """Walk, v + 1 − 1e-3‖a‖², in a body, on a ground and under a load that vary as a whole."""

    name = "walker2d-dynamics"
    params = DYNAMICS
