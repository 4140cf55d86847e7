"""The specification of `actions` that the worlds are held to: one world, one actuator at a time.

It reads a family's declaration in its own way, and shares no arithmetic with
`metarl.simulation.actions`. Slow, and meant to be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import mujoco
import numpy as np

from metarl.simulation.controls import control_range
from metarl.tasks.family import TaskFamily


class PlainControls:
    """What the actuators of one world are told, from the beginning of an episode."""

    def __init__(self, family: TaskFamily) -> None:
        """Read what the family declares."""
        self.model, self.declared = family.compiled_apart, family.actions
        self.home = family.home_state.qpos if family.home else None
        self.dt = self.model.opt.timestep * family.frame_skip
        self.range = control_range(self.model).tolist()
        self.rest = [self._rest(i) for i in range(self.model.nu)]
        self.restart()

    def restart(self) -> None:
        """Begin an episode: at rest, each filter too."""
        cutoffs = self.declared.cutoffs if self.declared else ()
        self.last = list(self.rest)
        self.filtered = [[rest for _ in cutoffs] for rest in self.rest]

    def step(self, action: np.ndarray) -> np.ndarray:
        """Return (A,) the controls of an environment step for an action (A,) in [-1, 1]."""
        return np.array([self._control(i, float(action[i])) for i in range(self.model.nu)])

    def _control(self, i: int, action: float) -> float:
        low, high = self.range[i]
        declared = self.declared
        if declared is None or declared.kind == "range":
            target = low + (action + 1.0) * (high - low) / 2.0
        else:
            start = self.last[i] if declared.kind == "increments" else self.rest[i]
            target = start + action * self._number(declared.scale, i)
            if self._limited(i):
                target = min(max(target, low), high)
            self.last[i] = target
        for k, cutoff in enumerate(declared.cutoffs if declared else ()):
            kept = math.exp(-2.0 * math.pi * cutoff * self.dt)
            self.filtered[i][k] = kept * self.filtered[i][k] + (1.0 - kept) * target
            target = self.filtered[i][k]
        return target

    def _rest(self, i: int) -> float:
        """The command of action 0 at the beginning."""
        low, high = self.range[i]
        declared = self.declared
        if declared is None or declared.kind == "range":
            return (low + high) / 2.0
        if not isinstance(declared.around, str):
            return self._number(declared.around, i)
        servo = self.model.actuator_biasprm[i, 1] != 0
        return self._at_pose(declared.around, i) if servo else (low + high) / 2.0

    def _at_pose(self, pose: str, i: int) -> float:
        """Where an actuator is at the family's home, in that keyframe, or as compiled."""
        data = mujoco.MjData(self.model)
        for k in range(self.model.nkey):
            if self.model.key(k).name == pose:
                data.qpos[:] = self.model.key_qpos[k]
        if pose == "home" and self.home is not None:
            data.qpos[:] = self.home
        mujoco.mj_forward(self.model, data)
        return float(data.actuator_length[i])

    def _limited(self, i: int) -> bool:
        """Whether the actuator's control, or else the joint that it holds, has limits."""
        model = self.model
        if model.actuator_ctrllimited[i]:
            return True
        return self._on_joint(i) and bool(model.jnt_limited[model.actuator_trnid[i, 0]])

    def _number(self, value: Any, i: int) -> float:
        """An actuator's own number of what is declared for all."""
        if isinstance(value, Mapping):
            name = self.model.actuator(i).name
            if not name and self._on_joint(i):
                name = self.model.joint(int(self.model.actuator_trnid[i, 0])).name
            name = name or str(i)
            return [float(v) for pattern, v in value.items() if fnmatchcase(name, pattern)][-1]
        return float(value if np.ndim(value) == 0 else value[i])

    def _on_joint(self, i: int) -> bool:
        kinds = mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT
        return self.model.actuator_trntype[i] in [int(kind) for kind in kinds]
