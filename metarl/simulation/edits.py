"""Declarative edits of a MuJoCo model: what a task parameter does to the fields of one world.

    scale("body_mass", "torso")          nominal mass of the torso times the value
    shift("body_mass", "torso")          nominal mass plus the value (kg)
    assign("opt.gravity", index=2)       the value itself (m/s²)
    scale("geom_friction", each=True)    a number of its own for every component of every geom
    scale("body_mass", "*_calf")         those whose names match a pattern
    when(2, scale("actuator_gear", "hip_1"), 0.0)   the motor is dead in worlds whose value is 2

Edits always start from the compiled model's nominal values, so applying a task twice, or two
tasks in either order, gives the same world. `FIELDS` lists what they may change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import mujoco
import numpy as np

from metarl.base.errors import UserError, did_you_mean
from metarl.simulation.names import find, is_pattern

_OBJECTS = {
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT,
    "dof": mujoco.mjtObj.mjOBJ_JOINT,
    "qpos0": mujoco.mjtObj.mjOBJ_JOINT,
    "qpos": mujoco.mjtObj.mjOBJ_JOINT,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON,
    "pair": mujoco.mjtObj.mjOBJ_PAIR,
    "eq": mujoco.mjtObj.mjOBJ_EQUALITY,
    "sensor": mujoco.mjtObj.mjOBJ_SENSOR,
}

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mass": ("body_mass", "body_inertia", "body_ipos", "body_iquat", "body_gravcomp"),
        "place and size": (
            "body_pos", "body_quat", "geom_pos", "geom_quat", "geom_size", "site_pos",
            "site_quat", "site_size",
        ),
        "contact of geoms": (
            "geom_friction", "geom_solref", "geom_solimp", "geom_solmix", "geom_margin",
            "geom_gap", "geom_adhesion", "geom_surfacevel",
        ),
        "contact of named pairs": (
            "pair_friction", "pair_solref", "pair_solreffriction", "pair_solimp", "pair_margin",
            "pair_gap", "pair_adhesion",
        ),
        "joints": (
            "jnt_pos", "jnt_axis", "jnt_range", "jnt_margin", "jnt_stiffness",
            "jnt_stiffnesspoly", "jnt_actfrcrange", "jnt_solref", "jnt_solimp", "qpos0",
            "qpos_spring",
        ),
        "degrees of freedom": (
            "dof_damping", "dof_dampingpoly", "dof_armature", "dof_frictionloss", "dof_solref",
            "dof_solimp",
        ),
        "actuators": (
            "actuator_gear", "actuator_gainprm", "actuator_biasprm", "actuator_dynprm",
            "actuator_ctrlrange", "actuator_forcerange", "actuator_actrange", "actuator_delay",
            "actuator_cranklength", "actuator_damping", "actuator_dampingpoly",
            "actuator_armature",
        ),
        "tendons": (
            "tendon_stiffness", "tendon_stiffnesspoly", "tendon_damping", "tendon_dampingpoly",
            "tendon_frictionloss", "tendon_armature", "tendon_range", "tendon_margin",
            "tendon_lengthspring", "tendon_actfrcrange", "tendon_solref_lim",
            "tendon_solimp_lim", "tendon_solref_fri", "tendon_solimp_fri",
        ),
        "equality constraints": ("eq_data", "eq_solref", "eq_solimp"),
        "soft bodies": (
            "flex_friction", "flex_stiffness", "flex_damping", "flex_edgestiffness",
            "flex_edgedamping",
        ),
        "sensors": ("sensor_cutoff",),
        "the world": (
            "opt.gravity", "opt.wind", "opt.density", "opt.viscosity", "opt.magnetic",
            "opt.impratio", "geom_fluid",
        ),
        "the ground": ("geom_dataid",),
    }
)  # fmt: skip
"""The fields that an edit may change, by what they mean: all hold real numbers that the physics or
a sensor reads, but ``geom_dataid``, which chooses the height field of a geom. An edit of any other
field could break the model's layout, would be overwritten by MuJoCo, or would be seen by nobody."""
_NAMES = frozenset(name for group in FIELDS.values() for name in group)
DERIVED_FROM = frozenset(
    {
        *FIELDS["mass"], *FIELDS["place and size"], *FIELDS["soft bodies"],
        *FIELDS["equality constraints"], *FIELDS["the ground"], "jnt_pos", "jnt_axis", "qpos0",
        "qpos_spring", "dof_armature", "actuator_gear", "actuator_cranklength",
        "actuator_armature", "tendon_armature", "tendon_lengthspring",
    }
)  # fmt: skip
"""Those of which MuJoCo derives others when a task is set, such as inverse weights and lengths."""
_SWITCHES = {
    "jnt_range": "jnt_limited", "jnt_actfrcrange": "jnt_actfrclimited",
    "tendon_range": "tendon_limited", "tendon_actfrcrange": "tendon_actfrclimited",
    "actuator_ctrlrange": "actuator_ctrllimited", "actuator_forcerange": "actuator_forcelimited",
    "actuator_actrange": "actuator_actlimited", "actuator_delay": "actuator_history",
}  # fmt: skip
"""Fields that MuJoCo reads only in rows where another field is not 0."""

_DISABLED = {
    "actuator_": int(mujoco.mjtDisableBit.mjDSBL_ACTUATION),
    "opt.gravity": int(mujoco.mjtDisableBit.mjDSBL_GRAVITY),
    "geom_friction": int(mujoco.mjtDisableBit.mjDSBL_CONTACT),
    "pair_": int(mujoco.mjtDisableBit.mjDSBL_CONTACT),
    "eq_": int(mujoco.mjtDisableBit.mjDSBL_EQUALITY),
    "jnt_range": int(mujoco.mjtDisableBit.mjDSBL_LIMIT),
    "jnt_stiffness": int(mujoco.mjtDisableBit.mjDSBL_SPRING),
    "dof_damping": int(mujoco.mjtDisableBit.mjDSBL_DAMPER),
    "dof_frictionloss": int(mujoco.mjtDisableBit.mjDSBL_FRICTIONLOSS),
}
"""Beginnings of the names of fields that MuJoCo does not read where a flag is set."""


@dataclass(frozen=True)
class Edit:
    """One change of one model field, at some objects or at all of them."""

    kind: Literal["scale", "assign", "shift"]
    field: str
    """A field of MjModel such as ``geom_friction``, or of its options such as ``opt.gravity``."""
    names: tuple[str, ...] = ()
    """The bodies, geoms, joints or actuators to change, by name or by pattern, such as ``*_calf``;
    () is all of them (not the world body). An actuator without a name goes by the joint that it
    drives."""
    index: int | None = None
    """One component of a vector field (0: sliding friction); None is every component."""
    each: bool = False
    """Whether every component of every row takes a number of its own from a vector parameter."""
    case: float | None = None
    """Only worlds whose parameter has this value are edited, and with `to` in its place."""
    to: float = 0.0
    """The number that this edit applies where the parameter equals `case`."""
    where: Callable[[mujoco.MjModel], np.ndarray] | None = None
    """Which rows of the field may be changed, (rows,) bool of the model; None is every row."""
    about: int | None = None
    """Component of the same row, as it is by then: `scale` scales the difference from it."""

    def __post_init__(self) -> None:
        for word in (self.field, *self.names):
            if not isinstance(word, str):
                raise UserError(
                    f"{self.kind}({self.field!r}, …): {word!r:.80} is no name of an object; the "
                    f"range of numbers is the Param's"
                )
        if self.index is not None and type(self.index) is not int:
            raise UserError(f"{self.kind}('{self.field}'): index must be an int")

    def rows(self, model: mujoco.MjModel) -> np.ndarray | None:
        """Return the rows of the field that this edits, None for an option field.

        Raises:
            UserError: the field, a name or the component does not exist in `model`.
        """
        if self.field == "opt.timestep":
            raise UserError(
                "'opt.timestep' cannot differ between worlds: the family's dt, by which rewards "
                "divide, and its horizon count steps of one length; set it in the model"
            )
        if self.field not in _NAMES:
            hint = did_you_mean(self.field, _NAMES)
            raise UserError(
                f"'{self.field}' is not a model field that a task can change{hint}; those that it "
                "can are listed in metarl.simulation.edits.FIELDS and docs/extending.md"
            )
        nominal = nominal_value(model, self.field)
        self._check_index(nominal)
        if self.field == "geom_dataid" and self.kind != "assign":
            raise UserError(f"'{self.field}' holds whole numbers: assign it, do not {self.kind} it")
        if self.field.startswith("opt."):
            if self.names:
                raise UserError(
                    f"'{self.field}' is an option of the whole model: it takes no names"
                )
            return None
        rows = self._named_rows(model, len(nominal))
        return rows if self.where is None else rows[self.where(model)[rows]]

    def _named_rows(self, model: mujoco.MjModel, count: int) -> np.ndarray:
        """The rows of the objects that are named, of `count` in all."""
        kind = self.field.split("_")[0]
        if not self.names:
            return np.arange(1 if kind == "body" else 0, count)
        if kind not in _OBJECTS:
            raise UserError(f"'{self.field}' belongs to no named object: edit it without names")
        rows = np.concatenate([self._rows_of(model, kind, name) for name in self.names])
        if len(set(rows.tolist())) < len(rows):
            raise UserError(f"'{self.field}' names an object twice: {', '.join(self.names)}")
        return rows

    def idle(self, model: mujoco.MjModel, edited: Collection[str] = ()) -> str:
        """Return why this edit can change nothing, or ''.

        Args:
            model: the nominal model.
            edited: fields that an earlier edit sets or shifts.
        """
        rows, nominal = self.rows(model), nominal_value(model, self.field)
        part = nominal if rows is None else nominal[rows]
        part = part if self.index is None else part[..., self.index]
        where = self.field + (f" of {', '.join(map(repr, self.names))}" if self.names else "")
        if not part.size and self.where and self.names:
            return f"there is no {where} to vary: it is 0, or nothing that the physics uses"
        if not part.size:
            return f"the model has no {self.field.split('_')[0]} to edit {self.field} of"
        if self.about is not None:
            part = part - nominal[rows][..., self.about]
        if self.kind == "scale" and not part.any() and self.field not in edited:
            return f"the nominal {where} is 0, and 0 scaled is 0: use shift or assign"
        for start, flag in _DISABLED.items():
            if self.field.startswith(start) and model.opt.disableflags & flag:
                return f"the physics ignores {where}: a flag of the model's options disables it"
        switch = _SWITCHES.get(self.field)
        if switch and not getattr(model, switch)[rows].reshape(len(part), -1)[:, 0].any():
            return f"the physics ignores {where} where {switch} is 0: set it in the model" + (
                ", or use +latency" if self.field == "actuator_delay" else ""
            )
        return ""

    def meets(self, other: Edit) -> bool:
        """Return whether two edits may change the same numbers, as far as names can tell."""
        places = {self.index, other.index}
        if self.field != other.field or not (None in places or len(places) < 2):
            return False
        patterns = any(map(is_pattern, (*self.names, *other.names)))
        apart = self.names and other.names and not set(self.names) & set(other.names)
        return patterns or not apart

    def count(self, model: mujoco.MjModel) -> int:
        """Return how many numbers this takes at most: the size of a Param with size="model"."""
        rows = self.rows(model)
        if self.case is not None:
            return 1
        if self.each:
            nominal = nominal_value(model, self.field)
            return nominal.size if rows is None else nominal[rows].size
        return 1 if rows is None else len(rows)

    def apply(self, values: np.ndarray, rows: np.ndarray | None, value: np.ndarray) -> None:
        """Change `values` in place.

        Args:
            values: (B, ...) the field in every world, nominal or as an earlier edit left it.
            rows: what `rows` returned.
            value: (B, n) the parameter, with n = 1, or one number a row or, if `each`, an element.
        """
        if self.case is not None:
            chosen = value[:, 0] == self.case
            part, constant = values[chosen], np.full((int(chosen.sum()), 1), self.to)
            replace(self, case=None).apply(part, rows, constant)
            values[chosen] = part
            return
        target = values[:, rows] if rows is not None else values
        if self.each and value.shape[1] > 1:
            value = value.reshape(target.shape)
        else:
            value = value.reshape(*value.shape, *(1,) * (target.ndim - 2))
        if rows is None and target.ndim == 1:
            value = value[:, 0]
        part = target if self.index is None else target[..., self.index : self.index + 1]
        if self.kind == "scale" and self.about is not None:
            origin = target[..., self.about : self.about + 1]
            part[...] = origin + (part - origin) * value
        elif self.kind == "scale":
            part *= value
        elif self.kind == "shift":
            part += value
        else:
            part[...] = value
        if rows is not None:
            values[:, rows] = target

    def _check_index(self, nominal: np.ndarray) -> None:
        if self.index is None:
            return
        if self.each:
            raise UserError(f"'{self.field}': each=True takes every component, so no index")
        vector = nominal.ndim > (0 if self.field.startswith("opt.") else 1)
        components = nominal.shape[-1] if vector else 0
        if not 0 <= self.index < components:
            raise UserError(f"'{self.field}' has {components} components, so no index {self.index}")

    def _rows_of(self, model: mujoco.MjModel, kind: str, name: str) -> np.ndarray:
        objects = _OBJECTS[kind]
        found = [mujoco.mj_name2id(model, objects, name)]
        if found[0] < 0:
            found = find(model, objects, name)
        if kind == "dof":
            return np.flatnonzero(np.isin(model.dof_jntid, found))
        if kind.startswith("qpos"):
            return np.concatenate([joint_positions(model, joint) for joint in found])
        return np.array(found)


NEVER_NEGATIVE = frozenset(
    {
        "body_mass", "body_inertia", "geom_friction", "geom_size", "pair_friction",
        "dof_armature", "dof_damping", "dof_frictionloss", "actuator_armature",
        "actuator_damping", "actuator_delay", "tendon_armature", "tendon_damping",
        "tendon_frictionloss", "opt.density", "opt.viscosity",
    }
)  # fmt: skip
"""Fields of which a negative number is no physics: MuJoCo would take it and diverge."""


def scale(field: str, *names: str, index: int | None = None, each: bool = False) -> Edit:
    """Multiply the nominal value of a field by the parameter."""
    return Edit("scale", field, names, index, each)


def shift(field: str, *names: str, index: int | None = None, each: bool = False) -> Edit:
    """Add the parameter to the nominal value of a field."""
    return Edit("shift", field, names, index, each)


def assign(field: str, *names: str, index: int | None = None, each: bool = False) -> Edit:
    """Set a field to the parameter."""
    return Edit("assign", field, names, index, each)


def check_varied(model: mujoco.MjModel, field: str, shape: Sequence[int], worlds: int) -> None:
    """Raise UserError for a field that cannot change within an episode, or values of a wrong shape.

    Args:
        model: the nominal model.
        field: what `Backend.vary` was asked for.
        shape: of the values that it was given.
        worlds: B.
    """
    if idle := Edit("assign", field).idle(model):
        raise UserError(f"vary('{field}', …): {idle}")
    if field in DERIVED_FROM:
        raise UserError(
            f"vary('{field}', …): MuJoCo derives other fields from it, which would stay as they "
            f"were: only a parameter's edit can change it"
        )
    wanted = (worlds, *np.shape(nominal_value(model, field)))
    if tuple(shape) != wanted:
        raise UserError(f"vary('{field}', …): the values must be {wanted}, not {tuple(shape)}")


def when(value: float, edit: Edit, to: float) -> Edit:
    """Apply `edit` with the number `to` in the worlds whose parameter equals `value`, else nothing.

    So a discrete parameter selects objects: a tuple of these, one or more for each of its values.
    """
    try:
        case, number = float(value), float(to)
    except (TypeError, ValueError):
        case = number = math.nan
    if not (isinstance(edit, Edit) and math.isfinite(case + number)):
        raise UserError(f"when({value!r:.40}, {edit!r:.80}, {to!r:.40}): give finite numbers, and "
                        "between them scale(…), shift(…) or assign(…)")  # fmt: skip
    return replace(edit, case=case, to=number)


def nominal_value(model: mujoco.MjModel, field: str) -> np.ndarray:
    """Return the value of a model or option field in the compiled model."""
    owner = model.opt if field.startswith("opt.") else model
    return np.asarray(getattr(owner, field.removeprefix("opt.")))


def joint_positions(model: mujoco.MjModel, joint: int) -> np.ndarray:
    """Return the places of a joint in qpos: 7 of a free joint, 4 of a ball joint, else 1."""
    starts = [*model.jnt_qposadr, model.nq]
    return np.arange(starts[joint], starts[joint + 1])
