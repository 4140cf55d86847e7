"""The worst tail by the cross-entropy method (RoML, Greenberg et al. 2023).

Each column x in [0, 1] is drawn from Beta(2φ, 2 − 2φ), which is uniform at φ = 0.5; each task is
uniform with a probability of 0.2. After every `BATCH` tasks, those below the α quantile of the
returns of the *original* distribution are the elite, and φ moves half-way to their weighted mean.
Weights make up for where the tasks were drawn, w = 1 / (0.2 + 0.8 p_φ(x)), in the quantile and in
the mean.
The learner's loss is as it was: training on the worst tail of a batch alone is reported to fail.
"""

from __future__ import annotations

import math

import numpy as np

from metarl.curriculum.unit_sampler import UnitSampler
from metarl.tasks.distribution import TaskDistribution, Tasks

TAIL, UNIFORM, BATCH, SOFT, EDGE = 0.05, 0.2, 128, 0.5, 0.02


class CrossEntropy(UnitSampler):
    """Tasks of the worst tail, more often."""

    arrays = ("phi", "seen")

    def __init__(self, distribution: TaskDistribution, n: int) -> None:
        """Begin uniform."""
        super().__init__(distribution, n)
        self.phi = np.full(self.size, 0.5)
        self.seen = np.zeros((0, self.size + 1))
        """Points and returns since φ last moved."""

    def points(self, iteration: int, rng: np.random.Generator) -> np.ndarray:
        """Return points of which about a fifth are uniform, whatever their number."""
        uniform = rng.random((self.n, self.size))
        drawn = rng.beta(2 * self.phi, 2 - 2 * self.phi, (self.n, self.size))
        free = rng.random((self.n, 1)) < UNIFORM
        return np.minimum(np.where(free, uniform, drawn), np.nextafter(1.0, 0.0))

    def weights(self, points: np.ndarray) -> np.ndarray:
        """Return (m,) the density of uniform tasks over that of the tasks drawn."""
        a, b = 2 * self.phi, 2 - 2 * self.phi
        scale = -np.array([math.lgamma(x) + math.lgamma(y) for x, y in zip(a, b, strict=True)])
        inside = points.clip(1e-9, 1 - 1e-9)
        density = (scale + (a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside)).sum(1)
        return 1.0 / (UNIFORM + (1 - UNIFORM) * np.exp(density))

    def learn(
        self,
        iteration: int,
        rows: np.ndarray,
        points: np.ndarray,
        returns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Move φ towards the worst tasks, once there are enough."""
        self.seen = np.concatenate((self.seen, np.column_stack((points, returns))))
        if len(self.seen) < BATCH:
            return
        points, returns = self.seen[:, :-1], self.seen[:, -1]
        weights = self.weights(points)
        elite = returns <= weighted_quantile(returns, weights, TAIL)
        mean = np.average(points[elite], axis=0, weights=weights[elite])
        self.phi = (1 - SOFT) * self.phi + SOFT * mean.clip(EDGE, 1 - EDGE)
        self.seen = self.seen[:0]

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return φ of the first eight columns, too."""
        named = zip(tasks.names[:8], self.phi, strict=False)
        return {**super().metrics(tasks), **{f"curriculum/phi/{n}": float(x) for n, x in named}}


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the smallest value at which the weights up to it reach a share of their sum."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1])])
