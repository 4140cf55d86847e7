"""What is to be learned: parameters in; task families, distributions and drawn tasks out.

params: ranges, and what they edit.  distribution: `Tasks` (M, P) and the frozen splits.
sampler: the tasks of an iteration.  family: a robot, its observation and its reward.
events: what happens inside an episode.  composition: products and variations of families.
variations: those of any robot.
gymnasium_family, gymnasium_spaces, gymnasium_setters: a third-party environment as a family.
bridge: environments of another interpreter.  registry: families by name.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.tasks.distribution import SPLITS, TaskDistribution, Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.tasks.gymnasium_family import GymnasiumFamily
    from metarl.tasks.params import Choices, Interval, Param

__all__ = [
    "SPLITS", "Choices", "GymnasiumFamily", "Interval", "Param", "TaskDistribution", "TaskFamily",
    "Tasks",
]  # fmt: skip

__getattr__ = _lazy(
    __name__,
    {
        "params": "Choices Interval Param",
        "distribution": "SPLITS TaskDistribution Tasks",
        "family": "TaskFamily",
        "gymnasium_family": "GymnasiumFamily",
    },
)
