"""Every registered family, and the one of the docs, through every check of `metarl check`."""

from pathlib import Path

import pytest

from metarl.check import suite, trajectory
from metarl.check.suite import CHECKS, check_family, title
from metarl.tasks.family import TaskFamily, replace_attributes
from metarl.tasks.registry import find_family, list_families

EXAMPLE = f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'my_robot.py'}:MyRobot"


@pytest.fixture(scope="module", params=[*list_families(), EXAMPLE], ids=lambda n: n.split("/")[-1])
def family(request: pytest.FixtureRequest) -> TaskFamily:
    return find_family(request.param)


STEPS = {
    (suite, "LONGEST"): 24, (suite, "STEPS"): 24, (trajectory, "STEPS"): 24, (suite, "MANY"): 60,
}  # fmt: skip
WHOLE = (suite.check_finite, suite.check_parameters)
"""Checks of runs in which no episode ends."""
LONG = ("finite", "alone", "plain_loop", "order", "horizon", "threads")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_family(family: TaskFamily, check, monkeypatch) -> None:
    """In runs of 24 steps, in which three episodes begin; the test below goes to the end of one."""
    for (module, name), steps in STEPS.items():
        monkeypatch.setattr(module, name, steps)
    check(family if check in WHOLE else replace_attributes(family, horizon=8))


@pytest.mark.slow
@pytest.mark.parametrize("check", LONG)
def test_family_to_the_end_of_an_episode(family: TaskFamily, check) -> None:
    getattr(suite, f"check_{check}")(family)


def test_the_report_has_a_line_for_each_check() -> None:
    lines: list[str] = []
    assert check_family(find_family("point-goal"), lines.append) == 0
    assert lines == [f"ok    {title(check)}" for check in CHECKS]
