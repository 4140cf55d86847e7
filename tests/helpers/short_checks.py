"""The checks of `metarl check` in few steps, for families of which there are many."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metarl.check import plain_loop, suite, trajectory
from metarl.tasks.family import TaskFamily, replace_attributes

STEPS = {
    (suite, "LONGEST"): 24, (suite, "MANY"): 60, (plain_loop, "STEPS"): 24,
    (suite, "STEPS"): 18, (trajectory, "STEPS"): 18, (suite, "DRAWS"): 200, (suite, "SPLIT"): 20,
}  # fmt: skip
"""The horizon is 8: three episodes begin in 18 steps. In 20 tasks of a split, each parameter is out
of the box at least twice."""
WHOLE = (suite.check_finite, suite.check_parameters)
"""Checks of runs in which no episode ends."""


def checked_in_short(
    family: TaskFamily, check: Callable[[TaskFamily], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a check in some 20 steps, in which three episodes begin."""
    for (module, name), steps in STEPS.items():
        monkeypatch.setattr(module, name, steps)
    try:
        check(family if check in WHOLE else replace_attributes(family, horizon=8))
    except suite.NotAskedError as reason:
        pytest.skip(str(reason))
