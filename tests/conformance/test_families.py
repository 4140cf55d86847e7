"""Every registered family, and the one of the docs, through every check of `metarl check`."""

import functools
from pathlib import Path

import pytest
from helpers.families import each_with, every_family
from helpers.short_checks import checked_in_short

from metarl.check import suite
from metarl.check.suite import CHECKS, check_family, title
from metarl.tasks.registry import find_family

ROBOTS = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLES = [
    f"{ROBOTS}/{name}" for name in ("my_robot.py:MyRobot", "my_arm.py:MyArm", "my_arm.py:MyHand")
]
FAMILIES = [*every_family(), *EXAMPLES]
OF_WORLDS = (
    "check_idempotent", "check_order", "check_threads", "check_divergence", "check_horizon",
)  # fmt: skip
"""Checks of what the worlds do, of several runs each: such a family goes through them slowly."""
LONG = ("finite", "plain_loop", "horizon")
"""The checks to which the length matters. What compares runs with each other (alone, order,
threads) sees as much in the few steps of two short episodes."""

MOVES_LIKE = ("-sparse", "-literature", "-scan")
"""The ends of names of families with the physics of another one: the short checks are enough."""

made = functools.cache(find_family)


SLOW = tuple(check for check in CHECKS if check.__name__ in OF_WORLDS)


@pytest.mark.parametrize(("family", "check"), each_with(CHECKS, FAMILIES, slow=SLOW))
def test_family(family: str, check, monkeypatch) -> None:
    """In a few steps; the test below goes to the end of an episode."""
    checked_in_short(made(family), check, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "check"), each_with(LONG, [*every_family(without=MOVES_LIKE), *EXAMPLES])
)
def test_family_to_the_end_of_an_episode(family: str, check) -> None:
    getattr(suite, f"check_{check}")(made(family))


def test_the_report_has_a_line_for_each_check() -> None:
    lines: list[str] = []
    assert check_family(find_family("point-goal"), lines.append) == 0
    assert lines == [f"ok    {title(check)}" for check in CHECKS]
