"""Every registered family, and the one of the docs, through every check of `metarl check`."""

import functools
from pathlib import Path

import pytest
from helpers.short_checks import checked_in_short

from metarl.check import suite
from metarl.check.suite import CHECKS, check_family, title
from metarl.tasks.registry import find_family
from tests.helpers.families import every_family

ROBOTS = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLES = [
    f"{ROBOTS}/{name}" for name in ("my_robot.py:MyRobot", "my_arm.py:MyArm", "my_arm.py:MyHand")
]
FAMILIES = [*every_family(), *EXAMPLES]
SIMILAR = (
    "half-cheetah-dir", "half-cheetah-dynamics", "half-cheetah-crippled", "ant-dir", "ant-fwd-back",
    "ant-vel", "ant-dynamics", "walker2d-dynamics", "hopper-dynamics",
)  # fmt: skip
"""Families of a robot that another one has, too: a reward and edits of their own."""
OF_WORLDS = ("check_order", "check_threads", "check_divergence")
"""Checks of what the worlds do, of several runs each: such a family goes through them slowly."""
LONG = ("finite", "plain_loop", "horizon")
"""The checks to which the length matters. What compares runs with each other (alone, order,
threads) sees as much in the few steps of two short episodes."""

made = functools.cache(find_family)


def cases(checks) -> list:
    """Every family with each check."""
    found = []
    for case in FAMILIES:
        name, marks = (case, ()) if isinstance(case, str) else (case.values[0], case.marks)
        for check in checks:
            label = getattr(check, "__name__", check)
            slow = name in SIMILAR and label in OF_WORLDS
            id_ = f"{name.split('/')[-1]}-{label}"
            how = [*marks, *([pytest.mark.slow] if slow else [])]
            found.append(pytest.param(name, check, marks=how, id=id_))
    return found


@pytest.mark.parametrize(("family", "check"), cases(CHECKS))
def test_family(family: str, check, monkeypatch) -> None:
    """In a few steps; the test below goes to the end of an episode."""
    checked_in_short(made(family), check, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "check"), cases(LONG))
def test_family_to_the_end_of_an_episode(family: str, check) -> None:
    getattr(suite, f"check_{check}")(made(family))


def test_the_report_has_a_line_for_each_check() -> None:
    lines: list[str] = []
    assert check_family(find_family("point-goal"), lines.append) == 0
    assert lines == [f"ok    {title(check)}" for check in CHECKS]
