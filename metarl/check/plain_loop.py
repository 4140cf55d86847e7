"""The check that worlds equal a plain loop: in its controls, its physics and its sum of terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import CheckError
from metarl.check.plain_actions import PlainControls
from metarl.check.plain_physics import PlainWorld, edited_model, first_difference
from metarl.check.trajectory import (
    KEY,
    STATELESS,
    STEPS,
    SWITCH_STEP,
    demand,
    equal_bits,
    random_actions,
    sample_tasks,
    worlds_of,
)
from metarl.simulation.backend import Backend
from metarl.tasks.events import never_nominal
from metarl.tasks.family import TaskFamily, replace_attributes, without_termination


class Watched:
    """A family whose worlds say what drives a step, and what it is paid for."""

    def __init__(self, family: TaskFamily) -> None:
        """Put this object's methods in the place of the family's."""
        self.inner = family
        self.family = replace_attributes(family, act=self.act, reward=self.reward)
        self.told = np.zeros((0, 0))
        """(B, A) the controls of the last step, as `actions` gave them."""
        self.inputs: list[np.ndarray] = []
        """The state of each world after `act`, when the physics begins."""
        self.varied: dict[str, np.ndarray] = {}
        """(B, …) the model's fields that `act` gave other values."""
        self.paid: list[float] = []
        """The sum of each world's terms; [] where the reward has none."""

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Note the controls, let the family act, and note the state."""
        self.told = sim.ctrl.numpy().copy()
        self.inner.act(sim, action, task)
        self.inputs = [sim.world_state(i).copy() for i in range(sim.num_worlds)]
        self.varied = {name: sim.model_field(name).numpy().copy() for name in sim.varied}

    def reward(self, *args: Any) -> Tensor | Mapping[str, Tensor]:
        """Add the family's terms up, world by world."""
        value = self.inner.reward(*args)
        self.paid = []
        if isinstance(value, Tensor):
            return value
        weights = [float(self.inner.reward_weights.get(name, 1)) for name in value]
        for i in range(args[0].num_worlds):
            first, *rest = (w * float(t[i]) for w, t in zip(weights, value.values(), strict=True))
            for part in rest:
                first += part
            self.paid.append(first)
        return value


def check_plain_loop(family: TaskFamily) -> None:
    """The worlds equal a plain loop of mj_step, to the bit."""
    cut = replace_attributes(without_termination(family), horizon=STEPS // 3)
    tasks, watched = sample_tasks(family), Watched(cut)
    worlds = worlds_of(watched.family, tasks)
    worlds.seed(KEY)
    worlds.reset()
    sim, loops = worlds.simulator, []
    begin, switches = tasks.values, family.switch_at is not None
    if switches:
        begin = np.where(never_nominal(family), begin, family.distribution.nominal().values)
    for i, row in enumerate(begin):
        loops.append((PlainControls(family), *map(PlainWorld, _models(family, sim, i, row))))
    age = [0] * len(loops)
    for t, action in enumerate([None, *random_actions(worlds, STEPS)]):
        got = None if action is None else worlds.step(action)
        for i, (controls, *pair) in enumerate(loops):
            if action is not None and family.action_size is None:
                _follow_controls(watched, controls, action[i], i, t)
            again = got is None or bool(got.diverged[i] | got.truncated[i])
            age[i] = 0 if again else age[i] + 1
            if again:  # the worlds restarted this one, so follow
                controls.restart()
            if got is not None and watched.paid and not got.diverged[i]:
                paid = float(got.reward[i])
                demand(
                    paid == watched.paid[i],
                    f"world {i} was paid {paid!r} at step {t}, and its terms add up to "
                    f"{watched.paid[i]!r}: let reward() name its terms in the same order each time",
                )
            for plain in pair:
                if again:
                    plain.start(sim.world_state(i))
                else:
                    for name, values in watched.varied.items():
                        getattr(plain.model, name)[:] = values[i]
                    plain.step(watched.inputs[i], family.frame_skip)
                equal = equal_bits(sim.qpos[i], torch.from_numpy(plain.data.qpos))
                equal &= equal_bits(sim.qvel[i], torch.from_numpy(plain.data.qvel))
                demand(equal, f"world {i} left a plain mj_step loop at step {t}: {STATELESS}")
            if switches and (again or age[i] == SWITCH_STEP):  # from the next step on
                now = _models(family, sim, i, (begin if again else tasks.values)[i])
                for plain, model in zip(pair, now, strict=True):
                    plain.model = model


def _models(
    family: TaskFamily, sim: Backend, i: int, row: np.ndarray
) -> tuple[mujoco.MjModel, mujoco.MjModel]:
    """Return the model of world i, and the same of a task (P,) made anew: they must be equal."""
    model, fresh = sim.world_model(i), edited_model(family, row)
    for name in sim.varied:  # by act(), in this episode or before
        getattr(fresh, name)[:] = getattr(model, name)
    field = first_difference(model, fresh)
    demand(
        not field,
        f"{field} of world {i} is not the nominal model's with the edits of its task: "
        "does the family change its compiled model?",
    )
    return model, fresh


def _follow_controls(
    watched: Watched, controls: PlainControls, action: Tensor, i: int, t: int
) -> None:
    """Hold the controls of world i at step t to those of the plain loop."""
    expected = controls.step(action.double().numpy())
    if not np.allclose(watched.told[i], expected, rtol=1e-10, atol=1e-12):
        raise CheckError(
            f"world {i} has controls {watched.told[i]} at step {t}, and those of `actions` are "
            f"{expected}: {STATELESS}"
        )
