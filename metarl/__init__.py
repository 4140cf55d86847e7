"""metarl: robot policies that adapt to new dynamics, terrains and goals within a few rollouts."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from metarl import headless as _headless  # noqa: F401  before mujoco loads: how to render
from metarl import threads as _threads  # before torch loads: it sets OpenMP's wait policy

# isort: split
from metarl.composition import Variation
from metarl.edits import assign, scale, shift, when
from metarl.errors import UserError
from metarl.family import TaskFamily, find_family
from metarl.learner import Learner, find_learner
from metarl.rollout import collect
from metarl.tasks import Choices, Interval, Param, TaskDistribution, Tasks
from metarl.worlds import TaskWorlds

# isort: split
from metarl import registration as _registration

if _TYPE_CHECKING:
    from metarl.checkpoint import load, save
    from metarl.evaluation import evaluate
    from metarl.training import meta_train

__version__ = "0.1.0"
set_threads = _threads.set_threads
_registration.register()

__all__ = [
    "Choices", "Interval", "Learner", "Param", "TaskDistribution", "TaskFamily", "TaskWorlds",
    "Tasks", "UserError", "Variation", "assign", "collect", "evaluate", "find_family",
    "find_learner", "load", "meta_train", "save", "scale", "set_threads", "shift", "when",
]  # fmt: skip

_LAZY = {"load": "checkpoint", "save": "checkpoint", "evaluate": "evaluation",
         "meta_train": "training"}  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Import what needs slow dependencies (loggers, statistics) when it is first used."""
    if name in _LAZY:
        return getattr(_import_module(f"metarl.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'metarl' has no attribute '{name}'")
