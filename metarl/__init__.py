"""metarl: robot policies that adapt to new dynamics, terrains and goals within a few rollouts."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from metarl import threads as _threads  # before torch loads: it sets OpenMP's wait policy
from metarl.adapters import registration as _registration

if _TYPE_CHECKING:
    from metarl.adapted import load_adapted
    from metarl.checkpoint import load, save
    from metarl.composition import Variation
    from metarl.edits import assign, scale, shift, when
    from metarl.errors import UserError
    from metarl.evaluation import evaluate
    from metarl.family import TaskFamily, find_family
    from metarl.learner import Learner, find_learner
    from metarl.params import Choices, Interval, Param
    from metarl.rollout import collect
    from metarl.tasks import TaskDistribution, Tasks
    from metarl.training import meta_train
    from metarl.worlds import TaskWorlds

__version__ = "0.1.0"
set_threads = _threads.set_threads
_registration.register()

_HOME = {
    "adapted": ("load_adapted",),
    "checkpoint": ("load", "save"),
    "composition": ("Variation",),
    "edits": ("assign", "scale", "shift", "when"),
    "errors": ("UserError",),
    "evaluation": ("evaluate",),
    "family": ("TaskFamily", "find_family"),
    "learner": ("Learner", "find_learner"),
    "params": ("Choices", "Interval", "Param"),
    "rollout": ("collect",),
    "tasks": ("TaskDistribution", "Tasks"),
    "training": ("meta_train",),
    "worlds": ("TaskWorlds",),
}
"""Module -> what of it is public here. It is imported at first use, so `metarl --help` is quick."""

_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Choices", "Interval", "Learner", "Param", "TaskDistribution", "TaskFamily", "TaskWorlds",
    "Tasks", "UserError", "Variation", "assign", "collect", "evaluate", "find_family",
    "find_learner", "load", "load_adapted", "meta_train", "save", "scale", "set_threads",
    "shift", "when",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Import a public name when it is first used."""
    if name in _MODULE:
        return getattr(_import_module(f"metarl.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'metarl' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, imported yet or not."""
    return sorted({*globals(), *__all__})
