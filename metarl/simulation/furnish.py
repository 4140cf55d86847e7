"""What a robot's model file may lack, added to its specification before it is compiled.

floor = True                                          a plane to stand on, and a light
actuators = pd(60, 2, effort=23.7, joints="*_hip")    position control of joints
contacts = {"feet": contact("*_foot")}                sensors of what touches what
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mujoco

from metarl.base.errors import UserError
from metarl.simulation.controls import DRAG
from metarl.simulation.home import HomePose, home_of
from metarl.simulation.names import matching

_OBJECTS = {
    "geom": mujoco.mjtObj.mjOBJ_GEOM, "body": mujoco.mjtObj.mjOBJ_BODY,
    "subtree": mujoco.mjtObj.mjOBJ_XBODY,
}  # fmt: skip
_ANGLES = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
_NET_FORCE = 3
"""MuJoCo's way to reduce the contacts of a sensor: how many there are, and their whole force."""


@dataclass(frozen=True)
class PD:
    """Position control of joints: see `pd`."""

    kp: float
    kd: float
    effort: float | None
    joints: str | Sequence[str]
    reach: float | None
    no_load_speed: float | None


def pd(
    kp: float, kd: float, effort: float | None = None, joints: str | Sequence[str] = "*", *,
    reach: float | None = None, no_load_speed: float | None = None,
) -> PD:  # fmt: skip
    """Return position actuators for joints: the torque is kp (u - q) - kd q̇, u the target.

    Args:
        kp: N·m/rad, or N/m.
        kd: N·m·s/rad, or N·s/m.
        effort: the largest torque, N·m, or force, N; None is no limit.
        joints: hinges and slides, by name or pattern.
        reach: actions of ±1 are targets so far to either side of the home pose, rad or m, within
            the joint's range; None: the ends of the range.
        no_load_speed: of a DC motor, rad/s or m/s: the speed ω₀ at which it has no torque left.
            The torque is then kept between −effort (1 + q̇/ω₀) and effort (1 − q̇/ω₀), as by the
            back-EMF at a limited voltage, so that a motor that is driven backward can brake with
            more than `effort`. MuJoCo's own actuator does that at every physics step: what the
            curve takes off, effort/ω₀ q̇, is a damping of the actuator.

    Raises:
        UserError: a number is not positive, or an `effort` is missing.
    """
    given = {"kp": kp, "effort": effort, "reach": reach, "no_load_speed": no_load_speed}
    for name, value in given.items():
        if value is not None and not (_is_number(value) and value > 0):
            raise UserError(f"pd: {name} must be a positive number, not {value!r:.40}")
    if not (_is_number(kd) and kd >= 0):
        raise UserError(f"pd: kd must be a number of at least 0, not {kd!r:.40}")
    if no_load_speed is not None and effort is None:
        raise UserError("pd: a DC motor's curve begins at its stall torque: give effort")
    return PD(kp, kd, effort, joints, reach, no_load_speed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Contact:
    """What touches what: see `contact`."""

    first: str | Sequence[str]
    second: str | Sequence[str] | None
    kind: Literal["geom", "body", "subtree"]


def contact(
    first: str | Sequence[str], second: str | Sequence[str] | None = None, *,
    kind: Literal["geom", "body", "subtree"] = "geom",
) -> Contact:  # fmt: skip
    """Return sensors of the contacts of each of some objects with others, for `Contacts` to read.

    Args:
        first: by name or pattern.
        second: the others, by name or pattern; None is whatever they touch.
        kind: geoms, bodies, or bodies with all that hangs from them.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in _OBJECTS:
        raise UserError(f"contact: kind must be one of {', '.join(_OBJECTS)}, not {kind!r:.40}")
    return Contact(first, second, kind)


def furnish(
    spec: mujoco.MjSpec, floor: bool, actuators: PD | Sequence[PD],
    contacts: Mapping[str, Contact], home: HomePose,
) -> None:  # fmt: skip
    """Add to a specification what a family declares; a pose becomes the keyframe ``home``.

    Raises:
        UserError: a name or pattern matches nothing, or a joint has an actuator already.
    """
    if floor:
        add_floor(spec)
    parts = (actuators,) if isinstance(actuators, PD) else actuators
    if not (isinstance(parts, tuple | list) and all(isinstance(part, PD) for part in parts)):
        raise UserError(f"actuators must be pd(…), or several in a tuple, not {actuators!r:.80}")
    if parts:
        _add_actuators(spec, parts, home)
    for name, touch in contacts.items():
        if not isinstance(touch, Contact):
            raise UserError(f"contacts: '{name}' must be a contact(…), not {touch!r:.80}")
        _add_contacts(spec, name, touch)
    if home and not isinstance(home, str) and all(key.name != "home" for key in spec.keys):
        pose = home_of(spec.copy().compile(), home)
        spec.add_key(name="home", qpos=pose.qpos, ctrl=pose.ctrl, act=pose.act)


def add_floor(spec: mujoco.MjSpec) -> None:
    """Add an infinite plane that every solid geom meets, and a light, where there are none."""
    geoms = list(spec.geoms)
    grounds = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD)
    if not any(geom.type in grounds for geom in geoms):
        kind = affinity = 0
        for geom in geoms:
            kind, affinity = kind | geom.conaffinity, affinity | geom.contype
        checker = spec.add_texture(
            name="metarl floor", type=mujoco.mjtTexture.mjTEXTURE_2D, width=128, height=128,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, rgb1=(0.3, 0.35, 0.4),
            rgb2=(0.36, 0.41, 0.46),
        )  # fmt: skip
        material = spec.add_material(name="metarl floor", texuniform=True, texrepeat=[1, 1])
        material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = checker.name
        spec.worldbody.add_geom(
            name=_free("floor", geoms), type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05],
            material="metarl floor", contype=kind, conaffinity=affinity,
        )  # fmt: skip
    if not spec.lights:
        spec.worldbody.add_light(
            pos=[0, 0, 4], dir=[-0.3, 0.3, -1], diffuse=[0.6, 0.6, 0.6],
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        )  # fmt: skip


def _free(name: str, taken: Iterable[Any]) -> str:
    """Return a name, or one that begins with it if something of that kind has it already."""
    names, free = {one.name for one in taken}, name
    while free in names:
        free += " of metarl"
    return free


def _add_actuators(spec: mujoco.MjSpec, parts: Sequence[PD], home: HomePose) -> None:
    """Add a position actuator for each joint that the parts name."""
    model = spec.copy().compile()
    qpos = home_of(model, home).qpos if home else model.qpos0
    names = [joint.name if joint.type in _ANGLES else "" for joint in spec.joints]
    driven = {actuator.target: actuator.name for actuator in spec.actuators}
    for part in parts:
        for place in matching(part.joints, names, "hinge or slide joint"):
            joint, name = spec.joints[place], names[place]
            if name in driven:
                raise UserError(f"joint '{name}' has an actuator already, '{driven[name]}'")
            driven[name] = name
            compiled = model.joint(name)
            low, high = model.jnt_range[compiled.id]
            if not model.jnt_limited[compiled.id]:
                low, high = -math.inf, math.inf
            if part.reach is not None:
                at = float(qpos[compiled.qposadr[0]])
                low, high = max(low, at - part.reach), min(high, at + part.reach)
            if not math.isfinite(high - low):
                raise UserError(f"joint '{name}' has no range that actions could span: give reach")
            if low >= high:
                raise UserError(f"joint '{name}' begins outside of its range: see home")
            _add_pd(spec, joint, part, (low, high))


def _add_pd(
    spec: mujoco.MjSpec, joint: mujoco.MjsJoint, part: PD, ends: tuple[float, float]
) -> None:
    """Add one position actuator; a DC motor's curve is a clamp beside a damping: see `drag_of`.

    With the drag d = effort/ω₀: clip(τ, −effort − d q̇, effort − d q̇) = clip(τ + d q̇, ±effort) −
    d q̇, and the clamp is of the first term, with kd − d for kd.
    """
    drag = 0.0
    if part.no_load_speed is not None and part.effort is not None:
        drag = part.effort / part.no_load_speed
    actuator = spec.add_actuator(
        name=_free(joint.name, spec.actuators), target=joint.name,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        ctrllimited=True, ctrlrange=ends,
    )  # fmt: skip
    actuator.gainprm[0] = part.kp
    actuator.biasprm[:3] = [0.0, -part.kp, drag - part.kd]
    if drag:
        actuator.damping[0] = actuator.biasprm[DRAG] = drag
        # not quite the gain: of a servo with equal ones MuJoCo takes a positive kv for a ratio
        actuator.biasprm[1] *= 1 + 1e-12
    if part.effort is not None:
        actuator.forcelimited, actuator.forcerange = True, [-part.effort, part.effort]
    for key in spec.keys:
        if len(key.ctrl):
            key.ctrl = [*key.ctrl, 0.0]


def _add_contacts(spec: mujoco.MjSpec, name: str, touch: Contact) -> None:
    """Add a sensor for each pair, named ``name/first`` or ``name/first/second``."""
    objects = _OBJECTS[touch.kind]
    word = "geom" if touch.kind == "geom" else "body"
    every = spec.geoms if word == "geom" else spec.bodies
    names = [one.name for one in every]
    firsts = [names[i] for i in matching(touch.first, names, word)]
    seconds = [""] if touch.second is None else matching(touch.second, names, word)
    fields = mujoco.mjtConDataField
    data = (1 << int(fields.mjCONDATA_FOUND)) | (1 << int(fields.mjCONDATA_FORCE))
    for first in firsts:
        for place in seconds:
            second = names[place] if isinstance(place, int) else ""
            sensor = spec.add_sensor(
                name="/".join(filter(None, (name, first, second))),
                type=mujoco.mjtSensor.mjSENS_CONTACT, objtype=objects, objname=first,
            )  # fmt: skip
            if second:
                sensor.reftype, sensor.refname = objects, second
            sensor.intprm[:3] = [data, _NET_FORCE, 1]
