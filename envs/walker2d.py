"""Walker2d: a planar biped with six motors (gymnasium's walker2d.xml, dt 0.016 s).

The feet differ in friction, 0.9 and 1.9, as in the model of the random-parameter literature. That
has a timestep of 4 ms and a frame skip of 4; here 8 steps of 2 ms give the same 16 ms.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from envs.planar import PlanarWalker
from envs.variations import dynamics, gymnasium_model, random_params
from metarl import Variation
from metarl.simulation.backend import Backend

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

OBSERVATION_SCALE = (0.1, 0.3, *(0.4,) * 6, 0.75, 1.0, 5.0, *(6.0,) * 6)
"""Standard deviations of the observation under random actions, rounded."""


class _Walker2d(PlanarWalker):
    """The robot, whose observation has 17 numbers, and its failure."""

    model = gymnasium_model("walker2d.xml")
    frame_skip = 8
    observation_scale = OBSERVATION_SCALE
    variations: ClassVar = {
        "dynamics": Variation(DYNAMICS, doc="mass, friction, damping, motors, gravity, payload"),
        "terrain": "envs.on_terrain:WALKER",
        "terrain-scan": "envs.on_terrain:WALKER_SCAN",
    }

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: not 0.8 m < z < 2 m, or not |pitch| < 1 rad."""
        height, pitch = sim.qpos[:, 1], sim.qpos[:, 2]
        upright = (height > HEALTHY_Z[0]) & (height < HEALTHY_Z[1]) & (pitch.abs() < HEALTHY_PITCH)
        return ~upright


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
