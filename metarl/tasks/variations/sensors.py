"""What any robot's sensors can be: off by a constant, noisy, or remembered.

Mixins, which come before the robot's class; the observation that they change is the family's, after
the variations whose names come before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, user_code
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend
from metarl.simulation.simulator import Simulator
from metarl.tasks.events import claim, give_memory
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Interval, Param


class SensorBias(TaskFamily):
    """Sensors that are off by a constant, which the learner is not told."""

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O) what the family observes, plus the bias in units of `observation_scale`."""
        obs = super().observe(sim, task)
        return obs + task["sensor_bias"].reshape(obs.shape) * _scale(self, sim, obs)


class Noise(TaskFamily):
    """Sensors with white noise, drawn anew at each step and by world."""

    def __init__(self) -> None:
        """Make room for the noise of one observation."""
        super().__init__()
        claim(self, "+noise", {"noise": (observed_size(self, super().observe),)})

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Begin as the family does, and draw the noise of the first observation."""
        super().initial_state(sim, ids, rng)
        sim.memory["noise"][ids] = rng.normal(*self.memory["noise"])

    def remember(
        self, sim: Backend, action: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Draw the noise of the next observation."""
        super().remember(sim, action, task, rng)
        sim.memory["noise"] = rng.normal(*self.memory["noise"])

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O) what the family observes, with noise in units of `observation_scale`."""
        obs = super().observe(sim, task)
        return obs + sim.memory["noise"] * task["noise"][:, None] * _scale(self, sim, obs)


class History(TaskFamily):
    """A robot that observes what it has observed and done lately, too."""

    def __init__(self) -> None:
        """Make room for `history_length` rows of an observation and the action after it."""
        super().__init__()
        steps = self.history_length
        if type(steps) is not int or not 1 <= steps <= 1000:
            raise UserError(
                f"family '{self.name}': history_length must be from 1 to 1000, not {steps!r:.40}"
            )
        seen = observed_size(self, super().observe)
        width = seen + self.command_map.size
        claim(self, "+history", {"history": (steps, width), "seen": (seen,)})

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Note the observation that the agent acted on, and the action: (B, A), clipped."""
        history, seen = sim.memory["history"], sim.memory["seen"]
        if self.history_length > _FEW:
            history[:, :-1] = history[:, 1:].clone()
        else:  # half of the copying, by more calls
            for row in range(self.history_length - 1):
                history[:, row] = history[:, row + 1]
        history[:, -1, : seen.shape[1]], history[:, -1, seen.shape[1] :] = seen, action
        super().act(sim, action, task)

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O + N (O + A)): what the family observes, then the rows, the oldest first."""
        seen = super().observe(sim, task)
        sim.memory["seen"] = seen
        return torch.cat((seen, sim.memory["history"].flatten(1)), 1)


_FEW = 16
"""Rows of a history that are moved on one by one."""
NOISE = Param(
    "noise", Interval(0.0, 0.1), ood=(Interval(0.1, 0.2),), nominal=0.0,
    doc="standard deviation of each sensor, in units of its typical scale",
)  # fmt: skip


def sensor_bias(family: TaskFamily) -> tuple[Param, ...]:
    """Return one draw for each element of the family's observation."""
    return (
        Param("sensor_bias", Interval(-0.1, 0.1), ood=(Interval(-0.2, -0.1), Interval(0.1, 0.2)),
              size=observed_size(family, family.observe),
              doc="constant error of each sensor, in units of its typical scale"),
    )  # fmt: skip


def observed_size(family: TaskFamily, observe: Callable[..., Tensor]) -> int:
    """Return O, how many numbers a method observes of a family's robot."""
    sim, distribution = Simulator(family.compile(), 1, 1), family.distribution
    give_memory(family, sim)
    task = distribution.tensors(distribution.nominal().values, sim.device, sim.dtype)
    with user_code(f"family '{family.name}': observe()", family):
        return observe(sim, task).shape[1]


def _scale(family: TaskFamily, sim: Backend, obs: Tensor) -> Tensor:
    """The typical size of an observation (B, O), or of each of its numbers."""
    sizes = np.asarray(family.observation_scale, np.float64)
    scale = sim.constant(family.observation_scale).to(obs.dtype)
    if scale.ndim and scale.shape != obs.shape[1:]:
        raise UserError(
            f"family '{family.name}': observation_scale has {len(scale)} numbers, and the "
            f"observation {obs.shape[1]}"
        )
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise UserError(f"family '{family.name}': observation_scale must be positive numbers")
    return scale
