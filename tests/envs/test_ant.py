"""The ant families against formulas of their own, by hand and with gymnasium's ant."""

import gymnasium
import numpy as np
import pytest
import torch
from reference import digest, one_world, record, reward_by_state

from metarl import TaskDistribution, Tasks, TaskWorlds, find_family
from metarl.check.plain_physics import edited_model
from metarl.tasks.family import without_termination

FAMILIES = ("ant-dir", "ant-fwd-back", "ant-vel", "ant-goal", "ant-dynamics", "ant-crippled")
ACTION = [1.0, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
"""Its square is 2.25: control costs of 1.125 at 0.5, and 0.225 at 0.1."""

GOLDEN = {
    "ant-dir": "d69ad00f25287d1b",
    "ant-fwd-back": "d3659cef43c89e88",
    "ant-vel": "28bf090ad77e8d76",
    "ant-goal": "caae68a4cb9c3961",
    "ant-dynamics": "977bb86a11d400b9",
    "ant-crippled": "01c9c41359427ee7",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_are_frozen(name: str) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest(name) == GOLDEN[name]


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        # in 0.05 s the torso moves by (0.06, 0.08) m: v = (1.2, 1.6) m/s
        ("ant-dir", {"goal_angle": 0.0}, 1.2 + 1 - 1.125),
        ("ant-dir", {"goal_angle": np.pi / 2}, 1.6 + 1 - 1.125),
        ("ant-dir", {"goal_angle": np.pi / 6}, 1.2 * 3**0.5 / 2 + 0.8 + 1 - 1.125),
        ("ant-fwd-back", {"direction": 1.0}, 1.2 + 1 - 1.125),
        ("ant-fwd-back", {"direction": -1.0}, -1.2 + 1 - 1.125),
        ("ant-vel", {"goal_velocity": 2.0}, -0.8 + 1 - 1.125),
        ("ant-vel", {"goal_velocity": 0.5}, -0.7 + 1 - 1.125),
        # the goal is at (0, 2); the torso goes from (0.1, 0.2) to (0.16, 0.28)
        ("ant-goal", {"goal_radius": 2.0, "goal_angle": np.pi / 2}, -0.16 - 1.72 - 0.225),
        # at (−3, 0)
        ("ant-goal", {"goal_radius": 3.0, "goal_angle": np.pi}, -3.16 - 0.28 - 0.225),
        ("ant-dynamics", {"payload": 0.5}, 1.2 + 1 - 1.125),
        ("ant-crippled", {"fault": 3.0}, 1.2 + 1 - 1.125),
    ],
)
def test_rewards_by_hand(name: str, task: dict[str, float], expected: float) -> None:
    worlds = one_world(name, **task)
    got = reward_by_state(worlds, {0: 0.1, 1: 0.2}, {0: 0.16, 1: 0.28}, ACTION)
    assert got == pytest.approx(expected, abs=1e-9)


def formula(name: str, tasks: dict[str, np.ndarray], at) -> np.ndarray:
    """The table of the literature without the contact cost, in numpy."""
    v = (at.qpos[:, :2] - at.qpos_before[:, :2]) / 0.05
    effort = (at.action**2).sum(1)
    if name == "ant-goal":
        r, theta = tasks["goal_radius"], tasks["goal_angle"]
        x, y = at.qpos[:, 0] - r * np.cos(theta), at.qpos[:, 1] - r * np.sin(theta)
        return -np.abs(x) - np.abs(y) - 0.1 * effort
    gain = {
        "ant-dir": lambda: (
            v[:, 0] * np.cos(tasks["goal_angle"]) + v[:, 1] * np.sin(tasks["goal_angle"])
        ),
        "ant-fwd-back": lambda: tasks["direction"] * v[:, 0],
        "ant-vel": lambda: -np.abs(v[:, 0] - tasks["goal_velocity"]),
    }.get(name, lambda: v[:, 0])()
    return gain + 1 - 0.5 * effort


@pytest.mark.parametrize("name", FAMILIES)
def test_rewards_and_ends_on_recorded_states(name: str) -> None:
    tasks, steps = record(name, 120)
    columns = {n: tasks.column(n) for n in tasks.names}
    ended = 0
    for at in steps:
        np.testing.assert_allclose(at.reward, formula(name, columns, at), rtol=0, atol=1e-9)
        z = at.qpos[:, 2]
        fell = np.zeros(len(z), bool) if name == "ant-goal" else ~((z >= 0.2) & (z <= 1.0))
        np.testing.assert_array_equal(at.terminated, fell)
        ended += fell.sum()
    assert ended > 0 or name == "ant-goal"


@pytest.mark.parametrize("height", [0.19, 0.21, 0.99, 1.01])
def test_the_torso_must_stay_between_20_cm_and_1_m(height: float) -> None:
    worlds = one_world("ant-dir")
    worlds.simulator.qpos[0, 2] = height
    assert bool(worlds.family.terminated(worlds.simulator)) == (height in (0.19, 1.01))
    goal = one_world("ant-goal")
    goal.simulator.qpos[0, 2] = height
    assert not goal.family.terminated(goal.simulator)


def test_observations() -> None:
    """27 numbers without the place, and 29 with it where the task is to reach a place."""
    for name in FAMILIES:
        worlds = TaskWorlds(name, 2, 1)
        sim, goal = worlds.simulator, name == "ant-goal"
        assert worlds.spec[:3] == (29 if goal else 27, 8, 100 if name == "ant-vel" else 200)
        parts = (sim.qpos[:, 0 if goal else 2 :], sim.qvel)
        assert torch.equal(worlds.reset(), torch.cat(parts, 1).float())
    assert find_family("ant-dir").dt == pytest.approx(0.05)


def test_physics_and_reward_agree_with_gymnasium_s_ant() -> None:
    """The states to the bit; reward and end where the terms are the same."""
    env = gymnasium.make(
        "Ant-v5", contact_cost_weight=0, include_cfrc_ext_in_observation=False
    ).unwrapped
    env.reset(seed=0)
    worlds = TaskWorlds(without_termination(find_family("ant-dynamics")), 1, 1)
    worlds.reset()
    sim = worlds.simulator
    env.set_state(sim.qpos[0].numpy(), sim.qvel[0].numpy())
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(-1, 1, 8)
        x = env.data.qpos[0]
        obs, _, terminated, _, info = env.step(action)
        got = worlds.step(torch.from_numpy(action[None]))
        np.testing.assert_array_equal(got.next_obs[0].numpy(), obs.astype(np.float32))
        assert bool(find_family("ant-dynamics").terminated(sim)) == terminated
        rest = got.reward.item() - (env.data.qpos[0] - x) / 0.05
        alive = 1.0 - info["reward_survive"]  # gymnasium pays nothing for the last step
        assert rest - alive == pytest.approx(info["reward_ctrl"] + info["reward_survive"], abs=1e-9)
    env.close()


def test_goals_cover_the_disc_evenly() -> None:
    """A quarter of the goals lies within half the radius; the mean radius is 2/3 of it."""
    tasks = TaskDistribution(find_family("ant-goal"))
    drawn = tasks.sample(20000, np.random.default_rng(0))
    radius, angle = drawn.column("goal_radius"), drawn.column("goal_angle")
    assert np.mean(radius < 1.5) == pytest.approx(0.25, abs=0.01)
    assert radius.mean() == pytest.approx(2.0, abs=0.02)
    assert abs(np.mean(radius * np.cos(angle))) < 0.05
    ood = tasks.split("ood", 200).column("goal_radius")
    assert ood.min() > 3.0
    assert ood.max() <= 3.5


def test_a_fault_takes_the_leg_that_it_names() -> None:
    worlds = TaskWorlds("ant-crippled", 9, 1)
    worlds.set_tasks(Tasks("ant-crippled", ("fault",), np.arange(9.0)[:, None]), 1)
    nominal, batch = worlds.family.compile(), worlds.simulator.batch
    gear, limits = batch.expand("actuator_gear")[:, :, 0], batch.expand("jnt_range")
    driven = [nominal.joint(int(nominal.actuator_trnid[i, 0])).name for i in range(8)]
    for world in range(9):
        leg = (world - 1) % 4 + 1
        of_leg = [name.endswith(f"_{leg}") and world > 0 for name in driven]
        np.testing.assert_array_equal(gear[world], np.where(of_leg, 0.0, 150.0))
        for joint in range(1, 9):
            held = world > 4 and nominal.joint(joint).name.endswith(f"_{leg}")
            low, high = limits[world, joint]
            low0, high0 = nominal.jnt_range[joint]
            expected = ((low0 + high0) / 2,) * 2 if held else (low0, high0)
            assert (low, high) == pytest.approx(expected, abs=1e-12)


def test_the_fourth_leg_fails_in_ood_alone() -> None:
    tasks = TaskDistribution(find_family("ant-crippled"))
    for split in ("train", "heldout"):
        assert set(tasks.split(split, 7).column("fault")) == {0, 1, 2, 3, 5, 6, 7}
    assert set(tasks.split("ood", 20).column("fault")) == {4, 8}


def test_a_locked_leg_holds_its_angles_and_a_dead_one_does_not() -> None:
    worlds = TaskWorlds(without_termination(find_family("ant-crippled")), 2, 1)
    worlds.set_tasks(Tasks("ant-crippled", ("fault",), np.array([[2.0], [6.0]])), 1)
    worlds.reset()
    rng, angles = np.random.default_rng(0), []
    for _ in range(100):
        worlds.step(torch.from_numpy(np.repeat(rng.uniform(-1, 1, (1, 8)), 2, axis=0)))
        angles.append(worlds.simulator.qpos[:, 9:11].numpy().copy())  # hip_2, ankle_2
    span = np.ptp(np.array(angles[20:]), axis=0)
    assert (span[0] > 0.2).any()
    assert (span[1] < 0.1).all()
    np.testing.assert_allclose(angles[-1][1], [0.0, -np.radians(50)], atol=0.05)


def test_a_dynamics_task_changes_what_it_names() -> None:
    task = {"mass": 1.5, "inertia": 2.0, "friction": 0.5, "damping": 0.75, "strength": 0.6,
            "gravity": 0.9, "payload": 0.7}  # fmt: skip
    family = find_family("ant-dynamics")
    model = edited_model(family, TaskDistribution(family).make(**task).values[0])
    nominal = family.compile()
    expected = nominal.body_mass * 1.5
    expected[1] += 0.7
    np.testing.assert_allclose(model.body_mass, expected, rtol=1e-15)
    np.testing.assert_allclose(model.body_inertia, nominal.body_inertia * 3.0, rtol=1e-15)
    np.testing.assert_array_equal(model.geom_friction, nominal.geom_friction * 0.5)
    np.testing.assert_array_equal(model.dof_damping, nominal.dof_damping * 0.75)
    np.testing.assert_array_equal(model.actuator_gear, nominal.actuator_gear * 0.6)
    np.testing.assert_array_equal(model.opt.gravity, nominal.opt.gravity * 0.9)


def test_a_fault_in_words() -> None:
    family = find_family("ant-goal+crippled+terrain")
    task = {"goal_radius": 1.0, "goal_angle": 0.5, "ground": 5.0, "difficulty": 0.25}
    for fault, words in ((0.0, "no fault"), (2.0, "leg 2 dead"), (8.0, "leg 4 locked")):
        told = family.describe(task | {"fault": fault})
        assert told == ["goal radius 1 m", "goal angle 0.5 rad", words, "roughness 1",
                        "difficulty 0.25"]  # fmt: skip
