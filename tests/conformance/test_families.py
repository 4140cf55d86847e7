"""Every registered family, and the one of the docs, through every check of `metarl check`."""

from pathlib import Path

import pytest
from helpers.short_checks import checked_in_short

from metarl.check import suite
from metarl.check.suite import CHECKS, check_family, title
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family
from tests.helpers.families import every_family

ROBOTS = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLES = [
    f"{ROBOTS}/{name}" for name in ("my_robot.py:MyRobot", "my_arm.py:MyArm", "my_arm.py:MyHand")
]


@pytest.fixture(scope="module", params=[*every_family(), *EXAMPLES], ids=lambda n: n.split("/")[-1])
def family(request: pytest.FixtureRequest) -> TaskFamily:
    return find_family(request.param)


LONG = ("finite", "plain_loop", "horizon")
"""The checks to which the length matters. What compares runs with each other (alone, order,
threads) sees as much in the few steps of three short episodes."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_family(family: TaskFamily, check, monkeypatch) -> None:
    """In a few steps; the test below goes to the end of an episode."""
    checked_in_short(family, check, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("check", LONG)
def test_family_to_the_end_of_an_episode(family: TaskFamily, check) -> None:
    getattr(suite, f"check_{check}")(family)


def test_the_report_has_a_line_for_each_check() -> None:
    lines: list[str] = []
    assert check_family(find_family("point-goal"), lines.append) == 0
    assert lines == [f"ok    {title(check)}" for check in CHECKS]
