"""A teacher for learners that need one."""

import functools
import tempfile

from metarl import TaskWorlds, find_learner
from metarl.learning import checkpoint as checkpoints


@functools.cache
def teacher(algorithm: str = "ppo", family: str = "point-goal+told", **settings) -> str:
    """Return the path of a checkpoint of an agent as it begins."""
    cls = find_learner(algorithm)
    agent = cls(TaskWorlds(family, 1, 1).spec, cls.Config(**settings), seed=7)
    folder = tempfile.mkdtemp(prefix="metarl-teacher-")
    return str(checkpoints.save(folder, agent, family=family, step=0, meta={"seed": 7}))
