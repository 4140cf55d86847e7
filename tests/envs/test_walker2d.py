"""The walker2d families against formulas of their own, by hand and with gymnasium's walker."""

import gymnasium
import numpy as np
import pytest
import torch
from reference import digest, one_world, record, reward_by_state

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.plain_physics import edited_model
from metarl.trace import endless

FAMILIES = ("walker2d-params", "walker2d-params-literature", "walker2d-dynamics")

GOLDEN = {
    "walker2d-params": "aac6ec30f9bc93a2",
    "walker2d-params-literature": "755b78bf0ff4d173",
    "walker2d-dynamics": "34fabd8794781823",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_are_frozen(name: str) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest(name) == GOLDEN[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_reward_by_hand(name: str) -> None:
    """0.024 m in 0.016 s: v = 1.5 m/s; the action's square is 2.25, times 0.001."""
    got = reward_by_state(one_world(name), {0: 0.1}, {0: 0.124}, [1.0, -1.0, 0.5, 0.0, 0.0, 0.0])
    assert got == pytest.approx(1.5 + 1 - 0.00225, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_rewards_and_ends_on_recorded_states(name: str) -> None:
    ended = 0
    for at in record(name, 150)[1]:
        v = (at.qpos[:, 0] - at.qpos_before[:, 0]) / 0.016
        expected = v + 1 - 1e-3 * (at.action**2).sum(1)
        np.testing.assert_allclose(at.reward, expected, rtol=0, atol=1e-9)
        z, pitch = at.qpos[:, 1], at.qpos[:, 2]
        fell = (z <= 0.8) | (z >= 2.0) | (pitch <= -1.0) | (pitch >= 1.0)
        np.testing.assert_array_equal(at.terminated, fell)
        ended += fell.sum()
    assert ended > 0


@pytest.mark.parametrize(
    ("z", "pitch", "fell"),
    [
        (1.25, 0.0, False), (0.81, 0.0, False), (0.79, 0.0, True), (1.99, 0.0, False),
        (2.01, 0.0, True), (1.25, 0.99, False), (1.25, 1.01, True), (1.25, -1.01, True),
    ],
)  # fmt: skip
def test_where_an_episode_ends(z: float, pitch: float, fell: bool) -> None:
    worlds = one_world("walker2d-params")
    worlds.simulator.qpos[0, 1:3] = torch.tensor([z, pitch])
    assert bool(worlds.family.terminated(worlds.simulator)) is fell


def test_observation_and_start() -> None:
    worlds = TaskWorlds("walker2d-params", 2000, 1)
    assert worlds.spec == (17, 6, 200)
    assert worlds.family.dt == pytest.approx(0.016)
    obs, sim = worlds.reset(), worlds.simulator
    assert torch.equal(obs, torch.cat((sim.qpos[:, 1:], sim.qvel), 1).float())
    start = torch.cat((sim.qpos - torch.tensor([0, 1.25, *[0] * 7]), sim.qvel), 1)
    assert 0.0049 < float(start.abs().max()) <= 0.005
    np.testing.assert_allclose(start.std(0), 0.005 / 3**0.5, rtol=0.1)
    sim.qvel[0, 3] = 12.0
    assert worlds.family.observe(sim, worlds.task)[0, 11] == 10.0


def test_physics_and_reward_agree_with_gymnasium_s_walker() -> None:
    """With this frame skip, the same model file and the wider range of pitch it is the same MDP."""
    env = gymnasium.make("Walker2d-v5", xml_file="walker2d.xml", frame_skip=8).unwrapped
    env.reset(seed=0)
    family = find_family("walker2d-dynamics")
    worlds = TaskWorlds(endless(family), 1, 1)
    worlds.reset()
    sim = worlds.simulator
    env.set_state(sim.qpos[0].numpy(), sim.qvel[0].numpy())
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, 6)
        obs, reward, terminated, _, _ = env.step(action)
        got = worlds.step(torch.from_numpy(action[None]))
        np.testing.assert_array_equal(got.next_obs[0].numpy(), obs.astype(np.float32))
        assert bool(family.terminated(sim)) == terminated
        survival = 0.0 if terminated else 1.0  # gymnasium pays nothing for the last step
        assert got.reward.item() - 1 == pytest.approx(reward - survival, abs=1e-9)
    assert terminated
    env.close()


def test_the_default_variant_is_physically_consistent() -> None:
    """One number scales a body's mass and inertia, so each inertia stays some body's inertia."""
    family = find_family("walker2d-params")
    nominal, tasks = family.compile(), TaskDistribution(family).split("heldout", 20)
    assert len(tasks.names) == 7 + 8 + 6
    for row in tasks.values:
        model = edited_model(family, row)
        mass = model.body_mass[1:] / nominal.body_mass[1:]
        np.testing.assert_allclose(mass, row[:7], rtol=1e-15)
        inertia = model.body_inertia[1:] / nominal.body_inertia[1:]
        np.testing.assert_allclose(inertia, mass[:, None].repeat(3, 1), rtol=1e-12)
        friction = model.geom_friction / nominal.geom_friction
        np.testing.assert_allclose(friction, row[7:15, None].repeat(3, 1), rtol=1e-12)
        np.testing.assert_allclose(model.dof_damping[3:], 0.1 * row[15:], rtol=1e-12)
        np.testing.assert_array_equal(model.dof_damping[:3], 0.0)


def test_the_literature_s_variant_scales_every_element_by_itself() -> None:
    family = find_family("walker2d-params-literature")
    nominal, tasks = family.compile(), TaskDistribution(family).split("heldout", 20)
    assert len(tasks.names) == 7 + 21 + 24 + 9
    impossible = 0
    for row in tasks.values:
        model = edited_model(family, row)
        parts = (
            model.body_mass[1:] / nominal.body_mass[1:],
            (model.body_inertia[1:] / nominal.body_inertia[1:]).ravel(),
            (model.geom_friction / nominal.geom_friction).ravel(),
        )
        np.testing.assert_allclose(np.concatenate(parts), row[:52], rtol=1e-12)
        np.testing.assert_allclose(model.dof_damping[3:], 0.1 * row[55:], rtol=1e-12)
        largest = model.body_inertia[1:].max(1)
        impossible += (largest > model.body_inertia[1:].sum(1) - largest).sum()
    assert impossible > 0  # inertias that no body has, which is why this is not the default


@pytest.mark.parametrize("name", ["walker2d-params", "walker2d-params-literature"])
def test_the_draws_are_log_uniform(name: str) -> None:
    """1.5^U(−3, 3) has a mean logarithm of 0 and a spread of 3 ln 1.5 / √3; damping has 1.3."""
    tasks = TaskDistribution(find_family(name))
    logs = np.log(tasks.sample(4000, np.random.default_rng(0)).values)
    for column, label in enumerate(tasks.names):
        base = 1.3 if label.startswith("damping") else 1.5
        assert np.abs(logs[:, column]).max() <= 3 * np.log(base) + 1e-9
        assert logs[:, column].std() == pytest.approx(3**0.5 * np.log(base), rel=0.05)
        assert abs(logs[:, column].mean()) < 0.05
