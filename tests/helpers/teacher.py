"""A teacher for learners that need one, and a family in which there is something to teach."""

import functools
import tempfile

import torch

from envs.point import PointGoal
from metarl import (
    Choices,
    Key,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    find_learner,
)
from metarl.learning import checkpoint as checkpoints
from metarl.simulation.edits import scale
from metarl.tasks.sampler import task_sampler


@functools.cache
def teacher(algorithm: str = "ppo", family: str = "point-goal+told", **settings) -> str:
    """Return the path of a checkpoint of an agent as it begins."""
    cls = find_learner(algorithm)
    agent = cls(TaskWorlds(family, 1, 1).spec, cls.Config(**settings), seed=7)
    folder = tempfile.mkdtemp(prefix="metarl-teacher-")
    return str(checkpoints.save(folder, agent, family=family, step=0, meta={"seed": 7}))


class Mirrored(PointGoal):
    """A point that must go to a place it knows, with motors that may be wired the wrong way."""

    name = "mirrored-point"
    params = (Param("gain", Choices((-1.0, 1.0)), edit=scale("actuator_gear")),)

    def reward(self, sim, before, action, task):
        return -torch.linalg.vector_norm(sim.qpos - sim.qpos.new_tensor([0.7, 0.0]), dim=1)


def trained(name: str, family: TaskFamily, iterations: int, **settings):
    """Return a learner after some iterations in 40 worlds of 20 tasks, and the worlds."""
    worlds, cls = TaskWorlds(family, 40, 1), find_learner(name)
    learner = cls(worlds.spec, cls.Config(**settings), seed=0)
    sampler = task_sampler(TaskDistribution(worlds.family), 20, None)
    for i in range(iterations):
        learner.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
    return learner, worlds
