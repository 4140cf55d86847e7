"""metarl: robot policies that adapt to new dynamics, terrains and goals within a few rollouts."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from metarl import threads as _threads  # before torch loads: it sets OpenMP's wait policy
from metarl.adapters import registration as _registration

if _TYPE_CHECKING:
    from metarl.adapted import load_adapted
    from metarl.api import Run, evaluate, load, train
    from metarl.checkpoint import save
    from metarl.composition import Variation, with_params
    from metarl.edits import assign, scale, shift, when
    from metarl.errors import UserError
    from metarl.family import TaskFamily
    from metarl.keys import Key
    from metarl.learner import Learner
    from metarl.params import Choices, Interval, Param
    from metarl.policy import Policy
    from metarl.registry import find_family, find_learner
    from metarl.rollout import Rollout, collect
    from metarl.tasks import TaskDistribution, Tasks
    from metarl.train_config import TrainConfig
    from metarl.training import meta_train
    from metarl.vector import Spec, Step
    from metarl.world_factory import make_worlds
    from metarl.worlds import TaskWorlds

__version__ = "0.1.0"
set_threads = _threads.set_threads
_registration.register()

_HOME = {
    "adapted": ("load_adapted",),
    "api": ("Run", "evaluate", "load", "train"),
    "checkpoint": ("save",),
    "composition": ("Variation", "with_params"),
    "edits": ("assign", "scale", "shift", "when"),
    "errors": ("UserError",),
    "family": ("TaskFamily",),
    "keys": ("Key",),
    "learner": ("Learner",),
    "world_factory": ("make_worlds",),
    "params": ("Choices", "Interval", "Param"),
    "policy": ("Policy",),
    "registry": ("find_family", "find_learner"),
    "rollout": ("Rollout", "collect"),
    "tasks": ("TaskDistribution", "Tasks"),
    "train_config": ("TrainConfig",),
    "training": ("meta_train",),
    "vector": ("Spec", "Step"),
    "worlds": ("TaskWorlds",),
}
"""Module -> what of it is public here. It is imported at first use, so `metarl --help` is quick."""

_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Choices", "Interval", "Key", "Learner", "Param", "Policy", "Rollout", "Run", "Spec", "Step",
    "TaskDistribution", "TaskFamily", "TaskWorlds", "Tasks", "TrainConfig", "UserError",
    "Variation", "assign", "collect", "evaluate", "find_family", "find_learner", "load",
    "load_adapted", "make_worlds", "meta_train", "save", "scale", "set_threads", "shift", "train",
    "when", "with_params",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Import a public name when it is first used."""
    if name in _MODULE:
        return getattr(_import_module(f"metarl.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'metarl' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, imported yet or not."""
    return sorted({*globals(), *__all__})
