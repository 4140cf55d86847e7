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


SIMILAR = (
    "half-cheetah-dir", "half-cheetah-dynamics", "half-cheetah-crippled", "ant-dir", "ant-fwd-back",
    "ant-vel", "ant-dynamics", "walker2d-dynamics", "hopper-dynamics",
)  # fmt: skip
"""Families of a robot that another one has, too: a reward and edits of their own."""


def each_with(what, families: list, slow: tuple = ()) -> list:
    """Every pair of a family and one of `what`; those in `slow` are slow with a similar family."""
    found = []
    for case in families:
        name, marks = (case, ()) if isinstance(case, str) else (case.values[0], case.marks)
        for one in what:
            how = (*marks, *([pytest.mark.slow] if one in slow and name in SIMILAR else []))
            label = f"{name.split('/')[-1]}-{getattr(one, '__name__', one)}"
            found.append(pytest.param(name, one, marks=how, id=label))
    return found


def mostly_slow(cases, *fast) -> list:
    """Parameters of a test that has one thing to say of all of them: all but `fast` are slow."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def switching_after(tasks: Tasks, dt: float, *steps: float) -> Tasks:
    """The tasks, of which each begins within the episode after so many steps, if they do at all."""
    if "switch_at" not in tasks.names:
        return tasks
    values = tasks.values.copy()
    values[:, tasks.names.index("switch_at")] = dt * np.array(steps)
    return replace(tasks, values=values)
