"""From action to control: what a family's `actions` declares, and what the worlds do by it.

An action is in [-1, 1]. Without a declaration it maps linearly onto each actuator's control range
(`metarl.simulation.controls`). A declaration gives a rest command for action 0, a scale for each
actuator, and what is remembered of earlier commands. Once an environment step, with a an action:

    target = rest + scale · a                          `position_targets`
    target = last target + scale · a                   `increments`
    command = last command + α (target − last command) `low_pass`, α = 1 − exp(−2π f dt)

The targets are held within the actuator's control range. An episode begins at rest, and so do the
commands that a delayed actuator remembers. `torques` changes the actuators, not the commands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.simulation.backend import Backend
from metarl.simulation.controls import (
    control_of_position,
    control_range,
    drag_of,
    drives_a_joint,
    history_at,
    holds_position,
    is_servo,
)
from metarl.simulation.names import actuator_names

MOST_ACTIONS = 10**4

PerActuator = float | Sequence[float] | Mapping[str, float]
"""A number for all actuators, one for each, or numbers by patterns of names, such as
``{"*": 0.5, "*_knee": 0.9}``: of several that fit, the last one counts. An actuator without a name
goes by the joint that it drives."""


class PD(NamedTuple):
    """What `torques` was given."""

    kp: PerActuator
    kd: PerActuator
    effort: PerActuator


@dataclass(frozen=True)
class Actions:
    """A way from action to control; made by the functions below."""

    kind: Literal["range", "targets", "increments"] = "range"
    """What an action of -1 and 1 stands for: the control range, or a scale around something."""
    scale: PerActuator = 1.0
    around: str | PerActuator = "home"
    pd: PD | None = None
    cutoffs: tuple[float, ...] = ()
    """Of the low-pass filters, in Hz; the first one acts first."""


def position_targets(scale: PerActuator, around: str | PerActuator = "home") -> Actions:
    """Return actions that are target positions around a pose, for actuators that hold positions.

    Args:
        scale: how far from the pose an action of 1 is: rad or m, times the actuator's gear.
        around: a keyframe's name, or the positions. "home" is the family's `home`; without one
            the keyframe of that name, or else the pose that the model is compiled in.
    """
    return Actions("targets", scale, around)


def increments(scale: PerActuator, around: str | PerActuator = "home") -> Actions:
    """Return actions that are changes of the last command, which an episode begins `around`.

    Args:
        scale: the change in one environment step at an action of 1, in units of the control.
        around: as of `position_targets`; an actuator that holds no position begins in the middle
            of its control range, which it must have.
    """
    return Actions("increments", scale, around)


def torques(
    kp: PerActuator, kd: PerActuator, effort: PerActuator, targets: Actions | None = None
) -> Actions:
    """Return actions that a PD controller of the family's own turns into torques.

    τ = clip(kp (target − q) − kd q̇, ±effort) at every physics step, whatever law the model's
    actuators have; the gear becomes 1. The controller is MuJoCo's own, written into the actuators
    when the model is compiled: its physics steps run in one call, in C++ and on threads, so nothing
    of Python can act between them. It also lets implicit integrators take kd into account.

    Args:
        kp: in N·m/rad, or N/m.
        kd: in N·m·s/rad, or N·s/m.
        effort: the largest torque or force, in N·m or N.
        targets: what the actions are; None is linear onto the range of each joint.
    """
    if targets is not None and getattr(targets, "pd", None) is not None:
        raise UserError("torques() cannot be within torques()")
    return replace(targets or Actions(), pd=PD(kp, kd, effort))


def low_pass(cutoff_hz: float, of: Actions | None = None) -> Actions:
    """Return actions whose commands pass a first-order low-pass filter, once an environment step.

    Args:
        cutoff_hz: where it attenuates by 3 dB; below half the rate of environment steps.
        of: what to filter, of `torques` the targets; None is linear onto the control range.
    """
    of = of or Actions()
    return replace(of, cutoffs=(*of.cutoffs, cutoff_hz))


# --- what a declaration is for a model ----------------------------------------------------------


class Commands(NamedTuple):
    """A declaration resolved for a model with A actuators; arrays are (A,) float64."""

    rest: np.ndarray
    """The command of action 0, and what an episode begins with."""
    scale: np.ndarray
    low: np.ndarray
    """Targets are held between low and high."""
    high: np.ndarray
    size: int
    """A, which is also set where actions stand for no commands, and the arrays are empty."""
    increments: bool = False
    smoothing: tuple[float, ...] = ()
    """α of each low-pass filter, the first one first."""
    declared: bool = True
    """Not so for the linear map without a declaration, which remembers nothing."""

    @property
    def remembers(self) -> int:
        """How many (A,) rows a world remembers from one step to the next."""
        return len(self.smoothing) + self.increments


@contextmanager
def _said_of(family: str) -> Iterator[None]:
    """Name the family, and its `actions`, in what is wrong with them."""
    try:
        yield
    except UserError as error:
        raise UserError(f"family '{family}', actions: {error}") from None


def commands(
    declared: Actions | None, model: mujoco.MjModel, dt: float, family: str,
    size: int | None = None, home: np.ndarray | None = None,
) -> Commands:  # fmt: skip
    """Return the commands that actions stand for.

    Args:
        declared: by the family, or None.
        model: with the actuators of `with_controllers`.
        dt: seconds in an environment step.
        family: its name, for what is wrong.
        size: how many actions there are, if they stand for no commands.
        home: (nq,) the pose that "home" stands for, where the family has one.

    Raises:
        UserError: the declaration does not fit the model.
    """
    with _said_of(family):
        if size is None:
            return _commands(declared, model, dt, home)
        if type(size) is not int or not 1 <= size <= MOST_ACTIONS:
            raise UserError(f"action_size must be from 1 to {MOST_ACTIONS}, not {size!r:.40}")
        if declared is not None:
            raise UserError("with an action_size, act() alone says what they do: declare none")
        return Commands(*[np.zeros(0)] * 4, size=size, declared=False)


def _commands(
    declared: Actions | None, model: mujoco.MjModel, dt: float, home: np.ndarray | None
) -> Commands:
    low, high = control_range(model).T
    smoothing = tuple(_smoothing(cutoff, dt) for cutoff in (declared or Actions()).cutoffs)
    if declared is None or declared.kind == "range":
        middle, half = (low + high) / 2, (high - low) / 2
        return Commands(middle, half, low, high, model.nu, False, smoothing, declared is not None)
    servo, name = is_servo(model), actuator_labels(model)
    unlimited = (model.actuator_ctrllimited == 0) & ~holds_position(model)
    if declared.kind == "targets" and not servo.all():
        cure = (
            "torques() makes such ones" if drives_a_joint(model).all()
            else "increments() takes any with a control range"
        )  # fmt: skip
        raise UserError(
            f"position_targets() needs actuators that hold a position, and "
            f"'{name[int(servo.argmin())]}' does not: {cure}"
        )
    if declared.kind == "increments" and (unlimited & ~servo).any():
        raise UserError(
            f"increments() needs a control range, and actuator "
            f"'{name[int((unlimited & ~servo).argmax())]}' has none: set its ctrlrange"
        )
    unit, increments = control_of_position(model), declared.kind == "increments"
    rest = np.where(servo, unit * _around(declared.around, model, home), (low + high) / 2)
    if not isinstance(declared.around, str):
        rest = unit * per_actuator("around", declared.around, model)
    scale = per_actuator("scale", declared.scale, model) * (1.0 if increments else unit)
    low, high = np.where(unlimited, -np.inf, low), np.where(unlimited, np.inf, high)
    if (outside := (rest < low) | (rest > high)).any():
        i = int(outside.argmax())
        raise UserError(
            f"around: {rest[i]:g} is outside the control range of actuator '{name[i]}', "
            f"[{low[i]:g}, {high[i]:g}]"
        )
    return Commands(rest, scale, low, high, model.nu, increments, smoothing)


def with_controllers(
    declared: Actions | None, model: mujoco.MjModel, family: str
) -> mujoco.MjModel:
    """Return the model, its actuators changed to what `torques` declares.

    Raises UserError, which names the family, if `declared` is no declaration, or if an actuator
    drives no single joint.
    """
    if declared is not None:
        with _said_of(family):
            _write_controllers(declared, model)
    return model


def _write_controllers(declared: Actions, model: mujoco.MjModel) -> None:
    if not isinstance(declared, Actions):
        raise UserError(
            f"actions must be position_targets(…), increments(…), torques(…) or low_pass(…), not "
            f"{declared!r:.80}"
        )
    if declared.pd is None:
        return
    plain = drives_a_joint(model) & (model.actuator_actnum == 0)
    if not plain.all():
        raise UserError(
            f"torques() needs actuators of one hinge or slide joint each, without dynamics of "
            f"their own, unlike '{actuator_labels(model)[int(plain.argmin())]}'"
        )
    kp, kd, effort = (per_actuator(f, getattr(declared.pd, f), model) for f in PD._fields)
    for what, value, fits in (
        ("kp", kp, kp > 0), ("kd", kd, kd >= 0), ("effort", effort, effort > 0)
    ):  # fmt: skip
        if not fits.all():
            least = "0 or more" if what == "kd" else "positive"
            raise UserError(f"torques(): {what} must be {least}, not {value[~fits][0]:g}")
    model.actuator_gaintype[:] = int(mujoco.mjtGain.mjGAIN_FIXED)
    model.actuator_biastype[:] = int(mujoco.mjtBias.mjBIAS_AFFINE)
    model.actuator_damping[:] -= drag_of(model)  # of what a motor was before
    for field in ("gainprm", "biasprm", "gear", "ctrlrange", "ctrllimited"):
        getattr(model, f"actuator_{field}")[:] = 0
    model.actuator_gear[:, 0], model.actuator_gainprm[:, 0] = 1.0, kp
    model.actuator_biasprm[:, 1], model.actuator_biasprm[:, 2] = -kp, -kd
    model.actuator_forcelimited[:] = 1
    model.actuator_forcerange[:] = np.stack((-effort, effort), 1)
    mujoco.mj_setConst(model, mujoco.MjData(model))  # what the gear has a part in


def per_actuator(what: str, value: PerActuator, model: mujoco.MjModel) -> np.ndarray:
    """Return (A,) float64 of what was declared. Raises UserError, which names it as `what`."""
    names = actuator_labels(model)
    if isinstance(value, Mapping):
        for pattern in value:
            if not any(fnmatchcase(name, str(pattern)) for name in names):
                hint = did_you_mean(str(pattern), names)
                raise UserError(f"{what}: '{pattern}' matches no actuator{hint}")
        fits = [[v for p, v in value.items() if fnmatchcase(name, p)][-1:] for name in names]
        if [] in fits:
            raise UserError(
                f"{what}: no pattern matches actuator '{names[fits.index([])]}': begin with '*'"
            )
        value = [found[0] for found in fits]
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    if array.shape not in ((), (len(names),)):
        raise UserError(f"{what}: {array.size} numbers for {len(names)} actuators")
    if not np.isfinite(array).all():
        raise UserError(
            f"{what} must be a number, one for each actuator, or numbers by name, not {value!r:.80}"
        )
    return np.broadcast_to(array, (len(names),)).copy()


def actuator_labels(model: mujoco.MjModel) -> list[str]:
    """Return what each actuator goes by; one without a name or a joint goes by its number."""
    return [name or str(i) for i, name in enumerate(actuator_names(model))]


def _smoothing(cutoff_hz: float, dt: float) -> float:
    real = isinstance(cutoff_hz, int | float) and math.isfinite(cutoff_hz)
    if not real or not 0 < cutoff_hz < 0.5 / dt:
        raise UserError(
            f"low_pass(): the cutoff must be above 0 and below {0.5 / dt:g} Hz, half the rate of "
            f"environment steps, not {cutoff_hz!r:.40}"
        )
    return 1.0 - math.exp(-2.0 * math.pi * cutoff_hz * dt)


def _around(pose: str | PerActuator, model: mujoco.MjModel, home: np.ndarray | None) -> np.ndarray:
    """Return (A,) the positions of the actuators in a named pose; zeros for one of numbers."""
    if not isinstance(pose, str):
        return np.zeros(model.nu)
    data, key = mujoco.MjData(model), mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, pose)
    if pose == "home" and home is not None:
        data.qpos[:] = home
    elif key >= 0:
        mujoco.mj_resetDataKeyframe(model, data, key)
    elif pose != "home":
        known = [model.key(i).name for i in range(model.nkey)]
        raise UserError(f"around: the model has no keyframe '{pose}'{did_you_mean(pose, known)}")
    mujoco.mj_fwdPosition(model, data)
    return data.actuator_length.copy()


# --- what the worlds do -------------------------------------------------------------------------


class Controller:
    """Turns the actions of B worlds into their controls, step by step."""

    def __init__(self, what: Commands, sim: Backend) -> None:
        """Take what actions stand for, and the worlds whose `ctrl` is written."""
        self._what, self._sim = what, sim
        rest, *numbers = (torch.from_numpy(part).to(sim.device, sim.dtype) for part in what[:4])
        self._rest = rest.expand(sim.num_worlds, -1)
        self._scale, self._low, self._high = numbers
        self._held = [self._rest.clone() for _ in range(what.remembers)]
        self._history: Tensor | None = None
        if what.declared and sim.model.nhistory:
            held = torch.from_numpy(history_at(sim.model, what.rest))
            self._history = held.to(sim.device, sim.dtype)

    @property
    def remembered(self) -> list[Tensor]:
        """What worlds remember of the commands before, (B, A) each."""
        return self._held

    def reset(self, ids: Tensor | None) -> None:
        """Go back to rest in the worlds `ids`, (n,) int64, or in all, which were just reset."""
        if not self._what.declared:
            return
        which = slice(None) if ids is None else ids
        for held in (*self._held, self._sim.ctrl):
            held[which] = self._rest[0]
        if self._history is not None:
            self._sim.bind("history")[which] = self._history

    def __call__(self, action: Tensor) -> None:
        """Write the controls that actions (B, A) in [-1, 1] stand for."""
        ctrl, what = self._sim.ctrl, self._what
        if not what.declared:
            if len(what.rest):
                torch.addcmul(self._rest, action, self._scale, out=ctrl)
            return
        held = iter(self._held)
        last = next(held) if what.increments else self._rest
        target = (last + self._scale * action).clamp(self._low, self._high)
        if what.increments:
            last.copy_(target)
        for alpha, command in zip(what.smoothing, held, strict=True):
            command += alpha * (target - command)
            target = command
        ctrl.copy_(target)
