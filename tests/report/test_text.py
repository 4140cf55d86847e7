"""Numbers and durations in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metarl.report.text import duration, first_column, first_label, first_round, number


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (3, "3"), (-308.46, "−308"), (0.4249, "0.425"), (12.34, "12.3"),
     (1234567, "1,234,567"), (0.00123, "0.00123"), (1e-7, "1e−07"), (2.0, "2"), (100, "100")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_signed_numbers_and_durations():
    assert [number(v, signed=True) for v in (5, -5, 0)] == ["+5", "−5", "0"]
    assert [duration(s) for s in (7, 99, 600, 7500)] == ["7 s", "99 s", "10 min", "2 h 5 min"]


def test_round_0_is_called_by_how_the_learner_adapts():
    """MAML has not adapted in it; RL² may within it, and PEARL explores in it."""
    maml, rl2, pearl = (
        SimpleNamespace(adapts_within=within, exploring=exploring)
        for within, exploring in ((False, 0), (True, 0), (True, 1))
    )  # fmt: skip
    every: list[Any] = [maml, rl2, pearl]
    assert [first_round(report) for report in every] == [
        "before adaptation", "first episode", "first episode, exploring",
    ]  # fmt: skip
    assert first_label(every[0]) == "task-blind (before adaptation)"
    assert first_label(every[1]) == "first episode"
    assert first_column(every) == "before / first episode"
    assert first_column(every[1:]) == "first episode"
