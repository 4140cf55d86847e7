"""Hopper: a planar robot with one leg and three motors (gymnasium's hopper.xml, dt 0.008 s)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from envs.planar import PlanarWalker
from envs.variations import dynamics, gymnasium_model, random_params
from metarl import Variation
from metarl.simulation.backend import Backend

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


class _Hopper(PlanarWalker):
    """The robot, whose observation has 11 numbers, and its failure."""

    model = gymnasium_model("hopper.xml")
    frame_skip = 4
    observation_scale = (0.05, 0.1, *(0.2,) * 3, 0.5, 0.5, *(2.0,) * 4)
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload")
    }

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: not z > 0.7 m, or not |pitch| < 0.2 rad, or a state beyond ±100."""
        upright = (sim.qpos[:, 1] > HEALTHY_Z) & (sim.qpos[:, 2].abs() < HEALTHY_PITCH)
        upright &= torch.cat((sim.qpos[:, 2:], sim.qvel), dim=1).abs().amax(1) < HEALTHY_STATE
        return ~upright


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
