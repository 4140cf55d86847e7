"""A toy that tells in seconds whether a memory is learned to be used."""

from collections.abc import Mapping

from torch import Tensor

from envs.point import PointGoal
from metarl.simulation.backend import Backend, State


class Side(PointGoal):
    """Push forward or back, whichever pays: 2 a - a² or -2 a - a² for the first action a."""

    name = "side"
    horizon = 8

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,), at most 1; what is best for both sides together is 0."""
        return 2 * action[:, 0] * task["goal_x"].sign() - action[:, 0].square()
