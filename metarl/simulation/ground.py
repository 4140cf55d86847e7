"""The height of the ground: of a plane at z = 0 and a height field that may rise out of it."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.simulation.backend import Backend
from metarl.simulation.names import find
from metarl.simulation.root import Root

GEOM = "terrain"
"""The geom that shows a height field, unless said otherwise."""


class Ground:
    """The ground's height at any place of every world, by the triangles that MuJoCo collides.

    Each world has the field that its ``geom_dataid`` chooses, as far out as its ``geom_pos`` says.
    """

    def __init__(self, model: mujoco.MjModel, geom: str = GEOM) -> None:
        """Take the height fields from a compiled model.

        Args:
            model: with a geom of type hfield, whose axes are the world's.
            geom: its name.

        Raises:
            UserError: there is no such geom, it shows no height field, or it is turned.
        """
        self.geom = find(model, mujoco.mjtObj.mjOBJ_GEOM, [geom])[0]
        if model.geom_type[self.geom] != int(mujoco.mjtGeom.mjGEOM_HFIELD):
            raise UserError(f"geom '{geom}' shows no height field: it must be of type hfield")
        body = int(model.geom_bodyid[self.geom])
        turned = (model.geom_quat[self.geom], model.body_quat[body])
        if model.body_parentid[body] or any(abs(quat[0]) < 1 - 1e-9 for quat in turned):
            raise UserError(f"geom '{geom}' must stand in the world without being turned")
        self.base = float(model.body_pos[body, 2])
        self._middle = (model.body_pos[body] + model.geom_pos[self.geom])[:2].tolist()
        planes = model.geom_type[model.geom_bodyid == 0] == int(mujoco.mjtGeom.mjGEOM_PLANE)
        self._lowest = 0.0 if planes.any() else -torch.inf
        self.data = torch.from_numpy(model.hfield_data.copy())
        self.address = torch.from_numpy(model.hfield_adr.astype(np.int64))
        self.rows = torch.from_numpy(model.hfield_nrow.astype(np.int64))
        self.columns = torch.from_numpy(model.hfield_ncol.astype(np.int64))
        x, y, self.height, _ = model.hfield_size[model.geom_dataid[self.geom]].tolist()
        self.extent = (x, y)

    def __call__(self, sim: Backend, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the (B, N) height of the ground in m at places x, y, (B, N) m; y None is 0.

        Beyond the field it is 0.
        """
        if self.data.device != sim.device:
            for name in ("data", "address", "rows", "columns"):
                setattr(self, name, getattr(self, name).to(sim.device))
        if any(self._middle):
            x, y = x - self._middle[0], (0.0 if y is None else y) - self._middle[1] + 0 * x
        which = sim.model_field("geom_dataid")[:, self.geom].long()
        raised = sim.model_field("geom_pos")[:, self.geom, 2:] + self.base
        columns = self.columns[which][:, None]
        u = ((x / self.extent[0] + 1) * 0.5 * (columns - 1)).clamp_min(0.0)
        column = u.long().clamp_max(columns - 2)
        u = (u - column).clamp_max(1.0)
        at = self.address[which][:, None] + column
        if y is None:  # a planar robot: the rows are equal
            low, high = self.data[at], self.data[at + 1]
            v = low + u * (high - low)
        else:
            rows = self.rows[which][:, None]
            w = ((y / self.extent[1] + 1) * 0.5 * (rows - 1)).clamp_min(0.0)
            row = w.long().clamp_max(rows - 2)
            w = (w - row).clamp_max(1.0)
            at = at + row * columns
            near, far = self.data[at], self.data[at + columns + 1]
            # the diagonal joins (row, column) and (row + 1, column + 1)
            corner = self.data[torch.where(u >= w, at + 1, at + columns)]
            v = near + torch.maximum(u, w) * (corner - near) + torch.minimum(u, w) * (far - corner)
        beyond = x.abs() > self.extent[0]
        if y is not None:
            beyond |= y.abs() > self.extent[1]
        return (raised + self.height * v).clamp_min(self._lowest).masked_fill(beyond, 0.0)


class HeightScan:
    """The ground's heights at a grid of places around a robot's base, turned with its heading."""

    def __init__(
        self, root: Root, ground: Ground, ahead: Sequence[float], left: Sequence[float] = (0.0,)
    ) -> None:
        """Lay the grid.

        Args:
            root: of the robot.
            ground: whose heights.
            ahead: places ahead of the base, m.
            left: places to its left, m; of a base in a plane, which has none, the one place 0.
        """
        self.root, self.ground = root, ground
        grid = np.meshgrid(ahead, left, indexing="ij")
        self._ahead, self._left = (torch.from_numpy(places.ravel()) for places in grid)

    def __call__(self, sim: Backend) -> Tensor:
        """Return (B, N) the ground's height, m: for each place ahead, those to the left."""
        if self._ahead.device != sim.device:
            self._ahead, self._left = self._ahead.to(sim.device), self._left.to(sim.device)
        x, ahead, left = self.root.position(sim, 0), self._ahead, self._left
        if self.root.planar:
            return self.ground(sim, x + ahead)
        yaw = self.root.yaw(sim)
        cos, sin = yaw.cos(), yaw.sin()
        y = self.root.position(sim, 1)
        return self.ground(sim, x + cos * ahead - sin * left, y + sin * ahead + cos * left)


def terrain_of(model: mujoco.MjModel) -> Ground | None:
    """Return the terrain that OnTerrain and ``+terrain`` added to a model, or None."""
    geom = mujoco.mj_name2id(model, int(mujoco.mjtObj.mjOBJ_GEOM), GEOM)
    field = geom >= 0 and model.geom_type[geom] == int(mujoco.mjtGeom.mjGEOM_HFIELD)
    return Ground(model) if field else None
