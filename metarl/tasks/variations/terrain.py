"""Robots on terrain: a mixin for families of one robot, and ``+terrain`` for any robot that fits.

A robot fits if its base is free, or moves in the plane of x and z, and it stands on the plane
z = 0. The terrain of ``+terrain`` is measured by the robot, and what the robot observes, and when
it has failed, is the family's: heights there count from z = 0, not from the ground.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.simulation.backend import Backend
from metarl.simulation.furnish import add_floor
from metarl.simulation.ground import GEOM, Ground, HeightScan
from metarl.simulation.root import Root, find_base
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Param
from metarl.tasks.variations.fields import KINDS, Terrain

_BUILT: dict[type, mujoco.MjModel] = {}
"""Compiled models of the last families, never changed."""
_KEPT = 2
"""How many: of ant-terrain, one takes 8 MB."""


class OnTerrain(TaskFamily):
    """A robot whose floor has a terrain; to be mixed in before the robot's class."""

    terrain: Terrain
    plane: str = "floor"
    """The geom out of which it rises, z = 0."""
    top_speed: ClassVar[float]
    """More than the fastest known policies reach, in m/s; the terrain is long enough for it."""
    scan: ClassVar[bool] = False
    """Whether the observation ends with the height scan."""
    scan_x: tuple[float, ...] = ()
    """Places of the scan ahead of the root, in m."""
    scan_y: tuple[float, ...] = (0.0,)
    """Places of the scan to its left, in m; with `scan_x` they make a grid. Planar robots: 0."""

    def __init__(self) -> None:
        """Compile the robot on its terrain."""
        super().__init__()
        self.root, self.ground = Root(self.compiled), Ground(self.compiled)
        self.heights = HeightScan(self.root, self.ground, self.scan_x, self.scan_y)

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Return the compiled model of the robot with the bank of height fields."""
        cls = type(self)
        if cls not in _BUILT:  # millions of elevations take a second, a copy takes none
            spec = spec.copy()
            if self.floor:
                add_floor(spec)
            if spec.geom(self.plane) is None:
                raise UserError(
                    f"family '{self.name}': a terrain rises out of a plane, and the model has none "
                    f"named '{self.plane}': set plane to its name, or floor = True"
                )
            self.terrain.add_to(spec, self.plane)
            if len(_BUILT) >= _KEPT:
                _BUILT.pop(next(iter(_BUILT)))
            _BUILT[cls] = super().build(spec)
        return copy.deepcopy(_BUILT[cls])

    def unfailing(self) -> bool:
        """Return whether the robot's own episodes never end in failure; call as the mixin."""
        own = super().terminated
        return getattr(own, "__func__", None) is TaskFamily.terminated

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return words for a video, with the kind of the ground: "steps 8", "difficulty 0.6"."""
        ground = int(task["ground"])
        name = f"{KINDS[ground % len(KINDS)]} {ground // len(KINDS)}"
        return [name if word.startswith("ground ") else word for word in super().describe(task)]

    def clearance(self, sim: Backend) -> Tensor:
        """Return (B,) the height of the root over the ground below it, in m."""
        x, z = self.root.position(sim, 0), self.root.position(sim, 2)
        y = None if self.root.planar else self.root.position(sim, 1)
        return (z - self.ground(sim, x, y))[:, 0]

    def with_scan(self, sim: Backend, observed: Tensor) -> Tensor:
        """Append the heights of the ground around the root, relative to the root (m), if asked.

        Args:
            sim: the worlds.
            observed: (B, O) the blind observation.
        """
        return torch.cat((observed, self.scanned(sim)), dim=1) if self.scan else observed

    def scanned(self, sim: Backend) -> Tensor:
        """Return (B, N) the heights of the ground around the root, relative to the root (m)."""
        return self.heights(sim) - self.root.position(sim, 2)

    def told(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, n + N) the parameters, and the heights of the scan relative to the root, in m.

        The number of a ground says nothing to a network: an oracle sees the ground itself. The
        root's height is as it stands in qpos.
        """
        root = sim.qpos[:, self.root.column(2), None]
        return torch.cat((super().told(sim, task), self.heights(sim) - root), dim=1)


# --- +terrain ----------------------------------------------------------------------------------

_LENGTH, _HEIGHT = 0.8, 1 / 3
"""A robot's length by the longer side of the box around it, and a terrain's height by that."""
_SPEED = 9.4
"""The speed of a robot of 1 m that runs fast, in m/s; of others by the root of the length."""
_FARTHEST = 60.0
"""Half the length of a terrain, in lengths of the robot, at most."""


class OnAnyTerrain(OnTerrain):
    """Any robot that fits, on a terrain by its measures."""

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Return the compiled model of the robot with the bank of height fields."""
        model = spec.copy().compile()
        self.terrain = _measured(model, self.horizon * self.frame_skip * model.opt.timestep)
        length = self.terrain.length
        self.scan_x = tuple(length * 0.25 * k for k in range(-2, 9))
        self.scan_y = (0.0,) if self.terrain.planar else (-0.5 * length, 0.0, 0.5 * length)
        plane = next(g for g in spec.geoms if g.type == mujoco.mjtGeom.mjGEOM_PLANE)
        plane.name = self.plane = plane.name or "floor"
        return super().build(spec)


def terrain_of(family: TaskFamily) -> tuple[Param, ...]:
    """Return the parameters of a terrain, if the family's robot fits one.

    Raises:
        UserError: its base cannot rise, or it does not stand on the plane z = 0.
    """
    model = family.compiled
    try:
        root = Root(model)
    except UserError as error:
        raise UserError(f"family '{family.name}': +terrain: {error}") from None
    if root.base.kind == "holonomic":
        raise UserError(
            f"family '{family.name}': +terrain: the robot's base, "
            f"body '{model.body(root.base.body).name}', slides along x and y, and cannot rise"
        )
    planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
    if not len(planes):
        raise UserError(
            f"family '{family.name}': +terrain rises out of a floor, which the model lacks: write "
            f"floor = True in the family, or a plane at z = 0 into the model"
        )
    if GEOM in (model.geom(i).name for i in range(model.ngeom)):
        raise UserError(
            f"family '{family.name}': +terrain adds a geom '{GEOM}', and the model has one of that "
            f"name: give it another name, or delete it, in the family's build(spec)"
        )
    first = planes[0]
    level = abs(model.geom_quat[first, 0]) > 1 - 1e-9 and model.geom_pos[first, 2] == 0
    if model.geom_bodyid[first] or not level:
        raise UserError(
            f"family '{family.name}': +terrain needs the model's first plane to be z = 0"
        )
    return _measured(model, family.horizon * family.dt).params()


def _measured(model: mujoco.MjModel, seconds: float) -> Terrain:
    """Return a terrain for the robot of a model and for episodes of so many seconds."""
    base, (low, high) = Root(model).base, robot_box(model)
    length = round(max(_LENGTH * float((high - low)[[0, 2]].max()), 0.01), 2)
    stands = float(np.maximum(-low, high)[: 1 if base.kind == "planar" else 2].max())
    far = min(_SPEED * math.sqrt(length) * seconds + 2 * length, _FARTHEST * length)
    return Terrain(
        height=length * _HEIGHT, length=length, reach=float(math.ceil(far)), cell=length / 8,
        bump_cell=length / 3, planar=base.kind == "planar",
        flat=1.1 * stands + 0.05 * length,
    )  # fmt: skip


def robot_box(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest corner, (3,) each, of a box around the compiled robot."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mine = (
        model.body_rootid[model.geom_bodyid] == model.body_rootid[find_base(model).body]
    ).astype(bool)
    mine &= model.geom_rbound > 0
    turn = data.geom_xmat[mine].reshape(-1, 3, 3)
    middle = data.geom_xpos[mine] + np.einsum("gij,gj->gi", turn, model.geom_aabb[mine, :3])
    half = np.einsum("gij,gj->gi", np.abs(turn), model.geom_aabb[mine, 3:])
    low, high = (middle - half).min(0), (middle + half).max(0)
    return low, high
