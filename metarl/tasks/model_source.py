"""A family's model before it is compiled: where its file lies, and what is kept from the user."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco

from metarl.base.errors import UserError, worded
from metarl.simulation.model_faults import nonfinite, raised

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily


def beside(family: type[TaskFamily]) -> str | Path | mujoco.MjSpec:
    """Return a family's model; a relative path is looked up beside the family's file first."""
    model = family.model
    is_path = isinstance(model, Path) or (isinstance(model, str) and "<" not in model)
    if not is_path or not str(model):
        return model
    owner = next(cls for cls in family.__mro__ if "model" in vars(cls))
    try:
        beside = Path(inspect.getfile(owner)).parent / str(model)
    except (TypeError, OSError):  # written at a prompt
        return model
    return beside if beside.is_file() else model


def spec_of(model: str | Path | mujoco.MjSpec) -> mujoco.MjSpec:
    """Return a family's model as a specification of its own. Raises UserError if there is none."""
    if not isinstance(model, str | Path):
        return model.copy()
    if isinstance(model, str) and model.lstrip().startswith("<"):
        return mujoco.MjSpec.from_string(model)
    if not str(model):
        raise UserError("it has no model: set `model` to MJCF, a path or an MjSpec")
    if not Path(model).is_file():
        raise UserError(f"there is no model file {model}")
    return mujoco.MjSpec.from_file(str(model))


_NOT_THE_USERS = [Path(__file__).parents[1], Path(str(mujoco.__file__)).parent]
"""Where what reads and compiles models is."""
_SAID: set[str] = set()
"""What MuJoCo said of the models that this process compiled."""


@contextmanager
def model_warnings(family: str) -> Iterator[None]:
    """Keep deprecations of a model file from the user, who cannot act on them."""
    previous = mujoco.get_mju_user_warning()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mujoco.set_mju_user_warning(lambda _: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)
    for warning in caught:
        text = " ".join(str(warning.message).split())
        if "deprecated" not in text and text not in _SAID:
            _SAID.add(text)  # every variation of a family compiles its model again
            warnings.warn(f"family '{family}': {text}", stacklevel=4)


def not_built(family: str, error: Exception) -> UserError:
    """Return in a line what kept a family's model from being built.

    Args:
        family: its name.
        error: of MuJoCo's compiler, or of a `build` of the user's, whose line is named.
    """
    text, last = raised(error), traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, UserError) and text.startswith("family '"):
        return error
    file = Path(last.filename)
    if isinstance(error, UserError) or any(root in file.parents for root in _NOT_THE_USERS):
        return UserError(f"family '{family}': its MJCF does not compile: {text}")
    where = f"line {last.lineno} of {file.name}"
    return UserError(f"family '{family}': build() failed: {worded(error)} ({where})")


def check_compiled(family: TaskFamily, model: mujoco.MjModel) -> None:
    """Raise UserError for a model that no robot has: numbers missing, no time, or no actuators."""
    if fault := nonfinite(model):
        raise UserError(f"family '{family.name}': the model's {fault}: write numbers")
    if model.opt.timestep <= 0:
        raise UserError(
            f"family '{family.name}': the model's opt.timestep must be positive, in seconds, "
            f"not {model.opt.timestep:g}"
        )
    if model.nu == 0 and family.action_size is None:
        raise UserError(
            f"family '{family.name}': the model has no actuators, so no actions; `actuators = "
            f"pd(kp, kd, effort)` adds them"
        )
