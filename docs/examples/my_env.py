"""A third-party environment as a family: a pendulum of unknown length and weight."""

from metarl import Interval, Param
from metarl.adapters import GymnasiumFamily


class MyPendulum(GymnasiumFamily):
    """Swing up a pendulum whose rod and bob must be felt."""

    env = "Pendulum-v1"
    params = (
        Param("length", Interval(0.7, 1.3), ood=(Interval(1.3, 1.6),), unit="m", doc="rod"),
        Param("mass", Interval(0.7, 1.3), ood=(Interval(1.3, 1.6),), unit="kg", doc="bob"),
    )

    def set_task(self, env, task):
        """Pendulum-v1 has no set_task: its rod and bob are attributes."""
        env.unwrapped.l, env.unwrapped.m = task["length"], task["mass"]
