"""Rewards and observations of the half-cheetah families against formulas of their own."""

import numpy as np
import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.simulation.simulator import State

ACTION = torch.tensor([[1.0, -1.0, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        # the root moves 0.1 m in 0.05 s: v = 2 m/s; the action's square is 2.25, times 0.05
        ("half-cheetah-vel", {"goal_velocity": 1.7}, -0.3 - 0.1125),
        ("half-cheetah-vel", {"goal_velocity": 2.5}, -0.5 - 0.1125),
        ("half-cheetah-dir", {"direction": 1.0}, 2.0 - 0.1125),
        ("half-cheetah-dir", {"direction": -1.0}, -2.0 - 0.1125),
        ("half-cheetah-dynamics", {"mass": 1.5}, 2.0 - 0.1125),
        ("half-cheetah-crippled", {"dead_motor": 2}, 2.0 - 0.1125),
    ],
)
def test_rewards_by_hand(name: str, task: dict[str, float], expected: float) -> None:
    worlds = TaskWorlds(name, 1, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(**task), 1)
    sim = worlds.simulator
    before = State(torch.zeros(1, 9, dtype=torch.float64), sim.qvel.clone())
    sim.qpos[0, 0] = 0.1
    reward = worlds.family.reward(sim, before, ACTION, worlds.task)
    assert float(reward) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["vel", "dir", "dynamics"])
def test_rewards_on_recorded_states(name: str) -> None:
    worlds = TaskWorlds(f"half-cheetah-{name}", 8, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 8)
    first = tasks.values[:, 0]
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        x = worlds.simulator.qpos[:, 0].numpy().copy()
        move = rng.uniform(-1.5, 1.5, (8, 6))
        got = worlds.step(torch.from_numpy(move))
        speed = (worlds.simulator.qpos[:, 0].numpy() - x) / 0.05
        cost = 0.05 * (np.clip(move, -1, 1) ** 2).sum(1)
        gain = {"vel": -np.abs(speed - first), "dir": first * speed, "dynamics": speed}[name]
        np.testing.assert_allclose(got.reward.numpy(), gain - cost, rtol=0, atol=1e-9)


def test_the_observation_leaves_out_the_absolute_position() -> None:
    worlds = TaskWorlds("half-cheetah-dir", 2, 1)
    assert worlds.spec[:3] == (17, 6, 200)
    before = worlds.family.observe(worlds.simulator, worlds.task)
    worlds.simulator.qpos[:, 0] += 5.0
    assert torch.equal(worlds.family.observe(worlds.simulator, worlds.task), before)
    assert torch.equal(before[:, 8:], worlds.simulator.qvel)


def test_standing_still_scores_what_arithmetic_says() -> None:
    """The mean of 30 held-out velocities over 200 steps, and nearly nothing for moving."""
    from metarl.evaluation.protocol import stand_still

    worlds = TaskWorlds("half-cheetah-vel", 30, 2)
    tasks = TaskDistribution(worlds.family).split("heldout", 30)
    assert stand_still(worlds, tasks, 0) == pytest.approx(-200 * tasks.values.mean(), rel=0.03)


def test_constants() -> None:
    family = find_family("half-cheetah-vel")
    assert family.dt == pytest.approx(0.05)
    assert family.compile().body_mass.sum() == pytest.approx(14.0)


@pytest.mark.parametrize("name", ["half-cheetah-vel", "half-cheetah-dir", "half-cheetah-dynamics"])
def test_robots_start_where_gymnasium_s_do(name: str) -> None:
    """qpos: U[−0.1, 0.1); qvel: 0.1 N(0, 1); the observation is both without the root's x."""
    worlds = TaskWorlds(name, 4000, 1)
    obs = worlds.reset()
    sim = worlds.simulator
    assert 0.099 < float(sim.qpos.abs().max()) <= 0.1
    np.testing.assert_allclose(sim.qpos.std(0), 0.1 / 3**0.5, atol=0.003)
    np.testing.assert_allclose(sim.qvel.std(0), 0.1, atol=0.005)
    assert torch.equal(obs, torch.cat((sim.qpos[:, 1:], sim.qvel), 1).float())


@pytest.mark.parametrize("name", ["half-cheetah-vel", "half-cheetah-dir"])
def test_the_task_shows_in_the_reward_alone(name: str) -> None:
    """Two worlds of different tasks that start alike and act alike see the same to the bit."""
    worlds = TaskWorlds(name, 2, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 2), 1)
    sim = worlds.simulator
    sim.qpos[1], sim.qvel[1] = sim.qpos[0], sim.qvel[0]
    for t in range(20):
        got = worlds.step(torch.full((2, 6), 0.1 * t - 1))
        assert torch.equal(got.next_obs[0], got.next_obs[1])
        assert got.reward[0] != got.reward[1]


def test_a_dynamics_task_changes_what_it_names() -> None:
    worlds = TaskWorlds("half-cheetah-dynamics", 1, 1)
    tasks, nominal = TaskDistribution(worlds.family), worlds.family.compile()
    worlds.set_tasks(tasks.make(mass=1.5, friction=0.5, damping=2.0, strength=0.75), 1)
    fields = (
        ("body_mass", 1.5), ("body_inertia", 1.5), ("geom_friction", 0.5), ("dof_damping", 2.0),
        ("actuator_gear", 0.75),
    )  # fmt: skip
    for name, factor in fields:
        got = worlds.simulator.batch.expand(name)[0]
        np.testing.assert_array_equal(got, getattr(nominal, name) * factor, err_msg=name)


@pytest.mark.parametrize("dead", range(7))
def test_a_dead_motor_alone_gives_no_torque(dead: int) -> None:
    """With k of 1 to 6, action k does nothing, and all the others do; 0 is a sound robot."""
    worlds = TaskWorlds("half-cheetah-crippled", 7, 1)
    tasks = TaskDistribution(worlds.family).make(dead_motor=float(dead))
    worlds.set_tasks(tasks, 7)
    worlds.reset()
    sim = worlds.simulator
    sim.qpos[:], sim.qvel[:] = sim.qpos[0].clone(), 0.0
    worlds.step(torch.cat((torch.zeros(1, 6), torch.eye(6))))  # world k alone drives motor k
    same = [bool(torch.equal(sim.qpos[k], sim.qpos[0])) for k in range(1, 7)]
    assert same == [k == dead for k in range(1, 7)]


def test_the_first_motor_is_never_dead_in_training() -> None:
    distribution = TaskDistribution(find_family("half-cheetah-crippled"))
    assert set(distribution.split("train", 30).values[:, 0]) == {2, 3, 4, 5, 6}
    assert set(distribution.split("ood", 3).values[:, 0]) == {1}
    sound = distribution.nominal()
    assert distribution.family.describe({"dead_motor": sound.values[0, 0]}) == ["every motor works"]
    assert distribution.family.describe({"dead_motor": 1.0}) == ["bthigh is dead"]
