"""Numbers, durations and counts as short texts."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence

ALL_DIVERGED = "all diverged"


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def si(value: float) -> str:
    """Return a number with three digits and k, M or G: 132500 -> '132k'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def counted(number: int | str, noun: str) -> str:
    """Return a number of things: '1 world', '20 worlds'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(value: float | None, digits: int) -> str:
    """Return a return with so many decimals; `ALL_DIVERGED` if it is NaN, or null in JSON."""
    return ALL_DIVERGED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def process_ending(code: int | None) -> str:
    """Return how a process ended, by its exit code: negative for a signal."""
    if code is None:
        return "without an exit code"
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"by {name}" + " (out of memory?)" * (name == "SIGKILL")


def decimals(values: Sequence[float | None]) -> int:
    """Return the decimals that show the largest of some returns to three digits, at least one."""
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(known, default=0.0)
    if not 0 < largest < math.inf:
        return 1
    return min(6, max(1, 2 - math.floor(math.log10(largest))))
