"""Robots of the literature on terrain: run forward over slopes, roughness, steps and gaps.

The reward is the forward velocity, as on flat ground; which ground it is, the robot must feel. Each
family comes twice: blind, and with a height scan in its observation (``-scan``). The root's height
over z = 0 is left out, like its x: it would tell how far the robot has climbed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from envs.ant import HEALTHY_Z as ANT_Z
from envs.ant import OBSERVATION_SCALE as ANT_SCALE
from envs.ant import _AntForward
from envs.half_cheetah import OBSERVATION_SCALE as CHEETAH_SCALE
from envs.half_cheetah import _HalfCheetah
from envs.walker2d import HEALTHY_PITCH, _Walker2d
from envs.walker2d import HEALTHY_Z as WALKER_Z
from envs.walker2d import OBSERVATION_SCALE as WALKER_SCALE
from metarl import Variation
from metarl.simulation.backend import Backend, State
from metarl.tasks.variations.fields import Terrain
from metarl.tasks.variations.terrain import OnTerrain

SCAN_SCALE = 0.2
"""Typical height of the ground, in m: the unit of the scan's sensor bias."""


class CheetahGround(OnTerrain):
    """What any half-cheetah family senses of the ground."""

    top_speed = 20.0
    terrain = Terrain(height=0.4, length=1.0, reach=202.0, cell=0.1, planar=True)
    scan_x = tuple(0.25 * k for k in range(-2, 9))

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 16): qpos[2:] (rad), qvel (m/s, rad/s); with the scan 11 heights (m)."""
        return self.with_scan(sim, super().observe(sim, task)[:, 1:])


class HalfCheetahTerrain(CheetahGround, _HalfCheetah):
    """Run forward over unknown ground: v − 0.05‖a‖²."""

    name = "half-cheetah-terrain"
    params = CheetahGround.terrain.params()
    observation_scale = CHEETAH_SCALE[1:]

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v − 0.05‖a‖²."""
        return self.velocity(sim, before) - self.control_cost(action)


class HalfCheetahTerrainScan(HalfCheetahTerrain):
    """Run forward over ground that it sees 2 m ahead: v − 0.05‖a‖²."""

    name = "half-cheetah-terrain-scan"
    scan = True
    observation_scale = (*CHEETAH_SCALE[1:], *(SCAN_SCALE,) * 11)


class AntGround(OnTerrain):
    """What any ant family senses of the ground, and when it has fallen there."""

    top_speed = 8.0
    terrain = Terrain(height=0.4, length=1.0, reach=82.0, cell=0.2, bump_cell=0.5)
    scan_x = tuple(0.25 * k for k in range(-2, 7))
    scan_y = (-0.5, 0.0, 0.5)

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 26): qpos[3:] (a quaternion, rad), qvel; with the scan 27 heights (m)."""
        whole = super().observe(sim, task)
        at = whole.shape[1] - 27  # of the height: a family may tell the position before it
        blind = torch.cat((whole[:, :at], whole[:, at + 1 :]), dim=1)
        return self.with_scan(sim, blind)

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: the torso is not 0.2 m to 1 m over the ground, if that is a failure.

        The upper end is higher by the height of the terrain, since the ground may fall away.
        """
        if self.unfailing():
            return super().terminated(sim)
        height = self.clearance(sim)
        return (height < ANT_Z[0]) | (height > ANT_Z[1] + self.terrain.height)


class AntTerrain(AntGround, _AntForward):
    """Run forward over unknown ground: v_x + 1 − 0.5‖a‖²."""

    name = "ant-terrain"
    params = AntGround.terrain.params()
    observation_scale = ANT_SCALE[1:]


class AntTerrainScan(AntTerrain):
    """Run forward over ground that it sees 1.5 m ahead: v_x + 1 − 0.5‖a‖²."""

    name = "ant-terrain-scan"
    scan = True
    observation_scale = (*ANT_SCALE[1:], *(SCAN_SCALE,) * 27)


class WalkerGround(OnTerrain):
    """What any walker2d family senses of the ground, and when it has fallen there."""

    top_speed = 10.0
    terrain = Terrain(height=0.3, length=1.0, reach=34.0, cell=0.1, planar=True, flat=0.5)
    scan_x = tuple(0.2 * k for k in range(-2, 9))

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 16): qpos[2:] (rad), qvel clipped to ±10; with the scan 11 heights (m)."""
        return self.with_scan(sim, super().observe(sim, task)[:, 1:])

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: the torso is not 0.8 m to 2 m over the ground, or |pitch| ≥ 1 rad.

        The lower end is lower by the height of the terrain: a foot may stand below the torso's
        ground, as the upper one has room for the converse.
        """
        height = self.clearance(sim)
        low, high = WALKER_Z[0] - self.terrain.height, WALKER_Z[1] + self.terrain.height
        upright = (height > low) & (height < high) & (sim.qpos[:, 2].abs() < HEALTHY_PITCH)
        return ~upright


class Walker2dTerrain(WalkerGround, _Walker2d):
    """Walk over unknown ground: v + 1 − 1e-3‖a‖²."""

    name = "walker2d-terrain"
    params = WalkerGround.terrain.params()
    observation_scale = WALKER_SCALE[1:]


class Walker2dTerrainScan(Walker2dTerrain):
    """Walk over ground that it sees 1.6 m ahead: v + 1 − 1e-3‖a‖²."""

    name = "walker2d-terrain-scan"
    scan = True
    observation_scale = (*WALKER_SCALE[1:], *(SCAN_SCALE,) * 11)


class _Seen(OnTerrain):
    """The height scan, for a product."""

    scan = True


def _variation(ground: type[OnTerrain], scan: bool) -> Variation:
    """What puts any family of a robot on the ground of its terrain family."""
    if not scan:
        return Variation(ground.terrain.params(), ground, "slopes, roughness, steps and gaps")
    seeing = type(f"{ground.__name__}Seen", (_Seen, ground), {"__module__": __name__})
    return Variation(ground.terrain.params(), seeing, "terrain, with a height scan")


CHEETAH, CHEETAH_SCAN = (_variation(CheetahGround, scan) for scan in (False, True))
ANT, ANT_SCAN = (_variation(AntGround, scan) for scan in (False, True))
WALKER, WALKER_SCAN = (_variation(WalkerGround, scan) for scan in (False, True))
