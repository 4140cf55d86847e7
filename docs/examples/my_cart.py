"""What can happen inside an episode: a goal that moves, gusts, and a motor that grows weak."""

import torch
from my_robot import MJCF

from metarl import Interval, Param, TaskFamily, every, scale


class MyCart(TaskFamily):
    """Follow a goal through gusts; after 1 s the motor is weaker."""

    model = MJCF
    frame_skip = 5
    horizon = 80
    memory = {"goal": (1,), "gust": (1,), "last": (1,)}  # noqa: RUF012
    events = {"goal": every(1.0, jitter=0.5), "gust": every("calm", jitter=0.5)}  # noqa: RUF012
    switch_at = 1.0
    params = (
        Param("strength", Interval(0.3, 0.8), edit=scale("actuator_gear"), doc="of the motor"),
        Param("calm", Interval(0.3, 1.0), unit="s", doc="mean time between gusts"),
    )

    def initial_state(self, sim, ids, rng):
        """Begin at rest near 0, with a goal."""
        super().initial_state(sim, ids, rng)
        sim.memory["goal"][ids] = rng.uniform(-1.0, 1.0, 1)

    def event(self, name, sim, ids, task, rng):
        """Move the goal, or let a gust begin."""
        if name == "goal":
            sim.memory["goal"][ids] = rng.uniform(-1.0, 1.0, 1)
        else:
            sim.memory["gust"][ids] = 5.0 * rng.normal(1)

    def act(self, sim, action, task):
        """Blow, in N."""
        sim.bind("qfrc_applied")[:] = sim.memory["gust"]

    def remember(self, sim, action, task, rng):
        """Let the gust die down, and note the action."""
        sim.memory["gust"] *= 0.8
        sim.memory["last"] = action

    def observe(self, sim, task):
        """Return (B, 3): place, velocity, and the goal."""
        return torch.cat((sim.qpos, sim.qvel, sim.memory["goal"]), 1)

    def reward(self, sim, before, action, task):
        """Return minus the distance to the goal (m), and minus how much the action changed."""
        far = (sim.qpos - sim.memory["goal"]).abs()
        return -(far + 0.1 * (action - sim.memory["last"]).square())[:, 0]
