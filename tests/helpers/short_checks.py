"""The checks of `metarl check` in few steps, for families of which there are many."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metarl.check import suite, trajectory
from metarl.tasks.family import TaskFamily, replace_attributes

STEPS = {
    (suite, "LONGEST"): 24, (suite, "STEPS"): 24, (trajectory, "STEPS"): 24, (suite, "MANY"): 60,
}  # fmt: skip
WHOLE = (suite.check_finite, suite.check_parameters)
"""Checks of runs in which no episode ends."""


def checked_in_short(
    family: TaskFamily, check: Callable[[TaskFamily], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a check in 24 steps, in which three episodes begin."""
    for (module, name), steps in STEPS.items():
        monkeypatch.setattr(module, name, steps)
    try:
        check(family if check in WHOLE else replace_attributes(family, horizon=8))
    except suite.NotAskedError as reason:
        pytest.skip(str(reason))
