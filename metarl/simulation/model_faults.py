"""What is wrong with a MuJoCo model: numbers that are not finite, and joints that blow up.

`nonfinite` names the first such number of a compiled model. `explain` says in words what a warning
of MuJoCo is about, and `advice` looks at the model for the reason; "lower its timestep" is what it
says if nothing else stands out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import mujoco
import numpy as np

from metarl.simulation.controls import drag_of

_OBJECTS = {
    "body": "body", "jnt": "joint", "dof": "joint", "geom": "geom", "site": "site", "cam": "camera",
    "light": "light", "mesh": "mesh", "hfield": "hfield", "mat": "material", "pair": "pair",
    "eq": "equality", "tendon": "tendon", "actuator": "actuator", "sensor": "sensor", "key": "key",
    "numeric": "numeric", "tuple": "tuple", "flex": "flex", "skin": "skin",
}  # fmt: skip
"""The prefix of a field of MjModel -> what MuJoCo calls the objects that it has a row for."""
_DERIVED = frozenset(
    {
        "actuator_acc0", "actuator_length0", "body_invweight0", "body_subtreemass", "dof_M0",
        "dof_invweight0", "dof_length", "tendon_length0", "tendon_invweight0", "efm0_L",
        "flexedge_invweight0", "flexedge_length0",
    }
)  # fmt: skip
"""Fields that the compiler computes from others: named only if no other field is to blame."""


def nonfinite(model: mujoco.MjModel) -> str:
    """Return the first NaN or infinity in a real-valued field, as ``field of object``, or ''."""
    for name in _real_fields():
        owner = model
        for part in name.split(".")[:-1]:
            owner = getattr(owner, part)
        value = np.asarray(getattr(owner, name.rpartition(".")[2]))
        if not value.size or np.isfinite(value).all():
            continue
        bad = ~np.isfinite(value)
        row, rows = (int(np.argwhere(bad)[0][0]), len(value)) if value.ndim else (0, 0)
        return f"{name}{_owner(model, name, row, rows)} is not finite ({value[bad].flat[0]})"
    return ""


@functools.cache
def _real_fields() -> tuple[str, ...]:
    """Every real-valued field of MjModel, opt and stat; those that others give come last."""
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    names = []
    for prefix, owner in (("", model), ("opt.", model.opt), ("stat.", model.stat)):
        for name in dir(owner):
            value = None if name.startswith("_") else getattr(owner, name)
            if isinstance(value, float) or (
                isinstance(value, np.ndarray) and value.dtype.kind == "f"
            ):
                names.append(prefix + name)
    return tuple(sorted(names, key=lambda name: name in _DERIVED or name.startswith("stat.")))


def _owner(model: mujoco.MjModel, field: str, row: int, rows: int) -> str:
    """Return " of joint 'hip'" for a row of a field that has one for each object, or ''."""
    if field.startswith("qpos"):
        kind, row = "joint", int(np.searchsorted(model.jnt_qposadr, row, side="right")) - 1
    else:
        prefix = field.split("_")[0]
        kind = _OBJECTS.get(prefix, "")
        counts = {"jnt": model.njnt, "dof": model.nv}
        count = counts.get(prefix, getattr(model, f"n{prefix}", rows))
        if not kind or rows != count:
            return ""
        row = int(model.dof_jntid[row]) if prefix == "dof" else row
    return f" of {_called(model, kind, row)}"


def _called(model: mujoco.MjModel, kind: str, row: int) -> str:
    """Return "joint 'hip'"; of an unnamed joint or actuator, what it moves; else its number."""
    name = getattr(model, {"camera": "cam", "material": "mat"}.get(kind, kind))(row).name
    if name:
        return f"{kind} '{name}'"
    if kind == "joint":
        return f"the joint of {_called(model, 'body', int(model.jnt_bodyid[row]))}"
    if kind == "actuator" and model.actuator_trntype[row] in _AT_JOINT:
        return f"the actuator of {_called(model, 'joint', int(model.actuator_trnid[row, 0]))}"
    return f"{kind} {row}"


def can_land(model: mujoco.MjModel, condim: int = 1) -> bool:
    """Return whether a geom that is fixed to the world can touch one that is not.

    Args:
        model: whose geoms.
        condim: only contacts of so many dimensions or more; those of 3 and more have friction.
    """
    fixed = model.body_weldid[model.geom_bodyid] == 0
    affinity, kind, many = model.geom_conaffinity, model.geom_contype, model.geom_condim
    meets = (kind[:, None] & affinity) | (affinity[:, None] & kind)
    meets = (meets != 0) & (np.maximum(many[:, None], many) >= condim)
    pairs = fixed[model.pair_geom1] != fixed[model.pair_geom2]
    return bool(meets[fixed][:, ~fixed].any() or (pairs & (model.pair_dim >= condim)).any())


# --- divergence --------------------------------------------------------------------------------

_W = mujoco.mjtWarning
_ABOUT_DOF = {
    int(_W.mjWARN_INERTIA): "has an inertia that is nearly 0",
    int(_W.mjWARN_BADQPOS): "has a position that is not finite or beyond 1e10",
    int(_W.mjWARN_BADQVEL): "has a velocity that is not finite or beyond 1e10",
    int(_W.mjWARN_BADQACC): "has an acceleration that is not finite or beyond 1e10",
}
_ABOUT_MEMORY = {
    int(_W.mjWARN_CONTACTFULL): "there is no memory for so many contacts",
    int(_W.mjWARN_CNSTRFULL): "there is no memory for so many constraints",
}
RAISED = -1
"""Stands beside MuJoCo's warnings for what it raised."""
BADQVEL = int(_W.mjWARN_BADQVEL)
_AT_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_MOST = 2
"""Findings that an advice names, the gravest first."""


def explain(model: mujoco.MjModel, warning: int, info: int) -> str:
    """Return what MuJoCo warned of, and what in the model is the likely reason, with a cure.

    Args:
        model: of the world that diverged, its task's edits included.
        warning: an mjtWarning.
        info: MuJoCo's `lastinfo` of it: a degree of freedom, a position, or an actuator.
    """
    if warning in _ABOUT_MEMORY:
        return f"{_ABOUT_MEMORY[warning]}: give the model <size memory=…>"
    if warning == int(_W.mjWARN_BADCTRL):
        which = _called(model, "actuator", min(max(info, 0), model.nu - 1))
        return f"{which} was given a control that is not finite: look at what chose the action"
    address = model.jnt_qposadr if warning == int(_W.mjWARN_BADQPOS) else model.jnt_dofadr
    joint = max(0, int(np.searchsorted(address, info, side="right")) - 1)
    return f"{_called(model, 'joint', joint)} {_ABOUT_DOF[warning]}: {advice(model, joint)}"


def raised(error: object, model: mujoco.MjModel | None = None) -> str:
    """Return in one line what MuJoCo raised, and what to do, where that is known.

    Args:
        error: an exception of MuJoCo's, or of its batch engine.
        model: whose bodies it may name by number.
    """
    text = " ".join(str(error).split())
    text = re.sub(r"^(MuJoCo raised in .*?; simulation \d+: |Error: engine error: )", "", text)
    if "out of memory" in text:
        size = re.search(r"narena = (\d+)", text)
        now = f", {size[1]} bytes," if size else ""
        return (
            f"the arena of MuJoCo{now} is too small for its constraints and contacts: give the "
            "model a larger <size memory=…>, or none"
        )
    if found := re.search(r"body (\d+) is compiled as simple", text):
        who = f"body {found[1]}" if model is None else _called(model, "body", int(found[1]))
        return f"{who} is compiled as simple, where this is fixed: write simple='false' in it"
    return text


def advice(model: mujoco.MjModel, joint: int) -> str:
    """Return what stands out of the joint, else of the whole model, else of any other joint."""
    found = [*_findings(model, joint), *_of_model(model)]
    if not found:
        found = [finding for other in range(model.njnt) for finding in _findings(model, other)]
    found = sorted(found, key=lambda finding: -finding.severity)[:_MOST]
    if not found:
        held = ""
        if model.neq:
            held = f"begin episodes where {_called(model, 'equality', 0)} holds, "
        return (
            f"nothing in the model stands out, so {held}lower its timestep (now "
            f"{model.opt.timestep:g} s), or narrow the ranges of the parameters"
        )
    return "; ".join(finding.text for finding in found)


class _Finding(NamedTuple):
    """Something in the model that is out of the ordinary."""

    severity: float
    """How many times it is beyond the ordinary, more than 1."""
    text: str


class _Drive(NamedTuple):
    """An actuator as the joint feels it: force = gain u − kp q − kv q̇, gear included."""

    actuator: int
    gear: float
    gain: float
    kp: float
    kv: float
    control: float
    """The largest |u|."""
    force: float
    """The largest |gain u|, within the actuator's and the joint's force ranges."""


_SPEED_UP = 1e3
"""rad/s or m/s that an actuator may add to a velocity in one physics step."""
_ORDINARY = {"control": 10.0, "gear": 1e3, "gain": 1e2}
"""What an actuator's factors usually stay below, by the name in `_Drive`."""
_SMALL_INERTIA = 1e-6  # kg m², or kg
_LARGE_GRAVITY, _LARGE_TIMESTEP = 1e3, 0.02  # m/s², s
_STABLE = 2.0
"""Of k h² / M and d h / M, for a stiffness k and a damping d that are integrated explicitly."""


def _findings(model: mujoco.MjModel, joint: int) -> list[_Finding]:
    """Return what is out of the ordinary of a joint and of the actuators that drive it."""
    last = model.njnt == joint + 1
    dofs = slice(int(model.jnt_dofadr[joint]), None if last else int(model.jnt_dofadr[joint + 1]))
    inertia = max(float(model.dof_M0[dofs].min()), mujoco.mjMINVAL)
    armature = float(model.dof_armature[dofs].min())
    body = int(model.jnt_bodyid[joint])
    on = (
        f"on an inertia of {inertia:.2g} (armature {armature:g}, "
        f"{_called(model, 'body', body)} of {model.body_mass[body]:.2g} kg)"
    )
    damping, stiffness = float(model.dof_damping[dofs].min()), _first(model.jnt_stiffness[joint])
    found = [*_signs(model, joint, damping, stiffness)]
    h, who = float(model.opt.timestep), _called(model, "joint", joint)
    light = _SMALL_INERTIA / inertia
    implicit = int(model.opt.integrator) >= int(mujoco.mjtIntegrator.mjINT_IMPLICIT)
    for drive in _drives(model, joint):
        name = _called(model, "actuator", drive.actuator)
        steady = inertia + h * (max(damping, 0.0) + (max(drive.kv, 0.0) if implicit else 0.0))
        stiff = max(drive.kp * h * h / steady, 0.0 if implicit else drive.kv * h / steady)
        gains = " and ".join(f"{k} {v:g}" for k, v in (("kp", drive.kp), ("kv", drive.kv)) if v > 0)
        cure = "give the joint armature, or lower the gains"
        found.append(_Finding(stiff / _STABLE, f"{name} has {gains} {on}: {cure}"))
        strong = drive.force * h / inertia / _SPEED_UP
        factor = max(_ORDINARY, key=lambda key: getattr(drive, key) / _ORDINARY[key])
        if getattr(drive, factor) <= _ORDINARY[factor]:  # then it moves too little
            light = max(light, strong)
        elif stiff <= _STABLE or factor == "control":  # a stiff servo's gain is named already
            found.append(_Finding(strong, _strength(model, drive, factor, on)))
    steady = inertia + h * max(damping, 0.0)
    text = f"{who} has stiffness {stiffness:g} {on}: give it armature, or lower the stiffness"
    found.append(_Finding(stiffness * h * h / steady / _STABLE, text))
    found = [finding for finding in found if finding.severity > 1]
    text = f"{who} moves an inertia of only {inertia:.2g} (armature {armature:g}): give it armature"
    return found or [_Finding(light, text)] * (light > 1)


def _first(value: np.ndarray | float) -> float:
    """The linear coefficient of a stiffness or damping that may be a polynomial."""
    return float(np.ravel(value)[0])


def _signs(
    model: mujoco.MjModel, joint: int, damping: float, stiffness: float
) -> Iterator[_Finding]:
    """Negative damping and stiffness, which feed energy to a joint."""
    numbers = [(_called(model, "joint", joint), {"damping": damping, "stiffness": stiffness})]
    numbers += [
        (_called(model, "actuator", drive.actuator), {"kp": drive.kp, "kv": drive.kv})
        for drive in _drives(model, joint)
    ]
    for who, values in numbers:
        for name, value in values.items():
            if value < 0:
                text = (
                    f"{who} has a negative {name} ({value:g}), which adds energy: make it positive"
                )
                yield _Finding(np.inf, text)


def _strength(model: mujoco.MjModel, drive: _Drive, factor: str, on: str) -> str:
    """Say that an actuator is too strong for what it moves, and which factor makes it so."""
    what = f"{factor} {getattr(drive, factor):g}"
    if factor == "control":
        low, high = model.actuator_ctrlrange[drive.actuator]
        what = f"ctrlrange ±{high:g}" if low == -high else f"ctrlrange {low:g} to {high:g}"
    who = _called(model, "actuator", drive.actuator)
    return (
        f"{who} has {what}, a force of up to {drive.force:.2g} {on}: lower it, or give the joint "
        f"armature"
    )


def _drives(model: mujoco.MjModel, joint: int) -> Iterator[_Drive]:
    """The actuators that act on a joint directly or through a fixed tendon."""
    drag = drag_of(model)
    for i in range(model.nu):
        share = _share(model, i, joint)
        if share == 0 or int(model.actuator_gaintype[i]) not in _LINEAR:
            continue
        gear = abs(float(model.actuator_gear[i, 0])) * share
        gain = abs(float(model.actuator_gainprm[i, 0]))
        limited = bool(model.actuator_ctrllimited[i])
        control = float(np.abs(model.actuator_ctrlrange[i]).max()) if limited else 1.0
        force = gain * control
        if model.actuator_forcelimited[i]:
            force = min(force, float(np.abs(model.actuator_forcerange[i]).max()))
        force *= gear
        if model.jnt_actfrclimited[joint]:
            force = min(force, float(np.abs(model.jnt_actfrcrange[joint]).max()))
        affine = int(model.actuator_biastype[i]) == int(mujoco.mjtBias.mjBIAS_AFFINE)
        kp, kv = -model.actuator_biasprm[i, 1:3] * gear**2 if affine else (0.0, 0.0)
        kv += drag[i] * gear**2  # which is in the bias of a DC motor, too, and not in its sum
        yield _Drive(i, gear, gain, float(kp), float(kv), control, force)


_LINEAR = (int(mujoco.mjtGain.mjGAIN_FIXED), int(mujoco.mjtGain.mjGAIN_AFFINE))


def _share(model: mujoco.MjModel, actuator: int, joint: int) -> float:
    """How far the transmission moves with the joint: 1 at it, the coefficient in a fixed tendon."""
    kind, target = int(model.actuator_trntype[actuator]), int(model.actuator_trnid[actuator, 0])
    if kind in _AT_JOINT:
        return float(target == joint)
    if kind != int(mujoco.mjtTrn.mjTRN_TENDON):
        return 0.0
    start = int(model.tendon_adr[target])
    wraps = range(start, start + int(model.tendon_num[target]))
    at_joint = int(mujoco.mjtWrap.mjWRAP_JOINT)
    return sum(
        abs(float(model.wrap_prm[w]))
        for w in wraps
        if model.wrap_type[w] == at_joint and model.wrap_objid[w] == joint
    )


def _of_model(model: mujoco.MjModel) -> list[_Finding]:
    """Return what is out of the ordinary of the whole model: gravity, contacts and timestep."""
    h, gravity = float(model.opt.timestep), float(np.linalg.norm(model.opt.gravity))
    found = [
        _Finding(
            gravity / _LARGE_GRAVITY, f"gravity is {gravity:g} m/s²: m/s² and kg are the units"
        ),
        _Finding(h / _LARGE_TIMESTEP, f"the timestep is {h:g} s: lower it"),
    ]
    for i in np.flatnonzero(model.geom_solref[:, 0] < 0):
        k, d = -model.geom_solref[i]
        text = f"{_called(model, 'geom', int(i))} has solref {-k:g} {-d:g}: soften its contacts"
        found.append(_Finding(max(k * h * h, d * h) / _STABLE, text))
    return [finding for finding in found if finding.severity > 1]
