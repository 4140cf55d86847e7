"""Other interfaces: worlds as gymnasium and SB3 environments, and gymnasium ones as a family.

views and sb3 are the environments, task_feed says which task an episode runs, pictures draws
``rgb_array``, registration gives them ids. foreign makes a family of a stranger's environment, and
crew is its worker processes.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from metarl.adapters.foreign import GymnasiumFamily
    from metarl.adapters.sb3 import SB3VecEnv
    from metarl.adapters.task_feed import TaskOptions
    from metarl.adapters.views import GymEnv, GymVectorEnv

__all__ = ["GymEnv", "GymVectorEnv", "GymnasiumFamily", "SB3VecEnv", "TaskOptions"]

_HOME = {
    "GymEnv": "views", "GymVectorEnv": "views", "GymnasiumFamily": "foreign", "SB3VecEnv": "sb3",
    "TaskOptions": "task_feed",
}  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Import a view when it is first used: stable-baselines3 is slow to load."""
    if name in _HOME:
        return getattr(_import_module(f"metarl.adapters.{_HOME[name]}"), name)
    raise AttributeError(f"module 'metarl.adapters' has no attribute '{name}'")
