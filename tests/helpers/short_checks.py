"""The checks of `metarl check` in few steps, for families of which there are many."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metarl.check import plain_loop, suite, trajectory
from metarl.tasks.family import TaskFamily, replace_attributes

STEPS = {
    (suite, "LONGEST"): 16, (suite, "MANY"): 60, (plain_loop, "STEPS"): 24,
    (suite, "STEPS"): 12, (trajectory, "STEPS"): 12, (suite, "DRAWS"): 200, (suite, "SPLIT"): 20,
}  # fmt: skip
"""The horizon is 8: a second episode begins in 12 steps, a third in 24. In 20 tasks of a split,
each parameter is out of the box at least twice."""
WHOLE = (suite.check_finite, suite.check_parameters)
"""Checks of runs in which no episode ends."""


def checked_in_short(
    family: TaskFamily, check: Callable[[TaskFamily], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a check in a few steps, in which a second episode begins."""
    for (module, name), steps in STEPS.items():
        monkeypatch.setattr(module, name, steps)
    try:
        check(family if check in WHOLE else replace_attributes(family, horizon=8))
    except suite.NotAskedError as reason:
        pytest.skip(str(reason))
