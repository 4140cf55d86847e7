"""What the benchmarks share: interleaved rounds, the machine's description, a table, JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.base.versions import hardware, versions

EXTRA_PACKAGES = ("envpool", "stable-baselines3")


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure every contender once a round, in an order that rotates.

    A shared machine is never quiet: contenders that take turns within one run meet the same noise,
    so their ratios mean something where absolute figures do not.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            figures[name].append(contenders[name]())
    return figures


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def environment(threads: int) -> dict[str, Any]:
    """Return the versions, the hardware and the command, as results record them."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "threads": threads,
        "versions": versions(*EXTRA_PACKAGES),
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
    }


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write `result` through a temporary name, so that a reader never sees half a file."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(result, indent=2) + "\n")
    draft.rename(path)
