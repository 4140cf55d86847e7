"""The specification that the worlds are held to: one MjModel, one MjData and mj_step in a loop.

It applies a task's edits in its own way, an element at a time to a model compiled apart, and
shares no code with `metarl.simulation`. Slow, and meant to be read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase

import mujoco
import numpy as np

from metarl.base.errors import CheckError
from metarl.simulation.edits import Edit
from metarl.simulation.model_faults import raised
from metarl.tasks.family import TaskFamily

_DOFS = {
    int(mujoco.mjtJoint.mjJNT_FREE): 6, int(mujoco.mjtJoint.mjJNT_BALL): 3,
    int(mujoco.mjtJoint.mjJNT_SLIDE): 1, int(mujoco.mjtJoint.mjJNT_HINGE): 1,
}  # fmt: skip
_POSITIONS = _DOFS | {
    int(mujoco.mjtJoint.mjJNT_FREE): 7, int(mujoco.mjtJoint.mjJNT_BALL): 4,
}  # fmt: skip


class PlainWorld:
    """One world, stepped by MuJoCo's own Python bindings."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Take the model of one world, its task's edits included."""
        self.model = model
        self.data = mujoco.MjData(model)

    def start(self, state: np.ndarray) -> None:
        """Begin at an mjSTATE_INTEGRATION vector."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)

    def step(self, inputs: np.ndarray, frame_skip: int) -> None:
        """Advance by one environment step.

        Args:
            inputs: an mjSTATE_INTEGRATION vector, of which what mjSTATE_USER stands for is taken:
                controls, applied forces, mocap poses, active equalities and user data.
            frame_skip: physics steps.
        """
        user = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_USER))
        mujoco.mj_extractState(
            self.model, inputs, mujoco.mjtState.mjSTATE_INTEGRATION,
            user, mujoco.mjtState.mjSTATE_USER,
        )  # fmt: skip
        mujoco.mj_setState(self.model, self.data, user, mujoco.mjtState.mjSTATE_USER)
        for _ in range(frame_skip):
            mujoco.mj_step(self.model, self.data)


def edited_model(family: TaskFamily, values: Sequence[float] | np.ndarray) -> mujoco.MjModel:
    """Return a model, compiled apart from the family's own, with the edits of one task.

    Args:
        family: whose model and parameters.
        values: (P,) the task.
    """
    nominal = family.compiled_apart
    model = copy.copy(nominal)
    column = 0
    for param in family.params:
        size = len(param.names)
        for edit in param.edits:
            for k, (row, component) in enumerate(_places(nominal, edit)):
                value = float(values[column + (k if size > 1 else 0)])
                if edit.case is None:
                    _edit_row(model, edit, row, component, value)
                elif value == edit.case:
                    _edit_row(model, edit, row, component, edit.to)
        column += size
    if any(param.edits for param in family.params):
        try:
            mujoco.mj_setConst(model, mujoco.MjData(model))
        except mujoco.FatalError as error:
            raise CheckError(f"MuJoCo refuses an edit: {raised(error, model)}") from error
    return model


def first_difference(one: mujoco.MjModel, two: mujoco.MjModel) -> str:
    """Return the name of a field in which two models differ in any bit, or ''."""
    for prefix, a, b in (("", one, two), ("opt.", one.opt, two.opt)):
        for name in dir(a):
            value = None if name.startswith("_") else getattr(a, name)
            if not isinstance(value, np.ndarray | int | float):
                continue
            if np.asarray(value).tobytes() != np.asarray(getattr(b, name)).tobytes():
                return prefix + name
    return ""


def _places(model: mujoco.MjModel, edit: Edit) -> list[tuple[int, int | None]]:
    """The rows, and components (None: all), that take one number each."""
    if not edit.each:
        return [(row, edit.index) for row in _rows(model, edit)]
    option = edit.field.startswith("opt.")
    whole = getattr(model.opt if option else model, edit.field.removeprefix("opt."))
    if np.ndim(whole) < (1 if option else 2):
        return [(row, None) for row in _rows(model, edit)]
    return [(row, k) for row in _rows(model, edit) for k in range(whole.shape[-1])]


def _rows(model: mujoco.MjModel, edit: Edit) -> list[int]:
    """The rows of the field that an edit may change; an option field has the one row 0."""
    if edit.field.startswith("opt."):
        return [0]
    rows = _named_rows(model, edit)
    return [row for row in rows if edit.where is None or edit.where(model)[row]]


def _named_rows(model: mujoco.MjModel, edit: Edit) -> list[int]:
    """The rows of the objects that an edit names."""
    kind = edit.field.split("_")[0]
    if not edit.names:
        return list(range(kind == "body", len(getattr(model, edit.field))))
    if kind == "actuator":
        return [_actuator(model, name) for name in _matched(model, kind, edit.names)]
    if kind not in ("dof", "qpos0", "qpos"):
        find = getattr(model, {"jnt": "joint"}.get(kind, kind))
        return [find(name).id for name in _matched(model, kind, edit.names)]
    joints = [model.joint(name) for name in _matched(model, "jnt", edit.names)]
    start, sizes = ("dofadr", _DOFS) if kind == "dof" else ("qposadr", _POSITIONS)
    places = [(int(getattr(j, start)[0]), sizes[int(j.type[0])]) for j in joints]
    return [first + k for first, size in places for k in range(size)]


def _matched(model: mujoco.MjModel, kind: str, patterns: Sequence[str]) -> list[str]:
    """The names that are meant: each as it is, or all that a pattern matches, in the model's order.

    An actuator may go by the name of the joint that it drives.
    """
    find = getattr(model, {"jnt": "joint"}.get(kind, kind))
    count = {"eq": model.neq, "jnt": model.njnt, "actuator": model.nu}.get(kind)
    count = getattr(model, f"n{kind}") if count is None else count
    names = [find(i).name for i in range(count)]
    if kind == "actuator":
        joints = [model.joint(int(model.actuator_trnid[i, 0])).name for i in range(count)]
        names = [name or joint for name, joint in zip(names, joints, strict=True)]
    chosen = []
    for pattern in patterns:
        chosen += [pattern] if pattern in names else [n for n in names if fnmatchcase(n, pattern)]
    return chosen


def _actuator(model: mujoco.MjModel, name: str) -> int:
    """The actuator of that name, or the unnamed one that drives the joint of that name."""
    for i in range(model.nu):
        driven = model.joint(int(model.actuator_trnid[i, 0])).name
        if name == (model.actuator(i).name or driven):
            return i
    raise KeyError(name)


def _edit_row(
    model: mujoco.MjModel, edit: Edit, row: int, component: int | None, value: float
) -> None:
    """Change one row of one field, an element at a time."""
    option = edit.field.startswith("opt.")
    owner, name = model.opt if option else model, edit.field.removeprefix("opt.")
    whole = getattr(owner, name)
    if np.ndim(whole) == 0:
        setattr(owner, name, _changed(edit, whole, value))
        return
    part = whole if option else whole[row : row + 1]
    origin = 0.0 if edit.about is None else float(part[0, edit.about])
    part = part if component is None else part[..., component : component + 1]
    for position in np.ndindex(part.shape):
        part[position] = _changed(edit, part[position], value, origin)


def _changed(edit: Edit, old: float, value: float, origin: float = 0.0) -> float:
    """The new value of one element, computed in float64."""
    if edit.kind == "assign":
        return value
    if edit.kind == "shift":
        return float(old) + value
    return origin + (float(old) - origin) * value if edit.about is not None else float(old) * value
