"""The families with sparse rewards: terms by hand, and what is paid where nothing is told."""

import math

import numpy as np
import pytest
import torch
from reference import digest, one_world, record

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.check.suite import check_family, check_parameters
from metarl.evaluation.protocol import stand_still
from metarl.simulation.simulator import State

CHEETAH, ANT = "half-cheetah-dir-sparse", "ant-goal-sparse"
ACTION = [1.0, -1.0, 0.5, 0.0, 0.0, 0.0]
"""Its square is 2.25: a control cost of 0.1125 at 0.05, and 0.0225 at 0.01."""


@pytest.mark.parametrize(
    ("direction", "x", "expected"),
    [
        # the root moves 0.1 m in 0.05 s: v = 2 m/s, which is paid for beyond 5 m alone
        (1.0, 4.99, 0.0), (-1.0, 0.1, 0.0), (1.0, 5.0, 2.0), (-1.0, 5.0, -2.0),
        (1.0, -5.0, 2.0), (-1.0, -4.95, 0.0), (-1.0, -7.0, -2.0),
    ],
)  # fmt: skip
def test_the_cheetah_is_paid_beyond_5_m(direction: float, x: float, expected: float) -> None:
    worlds = one_world(CHEETAH, direction=direction)
    got = reward_terms(worlds, {0: x - 0.1}, {0: x}, ACTION)
    assert got == {"run": pytest.approx(expected, abs=1e-9), "control": pytest.approx(-0.1125)}


def reward_terms(worlds: TaskWorlds, before: dict, after: dict, action: list) -> dict[str, float]:
    sim = worlds.simulator
    for column, value in before.items():
        sim.qpos[0, column] = value
    was = State(sim.qpos.clone(), sim.qvel.clone())
    for column, value in after.items():
        sim.qpos[0, column] = value
    acted = torch.tensor([action], dtype=torch.float64)
    terms = worlds.family.reward(sim, was, acted, worlds.task)
    return {name: float(term) for name, term in terms.items()}


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        # the goal is at (0, 2)
        ((0.0, 2.0), 1.0), ((0.3, 1.6), 0.5), ((0.0, 1.25), 0.25), ((0.0, 1.24), -0.75),
        ((0.0, 0.0), -0.75), ((0.6, 2.6), -0.75),
    ],
)  # fmt: skip
def test_the_ant_is_told_within_75_cm(at: tuple[float, float], expected: float) -> None:
    worlds = one_world(ANT, goal_radius=2.0, goal_angle=math.pi / 2)
    got = reward_terms(worlds, {}, dict(enumerate(at)), [*ACTION, 0.0, 0.0])
    assert got == {"goal": pytest.approx(expected), "control": pytest.approx(-0.0225)}


def test_the_place_is_observed() -> None:
    """Whether a place pays is no secret of the task's, so the robot must know where it is."""
    for name, size in ((CHEETAH, 18), (ANT, 29)):
        worlds = TaskWorlds(name, 2, 1)
        assert worlds.spec[:3] == (size, 8 if name == ANT else 6, 200)
        sim = worlds.simulator
        assert torch.equal(worlds.reset(), torch.cat((sim.qpos, sim.qvel), 1).float())
        assert not worlds.family.terminated(sim).any()


@pytest.mark.parametrize("name", [CHEETAH, ANT])
def test_random_actions_are_told_nothing_in_most_tasks(name: str) -> None:
    tasks, steps = record(name, 120)
    cost, missed = (0.05, 0.0) if name == CHEETAH else (0.01, -0.75)
    paid = np.stack([at.reward + cost * (at.action**2).sum(1) for at in steps])
    far = np.abs(paid - missed).max(0) < 1e-9
    assert far.all() if name == CHEETAH else far.sum() >= 9
    if name == ANT:
        near = tasks.column("goal_radius") < 0.7
        assert not far[near].any()


def test_standing_still_scores_what_arithmetic_says() -> None:
    """−0.75 a step where the goal is out of reach; nothing where nothing is paid."""
    ant = TaskWorlds(ANT, 2, 1)
    distribution = TaskDistribution(ant.family)
    assert stand_still(ant, distribution.make(goal_radius=2.0), 0) == pytest.approx(-150.0)
    assert 100 < stand_still(ant, distribution.make(goal_radius=0.0), 0) < 200
    cheetah = TaskWorlds(CHEETAH, 2, 1)
    assert stand_still(cheetah, TaskDistribution(cheetah.family).split("heldout", 2), 0) == 0.0


def test_their_tasks_are_those_of_the_dense_families() -> None:
    for sparse, dense in ((CHEETAH, "half-cheetah-dir"), (ANT, "ant-goal")):
        assert find_family(sparse).params == find_family(dense).params


def test_splits_are_frozen() -> None:
    """Golden: results of different versions are comparable only while this holds."""
    assert digest(ANT) == "65bd186d375c1bf4"


@pytest.mark.parametrize("name", [CHEETAH, ANT])
def test_the_check_that_random_actions_cannot_pass_is_left_out_and_said_so(name: str) -> None:
    lines: list[str] = []
    assert check_family(find_family(name), lines.append, (check_parameters,)) == 0
    title = "Every parameter changes the trajectory, the observation or the reward"
    reason = "probe_steps = 0: random actions do not meet the difference"
    assert lines == [f"skip  {title}: {reason}"]
