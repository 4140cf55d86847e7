"""Dynamics of any robot as task parameters: ``+dynamics``, and `dynamics(mass="*_calf")`.

Whatever is drawn, the bodies are ones that some matter could have: a link's mass and inertia have
one scale, as of another density; a payload is a point mass at the centre of mass, which adds no
inertia about it; and a shifted centre of mass shifts the whole distribution of the mass, so that
the inertia about the body's frame follows the parallel-axis rule. What is 0 in the model is not
varied, since 0 scaled is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import mujoco
import numpy as np

from metarl.base.errors import UserError, did_you_mean, refuse_unknown
from metarl.simulation.controls import DRAG, drag_of, is_servo
from metarl.simulation.edits import Edit
from metarl.simulation.model_faults import can_land
from metarl.simulation.root import find_base
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Interval, Param

Where = Callable[[mujoco.MjModel], np.ndarray]
"""Which rows of a field are worth varying: (rows,) bool of a model."""

PAYLOAD = 0.25
"""The heaviest payload of a training, as a part of the robot's mass; half as much again in ood."""
OFFSET = 0.25
"""How far a centre of mass is off in training, in radii of gyration; twice that in ood."""


# --- what there is to vary, by the rows of the fields -------------------------------------------


def _massive(model: mujoco.MjModel) -> np.ndarray:
    """The bodies that have a mass and can move."""
    return (model.body_mass > 0) & (model.body_weldid > 0)


def _base(model: mujoco.MjModel) -> np.ndarray:
    return np.arange(model.nbody) == find_base(model).body


def _damped(model: mujoco.MjModel) -> np.ndarray:
    return model.dof_damping != 0


def _armoured(model: mujoco.MjModel) -> np.ndarray:
    return model.dof_armature != 0


def _strong(model: mujoco.MjModel) -> np.ndarray:
    """The actuators whose force is linear in gain and bias, so that both scale it."""
    gains = (int(mujoco.mjtGain.mjGAIN_FIXED), int(mujoco.mjtGain.mjGAIN_AFFINE))
    biases = (int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE))
    linear = np.isin(model.actuator_gaintype, gains) & np.isin(model.actuator_biastype, biases)
    return linear & model.actuator_gainprm.any(1)


def _muscles(model: mujoco.MjModel) -> np.ndarray:
    return model.actuator_gaintype == int(mujoco.mjtGain.mjGAIN_MUSCLE)


def _servos_with_damping(model: mujoco.MjModel) -> np.ndarray:
    """The position actuators with a kd: −biasprm[2], which of a DC motor has the drag in it."""
    drag, bias = drag_of(model), model.actuator_biasprm
    return is_servo(model) & (bias[:, 2] != drag) & (bias[:, DRAG] == drag)


def _encoders(model: mujoco.MjModel) -> np.ndarray:
    """The joints whose angle is measured: hinges, but not of the base or under a fixed tendon."""
    measured = model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE)
    measured &= ~np.isin(np.arange(model.njnt), find_base(model).joints)
    pulled = model.wrap_objid[model.wrap_type == int(mujoco.mjtWrap.mjWRAP_JOINT)]
    return measured & ~np.isin(np.arange(model.njnt), pulled)


def _angles(model: mujoco.MjModel) -> np.ndarray:
    """The same, by the rows of qpos."""
    rows = np.zeros(model.nq, bool)
    rows[model.jnt_qposadr[_encoders(model)]] = True
    return rows


# --- the parameters ----------------------------------------------------------------------------

_FACTOR = Interval(0.7, 1.4, log=True), (Interval(1.4, 2.0),)
_GAIN = Interval(0.8, 1.25, log=True), (Interval(1.25, 1.5),)


def _scaled(
    name: str, ranges: tuple[Interval, tuple[Interval, ...]], doc: str, *edits: Edit
) -> Param:
    """A scale, with a number of its own for every body, joint or actuator that is there."""
    return Param(name, *ranges, edit=edits, size="model", doc=doc)


def _edit(field: str, where: Where | None = None, index: int | None = None) -> Edit:
    return Edit("scale", field, index=index, where=where)


PARAMS: Mapping[str, Param] = {
    param.name: param
    for param in (
        _scaled("mass", _FACTOR, "scale of a link's mass and inertia",
                _edit("body_mass", _massive), _edit("body_inertia", _massive)),
        Param("friction", Interval(0.5, 1.5, log=True), ood=(Interval(0.3, 0.5),),
              edit=_edit("geom_friction"), doc="scale of all friction coefficients"),
        _scaled("damping", _FACTOR, "scale of a joint's damping", _edit("dof_damping", _damped)),
        _scaled("armature", _FACTOR, "scale of a motor's inertia as the joint feels it",
                _edit("dof_armature", _armoured)),
        _scaled("strength", (Interval(0.7, 1.1), (Interval(0.5, 0.7),)),
                "scale of a motor's force: gain, bias, limit and damping",
                _edit("actuator_gainprm", _strong), _edit("actuator_biasprm", _strong),
                _edit("actuator_forcerange", _strong), _edit("actuator_damping", _strong)),
        _scaled("muscle", (Interval(0.7, 1.1), (Interval(0.5, 0.7),)),
                "scale of a muscle's force",
                *(_edit(f"actuator_{prm}prm", _muscles, k) for k in (2, 3)
                  for prm in ("gain", "bias"))),
        _scaled("kp", _GAIN, "scale of a position actuator's stiffness",
                _edit("actuator_gainprm", is_servo, 0), _edit("actuator_biasprm", is_servo, 1)),
        _scaled("kd", _GAIN, "scale of a position actuator's damping",
                replace(_edit("actuator_biasprm", _servos_with_damping, 2), about=DRAG)),
        *(Param(f"com_{axis}", Interval(-1, 1), edit=Edit("shift", "body_ipos", index=k), unit="m",
                doc=f"shift of the centre of mass along the body's own {axis}")
          for k, axis in enumerate("xyz")),
        Param("joint_zero", Interval(-0.05, 0.05),
              ood=(Interval(-0.1, -0.05), Interval(0.05, 0.1)), unit="rad", size="model",
              edit=(Edit("shift", "qpos0", where=_angles),
                    Edit("shift", "qpos_spring", where=_angles),
                    Edit("shift", "jnt_range", where=_encoders)),
              doc="what a joint's encoder reads at the model's zero"),
        Param("payload", Interval(0, 1), edit=Edit("shift", "body_mass"), unit="kg",
              doc="mass added at the centre of mass"),
    )
}  # fmt: skip
"""All that can vary, of every object; `dynamics` names objects, `dynamics_of` sets the units."""
_NEEDS_RANGE = ("com_x", "com_y", "com_z", "payload")


def dynamics(
    ranges: Mapping[str, Interval] | None = None, **patterns: str | Sequence[str]
) -> tuple[Param, ...]:
    """Return parameters of the dynamics of some objects, by name or by pattern.

        dynamics(mass="*_calf", kp="*", payload="trunk", ranges={"payload": Interval(0, 3)})

    Args:
        ranges: parameter -> its range in training, in place of the usual one, which has an ood
            range as well. `payload` (kg) and `com_x`, `com_y`, `com_z` (m) need one.
        patterns: parameter, a key of `PARAMS` -> which objects: bodies (mass, com_…, payload),
            geoms (friction), joints (damping, armature, joint_zero) or actuators (strength,
            muscle, kp, kd). Each object has a number of its own, but for friction and payload.

    Raises:
        UserError: there is no such parameter, or it has no range.
    """
    refuse_unknown("dynamics", patterns.keys() - PARAMS.keys(), [*PARAMS, "ranges"])
    ranges = dict(ranges or {})
    for name in ranges:
        if name not in patterns:
            raise UserError(
                f"dynamics has a range of '{name}'{did_you_mean(name, patterns)}, and no objects "
                f'whose {name} varies: write {name}="*"'
            )
    found = []
    for name, which in patterns.items():
        names = (which,) if isinstance(which, str) else tuple(which)
        param = PARAMS[name]
        param = replace(param, edit=tuple(replace(edit, names=names) for edit in param.edits))
        if name in ranges:
            param = replace(param, train=ranges[name], ood=())
        elif name in _NEEDS_RANGE:
            raise UserError(
                f"dynamics: {name} has a unit, {param.unit}, so give its range, as in "
                f"ranges={{'{name}': Interval(…, …)}}"
            )
        found.append(param)
    return tuple(found)


# --- +dynamics ---------------------------------------------------------------------------------


def dynamics_of(family: TaskFamily) -> tuple[Param, ...]:
    """Return what varies in a robot: every parameter of `PARAMS` that its model has.

    What the family varies itself, by name or by an `assign` to the same numbers, is left out.

    Raises:
        UserError: nothing is left.
    """
    model, own = family.compiled, family.params
    found = [param for param in _params_of(model) if not _taken(param, own)]
    if not found:
        raise UserError(
            f"family '{family.name}': +dynamics finds nothing to vary in its model that its own "
            f"parameters do not vary"
        )
    return tuple(found)


class AnyMass(TaskFamily):
    """A robot whose base may have its centre of mass anywhere."""

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Keep MuJoCo from compiling the base as a body whose centre of mass is its origin."""
        moves = {mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE}
        for body in spec.bodies:
            kinds = {joint.type for joint in body.joints}
            if mujoco.mjtJoint.mjJNT_FREE in kinds or moves <= kinds:
                body.simple = False
        return super().build(spec)


def _params_of(model: mujoco.MjModel) -> list[Param]:
    found = []
    base = _payload_and_offset(model)
    for name, param in PARAMS.items():
        if name in _NEEDS_RANGE:
            if name not in base:
                continue
            param = base[name]
        if name == "friction":
            if not _rubs(model):
                continue
            if model.npair:
                param = replace(param, edit=(*param.edits, _edit("pair_friction")))
        try:
            param.check_edits(model, set())
        except UserError:  # the model has none, or switches it off
            continue
        found.append(param)
    return found


def _payload_and_offset(model: mujoco.MjModel) -> dict[str, Param]:
    """The payload and the shifts of the centre of mass of a base that moves freely or in a plane.

    A planar base does not feel a shift along the axis that it turns about, nor a cart any.
    """
    base = find_base(model)
    if base.kind == "fixed" or not model.body_mass[base.body]:
        return {}
    mass = model.body_mass[base.body]
    gyration = float(np.sqrt(model.body_inertia[base.body].sum() / 2 / mass))
    near, far = OFFSET * gyration, 2 * OFFSET * gyration
    found = {}
    for k, axis in enumerate("xyz"):
        if gyration and base.feels(model, k):
            param = PARAMS[f"com_{axis}"]
            found[param.name] = replace(
                param, train=Interval(-near, near),
                ood=(Interval(-far, -near), Interval(near, far)),
                edit=replace(param.edits[0], where=_base),
            )  # fmt: skip
    most = PAYLOAD * float(model.body_subtreemass[base.body])
    found["payload"] = replace(
        PARAMS["payload"], train=Interval(0.0, most), ood=(Interval(most, 1.5 * most),),
        edit=replace(PARAMS["payload"].edits[0], where=_base),
    )  # fmt: skip
    return found


def _rubs(model: mujoco.MjModel) -> bool:
    """Whether gravity brings something of the model to touch something else, with friction."""
    falls = (
        find_base(model).falls(model) or (model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE)).any()
    )
    off = int(mujoco.mjtDisableBit.mjDSBL_GRAVITY) | int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    if not falls or not model.opt.gravity.any() or model.opt.disableflags & off:
        return False
    return can_land(model, condim=3)


def _taken(param: Param, own: Sequence[Param]) -> bool:
    """Whether a family has a parameter of that name, or an `assign` that would undo this one."""
    return any(
        param.name == other.name
        or any(one.meets(two) for one in param.edits for two in other.edits if two.kind == "assign")
        for other in own
    )
