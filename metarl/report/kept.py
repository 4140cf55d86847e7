"""What `metarl probe` and `metarl stream` keep in a run folder, refused unless it is whole.

Anybody may have written these files, and a page is drawn of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError)
"""What reading a JSON value of another form than was expected may raise."""


def is_whole(check: Callable[[dict[str, Any]], None], found: dict[str, Any]) -> bool:
    """Whether one of the checks below finds nothing wrong with what was kept."""
    try:
        check(found)
    except MALFORMED:
        return False
    return True


def check_probe(found: dict[str, Any]) -> None:
    """Raise one of `MALFORMED` for what is not what `metarl probe` writes."""
    _numbers(found["step"], *found["first"])
    _numbers_or_none(*found["last"], found["identified"], *found["readable"].values())
    tasks, effects = len(found["effects"]["as it is"]["returns"]), found["effects"].values()
    for effect in effects:
        _same(tasks, len(effect["returns"]))
        _same(3, len(effect["change"]))
        _numbers_or_none(*effect["returns"], *effect["change"])
    if "tasks" in found:  # files of earlier versions do not say
        _same(tasks, len(found["tasks"]))
        _same(1, len(set(map(len, found["tasks"]))))
        _numbers(*(value for task in found["tasks"] for value in task))
    for one in found.get("sweeps", {}).values():
        for name in ("first", "last", "trained"):
            _same(len(one["values"]), len(one[name]))
        _numbers(*one["values"])
        _numbers_or_none(*one["first"], *one["last"])
    if not found["first"] or not found["last"]:
        raise ValueError("an episode without steps")


def check_stream(found: dict[str, Any]) -> None:
    """Raise one of `MALFORMED` for what is not what `metarl stream` writes."""
    _numbers(*(found[k] for k in ("step", "every", "window", "lags", "streams", "episodes")))
    if not found["runs"]:
        raise ValueError("there are no runs")
    for run in found["runs"]:
        _words(run["algorithm"], run["family"])
        _check_curve(run["windows"])
        if run["regret"] is not None:
            _check_curve(run["regret"])
        if run["reference"] or run["regret"] is not None:
            _words(found["reference"])
        if (back := run["recovery"]) is not None:
            _numbers(back["switches"], back["drop"], back["lasting"])
            _numbers_or_none(back["steps"], back["low"], back["high"])
        if run.get("diverged"):
            _numbers(run["diverged"], run["worlds_each"])
        if "left_out" in run:
            _numbers(run["left_out"], run["gaps"])


def _check_curve(curve: dict[str, Any]) -> None:
    """Check a curve, in which None stands where every world diverged."""
    length = len(curve["mean"])
    if not length:
        raise ValueError("a curve without points")
    _same(length, len(curve["iqm"]), len(curve["ci95"]))
    _same(2, *map(len, curve["ci95"]))
    _numbers_or_none(*curve["mean"], *curve["iqm"], *(end for ci in curve["ci95"] for end in ci))


def _numbers(*values: object) -> None:
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{value!r:.40} is no finite number")


def _numbers_or_none(*values: object) -> None:
    _numbers(*(value for value in values if value is not None))


def _words(*values: object) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("a name is no text")


def _same(length: int, *lengths: int) -> None:
    if set(lengths) - {length}:
        raise ValueError("lists of different lengths")


__all__ = ["MALFORMED", "check_probe", "check_stream", "is_whole"]
