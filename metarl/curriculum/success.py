"""Success-driven difficulty, as legged robots learn to walk on terrain (Rudin et al. 2022).

Each of the n tasks of an iteration has a level of its own. A return above `success` lifts it, one
below `failure` lowers it, and whoever passes the last level goes on at a random one, so that easy
tasks are not forgotten. The level is the place of one parameter in its range; others are uniform.
"""

from __future__ import annotations

import math

import numpy as np

from metarl.base.errors import UserError
from metarl.curriculum.unit_sampler import UnitSampler
from metarl.tasks.distribution import TaskDistribution, Tasks

LEVELS = 10


class SuccessDriven(UnitSampler):
    """Harder tasks where the last ones went well."""

    arrays = ("levels",)

    def __init__(
        self,
        distribution: TaskDistribution,
        n: int,
        *,
        param: str = "difficulty",
        success: float | None = None,
        failure: float | None = None,
    ) -> None:
        """Begin at the lowest level.

        Args:
            distribution: of the family.
            n: tasks of an iteration.
            param: the column that rises, from the low end of its range to the high one.
            success: the return above which a task becomes harder.
            failure: the return below which it becomes easier; None: half of `success` if that is
                positive, else twice.

        Raises:
            UserError: there is no such column, or no return is given.
        """
        super().__init__(distribution, n)
        self.column = distribution.index(param)
        if success is None or not math.isfinite(success):
            raise UserError("--curriculum success needs --curriculum-success RETURN")
        self.success = success
        self.failure = success * (0.5 if success > 0 else 2.0) if failure is None else failure
        if not self.failure <= self.success:
            raise UserError(
                f"--curriculum-failure {self.failure:g} must be at most --curriculum-success "
                f"{success:g}"
            )
        self.levels = np.zeros(n, np.int64)

    def points(self, iteration: int, rng: np.random.Generator) -> np.ndarray:
        """Return uniform points, but for the column that has levels."""
        points = rng.random((self.n, self.size))
        points[:, self.column] = (self.levels + points[:, self.column]) / LEVELS
        return points

    def learn(
        self,
        iteration: int,
        rows: np.ndarray,
        points: np.ndarray,
        returns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Lift and lower the levels."""
        moved = (returns > self.success).astype(np.int64) - (returns < self.failure)
        self.levels = self.levels.copy()
        self.levels[rows] = np.maximum(self.levels[rows] + moved, 0)
        passed = self.levels >= LEVELS
        self.levels[passed] = rng.integers(0, LEVELS, int(passed.sum()))

    def load_state(self, state: dict) -> None:
        """Take over saved levels. Raises UserError if they are not n levels."""
        super().load_state(state)
        if len(self.levels) != self.n or not ((self.levels >= 0) & (self.levels < LEVELS)).all():
            raise UserError("the curriculum's saved 'levels' is malformed")

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return the mean level, too, from 0."""
        return {**super().metrics(tasks), "curriculum/level": float(self.levels.mean())}
