"""What `metarl check` notes of a model that is sound, but may not be what its author meant."""

from __future__ import annotations

import mujoco
import numpy as np

from metarl.base.errors import UserError
from metarl.check.trajectory import random_actions, sample_tasks, worlds_of
from metarl.simulation.controls import holds_position
from metarl.simulation.home import out_of_range
from metarl.simulation.model_faults import can_land
from metarl.simulation.names import actuator_names
from metarl.tasks.family import TaskFamily, acts, replace_attributes, without_termination
from metarl.video.scene import find_root
from metarl.worlds.model_probe import idle_ends
from metarl.worlds.task_worlds import TaskWorlds

_STEPS = 200
"""Steps in which actions must move something, and each term of the reward change."""
_DEEP = 0.01
"""m, how deep geoms may begin in each other. A contact rests within a few mm; MuJoCo's default one
pushes so much out in about 0.02 s, at 0.5 m/s, so deeper ones throw a robot."""
_LISTED = 4
"""Actuators that a note names; the others are counted."""


def notes(family: TaskFamily) -> list[str]:
    """Return the notes on a family, a line each: on ground, start, actuators, terms and ranges."""
    if not family.has_model:
        return []
    model = family.compile()
    on_controls = _on_controls(model) if family.actions is None else []
    return [
        *_on_the_ground(family, model), *_on_the_start(family), *on_controls,
        *_on_actions(family, model), *_on_terms(family), *_on_parameters(family),
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


def _on_the_start(family: TaskFamily) -> list[str]:
    """Of where episodes of the nominal task begin: geoms within others, joints out of their ranges.

    The physics throws a robot out of either. Joints count at a `home`: other models begin as they
    are compiled, and gymnasium's ant so has its knees straight.
    """
    scales = ("reset_noise", "reset_speed_noise", "reset_base_noise")
    still = replace_attributes(family, **dict.fromkeys(scales, 0.0))
    try:
        sim = TaskWorlds(still, 1, 1).simulator
    except UserError:  # a check has said so
        return []
    model, state = sim.world_model(0), int(mujoco.mjtState.mjSTATE_INTEGRATION)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, sim.world_state(0), state)
    mujoco.mj_fwdPosition(model, data)
    fault = out_of_range(model, data.qpos) if family.home else ""
    found = [f"{fault}: see home"] if fault else []
    met = [one for one in data.contact if one.exclude == 0 and one.dist < -_DEEP]
    if met:
        deepest = min(met, key=lambda one: one.dist)
        pair = " and ".join(_geom(model, int(geom)) for geom in deepest.geom)
        found.append(f"{pair} begin {-100 * deepest.dist:.2g} cm inside each other: see home")
    return found


def _geom(model: mujoco.MjModel, geom: int) -> str:
    """A geom in words; one without a name, or of a flex, goes by what it is part of."""
    if geom < 0:
        return "a flex"
    name, body = model.geom(geom).name, model.body(int(model.geom_bodyid[geom])).name
    return f"geom '{name}'" if name else f"a geom of body '{body}'" if body else f"geom {geom}"


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
