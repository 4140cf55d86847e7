"""Motors that obey late: by a constant of the task, or by a delay that varies in an episode.

Both are MuJoCo's own actuator delay: at every physics step a motor follows the newest command that
is at least that old, and the command at rest before the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend
from metarl.simulation.edits import shift
from metarl.tasks.distribution import Tasks
from metarl.tasks.events import claim, every
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Interval, Param

LATENCY = Param(
    "latency", Interval(0.0, 0.04), ood=(Interval(0.04, 0.06),), edit=shift("actuator_delay"),
    unit="s", doc="from a command to the motors' obeying it",
)  # fmt: skip
JITTER = Param(
    "latency_jitter", Interval(0.0, 0.02), ood=(Interval(0.02, 0.04),), unit="s",
    doc="how much later than that they may obey: U[0, jitter) is added, drawn anew now and again",
)  # fmt: skip
LONGEST_LATENCY = 0.1
"""Seconds of commands that a world remembers: a task may ask for this much and no more."""
REDRAWN = 0.2
"""Mean time for which a varying delay lasts, s; each is 0.5 to 1.5 times that."""


class Latency(TaskFamily):
    """Motors that obey late."""

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Give every motor a memory of its commands; the nominal delay stays as it was."""
        for actuator in spec.actuators:
            longest = actuator.delay + LONGEST_LATENCY
            samples = math.ceil(longest / spec.option.timestep) + 2
            actuator.nsample = max(actuator.nsample, samples)
        return super().build(spec)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuse a latency that the motors' memory cannot hold."""
        super().check_tasks(tasks)
        for value in self.latest(tasks):
            if not 0.0 <= value <= LONGEST_LATENCY:
                raise UserError(
                    f"family '{self.name}': latency must be from 0 to {LONGEST_LATENCY} s, "
                    f"not {value:g}"
                )

    def latest(self, tasks: Tasks) -> np.ndarray:
        """Return (M,) the longest delay of each task, s."""
        return tasks.column("latency")


class VaryingLatency(Latency):
    """Motors that obey late, by a delay that is drawn anew from time to time."""

    def __init__(self) -> None:
        """Make room for the draw, and plan the next."""
        super().__init__()
        self._own_delay = torch.from_numpy(self.compiled.actuator_delay.copy())
        when = every(REDRAWN, jitter=0.5)
        claim(self, "+varying-latency", {"delay": (1,)}, {"delay": when})

    def latest(self, tasks: Tasks) -> np.ndarray:
        """Return (M,) the longest delay of each task, s."""
        jitter = tasks.column("latency_jitter")
        if (jitter < 0).any():
            raise UserError(f"family '{self.name}': latency_jitter must not be negative")
        return tasks.column("latency") + jitter

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Begin as the family does, and draw the first delay."""
        super().initial_state(sim, ids, rng)
        sim.memory["delay"][ids] = rng.uniform(0.0, 1.0, 1)

    def event(
        self, name: str, sim: Backend, ids: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Draw another delay, if it is time for one."""
        if name == "delay":
            sim.memory["delay"][ids] = rng.uniform(0.0, 1.0, 1)
        else:
            super().event(name, sim, ids, task, rng)

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Let the motors obey as late as was drawn."""
        super().act(sim, action, task)
        varied = task["latency"] + task["latency_jitter"] * sim.memory["delay"][:, 0]
        sim.vary("actuator_delay", sim.constant(self._own_delay) + varied[:, None])
