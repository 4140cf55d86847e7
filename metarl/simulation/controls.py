"""The controls that actions stand for: -1 and 1 are the ends of each actuator's range."""

from __future__ import annotations

import mujoco
import numpy as np

_JOINTS = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_ANGLES = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
_DIRECT = (
    int(mujoco.mjtDyn.mjDYN_NONE), int(mujoco.mjtDyn.mjDYN_FILTER),
    int(mujoco.mjtDyn.mjDYN_FILTEREXACT),
)  # fmt: skip


def control_range(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu, 2) the controls, low and high, onto which actions -1 and 1 map linearly.

    They are the actuator's ctrlrange; without one, the range of the joint for a position actuator
    of a limited joint, times its gear; else -1 and 1.
    """
    limited, unit = model.actuator_ctrllimited.astype(bool), control_of_position(model)
    ranges = np.where(limited[:, None], model.actuator_ctrlrange, [-1.0, 1.0])
    for i in np.flatnonzero(~limited & holds_position(model)):
        joint = int(model.actuator_trnid[i, 0])
        ranges[i] = np.sort(unit[i] * model.actuator_gear[i, 0] * model.jnt_range[joint])
    return ranges


def holds_position(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu,) bool: the actuators whose control is the position of one limited joint."""
    if not model.njnt:
        return np.zeros(model.nu, bool)
    joint = np.clip(model.actuator_trnid[:, 0], 0, model.njnt - 1)
    return drives_a_joint(model) & (model.jnt_limited[joint] != 0) & is_servo(model)


def drives_a_joint(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu,) bool: the actuators that drive one hinge or slide joint."""
    if not model.njnt:
        return np.zeros(model.nu, bool)
    joint = np.clip(model.actuator_trnid[:, 0], 0, model.njnt - 1)
    return np.isin(model.actuator_trntype, _JOINTS) & np.isin(model.jnt_type[joint], _ANGLES)


def is_servo(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu,) bool: the actuators whose control says where their joint or tendon is to be."""
    gain, kp = model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 1]
    servo = (model.actuator_gaintype == int(mujoco.mjtGain.mjGAIN_FIXED)) & (gain * kp > 0)
    servo &= model.actuator_biastype == int(mujoco.mjtBias.mjBIAS_AFFINE)
    return servo & (model.actuator_biasprm[:, 0] == 0) & np.isin(model.actuator_dyntype, _DIRECT)


def filtered(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the position actuators that follow their control by an activation, and which it is."""
    which = np.flatnonzero(is_servo(model) & (model.actuator_actnum > 0))
    return which, (model.actuator_actadr + model.actuator_actnum - 1)[which]


def history_at(model: mujoco.MjModel, ctrl: np.ndarray) -> np.ndarray:
    """Return (nhistory,) what delayed actuators remember if controls (nu,) were always these."""
    data = mujoco.MjData(model)
    for i in map(int, np.flatnonzero(model.actuator_history[:, 0])):
        values = np.full((int(model.actuator_history[i, 0]), 1), ctrl[i])
        mujoco.mj_initCtrlHistory(model, data, i, None, values)
    return data.history.copy()


DRAG = 3
"""Where in an actuator's biasprm `pd` notes a DC motor's drag; MuJoCo reads three numbers there."""


def drag_of(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu,) effort/ω₀ of the DC motors that `pd` made, N·m·s/rad; 0 of other actuators.

    It is their damping, outside of the clamp at ±effort, and part of biasprm[2], inside of it.
    """
    noted = model.actuator_biasprm[:, DRAG]
    return np.where(is_servo(model) & (noted == model.actuator_damping), noted, 0.0)


def control_of_position(model: mujoco.MjModel) -> np.ndarray:
    """Return (nu,) the control that a position actuator takes for each m or rad; of others 1.

    It is 1 as a rule. A gripper may take 0 to 255 all the same: force = gain u − kp q holds the
    position gain u / kp.
    """
    gain, kp = model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 1]
    return np.divide(kp, gain, out=np.ones(model.nu), where=is_servo(model))
