"""Prioritised level replay (Jiang et al. 2021): tasks met before, on which it has been better.

Half of the tasks are new and uniform, half come again from a memory of `LEVELS`, with probability
½ by rank of their regret (∝ 1 / rank) and ½ by how long they have not been met. Regret is the best
return that was seen on the task or on one of its `NEAR` neighbours, less its latest return: what an
optimal policy gets is not known, and the task alone would give a new one no regret. The learner
trains on new tasks, too, as in the first version of the method (not in its robust one).
"""

from __future__ import annotations

import numpy as np

from metarl.curriculum.unit_sampler import UnitSampler, keep_last
from metarl.tasks.distribution import TaskDistribution, Tasks

LEVELS, NEAR, REPLAY, STALE = 1000, 10, 0.5, 0.5


class LevelReplay(UnitSampler):
    """Old tasks again where their return has fallen behind."""

    arrays = ("levels",)

    def __init__(self, distribution: TaskDistribution, n: int) -> None:
        """Begin with no memory."""
        super().__init__(distribution, n)
        self.levels = np.zeros((0, self.size + 3))
        """Point, best return, latest return, and the iteration of that."""

    def regret(self) -> np.ndarray:
        """Return (L,) the best return of each level and its neighbours, less its latest one."""
        points, best, latest = self.levels[:, :-3], self.levels[:, -3], self.levels[:, -2]
        lengths = (points**2).sum(1)
        apart = lengths[:, None] + lengths[None] - 2 * points @ points.T
        near = np.argpartition(apart, min(NEAR, len(best) - 1), axis=1)[:, : NEAR + 1]
        return best[near].max(1) - latest

    def chances(self, iteration: int) -> np.ndarray:
        """Return (L,) the probability of each level when one is met again."""
        rank = np.empty(len(self.levels))
        rank[np.argsort(-self.regret(), kind="stable")] = 1.0 / np.arange(1, len(rank) + 1)
        stale = iteration - self.levels[:, -1]
        stale = stale / stale.sum() if stale.sum() > 0 else np.full(len(rank), 1 / len(rank))
        return (1 - STALE) * rank / rank.sum() + STALE * stale

    def points(self, iteration: int, rng: np.random.Generator) -> np.ndarray:
        """Return new points, and in the place of about half of them some of the memory."""
        points = rng.random((self.n, self.size))
        again = rng.random(self.n) < REPLAY
        many = min(int(again.sum()), len(self.levels))
        if many:
            chosen = rng.choice(len(self.levels), many, replace=False, p=self.chances(iteration))
            points[np.flatnonzero(again)[:many]] = self.levels[chosen, :-3]
        return points

    def learn(
        self,
        iteration: int,
        rows: np.ndarray,
        points: np.ndarray,
        returns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Remember the tasks, with the best and the latest of their returns."""
        known = np.ascontiguousarray(self.levels[:, :-3])
        best, old = returns.copy(), {point.tobytes(): i for i, point in enumerate(known)}
        met = np.zeros(len(self.levels), bool)
        for i, point in enumerate(points):
            if (at := old.get(point.tobytes())) is not None:
                best[i], met[at] = max(best[i], self.levels[at, -3]), True
        new = np.column_stack((points, best, returns, np.full(len(points), float(iteration))))
        self.levels = keep_last(self.levels[~met], new, LEVELS)

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return the mean regret of the memory, too."""
        mean = float(self.regret().mean()) if len(self.levels) else 0.0
        return {**super().metrics(tasks), "curriculum/regret": mean}
