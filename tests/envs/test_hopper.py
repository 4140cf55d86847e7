"""The hopper families against formulas of their own, by hand and with gymnasium's hopper."""

import gymnasium
import numpy as np
import pytest
import torch
from reference import digest, one_world, record, reward_by_state

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.plain_physics import edited_model
from metarl.trace import endless

FAMILIES = ("hopper-params", "hopper-params-literature", "hopper-dynamics")

GOLDEN = {
    "hopper-params": "d4d4e67f77fee621",
    "hopper-params-literature": "459b7e537015cb5d",
    "hopper-dynamics": "fb3a9450a412865d",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_splits_are_frozen(name: str) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest(name) == GOLDEN[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_reward_by_hand(name: str) -> None:
    """−0.004 m in 0.008 s: v = −0.5 m/s; the action's square is 1.25, times 0.001."""
    got = reward_by_state(one_world(name), {0: 0.1}, {0: 0.096}, [1.0, -0.5, 0.0])
    assert got == pytest.approx(-0.5 + 1 - 0.00125, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_rewards_and_ends_on_recorded_states(name: str) -> None:
    ended = 0
    for at in record(name, 150)[1]:
        v = (at.qpos[:, 0] - at.qpos_before[:, 0]) / 0.008
        expected = v + 1 - 1e-3 * (at.action**2).sum(1)
        np.testing.assert_allclose(at.reward, expected, rtol=0, atol=1e-9)
        state = np.concatenate((at.qpos, at.qvel), 1)
        alive = np.isfinite(state).all(1) & (np.abs(state[:, 2:]) < 100).all(1)
        alive &= (at.qpos[:, 1] > 0.7) & (np.abs(at.qpos[:, 2]) < 0.2)
        np.testing.assert_array_equal(at.terminated, ~alive)
        ended += (~alive).sum()
    assert ended > 0


@pytest.mark.parametrize(
    ("index", "value", "fell"),
    [
        (1, 0.71, False), (1, 0.69, True), (1, 5.0, False), (2, 0.19, False), (2, 0.21, True),
        (2, -0.21, True), (3, 99.0, False), (3, 101.0, True), (6, 99.0, False), (6, -101.0, True),
        (0, 500.0, False), (11, float("nan"), True),
    ],
)  # fmt: skip
def test_where_an_episode_ends(index: int, value: float, fell: bool) -> None:
    """The index counts through qpos, then qvel; where the robot is does not matter."""
    worlds = one_world("hopper-params")
    sim = worlds.simulator
    state = sim.qpos if index < 6 else sim.qvel
    state[0, index % 6] = value
    assert bool(worlds.family.terminated(sim)) is fell


def test_observation_and_start() -> None:
    worlds = TaskWorlds("hopper-params", 2000, 1)
    assert worlds.spec == (11, 3, 200)
    assert worlds.family.dt == pytest.approx(0.008)
    obs, sim = worlds.reset(), worlds.simulator
    assert torch.equal(obs, torch.cat((sim.qpos[:, 1:], sim.qvel), 1).float())
    start = torch.cat((sim.qpos - torch.tensor([0, 1.25, 0, 0, 0, 0]), sim.qvel), 1)
    assert 0.0049 < float(start.abs().max()) <= 0.005
    np.testing.assert_allclose(start.std(0), 0.005 / 3**0.5, rtol=0.1)
    sim.qvel[0, 3] = -12.0
    assert worlds.family.observe(sim, worlds.task)[0, 8] == -10.0


def test_physics_and_reward_agree_with_gymnasium_s_hopper() -> None:
    env = gymnasium.make("Hopper-v5").unwrapped
    env.reset(seed=0)
    family = find_family("hopper-dynamics")
    worlds = TaskWorlds(endless(family), 1, 1)
    worlds.reset()
    sim = worlds.simulator
    env.set_state(sim.qpos[0].numpy(), sim.qvel[0].numpy())
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, 3)
        obs, reward, terminated, _, _ = env.step(action)
        got = worlds.step(torch.from_numpy(action[None]))
        np.testing.assert_array_equal(got.next_obs[0].numpy(), obs.astype(np.float32))
        assert bool(family.terminated(sim)) == terminated
        survival = 0.0 if terminated else 1.0  # gymnasium pays nothing for the last step
        assert got.reward.item() - 1 == pytest.approx(reward - survival, abs=1e-9)
    assert terminated
    env.close()


def test_what_the_variants_scale() -> None:
    """4 bodies, 5 geoms and 3 joints, or 4 masses, 12 moments, 15 coefficients and 6 dofs."""
    family = find_family("hopper-params")
    nominal, row = family.compile(), TaskDistribution(family).split("heldout", 1).values[0]
    assert len(row) == 4 + 5 + 3
    model = edited_model(family, row)
    np.testing.assert_allclose(model.body_mass[1:], nominal.body_mass[1:] * row[:4], rtol=1e-15)
    scaled = nominal.body_inertia[1:] * row[:4, None]
    np.testing.assert_allclose(model.body_inertia[1:], scaled, rtol=1e-15)
    scaled = nominal.geom_friction * row[4:9, None]
    np.testing.assert_allclose(model.geom_friction, scaled, rtol=1e-15)
    np.testing.assert_allclose(model.dof_damping[3:], row[9:], rtol=1e-15)

    family = find_family("hopper-params-literature")
    row = TaskDistribution(family).split("heldout", 1).values[0]
    assert len(row) == 4 + 12 + 15 + 6
    model = edited_model(family, row)
    np.testing.assert_allclose(model.body_mass[1:], nominal.body_mass[1:] * row[:4], rtol=1e-15)
    scaled = nominal.body_inertia[1:] * row[4:16].reshape(4, 3)
    np.testing.assert_allclose(model.body_inertia[1:], scaled, rtol=1e-15)
    scaled = nominal.geom_friction * row[16:31].reshape(5, 3)
    np.testing.assert_allclose(model.geom_friction, scaled, rtol=1e-15)
    np.testing.assert_allclose(model.dof_damping[3:], row[34:], rtol=1e-15)
