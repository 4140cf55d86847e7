"""The hopper and walker2d families against formulas of their own, by hand and with gymnasium's."""

from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from helpers.families import mostly_slow
from reference import digest, one_world, record, reward_by_state

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.check.plain_physics import edited_model
from metarl.tasks.family import without_termination

GOLDEN = {
    "hopper-params": "d4d4e67f77fee621",
    "hopper-params-literature": "459b7e537015cb5d",
    "hopper-dynamics": "fb3a9450a412865d",
    "walker2d-params": "aac6ec30f9bc93a2",
    "walker2d-params-literature": "755b78bf0ff4d173",
    "walker2d-dynamics": "34fabd8794781823",
}


class Robot(NamedTuple):
    """What differs between the two."""

    dt: float
    """Seconds."""
    spec: tuple[int, int, int]
    joints: int
    """Coordinates with damping, which come after the three of the root."""
    bodies: int
    geoms: int
    damping: float
    """Of every joint, nominal."""
    gymnasium: dict
    """The environment that is the same MDP but for the ranges of the parameters."""


ROBOTS = {
    "hopper": Robot(0.008, (11, 3, 200), 3, 4, 5, 1.0, {"id": "Hopper-v5"}),
    "walker2d": Robot(
        0.016, (17, 6, 200), 6, 7, 8, 0.1,
        # with this model file, frame skip and the same limits it is the same MDP
        {"id": "Walker2d-v5", "xml_file": "walker2d.xml", "frame_skip": 8},
    ),
}  # fmt: skip


def robot(name: str) -> Robot:
    return ROBOTS[name.split("-")[0]]


def fell(name: str, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Whether an episode is over, (B,), written apart from the families."""
    z, pitch = qpos[:, 1], qpos[:, 2]
    if name.startswith("walker2d"):
        return (z <= 0.8) | (z >= 2.0) | (pitch <= -1.0) | (pitch >= 1.0)
    state = np.concatenate((qpos, qvel), 1)
    alive = np.isfinite(state).all(1) & (np.abs(state[:, 2:]) < 100).all(1)
    return ~(alive & (z > 0.7) & (np.abs(pitch) < 0.2))


@pytest.mark.parametrize("name", GOLDEN)
def test_splits_are_frozen(name: str) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest(name) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_reward_by_hand(name: str) -> None:
    """Hopper: −0.004 m in 0.008 s is −0.5 m/s; walker: 0.024 m in 0.016 s is 1.5 m/s.

    The squares of the actions add up to 1.25 and 2.25, times 0.001.
    """
    if name.startswith("hopper"):
        got = reward_by_state(one_world(name), {0: 0.1}, {0: 0.096}, [1.0, -0.5, 0.0])
        assert got == pytest.approx(-0.5 + 1 - 0.00125, abs=1e-9)
    else:
        action = [1.0, -1.0, 0.5, 0.0, 0.0, 0.0]
        got = reward_by_state(one_world(name), {0: 0.1}, {0: 0.124}, action)
        assert got == pytest.approx(1.5 + 1 - 0.00225, abs=1e-9)


@pytest.mark.parametrize(
    "name", mostly_slow(GOLDEN, *(name for name in GOLDEN if "literature" not in name))
)
def test_rewards_and_ends_on_recorded_states(name: str) -> None:
    ended = 0
    for at in record(name, 150)[1]:
        v = (at.qpos[:, 0] - at.qpos_before[:, 0]) / robot(name).dt
        expected = v + 1 - 1e-3 * (at.action**2).sum(1)
        np.testing.assert_allclose(at.reward, expected, rtol=0, atol=1e-9)
        over = fell(name, at.qpos, at.qvel)
        np.testing.assert_array_equal(at.terminated, over)
        ended += over.sum()
    assert ended > 0


@pytest.mark.parametrize(
    ("name", "field", "index", "value", "over"),
    [
        ("hopper", "qpos", 1, 0.71, False), ("hopper", "qpos", 1, 0.69, True),
        ("hopper", "qpos", 1, 5.0, False), ("hopper", "qpos", 2, 0.19, False),
        ("hopper", "qpos", 2, 0.21, True), ("hopper", "qpos", 2, -0.21, True),
        ("hopper", "qpos", 3, 99.0, False), ("hopper", "qpos", 3, 101.0, True),
        ("hopper", "qvel", 0, 99.0, False), ("hopper", "qvel", 0, -101.0, True),
        ("hopper", "qpos", 0, 500.0, False), ("hopper", "qvel", 5, float("nan"), True),
        ("walker2d", "qpos", 1, 0.81, False), ("walker2d", "qpos", 1, 0.79, True),
        ("walker2d", "qpos", 1, 1.99, False), ("walker2d", "qpos", 1, 2.01, True),
        ("walker2d", "qpos", 2, 0.99, False), ("walker2d", "qpos", 2, 1.01, True),
        ("walker2d", "qpos", 2, -1.01, True), ("walker2d", "qvel", 0, 500.0, False),
    ],
)  # fmt: skip
def test_where_an_episode_ends(name: str, field: str, index: int, value: float, over: bool) -> None:
    """Where the robot is does not matter; how fast the walker is does not, either."""
    worlds = one_world(f"{name}-params")
    getattr(worlds.simulator, field)[0, index] = value
    assert bool(worlds.family.terminated(worlds.simulator)) is over


@pytest.mark.parametrize("name", ROBOTS)
def test_observation_and_start(name: str) -> None:
    worlds = TaskWorlds(f"{name}-params", 2000, 1)
    assert worlds.spec[:3] == robot(name).spec[:3]
    assert worlds.family.dt == pytest.approx(robot(name).dt)
    obs, sim = worlds.reset(), worlds.simulator
    assert torch.equal(obs, torch.cat((sim.qpos[:, 1:], sim.qvel), 1).float())
    upright = torch.tensor([0, 1.25, 0, *[0] * robot(name).joints])
    start = torch.cat((sim.qpos - upright, sim.qvel), 1)
    assert 0.0049 < float(start.abs().max()) <= 0.005
    np.testing.assert_allclose(start.std(0), 0.005 / 3**0.5, rtol=0.1)
    sim.qvel[0, 3], sim.qvel[1, 3] = 12.0, -12.0
    column = sim.qpos.shape[1] - 1 + 3
    assert worlds.family.observe(sim, worlds.task)[:2, column].tolist() == [10.0, -10.0]


@pytest.mark.parametrize("name", ROBOTS)
def test_physics_and_reward_agree_with_gymnasium(name: str) -> None:
    env = gymnasium.make(**robot(name).gymnasium).unwrapped
    env.reset(seed=0)
    family = find_family(f"{name}-dynamics")
    worlds = TaskWorlds(without_termination(family), 1, 1)
    worlds.reset()
    sim = worlds.simulator
    env.set_state(sim.qpos[0].numpy(), sim.qvel[0].numpy())
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, robot(name).spec[1])
        obs, reward, terminated, _, _ = env.step(action)
        got = worlds.step(torch.from_numpy(action[None]))
        np.testing.assert_array_equal(got.next_obs[0].numpy(), obs.astype(np.float32))
        assert bool(family.terminated(sim)) == terminated
        survival = 0.0 if terminated else 1.0  # gymnasium pays nothing for the last step
        assert got.reward.item() - 1 == pytest.approx(reward - survival, abs=1e-9)
    assert terminated
    env.close()


@pytest.mark.parametrize("name", ROBOTS)
def test_the_default_variant_is_physically_consistent(name: str) -> None:
    """One number scales a body's mass and inertia, so each inertia stays some body's inertia."""
    _, _, joints, bodies, geoms, damping, _ = robot(name)
    family = find_family(f"{name}-params")
    nominal, tasks = family.compile(), TaskDistribution(family).split("heldout", 20)
    assert len(tasks.names) == bodies + geoms + joints
    for row in tasks.values:
        links, contacts, dofs = np.split(row, [bodies, bodies + geoms])
        model = edited_model(family, row)
        np.testing.assert_allclose(model.body_mass[1:], nominal.body_mass[1:] * links, rtol=1e-15)
        scaled = nominal.body_inertia[1:] * links[:, None]
        np.testing.assert_allclose(model.body_inertia[1:], scaled, rtol=1e-15)
        scaled = nominal.geom_friction * contacts[:, None]
        np.testing.assert_allclose(model.geom_friction, scaled, rtol=1e-15)
        np.testing.assert_allclose(model.dof_damping[3:], damping * dofs, rtol=1e-15)
        np.testing.assert_array_equal(model.dof_damping[:3], 0.0)


@pytest.mark.parametrize("name", ROBOTS)
def test_the_literature_s_variant_scales_every_element_by_itself(name: str) -> None:
    _, _, joints, bodies, geoms, damping, _ = robot(name)
    family = find_family(f"{name}-params-literature")
    nominal, tasks = family.compile(), TaskDistribution(family).split("heldout", 20)
    sizes = (bodies, 3 * bodies, 3 * geoms, 3 + joints)
    assert len(tasks.names) == sum(sizes)
    impossible = 0
    for row in tasks.values:
        mass, inertia, friction, dofs = np.split(row, np.cumsum(sizes)[:-1])
        model = edited_model(family, row)
        np.testing.assert_allclose(model.body_mass[1:], nominal.body_mass[1:] * mass, rtol=1e-15)
        scaled = nominal.body_inertia[1:] * inertia.reshape(bodies, 3)
        np.testing.assert_allclose(model.body_inertia[1:], scaled, rtol=1e-15)
        scaled = nominal.geom_friction * friction.reshape(geoms, 3)
        np.testing.assert_allclose(model.geom_friction, scaled, rtol=1e-15)
        np.testing.assert_allclose(model.dof_damping[3:], damping * dofs[3:], rtol=1e-15)
        largest = model.body_inertia[1:].max(1)
        impossible += (largest > model.body_inertia[1:].sum(1) - largest).sum()
    assert impossible > 0  # inertias that no body has, which is why this is not the default


@pytest.mark.parametrize("name", [name for name in GOLDEN if "params" in name])
def test_the_draws_are_log_uniform(name: str) -> None:
    """1.5^U(−3, 3) has a mean logarithm of 0 and a spread of 3 ln 1.5 / √3; damping has 1.3."""
    tasks = TaskDistribution(find_family(name))
    logs = np.log(tasks.sample(1000, np.random.default_rng(0)).values)
    for column, label in enumerate(tasks.names):
        base = 1.3 if label.startswith("damping") else 1.5
        assert np.abs(logs[:, column]).max() <= 3 * np.log(base) + 1e-9
        assert logs[:, column].std() == pytest.approx(3**0.5 * np.log(base), rel=0.05)
        assert abs(logs[:, column].mean()) < 0.1  # of a spread of 0.7, over √1000
