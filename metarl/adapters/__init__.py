"""Worlds as the environments of other libraries: gymnasium's, its vector's and SB3's.

gymnasium_env, gymnasium_vec, sb3: the environments.  task_sampler: which task an episode runs.
offscreen_renderer: ``rgb_array``.  registration: ids for `gymnasium.make`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.adapters.gymnasium_env import GymEnv
    from metarl.adapters.gymnasium_vec import GymVectorEnv
    from metarl.adapters.sb3 import SB3VecEnv
    from metarl.adapters.task_sampler import TaskOptions
    from metarl.tasks.bridge.families import BridgedFamily
    from metarl.tasks.gymnasium_family import GymnasiumFamily

__all__ = [
    "BridgedFamily", "GymEnv", "GymVectorEnv", "GymnasiumFamily", "SB3VecEnv", "TaskOptions",
]  # fmt: skip

__getattr__ = _lazy(
    __name__,
    {
        "gymnasium_env": "GymEnv", "gymnasium_vec": "GymVectorEnv", "sb3": "SB3VecEnv",
        "task_sampler": "TaskOptions", ".tasks.gymnasium_family": "GymnasiumFamily",
        ".tasks.bridge.families": "BridgedFamily",
    },
)  # fmt: skip
