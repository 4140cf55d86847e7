"""The point robot: its reward by hand, and a goal that the observation does not show."""

import math

import pytest
import torch

from metarl import TaskDistribution, TaskWorlds


def test_reward_is_minus_the_distance() -> None:
    worlds = TaskWorlds("point-goal", 1, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(goal_x=0.9, goal_y=0.4), 1)
    sim = worlds.simulator
    sim.qpos[0] = torch.tensor([0.6, 0.0], dtype=torch.float64)
    reward = worlds.family.reward(sim, sim.snapshot(), torch.zeros(1, 2), worlds.task)
    assert float(reward) == pytest.approx(-0.5, abs=1e-12)


def test_the_goal_is_not_observed() -> None:
    worlds = TaskWorlds("point-goal", 4, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 4), 1)
    worlds.simulator.qpos[:] = 0.1
    worlds.simulator.qvel[:] = 0.0
    obs = worlds.family.observe(worlds.simulator, worlds.task)
    assert (obs == obs[0]).all()


def test_full_throttle_crosses_the_box_within_the_horizon() -> None:
    """8 N on 1 kg with 4 N s/m of drag: 2 m/s at most, so 1 m takes well under 2 s."""
    worlds = TaskWorlds("point-goal", 1, 1)
    for _ in range(9):
        worlds.step(torch.ones(1, 2))
    assert float(worlds.simulator.qvel[0, 0]) == pytest.approx(2.0, rel=0.05)
    assert float(worlds.simulator.qpos[0, 0]) > 1.0


def test_motion_is_that_of_the_equation() -> None:
    """m a = 8 u − 4 v from rest at the origin: x(t) = 2 u (t − (1 − e^{−4t}) / 4)."""
    worlds = TaskWorlds("point-goal", 1, 1)
    worlds.simulator.qpos[:], worlds.simulator.qvel[:] = 0.0, 0.0
    for k in range(1, 11):
        worlds.step(torch.tensor([[1.0, -0.5]]))
        t = 0.1 * k
        x = 2 * (t - (1 - math.exp(-4 * t)) / 4)
        got = worlds.simulator.qpos[0].tolist()
        assert got == pytest.approx([x, -x / 2], abs=0.03)


def test_robots_start_at_rest_within_a_centimetre() -> None:
    worlds = TaskWorlds("point-goal", 1000, 1)
    assert 0.0099 < float(worlds.simulator.qpos.abs().max()) <= 0.01
    assert not worlds.simulator.qvel.any()
