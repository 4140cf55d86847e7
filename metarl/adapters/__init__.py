"""Other interfaces: worlds as gymnasium and SB3 environments, and gymnasium ones as a family.

gymnasium_env, gymnasium_vec and sb3 are the environments, task_sampler says which task an episode
runs, offscreen_renderer draws ``rgb_array``, registration gives them ids. gymnasium_family makes a
family of a third-party environment, gymnasium_worlds runs it in worker processes (env_worker), and
check_gymnasium checks it.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from metarl.adapters.gymnasium_env import GymEnv
    from metarl.adapters.gymnasium_family import GymnasiumFamily
    from metarl.adapters.gymnasium_vec import GymVectorEnv
    from metarl.adapters.sb3 import SB3VecEnv
    from metarl.adapters.task_sampler import TaskOptions

__all__ = ["GymEnv", "GymVectorEnv", "GymnasiumFamily", "SB3VecEnv", "TaskOptions"]

_HOME = {
    "GymEnv": "gymnasium_env", "GymVectorEnv": "gymnasium_vec",
    "GymnasiumFamily": "gymnasium_family", "SB3VecEnv": "sb3", "TaskOptions": "task_sampler",
}  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Import a view when it is first used: stable-baselines3 is slow to load."""
    if name in _HOME:
        return getattr(_import_module(f"metarl.adapters.{_HOME[name]}"), name)
    raise AttributeError(f"module 'metarl.adapters' has no attribute '{name}'")
