"""What the tests of the gymnasium and SB3 views share."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.utils import seeding

from metarl import find_family
from metarl.base.keys import Key

PointGoal = type(find_family("point-goal"))


class Fragile(PointGoal):
    """A point that is lost if it goes beyond 2 cm."""

    name = "fragile"

    def terminated(self, sim):
        return sim.qpos.abs().amax(1) > 0.02


def gym_key(seed: int) -> Key:
    """The key that a view seeds its worlds with: its generator's first number."""
    return Key("gymnasium", int(seeding.np_random(seed)[0].integers(2**62)))


def actions(steps: int, worlds: int, size: int) -> np.ndarray:
    noise = 2 * torch.rand(steps, worlds, size, generator=Key(5).torch()) - 1
    return noise.numpy()
