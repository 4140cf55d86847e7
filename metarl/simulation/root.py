"""The base of a robot: how it can move, and what its own frame says of velocity and gravity."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.simulation.backend import Backend

_FREE, _BALL, _SLIDE, _HINGE = (
    int(kind) for kind in (
        mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL, mujoco.mjtJoint.mjJNT_SLIDE,
        mujoco.mjtJoint.mjJNT_HINGE,
    )
)  # fmt: skip


_AT_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))


Kind = Literal["free", "floating", "planar", "holonomic", "sliding", "fixed"]
"""How a base moves: by a free joint; the same by slides along x, y, z and a ball joint; in the
plane of x and z, turning about y; in that of x and y, turning about z; along other lines; not."""
_BY_SLIDES: dict[tuple[tuple[int, ...], int | None], Kind] = {
    ((0, 1, 2), 3): "floating", ((0, 2), None): "planar", ((0, 2), 1): "planar",
    ((0, 1), None): "holonomic", ((0, 1), 2): "holonomic",
}  # fmt: skip
"""By the axes that a base slides along, and the one that it then turns about, 3 if about all."""


class Base(NamedTuple):
    """The body that a robot hangs from, and its joints."""

    body: int
    kind: Kind
    joints: tuple[int, ...] = ()
    """Those by which it moves in the world; of a fixed base none."""

    def falls(self, model: mujoco.MjModel) -> bool:
        """Return whether gravity moves it."""
        down = np.abs(model.jnt_axis[list(self.joints)] @ model.opt.gravity)
        slides = model.jnt_type[list(self.joints)] == _SLIDE
        return bool(model.opt.gravity.any() and (self.kind == "free" or (down * slides).any()))

    def feels(self, model: mujoco.MjModel, axis: int) -> bool:
        """Return whether a shift of its centre of mass along an own axis, 0 to 2, matters."""
        turns = [model.jnt_axis[j] for j in self.joints if model.jnt_type[j] == _HINGE]
        free = self.kind == "free" or (model.jnt_type[list(self.joints)] == _BALL).any()
        return bool(free) or any(abs(turn[axis]) < 0.99 for turn in turns)


def find_base(model: mujoco.MjModel) -> Base:
    """Return the base of the robot: of what the first actuator drives, else of the first joint.

    Actuators of joints come before others, as of tendons and at sites.
    """
    if not model.njnt:
        return Base(0, "fixed")
    tree = model.body_rootid[model.jnt_bodyid]
    driven = sorted(
        (kind not in _AT_JOINT, i, int(model.body_rootid[body]))
        for i, kind in enumerate(model.actuator_trntype)
        for body in _pulled(model, i)[:1]
    )
    first = int(np.flatnonzero(tree == (driven[0][-1] if driven else int(tree[0])))[0])
    body = int(model.jnt_bodyid[first])
    joints = tuple(int(j) for j in np.flatnonzero(model.jnt_bodyid == body))
    if model.jnt_type[first] == _FREE:
        return Base(body, "free", joints)
    if not (model.jnt_type[list(joints)] == _SLIDE).any():
        return Base(body, "fixed")
    return Base(body, _by_slides(model, body, joints), joints)


def _by_slides(model: mujoco.MjModel, body: int, joints: tuple[int, ...]) -> Kind:
    """Return how a base with slide joints moves."""
    count = int((model.jnt_type[list(joints)] == _SLIDE).sum())
    slides, turns = joints[:count], joints[count:]
    slides_first = (model.jnt_type[list(slides)] == _SLIDE).all()
    upright = abs(_start(model, body)[1][0]) > 1 - 1e-9
    if not upright or not slides_first or len(turns) > 1:
        return "sliding"
    along = tuple(sorted(_axis(model, j) for j in slides))
    return _BY_SLIDES.get((along, _axis(model, turns[0]) if turns else None), "sliding")


def _axis(model: mujoco.MjModel, joint: int) -> int:
    """Return the axis of the body that a joint is along or about, 3 of a ball; -1: another line."""
    if model.jnt_type[joint] == _BALL:
        return 3
    line = np.abs(model.jnt_axis[joint])
    return int(line.argmax()) if line.max() > 0.999 else -1


def _start(model: mujoco.MjModel, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where a body is in the model as written: place (3,) and orientation (4,)."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return data.xpos[body], data.xquat[body]


def _pulled(model: mujoco.MjModel, actuator: int) -> list[int]:
    """Return the bodies that an actuator acts on and that joints move, in the model's order."""
    kind, target = int(model.actuator_trntype[actuator]), int(model.actuator_trnid[actuator, 0])
    if kind in _AT_JOINT:
        return [int(model.jnt_bodyid[target])]
    bodies = [target] if kind == int(mujoco.mjtTrn.mjTRN_BODY) else []
    if kind in (int(mujoco.mjtTrn.mjTRN_SITE), int(mujoco.mjtTrn.mjTRN_SLIDERCRANK)):
        bodies = [int(model.site_bodyid[target])]
    if kind == int(mujoco.mjtTrn.mjTRN_TENDON):
        start = int(model.tendon_adr[target])
        wraps = range(start, start + int(model.tendon_num[target]))
        for wrap, body_of in (
            (mujoco.mjtWrap.mjWRAP_JOINT, model.jnt_bodyid),
            (mujoco.mjtWrap.mjWRAP_SITE, model.site_bodyid),
        ):
            ids = [int(model.wrap_objid[k]) for k in wraps if model.wrap_type[k] == int(wrap)]
            bodies += [int(body_of[i]) for i in ids]
    moved = set(model.body_rootid[model.jnt_bodyid].tolist())
    return sorted(body for body in bodies if int(model.body_rootid[body]) in moved)


class Root:
    """What a robot's base does, in every world, for families: make it once, ask it at each step.

    All of it comes from the state, at no cost. A base in the plane of x and z turns about y alone,
    one in that of x and y about z alone.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        """Find the base of a compiled model.

        Raises:
            UserError: it is fixed, or moves in a way that is none of `Kind`.
        """
        base = self.base = find_base(model)
        if base.kind in ("fixed", "sliding"):
            what = "is fixed" if base.kind == "fixed" else "slides or turns in another way"
            name = model.body(base.body).name
            body = f"body '{name}'" if name else "a body without a name"
            raise UserError(
                f"the robot's base, {body}, {what}: this needs one with a free joint, or with "
                f"slide joints along x and z, along x and y, or along all three and a ball joint"
            )
        self.planar = base.kind == "planar"
        self.free = base.kind == "free"
        at, start = (model.jnt_qposadr[base.joints[0]], model.jnt_dofadr[base.joints[0]])
        self._at, self._start = int(at), int(start)
        self._slides: dict[int, tuple[int, int, float, float]] = {}
        self._turn: tuple[int, int, float, float] | None = None
        self._anchor: list[float] | None = None  # in the base's frame, of what it turns about
        if self.free:
            return
        self._place = _start(model, base.body)[0].tolist()
        for joint in base.joints:
            axis = model.jnt_axis[joint]
            k = int(np.abs(axis).argmax())
            places = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
            zero = float(model.qpos0[places[0]])
            if model.jnt_type[joint] == _SLIDE:
                sign = float(axis[k])
                self._slides[k] = (*places, sign, self._place[k] - sign * zero)
            else:
                self._turn = (*places, float(axis[k]), zero)
                anchor = model.jnt_pos[joint]
                self._anchor = anchor.tolist() if anchor.any() else None

    def column(self, axis: int) -> int:
        """Return where in qpos the base's place along an axis, 0 to 2, is; it can move along it."""
        return self._at + axis if self.free else self._slides[axis][0]

    def position(self, sim: Backend, axis: int) -> Tensor:
        """Return (B, 1) the base's place along an axis of the world, 0 to 2, in m."""
        if self.free:
            return sim.qpos[:, self._at + axis : self._at + axis + 1]
        if axis not in self._slides:
            place = torch.full_like(sim.qpos[:, :1], self._place[axis])
        else:
            at, _, sign, offset = self._slides[axis]
            place = sim.qpos[:, at : at + 1]
            place = place if (sign, offset) == (1.0, 0.0) else sign * place + offset
        if self._anchor is None:
            return place
        turned = into_body(
            self.quaternion(sim) * sim.qpos.new_tensor([1, -1, -1, -1]), self._arm(sim)
        )
        return place + (self._anchor[axis] - turned[:, axis : axis + 1])

    def quaternion(self, sim: Backend) -> Tensor:
        """Return (B, 4) the base's orientation."""
        if self.free:
            return sim.qpos[:, self._at + 3 : self._at + 7]
        if self.base.kind == "floating":
            assert self._turn is not None
            return sim.qpos[:, self._turn[0] : self._turn[0] + 4]
        half, zero = self._angle(sim) / 2, torch.zeros_like(sim.qpos[:, :1])
        about = (half.sin(), zero) if self.planar else (zero, half.sin())
        return torch.cat((half.cos(), zero, *about), dim=1)

    def linear_velocity(self, sim: Backend) -> Tensor:
        """Return (B, 3) the base's velocity in its own frame, m/s."""
        if self.free:
            velocity = sim.qvel[:, self._start : self._start + 3]
        else:
            parts = [torch.zeros_like(sim.qpos[:, :1])] * 3
            for axis, (_, dof, sign, _) in self._slides.items():
                parts[axis] = sign * sim.qvel[:, dof : dof + 1]
            velocity = torch.cat(parts, dim=1)
        velocity = into_body(self.quaternion(sim), velocity)
        if self._anchor is None:
            return velocity
        return velocity - torch.linalg.cross(self.angular_velocity(sim), self._arm(sim))

    def angular_velocity(self, sim: Backend) -> Tensor:
        """Return (B, 3) the base's rates of turn in its own frame, rad/s."""
        if self.free:
            return sim.qvel[:, self._start + 3 : self._start + 6]
        zero = torch.zeros_like(sim.qpos[:, :1])
        if self._turn is None:
            return zero.expand(-1, 3)
        _, dof, sign, _ = self._turn
        if self.base.kind == "floating":
            return sim.qvel[:, dof : dof + 3]
        rate = sign * sim.qvel[:, dof : dof + 1]
        return torch.cat((zero, rate, zero) if self.planar else (zero, zero, rate), dim=1)

    def gravity(self, sim: Backend) -> Tensor:
        """Return (B, 3) the direction of gravity, −z of the world, in the base's frame."""
        return gravity_in(self.quaternion(sim))

    def yaw(self, sim: Backend) -> Tensor:
        """Return (B, 1) the base's heading, rad; of a base in the plane of x and z 0."""
        if self.planar:
            return torch.zeros_like(sim.qpos[:, :1])
        w, x, y, z = self.quaternion(sim).unbind(1)
        return angle_of(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))[:, None]

    def _arm(self, sim: Backend) -> Tensor:
        """Return (B, 3) what the base turns about, in its own frame, m."""
        return sim.qpos.new_tensor(self._anchor).expand(len(sim.qpos), -1)

    def _angle(self, sim: Backend) -> Tensor:
        """Return (B, 1) by how much the base is turned about the one axis that it turns about."""
        if self._turn is None:
            return torch.zeros_like(sim.qpos[:, :1])
        at, _, sign, zero = self._turn
        return sign * (sim.qpos[:, at : at + 1] - zero)


def angle_of(y: Tensor, x: Tensor) -> Tensor:
    """Return atan2(y, x), rad, whose bits do not depend on how many elements there are.

    Those of `torch.atan2` do: what is left over of a vector register it computes in another way.
    """
    x = x + 0.0  # -0 becomes 0
    turn = torch.where(x < 0, torch.full_like(y, math.pi).copysign(y), torch.zeros_like(y))
    at_origin = (x == 0) & (y == 0)
    return (y / x.masked_fill(at_origin, 1.0)).atan() + turn


def into_body(quaternion: Tensor, vector: Tensor) -> Tensor:
    """Return world vectors (B, 3) in the frames of bodies with orientations (B, 4)."""
    w, u = quaternion[:, :1], quaternion[:, 1:]
    twice = 2.0 * torch.linalg.cross(vector, u)
    return vector + w * twice + torch.linalg.cross(twice, u)


def gravity_in(quaternion: Tensor) -> Tensor:
    """Return (B, 3) the direction of gravity in the frames of bodies with orientations (B, 4)."""
    w, x, y, z = quaternion.unbind(1)
    return torch.stack((2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1), dim=1)
