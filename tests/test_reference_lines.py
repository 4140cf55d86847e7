"""experiments/reference_lines.py: the best task-blind constants, against arithmetic on paper."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from metarl import TaskDistribution, TaskWorlds
from metarl.evaluation.protocol import stand_still

PATH = Path(__file__).parents[1] / "experiments" / "reference_lines.py"
SPEC = importlib.util.spec_from_file_location("reference_lines", PATH)
assert SPEC is not None
lines = importlib.util.module_from_spec(SPEC)
assert SPEC.loader is not None
SPEC.loader.exec_module(lines)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("half-cheetah-vel", -200 * 0.75),  # |1.5 − U[0, 3]| is 3/4 on average
        ("ant-vel", 100 * (1 - 0.75)),
        ("half-cheetah-dir", 0.0),
        ("ant-dir", 200.0),
        ("humanoid-dir", 1000.0),
        # E r = 2 in a disc of radius 3, and E(|cos| + |sin|) = 4/π
        ("ant-goal", -200 * 2 * 4 / np.pi),
        # the goal is within 0.75 m of the middle in 1 task of 16, and then 0.5 m away on average
        ("ant-goal-sparse", 200 * (0.5 / 16 - 0.75 * 15 / 16)),
        # the mean distance from the middle of a square of side 2
        ("point-goal", -20 * (2**0.5 + np.log(1 + 2**0.5)) / 3),
    ],
)
def test_best_blind_constants(name: str, expected: float) -> None:
    assert lines.blind_constant(name) == pytest.approx(expected, rel=0.01)


def test_no_constant_where_arithmetic_gives_none() -> None:
    assert lines.blind_constant("hopper-dynamics") is None


def test_standing_still_is_what_evaluate_reports() -> None:
    """Up to the noise of the start, which has another key; random actions go nowhere."""
    worlds = TaskWorlds("point-goal", 40, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 20)
    expected = stand_still(worlds, tasks, 0)
    assert lines.episode_returns(worlds, random=False).mean() == pytest.approx(expected, abs=0.05)
    moved = lines.episode_returns(worlds, random=True)
    assert moved.shape == (40,)
    assert abs(moved.mean() - expected) < 3.0
    assert (moved == lines.episode_returns(worlds, random=True)).all()
