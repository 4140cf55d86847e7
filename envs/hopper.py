"""Hopper: a planar robot with one leg and three motors (gymnasium's hopper.xml, dt 0.008 s)."""

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
HEALTHY_Z = 0.7
"""Height of the torso, in m, above which an episode goes on."""
HEALTHY_PITCH = 0.2
"""Inclination of the torso, in rad, up to which an episode goes on."""
HEALTHY_STATE = 100.0
"""Magnitude of every state from the pitch on (rad, m/s, rad/s) up to which an episode goes on."""
JOINTS = ("thigh_joint", "leg_joint", "foot_joint")
"""The joints with a motor and damping."""

PARAMS = random_params(JOINTS)
"""4 + 5 + 3 numbers."""
PARAMS_LITERATURE = random_params(JOINTS, literature=True)
"""4 + 12 + 15 + 6 numbers."""
DYNAMICS = dynamics("torso", payload=3.0)
"""The torso weighs 3.7 kg, the robot 15.8 kg."""


class _Hopper(TaskFamily):
    """The robot, its observation, its failure, and its reward, v + 1 − 1e-3‖a‖²."""

    model = gymnasium_model("hopper.xml")
    frame_skip = 4
    horizon = 200
    reset_noise = 5e-3
    observation_scale = (0.05, 0.1, *(0.2,) * 3, 0.5, 0.5, *(2.0,) * 4)
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload")
    }

    def initial_state(self, sim: Simulator, ids: Tensor, rng: WorldDraws) -> None:
        """Add U[−0.005, 0.005) to every position and velocity of the upright robot at rest."""
        noise = self.reset_noise
        sim.qpos[ids] += rng.uniform(-noise, noise, sim.qpos.shape[1])
        sim.qvel[ids] = rng.uniform(-noise, noise, sim.qvel.shape[1])

    def observe(self, sim: Simulator, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 11): qpos[1:] (m, rad), then qvel (m/s, rad/s) clipped to ±10."""
        return torch.cat((sim.qpos[:, 1:], sim.qvel.clamp(-10.0, 10.0)), dim=1)

    def terminated(self, sim: Simulator) -> Tensor:
        """Return (B,) bool: not z > 0.7 m, or not |pitch| < 0.2 rad, or a state beyond ±100."""
        upright = (sim.qpos[:, 1] > HEALTHY_Z) & (sim.qpos[:, 2].abs() < HEALTHY_PITCH)
        upright &= torch.cat((sim.qpos[:, 2:], sim.qvel), dim=1).abs().amax(1) < HEALTHY_STATE
        return ~upright

    def reward(
        self, sim: Simulator, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v + 1 − 1e-3‖a‖², v the forward velocity over the step, in m/s."""
        velocity = (sim.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        return velocity + SURVIVAL - CONTROL_COST * action.square().sum(1)


class HopperParams(_Hopper):
    """Hop, v + 1 − 1e-3‖a‖², with every link, joint and contact scaled by a draw of its own."""

    name = "hopper-params"
    params = PARAMS


class HopperParamsLiterature(_Hopper):
    """hopper-params with the literature's 37 independent draws, mass apart from inertia."""

    name = "hopper-params-literature"
    params = PARAMS_LITERATURE


class HopperDynamics(_Hopper):
    """Hop, v + 1 − 1e-3‖a‖², in a body, on a ground and under a load that vary as a whole."""

    name = "hopper-dynamics"
    params = DYNAMICS
