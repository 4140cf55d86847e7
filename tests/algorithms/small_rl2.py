"""A small RL² for the tests, and what it collects."""

import torch
from torch import Tensor

from metarl import (
    TaskDistribution,
    TaskWorlds,
)
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.modules.ppo import Batch
from metarl.worlds.vector import Spec

SPEC = Spec(3, 2, 10)
TASKS = 6


def learner(**changes: object) -> Rl2:
    return Rl2(SPEC, Rl2Config(**({"units": 16, "hidden": 8} | changes)))


def point(**changes: object) -> tuple[Rl2, TaskWorlds]:
    """A learner on point-goal, with two worlds for each of six tasks."""
    worlds = TaskWorlds("point-goal", 2 * TASKS, 1)
    agent = Rl2(worlds.spec, Rl2Config(**({"units": 16, "hidden": 8} | changes)))
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), 2)
    return agent, worlds


def shaken(agent: Rl2) -> Rl2:
    """Give the heads large weights, so that a misaligned sequence shows."""
    with torch.no_grad():
        agent.net.mean.weight *= 100.0
    return agent


def collected(agent: Rl2, worlds: TaskWorlds) -> tuple[Batch, Tensor, Tensor]:
    """A batch, and the means and values of its steps."""
    trials = agent.collect(worlds, worlds.tasks, Key(2))
    return agent._batch([trials]), trials.rollout.extras["head"], trials.rollout.extras["value"]
