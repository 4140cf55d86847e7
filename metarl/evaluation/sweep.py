"""How the return goes with one parameter of the task, before and after adapting."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metarl.evaluation.protocol import play
from metarl.tasks.distribution import Tasks

if TYPE_CHECKING:
    from metarl.tasks.distribution import TaskDistribution
    from metarl.worlds.policy import Policy
    from metarl.worlds.vector import VecWorlds


class Sweep(NamedTuple):
    """Returns over the values of one parameter, the others nominal."""

    values: list[float]
    """(N,) rising"""
    trained: list[bool]
    """(N,) whether training draws such a value"""
    first: list[float]
    """(N,) mean return over a value's worlds in the first episode; NaN where all diverged"""
    last: list[float]
    """(N,) the same after the last round"""


def swept_tasks(distribution: TaskDistribution, parameter: str, points: int) -> Tasks:
    """Return up to `points` tasks along a parameter, train and ood; a choice is there once.

    Raises:
        UserError: there is no such parameter.
    """
    tasks = distribution.sweep(parameter, points)
    values = np.unique(tasks.values, axis=0)
    rising = values[np.argsort(values[:, distribution.index(parameter)], kind="stable")]
    return Tasks(tasks.family, tasks.names, rising)


def sweep(
    policy: Policy,
    worlds: VecWorlds,
    distribution: TaskDistribution,
    parameter: str,
    tasks: Tasks,
    *,
    episodes: int,
    seed: int,
) -> Sweep:
    """Evaluate a policy along one parameter.

    Args:
        policy: a learner, which is not changed.
        worlds: a multiple of N worlds.
        distribution: of the family.
        parameter: the name of a column.
        tasks: N tasks of `swept_tasks`.
        episodes: K rounds of adaptation before the last score.
        seed: of initial states and exploration.
    """
    returns = play(policy, worlds, tasks, episodes=episodes, seed=seed).returns
    values = tasks.column(parameter).tolist()
    train = distribution.parameter(parameter).train
    first, last = returns[:, 0].tolist(), returns[:, -1].tolist()
    return Sweep(values, [value in train for value in values], first, last)
