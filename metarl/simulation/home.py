"""Where a robot's episodes begin: a keyframe of its model, or a pose by joint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.simulation.backend import Backend
from metarl.simulation.controls import control_of_position, filtered, history_at, is_servo
from metarl.simulation.edits import joint_positions
from metarl.simulation.names import all_names, matching
from metarl.simulation.root import find_base

if TYPE_CHECKING:
    from metarl.base.keys import BatchedRNG

HomePose = str | Mapping[str, float | Sequence[float]]
"""A keyframe's name; or joints, by name or pattern, and where they are: m or rad, 3 numbers of a
free joint's place (m), 7 with its quaternion. Of several patterns for a joint the last one counts,
and a joint without a name goes by that of its body."""
_SLACK = 1e-3
"""How far out of its range a joint may begin, rad or m: where somebody has rounded an end of it."""
_NUMBERS = {
    int(mujoco.mjtJoint.mjJNT_FREE): (3, 7), int(mujoco.mjtJoint.mjJNT_BALL): (4,),
    int(mujoco.mjtJoint.mjJNT_SLIDE): (1,), int(mujoco.mjtJoint.mjJNT_HINGE): (1,),
}  # fmt: skip


class Home(NamedTuple):
    """The state in which episodes begin but for their noise."""

    qpos: np.ndarray
    """(nq,)"""
    qvel: np.ndarray
    """(nv,)"""
    ctrl: np.ndarray
    """(nu,) of position actuators the pose, unless the keyframe has controls of its own."""
    act: np.ndarray
    """(na,) of position actuators the control, unless the keyframe has activations of its own."""
    history: np.ndarray
    """(nhistory,) what delayed actuators remember: that the controls were always these."""
    mocap_pos: np.ndarray
    """(nmocap, 3)"""
    mocap_quat: np.ndarray
    """(nmocap, 4)"""
    joints: np.ndarray
    """(k,) the places in qpos of hinges and slides that are not the base's: what noise moves."""
    dofs: np.ndarray
    """(k,) the same in qvel."""
    base_dofs: np.ndarray
    """The base's places in qvel."""
    base_joints: np.ndarray
    """Those in qpos, but for a quaternion's."""


def home_of(model: mujoco.MjModel, home: HomePose) -> Home:
    """Return the home state of a compiled model.

    Raises:
        UserError: there is no such keyframe or joint, or a joint takes other numbers, or
            is placed out of its range. A keyframe may place it so: `metarl check` notes that.
    """
    if isinstance(home, str):
        known = all_names(model, mujoco.mjtObj.mjOBJ_KEY)
        key = matching([home], known, "keyframe")[0]
        qpos, qvel, ctrl, act, pos, quat = (
            np.array(getattr(model, f"key_{field}")[key])
            for field in ("qpos", "qvel", "ctrl", "act", "mpos", "mquat")
        )
    else:
        data = mujoco.MjData(model)
        qpos, qvel, ctrl, act = _posed(model, home), *map(np.zeros, (model.nv, model.nu, model.na))
        pos, quat = data.mocap_pos.copy(), data.mocap_quat.copy()
    if not ctrl.any():
        _follow(model, qpos, ctrl)
    if not act.any():
        which, activations = filtered(model)
        act[activations] = ctrl[which]
    places, dofs = [], []
    base = find_base(model)
    single = (int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE))
    for joint in range(model.njnt):
        if model.jnt_type[joint] in single and joint not in base.joints:
            places.append(int(model.jnt_qposadr[joint]))
            dofs.append(int(model.jnt_dofadr[joint]))
    at = np.concatenate([np.zeros(0, int), *(joint_positions(model, j)[:3] for j in base.joints)])
    rates = np.flatnonzero(np.isin(model.dof_jntid, base.joints))
    return Home(
        qpos, qvel, ctrl, act, history_at(model, ctrl), pos.reshape(-1, 3), quat.reshape(-1, 4),
        np.array(places, int), np.array(dofs, int), rates, at,
    )  # fmt: skip


def _posed(model: mujoco.MjModel, pose: Mapping[str, float | Sequence[float]]) -> np.ndarray:
    """The (nq,) positions of a pose by joint, the others as in the model."""
    names = [_called(model, joint) for joint in range(model.njnt)]
    qpos, placed = np.array(model.qpos0), set[int]()
    for pattern, value in pose.items():
        try:
            numbers = np.atleast_1d(np.asarray(value, np.float64))
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        for joint in matching([pattern], names, "joint"):
            takes = _NUMBERS[int(model.jnt_type[joint])]
            if numbers.shape not in ((n,) for n in takes) or not np.isfinite(numbers).all():
                raise UserError(
                    f"joint '{names[joint]}' takes {' or '.join(map(str, takes))} finite "
                    f"numbers, not {value!r:.80}"
                )
            if len(numbers) > 3 and not 1e-6 < np.linalg.norm(numbers[-4:]) < math.inf:
                raise UserError(
                    f"joint '{names[joint]}' takes a quaternion of a length that is not 0, such as "
                    f"(1, 0, 0, 0), not {value!r:.80}"
                )
            qpos[joint_positions(model, joint)[: len(numbers)]] = numbers
            placed.add(joint)
    mujoco.mj_normalizeQuat(model, qpos)  # of a keyframe the compiler has done so
    if fault := out_of_range(model, qpos, placed):
        raise UserError(f"{fault}: write a home within it")
    return qpos


def out_of_range(
    model: mujoco.MjModel, qpos: np.ndarray, joints: Iterable[int] | None = None
) -> str:
    """Return in words which of some joints, or of all, positions (nq,) have out of its limits.

    '' if none: those without limits, or where MuJoCo ignores them, have no range.
    """
    if model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_LIMIT):
        return ""
    for joint in range(model.njnt) if joints is None else sorted(joints):
        if not model.jnt_limited[joint]:
            continue
        (low, high), at = model.jnt_range[joint], qpos[joint_positions(model, joint)]
        unit = "m" if model.jnt_type[joint] == int(mujoco.mjtJoint.mjJNT_SLIDE) else "rad"
        place = float(at[0])
        if len(at) == 4:  # of a ball joint the angle of its rotation, whatever the axis
            low, place = 0.0, 2 * math.atan2(float(np.linalg.norm(at[1:])), abs(place))
        if not low - _SLACK <= place <= high + _SLACK:
            return (
                f"joint '{_called(model, joint)}' begins outside of its range: at {place:.4g}, and "
                f"it takes {low:.4g} to {high:.4g} {unit}"
            )
    return ""


def _called(model: mujoco.MjModel, joint: int) -> str:
    return model.joint(joint).name or model.body(int(model.jnt_bodyid[joint])).name


def _follow(model: mujoco.MjModel, qpos: np.ndarray, ctrl: np.ndarray) -> None:
    """Set the controls (nu,) of position actuators to what holds the pose (nq,), in their range."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_fwdPosition(model, data)
    which = is_servo(model)
    ctrl[which] = (control_of_position(model) * data.actuator_length)[which]
    limited = which & model.actuator_ctrllimited.astype(bool)
    ctrl[limited] = np.clip(ctrl[limited], *model.actuator_ctrlrange[limited].T)


def begin_at(
    home: Home, sim: Backend, ids: Tensor, rng: BatchedRNG, joint: float, speed: float, base: float
) -> None:
    """Write the home state of the worlds `ids` (n,), with noise.

    Args:
        home: of the model.
        sim: the worlds.
        ids: those that begin an episode.
        rng: their randomness.
        joint: U[-joint, joint) is added to the position of every hinge and slide but the base's.
        speed: N(0, speed²) is added to their velocities.
        base: U[-base, base) is added to the place of the base, N(0, base²) to its velocity; the
            way that it is turned stays.
    """
    live = {"qpos": sim.qpos, "qvel": sim.qvel, "ctrl": sim.ctrl}
    for field in ("act", "history", "mocap_pos", "mocap_quat"):
        if getattr(home, field).size:
            live[field] = sim.bind(field)
    for field, tensor in live.items():
        tensor[ids] = sim.constant(getattr(home, field))
    columns = [sim.constant(places) for places in home[-4:]]
    for tensor, places, noise in (
        (sim.qpos, columns[0], joint and rng.uniform(-joint, joint, len(columns[0]))),
        (sim.qvel, columns[1], speed and speed * rng.normal(len(columns[1]))),
        (sim.qpos, columns[3], base and rng.uniform(-base, base, len(columns[3]))),
        (sim.qvel, columns[2], base and base * rng.normal(len(columns[2]))),
    ):
        if isinstance(noise, Tensor) and len(places):
            tensor[ids[:, None], places] += noise


def unit_quaternions(model: mujoco.MjModel, qpos: Tensor) -> Tensor:
    """Normalise the quaternions of free and ball joints."""
    offset = {int(mujoco.mjtJoint.mjJNT_FREE): 3, int(mujoco.mjtJoint.mjJNT_BALL): 0}
    for kind, start in zip(model.jnt_type, model.jnt_qposadr, strict=True):
        if int(kind) in offset:
            begin = int(start) + offset[int(kind)]
            part = slice(begin, begin + 4)
            qpos[:, part] = torch.nn.functional.normalize(qpos[:, part], dim=1)
    return qpos
