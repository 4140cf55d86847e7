"""Task samplers: which tasks each iteration of training has. Evaluations never ask one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metarl.base.errors import UserError
from metarl.tasks.distribution import TaskDistribution, Tasks

if TYPE_CHECKING:
    from metarl.base.keys import Key


class TaskSampler(ABC):
    """Chooses the training tasks of an iteration, as a function of its number and a key.

    One that learns from returns (`reports`) has a state, which is in the checkpoints of a run.
    """

    reports: ClassVar[bool] = False
    """Whether it wants to know the returns of its tasks."""

    @abstractmethod
    def sample(self, iteration: int, key: Key) -> Tasks:
        """Return the tasks of an iteration.

        Args:
            iteration: from 0.
            key: of the run.
        """

    def report(self, iteration: int, returns: np.ndarray, key: Key) -> None:  # noqa: B027
        """Hear of the tasks that `sample` returned last.

        Args:
            iteration: from 0.
            returns: (n,) mean return of the last episode of each, NaN where all of them diverged.
            key: of the run.
        """

    def metrics(self, tasks: Tasks) -> dict[str, float]:
        """Return what to log of an iteration and its tasks."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on as if nothing had happened, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned. Raises UserError for anything else."""
        if state:
            raise UserError("the checkpoint has the state of a curriculum, and this run has none")


class UniformTasks(TaskSampler):
    """New draws from the training box in each iteration."""

    def __init__(self, distribution: TaskDistribution, n: int) -> None:
        """Draw `n` tasks an iteration."""
        self.distribution, self.n = distribution, n

    def sample(self, iteration: int, key: Key) -> Tasks:
        """Return n new draws."""
        return self.distribution.sample(self.n, key.fold("tasks", iteration).numpy())


class PooledTasks(TaskSampler):
    """Tasks of a frozen pool: distinct ones, for learners that keep data of each, or with repeats.

    The pool is the first `pool` tasks of the train split. Iterations sweep through it in an order
    that is shuffled for each sweep, so that all its tasks come up equally often.
    """

    def __init__(
        self, distribution: TaskDistribution, n: int, pool: int, *, repeats: bool = False
    ) -> None:
        """Draw `n` of `pool` tasks an iteration.

        Raises UserError if there are fewer than n, and a task may not come up more than once.
        """
        if n > pool and not repeats:
            raise UserError(
                f"tasks_per_iteration is {n}, but the learner keeps a pool of {pool} training "
                f"tasks: lower the one or raise the other"
            )
        self.n, self.pool = n, distribution.split("train", pool)

    def sample(self, iteration: int, key: Key) -> Tasks:
        """Return n tasks of the pool, with their rows in it as `ids`."""
        pool = len(self.pool)
        sweep, part = divmod(iteration, -(-pool // self.n))
        order = key.fold("pool", sweep).numpy().permutation(pool)
        ids = order[(part * self.n + np.arange(self.n)) % pool]
        return Tasks(self.pool.family, self.pool.names, self.pool.values[ids], ids)


def task_sampler(distribution: TaskDistribution, n: int, pool: int | None) -> TaskSampler:
    """Return the sampler of a learner with a pool of so many tasks, or with none."""
    return UniformTasks(distribution, n) if pool is None else PooledTasks(distribution, n, pool)
