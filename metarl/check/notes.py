"""What `metarl check` notes of a model that is sound, but may not be what its author meant."""

from __future__ import annotations

import mujoco
import numpy as np

from metarl.base.errors import UserError
from metarl.check.trajectory import random_actions, sample_tasks, worlds_of
from metarl.simulation.controls import holds_position
from metarl.simulation.model_faults import can_land
from metarl.simulation.names import actuator_names
from metarl.tasks.family import TaskFamily, acts, without_termination
from metarl.video.scene import find_root
from metarl.worlds.model_probe import idle_ends

_STEPS = 200
"""Steps in which actions must move something, and each term of the reward change."""
_LISTED = 4
"""Actuators that a note names; the others are counted."""


def notes(family: TaskFamily) -> list[str]:
    """Return the notes on a family, each one line: on its ground, actuators, terms and ranges."""
    if not family.has_model:
        return []
    model = family.compile()
    on_controls = _on_controls(model) if family.actions is None else []
    return [
        *_on_the_ground(family, model), *on_controls, *_on_actions(family, model),
        *_on_terms(family), *_on_parameters(family),
    ]  # fmt: skip


def _on_the_ground(family: TaskFamily, model: mujoco.MjModel) -> list[str]:
    """Of a robot that can rise and fall: does it fall, and onto something?"""
    free = (model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE)).any()
    if not (free or find_root(model).z):
        return []
    found, off = [], model.opt.disableflags
    edited = {edit.field for param in family.params for edit in param.edits}
    weightless = not model.opt.gravity.any() or off & int(mujoco.mjtDisableBit.mjDSBL_GRAVITY)
    if weightless and "opt.gravity" not in edited:
        found.append("the robot floats: the model has no gravity")
    if off & int(mujoco.mjtDisableBit.mjDSBL_CONTACT) or not can_land(model):
        found.append("the robot has no ground: nothing that is fixed to the world collides with it")
    return found


def _on_controls(model: mujoco.MjModel) -> list[str]:
    """Of actuators without a control range: what actions of -1 and 1 stand for."""
    unlimited, servo = model.actuator_ctrllimited == 0, holds_position(model)
    found = []
    for which, ends in (
        (unlimited & ~servo, "controls of -1 and 1"),
        (unlimited & servo, "the ends of the joint's range"),
    ):
        if which.any():
            named = _listed(model, which)
            found.append(f"no ctrlrange for actuator {named}: actions of -1 and 1 give {ends}")
    return found


def _on_parameters(family: TaskFamily) -> list[str]:
    """Of ranges of which a part is one and the same task."""
    try:
        return idle_ends(family, family.probe_steps) if family.probe_steps else []
    except UserError:  # a check has said so
        return []


def _on_actions(family: TaskFamily, model: mujoco.MjModel) -> list[str]:
    """Of a robot that its actuators do not move, as where they are disabled or have no gear."""
    if acts(family):  # it may well move something else
        return []
    what = family.command_map
    low, high = what.rest - what.scale, what.rest + what.scale
    data = [mujoco.MjData(model) for _ in range(2)]
    for one, control in zip(data, (low, high), strict=True):
        one.ctrl[:] = control
    for _ in range(min(_STEPS, family.horizon * family.frame_skip)):
        for one in data:
            mujoco.mj_step(model, one)
        if not np.array_equal(data[0].qvel, data[1].qvel):
            return []
    return [
        "actions move nothing: the least and the greatest control of every actuator do the same"
    ]


def _on_terms(family: TaskFamily) -> list[str]:
    """Of the terms of a reward that nothing changes, such as one whose weight is 0."""
    if not family.probe_steps:  # it says that random actions meet no difference
        return []
    seen: dict[str, set[float]] = {}
    try:
        worlds = worlds_of(without_termination(family), sample_tasks(family))
        worlds.reset()
        for action in random_actions(worlds, min(_STEPS, family.horizon)):
            valid = ~worlds.step(action).diverged
            for name, term in worlds.reward_terms.items():
                seen.setdefault(name, set()).update(term[valid].tolist())
            if not seen or all(len(values) > 1 for values in seen.values()):
                break
    except UserError:  # a check has said so
        return []
    return [
        f"term '{name}' of the reward is {values.pop():g} throughout, times its weight"
        for name, values in seen.items()
        if len(values) == 1
    ]


def _listed(model: mujoco.MjModel, which: np.ndarray) -> str:
    names = [repr(name) if name else str(i) for i, name in enumerate(actuator_names(model))]
    chosen = [names[i] for i in np.flatnonzero(which)]
    more = f" and {len(chosen) - _LISTED} more" if len(chosen) > _LISTED else ""
    return ", ".join(chosen[:_LISTED]) + more
