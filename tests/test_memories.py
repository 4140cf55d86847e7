"""Which memory RL² should have: the page says what the files hold."""

import pytest
from helpers.scripts import experiment


@pytest.fixture
def memories():
    with experiment("memories") as module:
        yield module


def test_the_page_is_made_from_the_files(memories):
    page = memories.PAGE.read_text(encoding="utf-8")
    assert memories.filled(page, "memories", memories.text()) == page


def test_memories_are_compared_after_equal_times(memories):
    """The quick one has all its steps in 100 s; the slow one has half of them by then."""
    rising = [{"env_steps": steps, "mean": [steps, -1]} for steps in (0, 400, 1000)]
    slow = [{"curve": rising, "mean": [1000, 1, 2, 900]}]
    flat = [{"env_steps": steps, "mean": [7]} for steps in (0, 1000)]
    quick = [{"curve": flat, "mean": [7, 7, 7, 8]}, {"curve": flat, "mean": [9, 7, 7, 6]}]
    results = {("some", "rl2"): slow, ("some", "s5"): quick}
    rows = memories.rows("some", results, {("some", "rl2"): 0.2, ("some", "s5"): 0.1})
    assert rows == [
        ["some", "gru", "125", "250", "500", "1000", "900", "3.3", "1"],
        ["some", "s5", "7 [7, 7]", "7 [7, 7]", "7 [7, 7]", "8 [7, 9]", "7 [6, 8]", "1.7", "2"],
    ]
