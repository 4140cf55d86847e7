"""What parameters and tasks refuse, and the values that parameters have."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.refusals import refused

from metarl import (
    Choices,
    Interval,
    Param,
    TaskDistribution,
    Tasks,
    UserError,
    find_family,
    scale,
    shift,
    when,
)


def distribution(name: str) -> TaskDistribution:
    return TaskDistribution(find_family(name))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Interval(2, 1), "low must be below high"),
        (lambda: Interval(0, float("nan")), "finite"),
        (lambda: Interval(0, 1, log=True), "low must be positive"),
        (lambda: Choices(()), "at least one"),
        (lambda: Choices((1, 1)), "repeated"),
        (lambda: Param("Mass", Interval(0, 1)), "snake_case"),
        (lambda: Param("m", Interval(0, 1), size=0), "size"),
        (lambda: Param("m", Interval(0, 1), ood=(Interval(0.5, 2),)), "overlaps"),
        (lambda: Param("m", Choices((1,)), ood=(Interval(0, 2),)), "overlaps"),
        (lambda: Tasks("f", ("a",), np.zeros((2, 2))), "shape"),
        (lambda: Tasks("f", ("a",), np.array([[np.nan]])), "finite"),
        (lambda: Tasks("f", ("a",), np.zeros((0, 1))), "M at least 1"),
        (lambda: Tasks.from_json({"family": "f"}), "malformed: 'values'"),
        (lambda: Tasks.from_json([1]), "malformed"),
        (lambda: Tasks.from_json(None), "malformed"),
        (lambda: Tasks.from_json({"family": "f", "names": ["a"], "values": [[None]]}), "finite"),
        (lambda: Tasks.from_json({"family": "f", "names": ["a"], "values": [[1], []]}), "malform"),
        (lambda: Tasks.from_json({"family": "f", "names": 3, "values": [[1]]}), "malformed"),
        pytest.param(
            lambda: Tasks.from_json({"family": "f", "names": ["a"], "values": [[10**400]]}),
            "malformed",
        ),
        (lambda: Param("m", Interval(0, 1), size="all"), "'m': size must be a positive integer"),
        (lambda: Param("m", Interval(0, 1), size="model").names, "'m': its size is known once"),
        pytest.param(
            lambda: Param("m", Interval(0, 1), ood=Interval(1, 2)),
            "'m'.*ood",
        ),
        pytest.param(
            lambda: Param("m", (0, 1)),
            "'m'.*train",
        ),
        (
            lambda: distribution("half-cheetah-vel").sweep("goal", 3),
            "no parameter .goal.; it has goal_v",
        ),
        (
            lambda: distribution("half-cheetah-vel").sample(0, np.random.default_rng(0)),
            "at least 1",
        ),
        (lambda: Tasks("f", ("mass",), np.ones((1, 1))).column("mas"), "did you mean 'mass'"),
        (lambda: distribution("half-cheetah-vel").split("heldot", 3), "did you mean 'heldout'"),
        (lambda: distribution("half-cheetah-vel").split("heldout", 0), "at least 1"),
        (lambda: distribution("half-cheetah-vel").make(goal_velocty=1), "'goal_velocity'"),
        (lambda: distribution("half-cheetah-vel").make(goal_velocity=float("inf")), "finite"),
        (lambda: Param("m", Interval(0, 1), edit=3), "'m': edit must be scale"),
        (lambda: Param("m", Interval(0, 1), nominal=float("nan")), "'m': nominal must be finite"),
        pytest.param(
            lambda: Param("m", Interval(0, 2), edit=when(1, scale("body_mass"), 2)),
            r"'m': when\(1, …\) needs Choices to choose among, not \[0, 2\]",
        ),
        pytest.param(
            lambda: Param("m", Choices((0, 1)), edit=when(2, scale("body_mass"), 2)),
            r"'m': when\(2, …\) never happens: its values are {0, 1}",
        ),
    ],
)
def test_refusals_are_one_line(make, words: str) -> None:
    with refused(match=words):
        make()


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("ant-crippled", {"fault": 9.0}, "'fault' must be one of {0, …, 8}, not 9"),
        ("ant-fwd-back", {"direction": 0.5}, "'direction' must be one of {-1, 1}, not 0.5"),
        ("half-cheetah-terrain", {"ground": 64}, "'ground' must be one of {0, …, 63}, not 64"),
        (
            "half-cheetah-dir+terrain",
            {"ground": -1.0},
            "'ground' must be one of {0, …, 63}, not -1",
        ),
        ("grid", {"a[1]": 3.0}, "'a' must be one of {1, 2, 7} or [4, 5], not 3"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(name: str, task: dict, words: str) -> None:
    """By hand, and in tasks that come from elsewhere, such as a file."""
    grid = Param("a", Choices((1, 2)), ood=(Interval(4, 5),), size=2, nominal=7)
    grid = SimpleNamespace(name="grid", params=(grid,))
    family = grid if name == "grid" else find_family(name)
    tasks = TaskDistribution(family)
    expected = f"family '{family.name}': parameter {words}"
    with pytest.raises(UserError) as caught:
        tasks.make(**task)
    assert str(caught.value) == expected
    values = tasks.nominal().values.copy()
    values[0, tasks.names.index(*task)] = next(iter(task.values()))
    with pytest.raises(UserError) as caught:
        tasks.check(Tasks(family.name, tasks.names, values))
    assert str(caught.value) == expected


def test_choices_of_every_split_can_be_made() -> None:
    tasks = distribution("ant-crippled")
    for fault in range(9):
        assert tasks.make(fault=fault).values.tolist() == [[fault]]


def test_nominal_values() -> None:
    assert Param("m", Interval(0.5, 3), edit=scale("body_mass")).nominal_value == 1.0
    assert Param("m", Interval(1, 3), edit=shift("body_mass")).nominal_value == 0.0
    assert Param("g", Interval(1, 3)).nominal_value == 2.0
    assert Param("g", Interval(1, 3), nominal=3).nominal_value == 3.0


def test_a_radius_by_area() -> None:
    """r² is uniform: a ring from 3 to 5 m has half of its area within √17 m."""
    ring = Interval(3.0, 5.0, area=True)
    np.testing.assert_allclose(ring.at(np.array([0.0, 0.5, 1.0])), [3.0, 17**0.5, 5.0])
    assert str(ring) == "[3, 5] by area"
    for bad in (lambda: Interval(-1.0, 1.0, area=True), lambda: Interval(1, 2, True, True)):
        with pytest.raises(UserError, match="low must be at least 0"):
            bad()


def test_ranges_are_told_apart_to_the_last_digit() -> None:
    mass = Param("m", Interval(0.5, 2, log=True), ood=(Interval(2, 3),), size=3)
    assert mass.ranges == "3 of [0.5, 2.0] log, ood [2.0, 3.0]"
    seed = Param("s", Choices((0, 1), heldout=(2,), ood=(3,)))
    assert seed.ranges == "{0.0, 1.0}, heldout {2.0}, ood {3.0}"
    ranges = {Param("m", Interval(0, top)).ranges for top in (1, 1.0, 1.0000000000000002)}
    assert len(ranges) == 2


def test_choices_have_their_ood_values_themselves() -> None:
    with pytest.raises(UserError, match=r"ood must be .*; for choices, write Choices\(\(…\), ood="):
        Param("fault", Choices((0, 1)), ood=(Choices((2,)),))  # type: ignore[arg-type]
