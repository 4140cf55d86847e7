"""Absolute learning progress by Gaussian mixtures (ALP-GMM, Portelas et al. 2019).

The progress of a task is how much its return differs from that of the nearest earlier task, over
the spread of the returns seen. Every `FIT` tasks, mixtures of 2 to 10 Gaussians are fitted to the
last `FIT` pairs of task and progress, and the one of the best Akaike criterion is taken. A task
comes from a Gaussian chosen by its mean progress; a fifth of the tasks, and the first `FIT`, are
uniform.
"""

from __future__ import annotations

import warnings

import numpy as np

from metarl.base.errors import UserError
from metarl.curriculum.unit_sampler import UnitSampler, keep_last
from metarl.tasks.distribution import TaskDistribution, Tasks

FIT, UNIFORM, MEMORY, MOST = 250, 0.2, 1000, 10


class AlpGmm(UnitSampler):
    """Tasks whose returns change, for better or worse."""

    arrays = ("seen", "fresh", "means", "covariances")

    def __init__(self, distribution: TaskDistribution, n: int) -> None:
        """Begin uniform. Raises UserError without scikit-learn."""
        super().__init__(distribution, n)
        _mixture()
        self.seen = np.zeros((0, self.size + 2))
        """Point, return and progress."""
        self.fresh = np.array(0)
        """Tasks since the last fit."""
        self.means = np.zeros((0, self.size + 1))
        self.covariances = np.zeros((0, self.size, self.size))

    def points(self, iteration: int, rng: np.random.Generator) -> np.ndarray:
        """Return points of the mixture, clipped to the ranges, and uniform ones."""
        points, free = rng.random((self.n, self.size)), rng.random(self.n) < UNIFORM
        progress = self.means[:, -1].clip(0.0)
        if progress.sum() <= 0:
            return points
        which = rng.choice(len(progress), self.n, p=progress / progress.sum())
        noise = rng.standard_normal((self.n, self.size, 1))
        roots = np.linalg.cholesky(self.covariances)
        drawn = self.means[which, :-1] + (roots[which] @ noise)[..., 0]
        return np.where(free[:, None], points, drawn.clip(0.0, np.nextafter(1.0, 0.0)))

    def learn(
        self,
        iteration: int,
        rows: np.ndarray,
        points: np.ndarray,
        returns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Remember the tasks with their progress, and fit when there are enough."""
        progress = np.zeros(len(points))
        if len(self.seen):
            apart = ((points[:, None] - self.seen[None, :, :-2]) ** 2).sum(-1)
            progress = np.abs(returns - self.seen[apart.argmin(1), -2])
        new = np.column_stack((points, returns, progress))
        self.seen, self.fresh = keep_last(self.seen, new, MEMORY), self.fresh + len(points)
        if self.fresh >= FIT and len(self.seen) >= FIT:
            self._fit(rng)
            self.fresh = np.array(0)

    def _fit(self, rng: np.random.Generator) -> None:
        recent = self.seen[-FIT:]
        spread = float(np.ptp(self.seen[:, -2])) or 1.0
        data = np.column_stack((recent[:, :-2], recent[:, -1] / spread))
        draw, fits = int(rng.integers(2**31)), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that did not converge: they score badly
            for many in range(2, MOST + 1):
                model = _mixture()(many, reg_covar=1e-5, random_state=draw)
                fits.append((model.fit(data).aic(data), many, model))
        best = min(fits, key=lambda one: one[:2])[2]
        self.means, self.covariances = best.means_, best.covariances_[:, :-1, :-1]

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return the number of Gaussians and the mean progress of recent tasks, too."""
        recent = float(self.seen[-FIT:, -1].mean()) if len(self.seen) else 0.0
        more = {"curriculum/gaussians": float(len(self.means)), "curriculum/progress": recent}
        return {**super().metrics(tasks), **more}


def _mixture() -> type:
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise UserError(
            "--curriculum alp-gmm needs scikit-learn: pip install 'metarl-toolkit[curriculum]'"
        ) from None
    return GaussianMixture
