"""A family's model before it is compiled: what is declared of it, and where its file lies."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from metarl.base.errors import UserError, worded
from metarl.simulation.furnish import PD, Contact
from metarl.simulation.model_faults import nonfinite, raised
from metarl.tasks.params import is_finite

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


def source_of(family: TaskFamily) -> mujoco.MjSpec:
    """Return the specification of a family's model, once what the family declares is checked."""
    check_attributes(family)
    return spec_of(beside(type(family)))


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


# --- the types of what a family declares --------------------------------------------------------

_NOISE = "a number of at least 0"
_PATTERNS = "a name or a pattern, or several in a tuple"


def check_attributes(family: TaskFamily) -> None:
    """Raise UserError, one line, for an attribute that is not what it has to be."""
    for name, fits, words in (
        ("name", isinstance(family.name, str), "text in kebab-case"),
        ("model", isinstance(family.model, str | Path | mujoco.MjSpec),
         "MJCF as a string, a path to an MJCF file, or an MjSpec"),
        ("home", isinstance(family.home, str) or _by_name(family.home),
         'the name of a keyframe, or a dictionary of joints, such as {"*_knee": -1.8}'),
        ("reset_noise", _is_scale(family.reset_noise), _NOISE),
        ("reset_speed_noise",
         family.reset_speed_noise is None or _is_scale(family.reset_speed_noise),
         f"{_NOISE}, or None"),
        ("reset_base_noise", _is_scale(family.reset_base_noise), _NOISE),
        ("floor", isinstance(family.floor, bool | np.bool_), "True or False"),
        ("contacts", _by_name(family.contacts),
         'a dictionary by name, such as {"feet": contact("*_foot")}'),
        ("observation_scale", _are_numbers(family.observation_scale),
         "positive numbers: one, or a tuple of one for each of the observation"),
        ("keep", _is_several(family.keep) and _all_text(family.keep),
         'a tuple of names of fields, such as ("subtree_com",)'),
    ):  # fmt: skip
        if not fits:
            _refuse(family, name, words, getattr(family, name))
    parts = family.actuators if isinstance(family.actuators, tuple | list) else (family.actuators,)
    for part in parts:
        if isinstance(part, PD) and not _is_patterns(part.joints):
            _refuse(family, "actuators: joints of pd(…)", _PATTERNS, part.joints)
    for name, touch in family.contacts.items():
        for each in (touch.first, touch.second) if isinstance(touch, Contact) else ():
            if each is not None and not _is_patterns(each):
                _refuse(family, f"contacts: what contact(…) takes for '{name}'", _PATTERNS, each)


def _refuse(family: TaskFamily, what: str, words: str, value: object) -> None:
    raise UserError(f"family '{family.name}': {what} must be {words}, not {value!r:.80}")


def _is_scale(value: Any) -> bool:
    """Whether noise can have such a scale."""
    return not isinstance(value, bool) and is_finite(value) and value >= 0


def _are_numbers(value: Any) -> bool:
    return is_finite(value) or (_is_several(value) and all(is_finite(one) for one in value))


def _is_several(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _by_name(value: object) -> bool:
    return isinstance(value, Mapping) and _all_text(value)


def _is_patterns(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple | list) and _all_text(value))


def _all_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
