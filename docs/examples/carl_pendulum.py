"""CARL's pendulum, whose context must be felt, in an interpreter of its own."""

from metarl import Interval, Param
from metarl.adapters import BridgedFamily


class CarlPendulum(BridgedFamily):
    """Swing up a pendulum of unknown length and weight."""

    remote = "carl:carl/CARLPendulum-v0"
    hide = ("context",)
    horizon = 200
    params = (
        Param("l", Interval(0.7, 1.3), ood=(Interval(1.3, 1.6),), unit="m", doc="length"),
        Param("m", Interval(0.7, 1.3), ood=(Interval(1.3, 1.6),), unit="kg", doc="mass"),
    )
