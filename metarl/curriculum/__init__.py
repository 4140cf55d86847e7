"""Curricula: which tasks of the training range an iteration has, by how the last ones went.

In:  a task distribution, and after each iteration the returns of its tasks.
Out: the tasks of the next iteration. Held-out tasks never come from here.

success: harder where it succeeds.  alp_gmm: where returns change.  level_replay: tasks met before
on which it has been better.  cross_entropy: the worst tail.  unit_sampler: what they share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from metarl.base.errors import UserError
from metarl.tasks.sampler import PooledTasks, TaskSampler, task_sampler

if TYPE_CHECKING:
    from metarl.runs.config import TrainConfig
    from metarl.tasks.distribution import TaskDistribution

PREFIX = "curriculum/"
"""Of what a curriculum logs, in metrics.csv."""
CURRICULA = {
    "success": "success:SuccessDriven",
    "alp-gmm": "alp_gmm:AlpGmm",
    "level-replay": "level_replay:LevelReplay",
    "cross-entropy": "cross_entropy:CrossEntropy",
}
"""Name -> module and class; ``uniform`` is none of them."""


def make_sampler(
    distribution: TaskDistribution, train: TrainConfig, pool: int | None
) -> TaskSampler:
    """Return the sampler of the training tasks that a run asks for.

    Args:
        distribution: of the family.
        train: with the curriculum and the number of tasks.
        pool: how many training tasks the learner keeps data of; None for new ones each time.

    Raises:
        UserError: the curriculum does not suit the family, or the learner.
    """
    if pool is not None and train.num_train_tasks not in (None, pool):
        raise UserError(
            f"num_train_tasks is {train.num_train_tasks}, and this learner keeps data of {pool} "
            f"training tasks: leave it out; the learner's settings, or its data, give their number"
        )
    if train.curriculum == "uniform":
        if pool is None and train.num_train_tasks is not None:
            return PooledTasks(
                distribution, train.tasks_per_iteration, train.num_train_tasks, repeats=True
            )
        return task_sampler(distribution, train.tasks_per_iteration, pool)
    if train.num_train_tasks is not None:
        raise UserError(
            f"--curriculum {train.curriculum} draws new tasks: leave out --num-train-tasks"
        )
    if pool is not None:
        raise UserError(
            f"--curriculum {train.curriculum} draws new tasks, and this learner keeps data of a "
            "pool of them: use --curriculum uniform"
        )
    module, name = CURRICULA[train.curriculum].split(":")
    cls = getattr(import_module(f"metarl.curriculum.{module}"), name)
    return cls(distribution, train.tasks_per_iteration, **train.curriculum_settings())
