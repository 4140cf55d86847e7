"""A teacher for learners that need one, and a family in which there is something to teach."""

import functools
import tempfile
from collections.abc import Callable, Mapping

from envs.point import PointGoal
from metarl import (
    Choices,
    Key,
    Learner,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    find_learner,
)
from metarl.learning import checkpoint as checkpoints
from metarl.tasks.sampler import task_sampler
from metarl.worlds.vector import Spec


def teacher(algorithm: str = "ppo", family: str = "point-goal+told", **settings) -> str:
    """Return the path of a checkpoint of an agent as it begins."""
    return _teacher(algorithm, family, TaskWorlds(family, 1, 1).spec, **settings)


@functools.cache
def _teacher(algorithm: str, family: str, spec: Spec, **settings) -> str:
    """Of a family as it is now: a test may have changed its horizon."""
    cls = find_learner(algorithm)
    agent = cls(spec, cls.Config(**settings), seed=7)
    folder = tempfile.mkdtemp(prefix="metarl-teacher-")
    return str(checkpoints.save(folder, agent, family=family, step=0, meta={"seed": 7}))


class EitherWay(PointGoal):
    """A point that is paid for pushing one way; its first reward says which, and nothing before."""

    name = "either-way"
    params = (Param("sign", Choices((-1.0, 1.0))),)
    horizon = 25

    def reward(self, sim, before, action, task):
        return task["sign"] * (0.5 + action[:, 0])


def trained(
    name: str,
    family: TaskFamily,
    iterations: int,
    *,
    at: Mapping[int, Callable[[Learner, TaskWorlds], None]] | None = None,
    **settings,
):
    """Return a learner after some iterations in 40 worlds of 20 tasks, and the worlds.

    `at`: iterations done -> what is called then.
    """
    worlds, cls = TaskWorlds(family, 40, 1), find_learner(name)
    learner = cls(worlds.spec, cls.Config(**settings), seed=0)
    sampler = task_sampler(TaskDistribution(worlds.family), 20, None)
    for i in range(iterations):
        learner.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
        if at and i + 1 in at:
            at[i + 1](learner, worlds)
    return learner, worlds
