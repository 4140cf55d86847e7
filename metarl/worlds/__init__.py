"""A family in B worlds: tasks and actions in; observations, rewards and episodes' ends out.

vector: what every kind of worlds has.  task_worlds: MuJoCo's batch engine.  events: when what
happens inside an episode is due.  gymnasium_worlds, env_worker, task_probe: third-party
environments in processes.  factory: the kind that a family needs.  policy: whatever acts in worlds.
rollout: `collect`, from acting to tensors (T, B, …).  privileged: what only critics may see of it.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.worlds.factory import make_worlds
    from metarl.worlds.gymnasium_worlds import GymnasiumWorlds
    from metarl.worlds.policy import Policy
    from metarl.worlds.rollout import Rollout, collect
    from metarl.worlds.task_worlds import TaskWorlds
    from metarl.worlds.vector import Spec, Step, Transition, VecWorlds

__all__ = [
    "GymnasiumWorlds", "Policy", "Rollout", "Spec", "Step", "TaskWorlds", "Transition", "VecWorlds",
    "collect", "make_worlds",
]  # fmt: skip

MAX_EPISODES = 10_000
"""Adaptation rounds beyond this are a slip of the hand."""
MAX_WORLDS = 1_000_000
"""Beyond this, a count is a slip of the hand: the worlds of one process need gigabytes by then."""

__getattr__ = _lazy(
    __name__,
    {
        "task_worlds": "TaskWorlds",
        "gymnasium_worlds": "GymnasiumWorlds",
        "vector": "Spec Step Transition VecWorlds",
        "factory": "make_worlds",
        "policy": "Policy",
        "rollout": "Rollout collect",
    },
)
