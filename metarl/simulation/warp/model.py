"""Model fields that differ between the worlds of MuJoCo Warp, and what MuJoCo derives from them.

The host keeps what each world was given, in float64; the device has it in float32, in arrays that
stay where they are, for a captured step keeps their addresses. A field that becomes one of each
world's own for the first time needs new arrays, and so a new capture: `set` says when.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.simulation.backend import write_where
from metarl.simulation.edits import nominal_value
from metarl.simulation.warp.install import load

_DERIVED = (
    "body_subtreemass", "body_invweight0", "dof_invweight0", "tendon_invweight0",
    "tendon_length0", "actuator_acc0", "geom_aabb", "geom_rbound", "geom_size", "eq_data",
)  # fmt: skip
"""What set_const computes. Each world needs its own as soon as any input differs."""
_INPUTS = frozenset(
    {
        "qpos0", "body_mass", "body_inertia", "body_ipos", "body_iquat", "body_pos", "body_quat",
        "dof_armature", "tendon_armature", "actuator_armature", "actuator_gear", "eq_data",
        "geom_size", "geom_dataid", "tendon_stiffness", "tendon_damping", "jnt_pos", "jnt_axis",
        "site_pos", "site_quat", "actuator_cranklength", "body_gravcomp",
    }
)  # fmt: skip
"""Fields from which set_const derives others; friction, damping, gravity and the like need none."""
_PLACES = frozenset({"geom_pos", "geom_quat", "body_pos", "body_quat"})
"""Fields that say where geoms are that hang on the world."""
_ELSEWHERE = {"opt.impratio": "impratio_invsqrt"}
"""Options that Warp keeps in another form."""
_TRIED = 8  # worlds of an edit that MuJoCo itself is asked about


def runnable(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return the model with a solver that Warp has: Newton's solves PGS's convex problem, too."""
    if model.opt.solver == int(mujoco.mjtSolver.mjSOL_PGS):
        model = copy.copy(model)
        model.opt.solver = int(mujoco.mjtSolver.mjSOL_NEWTON)
    return model


class WorldModels:
    """The model of B worlds on the device, with fields that differ between them."""

    def __init__(self, model: mujoco.MjModel, num_worlds: int) -> None:
        """Put the nominal model on Warp's current device.

        Raises:
            UserError: Warp does not run it.
        """
        self.nominal, self.num_worlds = model, num_worlds
        self.values: dict[str, np.ndarray] = {}
        """(B, …) float64, what each world was given."""
        self.varied: frozenset[str] = frozenset()
        """Of which the device alone has what `vary` wrote."""
        self._exchanged: frozenset[str] = frozenset()
        """Of which the device alone knows which values each world has."""
        moved = model.body_mocapid[model.body_rootid] >= 0
        self._fixed = np.flatnonzero(((model.body_weldid == 0) & ~moved)[model.geom_bodyid])
        self.mjw_model = self._put({})
        self._live: dict[str, Tensor] = {}

    def set(self, fields: Mapping[str, np.ndarray], ids: Tensor | None) -> bool:
        """Give worlds values of fields; those set before and not named go back.

        Args:
            fields: name -> (n, …).
            ids: (n,) the worlds, on any device; None is all.

        Returns:
            Whether the arrays on the device are new ones.

        Raises:
            UserError: Warp or MuJoCo cannot have such a field in each world.
        """
        self._try(fields)
        if ids is None:
            self.varied = self._exchanged = frozenset()
        grown = [name for name in fields if name not in self.values]
        for name in grown:
            nominal = nominal_value(self.nominal, name)
            self.values[name] = np.repeat(nominal[None], self.num_worlds, 0)
        which = slice(None) if ids is None else ids.cpu().numpy()
        for name, kept in self.values.items():
            kept[which] = fields.get(name, nominal_value(self.nominal, name))
        if grown:
            self._grow()
        for name in self.values:
            self._write(name, None if grown else ids)
        return bool(grown)

    def vary(self, field: str, values: Tensor) -> bool:
        """Write (B, …) values of a field, of which nothing is derived, on the device.

        Returns:
            Whether the arrays there are new ones.

        Raises:
            UserError: as `set` does.
        """
        grown = field not in self.values
        if grown:
            nominal = nominal_value(self.nominal, field)
            self._try({field: nominal[None]})
            self.values[field] = np.repeat(nominal[None], self.num_worlds, 0)
            self._grow()
            for name in self.values:
                self._write(name, None)
        self.varied |= {field}
        self._rows(field).copy_(values)
        return grown

    def exchange(self, which: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Write (B, …) values of fields, which were set before, in the worlds of a mask."""
        for name, values in fields.items():
            if name in _ELSEWHERE:  # of which `live` has the numbers of MuJoCo
                self._live[name] = self.live(name).clone()
                write_where(which, values.float(), self._live[name])
            rows = self._rows(name)
            write_where(which, _stored(name, values).to(rows.dtype), rows)
        self._exchanged |= fields.keys()

    def derive(self, d: Any) -> None:
        """Bring what MuJoCo derives from the fields up to date, in every world."""
        if _INPUTS & self.values.keys():
            load()[1].set_const(self.mjw_model, d)
        if _PLACES & self.values.keys() and len(self._fixed):
            self._place_fixed(d)

    def _place_fixed(self, d: Any) -> None:
        """Put geoms that hang on the world where they are in each world.

        Warp does that once, when the data are made, and its kinematics leave them there: the ground
        under a robot, above all, whose height is of its task.
        """
        wp, mjw = load()
        mjw.kinematics(self.mjw_model, d)
        geoms = torch.from_numpy(self._fixed).to(self._device())
        bodies = torch.from_numpy(self.nominal.geom_bodyid[self._fixed]).to(geoms).long()
        turn, at = (wp.to_torch(part)[:, bodies] for part in (d.xquat, d.xpos))
        pos, quat = (self.live(field)[:, geoms] for field in ("geom_pos", "geom_quat"))
        wp.to_torch(d.geom_xpos)[:, geoms] = at + _turned(pos, turn)
        own = [_turned(_turned(axis.expand_as(pos), quat), turn) for axis in torch.eye(3).to(pos)]
        wp.to_torch(d.geom_xmat)[:, geoms] = torch.stack(own, -1)

    def live(self, field: str) -> Tensor:
        """Return the (B, …) values of a field on the device: to read, not to write."""
        if field not in self._live:
            array = self._array(field)
            nominal = nominal_value(self.nominal, field)
            if array is None or field in _ELSEWHERE or field not in self.values:
                values = self.values.get(field, nominal[None])
                tensor = torch.from_numpy(np.ascontiguousarray(values))
                tensor = tensor.float() if tensor.is_floating_point() else tensor
                tensor = tensor.to(self._device())
            else:
                tensor = load()[0].to_torch(array)
                tensor = tensor.reshape(len(tensor), *nominal.shape[:1], -1)
                tensor = tensor[..., : nominal.shape[-1] if nominal.ndim > 1 else None]
                tensor = tensor.reshape(len(tensor), *nominal.shape)
            self._live[field] = tensor.expand(self.num_worlds, *nominal.shape)
        return self._live[field]

    def of(self, world: int) -> mujoco.MjModel:
        """Return a copy of one world's model on the host."""
        model = copy.copy(self.nominal)
        for name, values in self.values.items():
            alone = name in self.varied | self._exchanged
            now = self.live(name)[world].cpu().numpy() if alone else values[world]
            _assign(model, name, now)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    # --- inside ----------------------------------------------------------------------------------

    def _device(self) -> torch.device:
        return load()[0].to_torch(self.mjw_model.qpos0).device

    def _put(self, sizes: dict[str, int]) -> Any:
        wp, mjw = load()
        try:
            made = mjw.put_model(runnable(self.nominal), sizes or None)
        except (NotImplementedError, ValueError) as error:
            text = " ".join(str(error).split())
            raise UserError(
                f"the simulator 'warp' does not run this model: {text} Use the simulator 'mujoco'"
            ) from None
        made.opt.warn_overflow = 0  # `watch` finds it, and it is an error
        made.opt.deterministic = int(mjw.DeterminismType.ALL)
        if wp.get_device().is_cuda:  # before CUDA 12.4, graphs make all iterations of the solver
            made.opt.graph_conditional = wp.is_conditional_graph_supported()
        return made

    def _try(self, fields: Mapping[str, np.ndarray]) -> None:
        """Raise UserError for edits that Warp has no field for, or that MuJoCo refuses."""
        for name in fields:
            if self._array(name) is None or (name == "qpos_spring" and self.nominal.ntendon):
                raise UserError(
                    f"the simulator 'warp' cannot give each world a {name} of its own: use the "
                    "simulator 'mujoco'"
                )
        if not _INPUTS & fields.keys():
            return
        count = len(next(iter(fields.values())))
        model = copy.copy(self.nominal)
        data = mujoco.MjData(model)
        for row in np.unique(np.linspace(0, count - 1, _TRIED).astype(int)):
            for name, values in fields.items():
                _assign(model, name, values[row])
            try:
                mujoco.mj_setConst(model, data)
            except (mujoco.FatalError, ValueError) as error:
                why = " ".join(str(error).split())
                raise UserError(f"MuJoCo refuses an edit of {', '.join(fields)}: {why}") from None

    def _grow(self) -> None:
        """Make new arrays, in which every field that was ever set has a row for each world."""
        names: Iterable[str] = self.values
        own = {name for name in names if not name.startswith("opt.")}
        if _INPUTS & own:
            own |= set(_DERIVED)
        made = self._put(dict.fromkeys(own, self.num_worlds))
        wp = load()[0]
        for name in self.values:
            if name.startswith("opt."):
                inside = _ELSEWHERE.get(name, name.removeprefix("opt."))
                old = getattr(made.opt, inside)
                rows = np.repeat(old.numpy(), self.num_worlds, 0)
                setattr(made.opt, inside, wp.array(rows, dtype=old.dtype))
                getattr(made.opt, inside)._is_batched = True  # as put_model marks its own
        self.mjw_model = made
        self._live.clear()

    def _array(self, field: str) -> Any:
        """The array of a field on the device that may have a row for each world, or None."""
        owner = self.mjw_model.opt if field.startswith("opt.") else self.mjw_model
        array = getattr(owner, _ELSEWHERE.get(field, field.removeprefix("opt.")), None)
        return array if getattr(array, "_is_batched", False) else None

    def _rows(self, name: str) -> Tensor:
        """The (B, …) values of a field on the device, shaped as MuJoCo has them."""
        target = load()[0].to_torch(self._array(name))
        shape = nominal_value(self.nominal, name).shape
        if target[0].numel() == math.prod(shape):
            return target.view(len(target), *shape)
        return target[..., : shape[-1]]  # Warp's eq_data has a column more

    def _write(self, name: str, ids: Tensor | None) -> None:
        target = self._rows(name)
        which = slice(None) if ids is None else ids.cpu().numpy()
        values = torch.from_numpy(np.ascontiguousarray(self.values[name][which]))
        rows = _stored(name, values).to(target.device, target.dtype)
        target[slice(None) if ids is None else ids.to(target.device)] = rows
        if name in _ELSEWHERE:
            self._live.pop(name, None)


def _stored(name: str, values: Tensor) -> Tensor:
    """Return the values of a field as Warp keeps them."""
    if name == "opt.impratio":
        return 1.0 / values.clamp(min=mujoco.mjMINVAL).sqrt()
    return values


def _turned(vector: Tensor, quaternion: Tensor) -> Tensor:
    """Turn vectors (…, 3) by quaternions (…, 4)."""
    w, u = quaternion[..., :1], quaternion[..., 1:]
    twice = 2.0 * torch.linalg.cross(u, vector)
    return vector + w * twice + torch.linalg.cross(u, twice)


def _assign(model: mujoco.MjModel, field: str, value: np.ndarray) -> None:
    owner: Any = model.opt if field.startswith("opt.") else model
    name = field.removeprefix("opt.")
    if np.ndim(getattr(owner, name)):
        getattr(owner, name)[:] = value
    else:
        setattr(owner, name, float(value))
