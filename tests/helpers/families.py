"""Families and their tasks, as tests want them."""

from dataclasses import replace

import numpy as np
import pytest

from metarl.tasks.distribution import Tasks
from metarl.tasks.registry import list_families

ALIKE = ("-scan", "-literature", "-sparse")
"""Ends of the names of families that differ from another one in a few numbers or a sensor."""


def every_family(*, without: tuple[str, ...] = ()) -> list:
    """Their names, as parameters of a test; those that are much like another one are slow tests.

    Args:
        without: leave out names that one of these is in.
    """
    return [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(ALIKE) else name
        for name in list_families()
        if not any(part in name for part in without)
    ]


def switching_after(tasks: Tasks, dt: float, *steps: float) -> Tasks:
    """The tasks, of which each begins within the episode after so many steps, if they do at all."""
    if "switch_at" not in tasks.names:
        return tasks
    values = tasks.values.copy()
    values[:, tasks.names.index("switch_at")] = dt * np.array(steps)
    return replace(tasks, values=values)
