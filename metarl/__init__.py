"""metarl: robot policies that adapt to new dynamics, terrains and goals within a few rollouts."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl import _moved
from metarl.adapters import registration as _registration
from metarl.base import lazy as _lazy
from metarl.base import threads as _threads  # before torch loads: it sets OpenMP's wait policy

if _TYPE_CHECKING:
    from metarl.api import Run, evaluate, load, train
    from metarl.base.errors import UserError
    from metarl.base.keys import Key
    from metarl.learning.adaptation import load_adapted
    from metarl.learning.checkpoint import save
    from metarl.learning.demonstrations import Demonstrations
    from metarl.learning.learner import Learner
    from metarl.learning.registry import find_learner
    from metarl.runs.config import TrainConfig
    from metarl.runs.runner import meta_train
    from metarl.simulation.actions import increments, low_pass, position_targets, torques
    from metarl.simulation.edits import assign, scale, shift, when
    from metarl.simulation.furnish import contact, pd
    from metarl.simulation.ground import Ground, HeightScan
    from metarl.simulation.root import Root
    from metarl.simulation.sensing import Contacts, Places
    from metarl.tasks.composition import Variation, with_params
    from metarl.tasks.distribution import TaskDistribution, Tasks
    from metarl.tasks.events import every
    from metarl.tasks.family import TaskFamily
    from metarl.tasks.params import Choices, Interval, Param
    from metarl.tasks.registry import find_family
    from metarl.tasks.variations.dynamics import dynamics
    from metarl.worlds.factory import make_worlds
    from metarl.worlds.policy import Policy
    from metarl.worlds.rollout import Rollout, collect
    from metarl.worlds.task_worlds import TaskWorlds
    from metarl.worlds.vector import Spec, Step

__version__ = "0.2.0"
set_threads = _threads.set_threads
_registration.register()
_moved.install()

__all__ = [
    "Choices", "Contacts", "Demonstrations", "Ground", "HeightScan", "Interval", "Key", "Learner",
    "Param", "Places", "Policy", "Rollout", "Root", "Run", "Spec", "Step", "TaskDistribution",
    "TaskFamily", "TaskWorlds", "Tasks", "TrainConfig", "UserError", "Variation", "assign",
    "collect", "contact", "dynamics", "evaluate", "every", "find_family", "find_learner",
    "increments", "load", "load_adapted", "low_pass", "make_worlds", "meta_train", "pd",
    "position_targets", "save", "scale", "set_threads", "shift", "torques", "train", "when",
    "with_params",
]  # fmt: skip

__getattr__ = _lazy.lazy(
    __name__,
    {
        "learning.adaptation": "load_adapted",
        "api": "Run evaluate load train",
        "learning.checkpoint": "save",
        "tasks.composition": "Variation with_params",
        "simulation.actions": "increments low_pass position_targets torques",
        "simulation.edits": "assign scale shift when",
        "simulation.furnish": "contact pd",
        "simulation.ground": "Ground HeightScan",
        "simulation.root": "Root",
        "simulation.sensing": "Contacts Places",
        "tasks.variations.dynamics": "dynamics",
        "base.errors": "UserError",
        "tasks.events": "every",
        "tasks.family": "TaskFamily",
        "base.keys": "Key",
        "learning.demonstrations": "Demonstrations",
        "learning.learner": "Learner",
        "worlds.factory": "make_worlds",
        "tasks.params": "Choices Interval Param",
        "worlds.policy": "Policy",
        "tasks.registry": "find_family",
        "learning.registry": "find_learner",
        "worlds.rollout": "Rollout collect",
        "tasks.distribution": "TaskDistribution Tasks",
        "runs.config": "TrainConfig",
        "runs.runner": "meta_train",
        "worlds.vector": "Spec Step",
        "worlds.task_worlds": "TaskWorlds",
    },
)


def __dir__() -> list[str]:
    """Return the public names, imported yet or not."""
    return sorted({*globals(), *__all__})
