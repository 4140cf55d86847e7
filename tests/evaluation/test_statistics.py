"""The statistics behind the intervals: what they are of, and how often they hold the truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from metarl.evaluation.statistics import (
    gain_interval,
    iqm,
    iqm_interval,
    iqm_over_families,
    levels,
    performance_profile,
    profile_band,
    resampled_rows,
    widest,
    worst_tail,
)

ROOT = Path(__file__).resolve().parents[2]


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    from scipy.stats import trim_mean  # not above: importing it takes a second

    assert iqm(np.array([100.0, 1.0, 2.0, -50.0])) == pytest.approx(1.5)
    values = np.random.default_rng(0).normal(size=(30, 3))
    np.testing.assert_allclose(iqm(values), trim_mean(values, 0.25, axis=0))


def test_tasks_that_occur_once_are_resampled_together() -> None:
    rows = resampled_rows([[0.1], [0.2], [0.3]], np.random.default_rng(0), 500)
    assert rows.shape == (500, 3)
    assert set(np.unique(rows[:, 0])) == {0, 1, 2}


def test_equal_tasks_are_resampled_among_themselves() -> None:
    rows = resampled_rows([[1.0], [-1.0], [1.0], [-1.0]], np.random.default_rng(0), 500)
    assert set(np.unique(rows[:, [0, 2]])) == {0, 2}
    assert set(np.unique(rows[:, [1, 3]])) == {1, 3}


def test_the_levels_of_an_interval_by_hand() -> None:
    """Student's t of 7 degrees of freedom is 2.365 at 97.5 %; √(8/7) of it is 2.528 normal σ."""
    assert levels(np.arange(8.0)[:, None]) == pytest.approx([0.574, 99.426], abs=1e-3)
    assert levels(np.arange(1e6)[:, None]) == pytest.approx([2.5, 97.5], abs=1e-3)
    assert levels([[1.0], [-1.0], [1.0], [-1.0]])[0] < 0.001
    assert levels([[1.0]]) == [0.0, 100.0]


def test_strata_have_interquartile_means_of_their_own() -> None:
    """Middle halves (1, 2) and (11, 12), of rows 4 and 4; over all eight it would be 3 to 10."""
    tasks = np.array([0.0, 1.0] * 4)[:, None]
    gain = np.array([0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 99.0])
    centre, low, high = gain_interval(gain, tasks, 0)
    assert centre == pytest.approx((1.5 + 11.5) / 2)
    assert low < centre < high
    returns = np.stack([gain, -gain], 1)
    both, _ = iqm_interval(returns, tasks, np.random.default_rng(0))
    assert both == pytest.approx([centre, -centre])


def coverage():
    path = ROOT / "experiments" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("draws", "count", "strata"),
    [
        ("normal", 8, 1),
        pytest.param("exponential", 15, 1, marks=pytest.mark.slow),
        pytest.param("lognormal", 30, 1, marks=pytest.mark.slow),
        ("lognormal", 16, 2),
    ],
)
def test_the_interval_of_the_gain_covers_95_times_in_100(draws: str, count: int, strata: int):
    """200 experiments see a coverage of 95 % as 92 to 98 % in 19 of 20 tests."""
    share = coverage().covered(draws, count, strata, experiments=200, seed=0)
    assert 0.92 <= share <= 0.98


@pytest.mark.slow
def test_a_row_of_the_documented_coverages() -> None:
    """`python experiments/interval_coverage.py --write` makes the table anew."""
    module = coverage()
    shares = [module.covered(draws, 8, 1, module.EXPERIMENTS, seed=0) for draws in module.DRAWS]
    row = "| 8 tasks | " + " | ".join(f"{share:.3f}" for share in shares) + " |"
    assert row in module.PAGE.read_text(encoding="utf-8")


def test_a_performance_profile_by_hand() -> None:
    """Each family counts alike: of 4 runs and of 1; a score at the threshold is not above it."""
    scores = [np.array([[0.0, 0.5], [0.5, 1.0]]), np.array([[0.75]])]
    profile = performance_profile(scores, np.array([-1.0, 0.0, 0.5, 0.75, 1.0]))
    np.testing.assert_allclose(profile, [1, (0.75 + 1) / 2, (0.25 + 1) / 2, 0.25 / 2, 0])


def test_the_band_of_a_profile_by_hand() -> None:
    """Of two seeds, one always above: 0, 1 or 2 of them are drawn; tasks that differ by none."""
    tasks = np.arange(40.0)[:, None]
    one, two = np.ones((1, 40)), np.stack([np.zeros(40), np.ones(40)])
    rng = np.random.default_rng(0)
    assert profile_band([one], [tasks], np.array([0.5, 1.0]), rng).tolist() == [[1, 1], [0, 0]]
    assert profile_band([two], [tasks], np.array([0.5]), rng).tolist() == [[0, 1]]
    assert profile_band([two, one], [tasks] * 2, np.array([0.5]), rng).tolist() == [[0.5, 1]]


def test_the_band_of_a_profile_is_that_of_a_fraction() -> None:
    """Half of 400 tasks are above: a binomial fraction, 1.96 · √(0.25 / 400) = 0.049 on a side."""
    scores, tasks = np.arange(400.0)[None] % 2, np.arange(400.0)[:, None]
    ((low, high),) = profile_band([scores], [tasks], np.array([0.5]), np.random.default_rng(0))
    assert (low, high) == (pytest.approx(0.451, abs=6e-3), pytest.approx(0.549, abs=6e-3))


def test_the_interquartile_mean_over_families_by_hand() -> None:
    """The mean of the middle two of four; families' draws are put in orders of their own."""
    rng = np.random.default_rng(0)
    values = np.array([9.0, 1.0, 2.0, -5.0])
    same = np.repeat(values[:, None], 2000, 1)
    assert iqm_over_families(values, same, [2.5, 97.5], rng) == (1.5, 1.5, 1.5)
    draws = np.tile(np.random.default_rng(1).normal(size=2000), (2, 1))
    _, low, high = iqm_over_families(np.zeros(2), draws, [2.5, 97.5], rng)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2), rel=0.07)  # not 2 · 1.96


def test_the_widest_levels_are_those_of_the_fewest_tasks() -> None:
    few, many = np.arange(8.0)[:, None], np.arange(30.0)[:, None]
    assert widest([many, few, many]) == levels(few)


@pytest.mark.parametrize(("tasks", "expected"), [(199, []), (200, [5.5, -195.5]), (219, [5.5])])
def test_the_worst_tail_needs_enough_tasks(tasks: int, expected: list[float]) -> None:
    """Returns 1 … M in the first round, −M … −1 in the second: the ten lowest."""
    first = np.random.default_rng(0).permutation(tasks) + 1.0
    rows = np.column_stack((first, -first))
    assert worst_tail(rows.tolist())[: len(expected)] == expected
    assert worst_tail(np.vstack((rows, [[np.nan, -1e9]])).tolist()) == worst_tail(rows.tolist())
