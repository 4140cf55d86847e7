"""Robots of the literature on terrain: run forward over slopes, roughness, steps and gaps.

The reward is the forward velocity, as on flat ground; which ground it is, the robot must feel. Each
family comes twice: blind, and with a height scan in its observation (``-scan``). The root's height
over z = 0 is left out, like its x: it would tell how far the robot has climbed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.ant import HEALTHY_Z as ANT_Z
from envs.ant import _AntForward
from envs.half_cheetah import _HalfCheetah
from envs.terrain import Ground, Terrain
from metarl import TaskFamily
from metarl.simulator import Simulator, State

_BUILT: dict[type, mujoco.MjModel] = {}
"""Compiled models of the last two families, never changed."""


class OnTerrain(TaskFamily):
    """A robot whose floor has a terrain; to be mixed in before the robot's class."""

    terrain: ClassVar[Terrain]
    top_speed: ClassVar[float]
    """More than the fastest known policies reach, in m/s; the terrain is long enough for it."""
    scan: ClassVar[bool] = False
    """Whether the observation ends with the height scan."""
    scan_x: ClassVar[tuple[float, ...]] = ()
    """Places of the scan ahead of the root, in m."""
    scan_y: ClassVar[tuple[float, ...]] = ()
    """Places of the scan to its left, in m; with `scan_x` they make a grid. Planar robots: none."""

    def __init__(self) -> None:
        """Compile the robot on its terrain."""
        super().__init__()
        self.ground = Ground(self.compiled)
        grid = np.meshgrid(self.scan_x, self.scan_y or (0.0,), indexing="ij")
        self._grid = [torch.from_numpy(places.ravel()) for places in grid]

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Return the compiled model of the robot with the bank of height fields."""
        cls = type(self)
        if cls not in _BUILT:  # millions of elevations take a second, a copy takes none
            spec = spec.copy()
            self.terrain.add_to(spec)
            if len(_BUILT) >= 2:
                _BUILT.pop(next(iter(_BUILT)))
            _BUILT[cls] = spec.compile()
        return copy.deepcopy(_BUILT[cls])

    def with_scan(self, sim: Simulator, observed: Tensor, root: Tensor) -> Tensor:
        """Append the heights of the ground around the root, relative to the root (m), if asked.

        Args:
            sim: the worlds.
            observed: (B, O) the blind observation.
            root: (B, 1) height of the root, m.
        """
        if not self.scan:
            return observed
        return torch.cat((observed, self.heights(sim) - root), dim=1)

    def heights(self, sim: Simulator) -> Tensor:
        """Return (B, N) the ground's height at the places of the scan, in m."""
        ahead, left = self._grid
        if not self.scan_y:
            return self.ground(sim, sim.qpos[:, :1] + ahead)
        quaternion = sim.qpos[:, 3:7]
        w, x, y, z = quaternion.unbind(1)
        yaw = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))[:, None]
        cos, sin = yaw.cos(), yaw.sin()
        return self.ground(
            sim, sim.qpos[:, :1] + cos * ahead - sin * left,
            sim.qpos[:, 1:2] + sin * ahead + cos * left,
        )  # fmt: skip


class HalfCheetahTerrain(OnTerrain, _HalfCheetah):
    """Run forward over unknown ground: v − 0.05‖a‖²."""

    name = "half-cheetah-terrain"
    top_speed = 20.0
    terrain = Terrain(height=0.4, length=1.0, reach=202.0, cell=0.1, planar=True)
    params = terrain.params()
    scan_x = tuple(0.25 * k for k in range(-2, 9))

    def observe(self, sim: Simulator, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 16): qpos[2:] (rad), qvel (m/s, rad/s); with the scan 11 heights (m)."""
        blind = torch.cat((sim.qpos[:, 2:], sim.qvel), dim=1)
        return self.with_scan(sim, blind, sim.qpos[:, 1:2] + 0.7)

    def reward(
        self, sim: Simulator, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v − 0.05‖a‖²."""
        return self.velocity(sim, before) - self.control_cost(action)


class HalfCheetahTerrainScan(HalfCheetahTerrain):
    """Run forward over ground that it sees 2 m ahead: v − 0.05‖a‖²."""

    name = "half-cheetah-terrain-scan"
    scan = True


class AntTerrain(OnTerrain, _AntForward):
    """Run forward over unknown ground: v_x + 1 − 0.5‖a‖²."""

    name = "ant-terrain"
    top_speed = 8.0
    terrain = Terrain(height=0.4, length=1.0, reach=82.0, cell=0.25)
    params = terrain.params()
    scan_x = tuple(0.25 * k for k in range(-2, 7))
    scan_y = (-0.5, 0.0, 0.5)

    def observe(self, sim: Simulator, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 26): qpos[3:] (a quaternion, rad), qvel; with the scan 27 heights (m)."""
        blind = torch.cat((sim.qpos[:, 3:], sim.qvel), dim=1)
        return self.with_scan(sim, blind, sim.qpos[:, 2:3])

    def terminated(self, sim: Simulator) -> Tensor:
        """Return (B,) bool: the torso is not 0.2 m to 1 m over the ground.

        The upper end is higher by the height of the terrain, since the ground may fall away.
        """
        height = sim.qpos[:, 2] - self.ground(sim, sim.qpos[:, :1], sim.qpos[:, 1:2])[:, 0]
        return (height < ANT_Z[0]) | (height > ANT_Z[1] + self.terrain.height)


class AntTerrainScan(AntTerrain):
    """Run forward over ground that it sees 1.5 m ahead: v_x + 1 − 0.5‖a‖²."""

    name = "ant-terrain-scan"
    scan = True
