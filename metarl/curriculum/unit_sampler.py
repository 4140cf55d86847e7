"""What curricula have in common: tasks as points of the unit cube, and a state that is saved."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metarl.base.errors import UserError
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.sampler import TaskSampler

if TYPE_CHECKING:
    from metarl.base.keys import Key


class UnitSampler(TaskSampler):
    """Draws tasks as points of the unit cube, one axis a column of the tasks.

    Uniform points are uniform tasks (`TaskDistribution.at`), so that the axes have one scale,
    logarithms where the family draws by them. Points follow from the state and the key alone, so a
    resumed run draws what it would have drawn.
    """

    reports = True
    arrays: ClassVar[tuple[str, ...]] = ()
    """Attributes that are the state: arrays of numbers."""

    def __init__(self, distribution: TaskDistribution, n: int) -> None:
        """Draw `n` tasks an iteration. Raises UserError for a family without parameters."""
        self.distribution, self.n, self.size = distribution, n, len(distribution.names)
        if not self.size:
            raise UserError(
                f"family '{distribution.family.name}' has no parameters, so no curriculum"
            )
        self._points = np.zeros((n, self.size))

    def sample(self, iteration: int, key: Key) -> Tasks:
        """Return n tasks, those of `points`."""
        rng = key.fold("curriculum", iteration).numpy()
        self._points = self.points(iteration, rng)
        return self.distribution.at(self._points)

    def report(self, iteration: int, returns: np.ndarray, key: Key) -> None:
        """Learn from the returns of the last `sample`; diverged tasks say nothing."""
        known = np.isfinite(returns)
        rng = key.fold("curriculum-report", iteration).numpy()
        self.learn(iteration, np.flatnonzero(known), self._points[known], returns[known], rng)

    @abstractmethod
    def points(self, iteration: int, rng: np.random.Generator) -> np.ndarray:
        """Return (n, P) points in [0, 1), and change nothing."""

    @abstractmethod
    def learn(
        self,
        iteration: int,
        rows: np.ndarray,
        points: np.ndarray,
        returns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Bring the state up to date.

        Args:
            iteration: from 0.
            rows: (m,) which of the n tasks did not diverge.
            points: (m, P) of those.
            returns: (m,) of their last episodes.
            rng: for whatever is random in it.
        """

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return the mean of each column of the tasks drawn, of the first eight."""
        means = tasks.values.mean(0)
        return {f"curriculum/{n}": float(x) for n, x in zip(tasks.names[:8], means, strict=False)}

    def state(self) -> dict[str, Any]:
        """Return the arrays as lists."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in self.arrays}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned. Raises UserError for anything else."""
        for name in self.arrays:
            own = np.asarray(getattr(self, name))
            try:
                value = np.asarray(state[name], own.dtype)
                value = value.reshape(-1, *own.shape[1:]) if own.ndim else value
            except (KeyError, TypeError, ValueError, OverflowError):
                raise UserError(f"the curriculum's saved '{name}' is malformed") from None
            if value.ndim != own.ndim or not np.isfinite(value).all():
                raise UserError(f"the curriculum's saved '{name}' is malformed")
            setattr(self, name, value)


def keep_last(memory: np.ndarray, new: np.ndarray, most: int) -> np.ndarray:
    """Return rows with new ones at the end, the oldest of more than `most` dropped."""
    return np.concatenate((memory, new))[-most:]
