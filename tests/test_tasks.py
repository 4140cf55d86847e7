"""Parameters, tasks, and splits that are frozen and disjoint by construction."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)

FAMILIES = ("half-cheetah-vel", "half-cheetah-dir", "half-cheetah-dynamics", "point-goal")

GOLDEN = {
    "half-cheetah-vel": "26d80547f00a5af7",
    "half-cheetah-dir": "d3659cef43c89e88",
    "half-cheetah-dynamics": "1a9cefe80ec69d9c",
    "point-goal": "953e01002021dd8f",
}


def distribution(name: str) -> TaskDistribution:
    return TaskDistribution(find_family(name))


def digest(name: str) -> str:
    splits = ["train", "heldout"] + (["ood"] if distribution(name).has_ood else [])
    values = b"".join(distribution(name).split(split, 50).values.tobytes() for split in splits)
    return hashlib.sha256(values).hexdigest()[:16]


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_are_frozen(name: str) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest(name) == GOLDEN[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_split_is_a_prefix_of_a_longer_one(name: str) -> None:
    tasks = distribution(name)
    assert tasks.split("heldout", 20)[:7] == tasks.split("heldout", 7)


@given(st.integers(0, 2**63))
def test_no_training_draw_is_a_held_out_task(seed: int) -> None:
    tasks = distribution("half-cheetah-dynamics")
    drawn = tasks.sample(40, np.random.default_rng(seed)).values
    for split in ("heldout", "ood"):
        assert not np.isin(drawn, tasks.split(split, 200).values).any()
    assert not np.isin(tasks.split("train", 50).values, tasks.split("heldout", 50).values).any()


@pytest.mark.parametrize("name", ["half-cheetah-vel", "half-cheetah-dynamics", "point-goal"])
def test_draws_stay_in_their_ranges(name: str) -> None:
    tasks = distribution(name)
    inside = (tasks.sample(500, np.random.default_rng(0)), tasks.split("heldout", 500))
    for m in (*inside, tasks.split("ood", 500)):
        outside = np.zeros(len(m), int)
        for param in tasks.params:
            column, box = m.column(param.name), param.train
            within = (column >= box.low) & (column <= box.high)
            outside += ~within
            far = [(column > r.low) | (r.high <= box.low) for r in param.ood]
            legal = [
                f & (column >= r.low) & (column <= r.high)
                for f, r in zip(far, param.ood, strict=True)
            ]
            assert (within | np.any(legal, axis=0)).all()
        expected = 0 if m is not None and any(m is one for one in inside) else 1
        assert (outside == expected).all()


def test_ood_of_half_cheetah_vel_leaves_out_three() -> None:
    values = distribution("half-cheetah-vel").split("ood", 1000).values
    assert values.min() > 3.0
    assert values.max() <= 3.5


def test_directions_go_through_both_in_order() -> None:
    tasks = distribution("half-cheetah-dir")
    assert tasks.shared_split
    assert tasks.split("heldout", 4).values[:, 0].tolist() == [-1, 1, -1, 1]
    with pytest.raises(UserError, match="no ood"):
        tasks.split("ood", 2)


def test_sampling_covers_the_box_evenly() -> None:
    values = distribution("half-cheetah-vel").sample(20000, np.random.default_rng(1)).values
    counts, _ = np.histogram(values, bins=10, range=(0, 3))
    assert counts.min() > 1800


def test_a_log_range_is_even_in_the_logarithm() -> None:
    values = distribution("half-cheetah-dynamics").sample(20000, np.random.default_rng(1))
    assert np.mean(values.column("mass") < 1.0) == pytest.approx(0.5, abs=0.02)


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_json_keeps_every_bit(values: list[list[float]]) -> None:
    tasks = Tasks("f", ("a", "b"), np.array(values))
    assert Tasks.from_json(json.loads(json.dumps(tasks.to_json()))) == tasks


def test_sweep_make_and_nominal() -> None:
    tasks = distribution("half-cheetah-dynamics")
    assert tasks.nominal().values[0].tolist() == [1.0, 1.0, 1.0, 1.0]
    sweep = tasks.sweep("friction", 5)
    assert sweep.column("friction")[[0, -1]] == pytest.approx([0.2, 2.0])
    assert (sweep.column("mass") == 1.0).all()
    one = tasks.make(mass=1.5)
    assert one.values[0].tolist() == [1.5, 1.0, 1.0, 1.0]
    assert "mass=1.5" in one.label(0)
    assert distribution("half-cheetah-dir").sweep("direction", 4).values[:, 0].tolist() == [
        -1, -1, 1, 1,
    ]  # fmt: skip


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
        (lambda: Tasks.from_json({"family": "f"}), "malformed"),
        (lambda: Tasks("f", ("mass",), np.ones((1, 1))).column("mas"), "did you mean 'mass'"),
        (lambda: distribution("half-cheetah-vel").split("heldot", 3), "did you mean 'heldout'"),
        (lambda: distribution("half-cheetah-vel").split("heldout", 0), "at least 1"),
        (lambda: distribution("half-cheetah-vel").make(goal_velocty=1), "'goal_velocity'"),
        (lambda: distribution("half-cheetah-vel").make(goal_velocity=float("inf")), "finite"),
    ],
)
def test_refusals_are_one_line(make, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_nominal_values() -> None:
    assert Param("m", Interval(0.5, 3), edit=scale("body_mass")).nominal_value == 1.0
    assert Param("m", Interval(1, 3), edit=shift("body_mass")).nominal_value == 0.0
    assert Param("g", Interval(1, 3)).nominal_value == 2.0
    assert Param("g", Interval(1, 3), nominal=3).nominal_value == 3.0
