"""The adaptation score: its value by hand, its interval, and when there is none."""

import numpy as np
import pytest

from metarl import UserError
from metarl.evaluation.score import adaptation_score, score_draws, task_scores

TASKS = [[float(i)] for i in range(20)]
SPREAD = np.linspace(-1, 1, 20)


def test_by_hand() -> None:
    """Blind 0, oracle 10 and X 7 in the mean: 0.7, whatever tasks do to all three alike."""
    shift = 100 * SPREAD
    score = adaptation_score([7 + shift], [shift], [10 + shift], TASKS)
    assert score.value == pytest.approx(0.7)
    assert (score.low, score.high) == (pytest.approx(0.7), pytest.approx(0.7))
    assert score.worth == (pytest.approx(10), pytest.approx(10), pytest.approx(10))


def test_seeds_widen_the_interval() -> None:
    one = adaptation_score([7 + SPREAD], [0 * SPREAD], [10 + 0 * SPREAD], TASKS)
    three = adaptation_score(
        [3 + SPREAD, 7 + SPREAD, 11 + SPREAD], [0 * SPREAD], [10 + 0 * SPREAD], TASKS
    )
    assert three.value == pytest.approx(one.value) == pytest.approx(0.7)
    assert one.low < 0.7 < one.high
    assert three.high - three.low > 3 * (one.high - one.low)


def test_no_score_where_knowing_the_task_is_worth_nothing() -> None:
    score = adaptation_score([SPREAD + 1], [SPREAD], [-SPREAD + 0.1], TASKS)
    assert np.isnan(score.value)
    assert score.worth[1] < 0.1 < score.worth[2]
    assert "not shown" in score.words


def test_a_diverged_task_is_left_out() -> None:
    holes = np.where(np.arange(20) == 3, np.nan, 7.0)
    assert adaptation_score([holes], [0 * SPREAD], [10 + 0 * SPREAD], TASKS).value == 0.7


def test_other_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="same 20 tasks in every line, not 20, 19, 20"):
        adaptation_score([SPREAD], [SPREAD[1:]], [SPREAD], TASKS)


def test_the_interval_covers() -> None:
    """Of 200 draws of tasks, the interval holds the true score nearly 95 times in 100."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        b = rng.normal(0, 2, 20)
        x, o = b + rng.normal(6, 3, 20), b + rng.normal(10, 3, 20)
        score = adaptation_score([x], [b], [o], TASKS)
        covered += score.low <= 0.6 <= score.high
    assert 180 <= covered <= 198


def test_scores_of_tasks_by_hand() -> None:
    """Blind 2 and 4 (the means of two seeds), oracle 7 and 9: the unit is 5; a task diverged."""
    mine = [np.array([7.0, 4.0, 1.0]), np.array([2.0, 14.0, np.nan])]
    blind = [np.array([1.0, 3.0, 0.0]), np.array([3.0, 5.0, 0.0])]
    scores, tasks = task_scores(mine, blind, [np.array([7.0, 9.0, 0.0])], [[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(scores, [[1, 0], [0, 2]])
    assert tasks.tolist() == [[0.0], [1.0]]


def test_the_mean_of_the_scores_of_tasks_is_the_score() -> None:
    rng = np.random.default_rng(0)
    lines = [centre + rng.normal(size=(3, 20)) for centre in (7, 0, 10)]
    score = adaptation_score(*lines, TASKS)
    assert task_scores(*lines, TASKS)[0].mean() == pytest.approx(score.value)
    assert score.low < score_draws(*lines, TASKS).mean() < score.high
