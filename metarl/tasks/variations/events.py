"""What can happen to any robot within an episode: pushes, new commands, and a new task.

Speeds and times are by the robot: g is 9.81 m/s², L its longer side, T its episode.
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
from metarl.simulation.backend import Backend, State
from metarl.simulation.root import Root, find_base
from metarl.tasks.events import claim, every
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Interval, Param
from metarl.tasks.variations.terrain import robot_box

_LONGEST = 600
"""Environment steps of an episode in which what happens by the episode's length has happened."""


class Push(TaskFamily):
    """A robot that is pushed at random times: a force on one body through one environment step.

    A free base is pushed along the ground, one on slides along them. Of a robot whose base is
    fixed it is the robot's last body that is pushed, any way.
    """

    def __init__(self) -> None:
        """Find the body, and the ways in which it may be pushed."""
        super().__init__()
        base, model = find_base(self.compiled), self.compiled
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        slides = [j for j in base.joints if model.jnt_type[j] == int(mujoco.mjtJoint.mjJNT_SLIDE)]
        ways = {"free": np.eye(3)[:2], "planar": np.eye(3)[:1], "fixed": np.eye(3)}
        self._ways = ways.get(base.kind, data.xaxis[slides]).tolist()
        mine = model.body_rootid[model.jnt_bodyid] == model.body_rootid[base.body]
        self._pushed = base.body if base.kind != "fixed" else int(model.jnt_bodyid[mine].max())
        self._mass = float(model.body_subtreemass[self._pushed])
        when = every("push_interval", jitter=0.5)
        claim(self, "+push", {"push": (3,), "unpushed": (3,)}, {"push": when})

    def event(
        self, name: str, sim: Backend, ids: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Draw the force of the next step, if it is a push."""
        if name != "push":
            super().event(name, sim, ids, task, rng)
            return
        parts = rng.normal(len(self._ways)).unbind(1)
        force = [torch.zeros_like(parts[0]) for _ in range(3)]
        for part, way in zip(parts, self._ways, strict=True):
            force = [total + share * part for total, share in zip(force, way, strict=True)]
        length = (force[0] ** 2 + force[1] ** 2 + force[2] ** 2).sqrt()
        strength = self._mass / self.dt * task["push_speed"][ids] / length
        sim.memory["push"][ids] = torch.stack(force, 1) * strength[:, None]

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Add the push to the forces that the family sets."""
        super().act(sim, action, task)
        force = sim.bind("xfrc_applied")[:, self._pushed, :3]
        sim.memory["unpushed"] = force
        force += sim.memory["push"]

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor | Mapping[str, Tensor]:
        """End the push, and return the family's reward."""
        sim.bind("xfrc_applied")[:, self._pushed, :3] = sim.memory["unpushed"]
        sim.memory["push"] = torch.zeros_like(sim.memory["push"])
        return super().reward(sim, before, action, task)


def push_of(family: TaskFamily) -> tuple[Param, ...]:
    """Return how hard and how often the robot of a family is pushed."""
    if not family.compiled.njnt:
        raise UserError(f"family '{family.name}': +push: the model has no joint, so nothing moves")
    hard, (early, soon, late) = (
        _rounded(0.2 * _speed(family)),
        _times(family, 1 / 24, 1 / 12, 1 / 3),
    )
    return (
        Param("push_speed", Interval(0.0, hard), ood=(Interval(hard, 2 * hard),), unit="m/s",
              doc="what a push would change the speed of what it moves by, at nominal mass"),
        Param("push_interval", Interval(soon, late), ood=(Interval(early, soon),), unit="s",
              doc="mean time between pushes, each of them 0.5 to 1.5 times that"),
    )  # fmt: skip


class Command(TaskFamily):
    """A robot that is told a velocity, another one from time to time, and is paid to follow.

    The command is in the base's frame: forward and left (m/s), and turning left (rad/s); of a base
    in the plane of x and z, forward alone.
    """

    def __init__(self) -> None:
        """Find the base, and extend the observation's scale by the command's."""
        super().__init__()
        self._base, speed = Root(self.compiled), _speed(self)
        size = 1 if self._base.planar else 3
        self._turns = 1.0 / _length(self)
        self._widths = (speed / 8, speed / 8, speed * self._turns / 4)[:size]
        if not isinstance(self.observation_scale, int | float):
            self.observation_scale = (*self.observation_scale, *self._widths)
        when = every(*_times(self, 1 / 4), jitter=0.5)
        claim(self, "+command", {"command": (size,)}, {"command": when})

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Begin as the family does, and draw the first command, as shares of `command_speed`."""
        super().initial_state(sim, ids, rng)
        self._draw(sim, ids, rng)

    def event(
        self, name: str, sim: Backend, ids: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Draw another command, if it is time for one."""
        if name == "command":
            self._draw(sim, ids, rng)
        else:
            super().event(name, sim, ids, task, rng)

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O + 3), or (B, O + 1): what the family observes, and the command."""
        return torch.cat((super().observe(sim, task), self.command(sim, task)), 1)

    def command(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 3), or (B, 1), the command now."""
        return sim.memory["command"] * task["command_speed"][:, None]

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor | Mapping[str, Tensor]:
        """Add exp(−‖v − v*‖²/σ²) + ½ exp(−(ω − ω*)²/σ_ω²), the first alone of a planar base."""
        command, velocity = self.command(sim, task), self._base.linear_velocity(sim)
        error = (velocity[:, 0] - command[:, 0]).square()
        if not self._base.planar:
            error = error + (velocity[:, 1] - command[:, 1]).square()
        tracking = (-error / self._widths[0] ** 2).exp()
        if not self._base.planar:
            turning = self._base.angular_velocity(sim)[:, 2] - command[:, 2]
            tracking = tracking + 0.5 * (-((turning / self._widths[2]) ** 2)).exp()
        own = super().reward(sim, before, action, task)
        return own + tracking if isinstance(own, Tensor) else {**own, "command_tracking": tracking}

    def _draw(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        shares = ((-0.5, 1.0), (-0.3, 0.3), (-self._turns, self._turns))
        parts = [rng.uniform(low, high, 1) for low, high in shares[: len(self._widths)]]
        sim.memory["command"][ids] = torch.cat(parts, 1)


def command_of(family: TaskFamily) -> tuple[Param, ...]:
    """Return how fast a robot is told to go.

    Raises:
        UserError: its base is fixed, or the family has a command of its own.
    """
    if "command" in family.memory or any(param.name == "command" for param in family.params):
        raise UserError(f"family '{family.name}': +command: it has a command of its own")
    try:
        Root(family.compiled)
    except UserError as error:
        raise UserError(f"family '{family.name}': +command: {error}") from None
    slow, fast, faster = (_rounded(share * _speed(family)) for share in (0.1, 0.5, 0.75))
    return (
        Param("command_speed", Interval(slow, fast), ood=(Interval(fast, faster),), unit="m/s",
              doc="the fastest command: forward −0.5 to 1, left −0.3 to 0.3 of it, turns ±1 of it "
                  "by the robot's length"),
    )  # fmt: skip


class Switch(TaskFamily):
    """A robot that is nominal until its task begins, within the episode."""

    switch_at = "switch_at"


def switch_of(family: TaskFamily) -> tuple[Param, ...]:
    """Return when the task begins. Raises UserError if the family says so itself."""
    if family.switch_at is not None:
        raise UserError(f"family '{family.name}': +switch: it has a switch_at of its own")
    if not family.params:
        raise UserError(f"family '{family.name}': +switch: it has no parameters to switch to")
    early, late, latest = (
        _rounded(share * family.horizon * family.dt) for share in (0.2, 0.6, 0.8)
    )
    return (
        Param("switch_at", Interval(early, late), ood=(Interval(late, latest),), unit="s",
              doc="when the task begins; until then all is nominal"),
    )  # fmt: skip


def _length(family: TaskFamily) -> float:
    """L, the longer side of the robot, in m."""
    low, high = robot_box(family.compiled)
    return max(float((high - low).max()), 0.01)


def _speed(family: TaskFamily) -> float:
    """√(g L), m/s: what a robot of that length falls at, or runs at."""
    return math.sqrt(9.81 * _length(family))


def _times(family: TaskFamily, *shares: float) -> list[float]:
    """Shares of an episode, in s."""
    return [_rounded(share * min(family.horizon, _LONGEST) * family.dt) for share in shares]


def _rounded(value: float) -> float:
    """A value to three digits: splits are drawn from it, on every machine the same."""
    return float(f"{value:.3g}")
