"""An environment as others write them, and a family of it."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from metarl import Interval, Param
from metarl.adapters import GymnasiumFamily


class Base(gymnasium.Env):
    """x moves by a tenth of the action; the reward alone knows the goal."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)
    goal = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return np.array([self.x]), -abs(self.x - self.goal), False, False, {}


class Goal(Base):
    def set_task(self, task):
        self.goal = task["goal"]


def family(env: type, params=(Param("goal", Interval(-1, 1)),), **members) -> GymnasiumFamily:  # noqa: B008
    members = {"env": env, "horizon": 20, "params": params, **members}
    return type(env.__name__, (GymnasiumFamily,), members)()
