"""humanoid-dir against a formula of its own, by hand and with gymnasium's humanoid."""

from itertools import pairwise

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from reference import digest, one_world, record

from metarl import TaskWorlds, UserError, find_family
from metarl.simulation.simulator import State
from metarl.tasks.family import replace_attributes, without_termination

GOLDEN = {"humanoid-dir": "c4a0f689b0439d0b"}


def test_splits_are_frozen() -> None:
    """Golden: results of different versions are comparable only while these hold."""
    assert digest("humanoid-dir") == GOLDEN["humanoid-dir"]


def centre_of_mass(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """(B, 2): the mean of the bodies' own centres, weighted by their masses."""
    data, found = mujoco.MjData(model), []
    for row in qpos:
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        found.append(model.body_mass @ data.xipos[:, :2] / model.body_mass.sum())
    return np.array(found)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        # the body as it is moves by (0.006, −0.003) m, two and minus one timesteps of 0.003 s;
        # the controls are 0.4 times the action, whose square is 1.25: 0.1 · 0.16 · 1.25 = 0.02
        (0.0, 0.25 * 2 - 0.02 + 5),
        (np.pi / 2, -0.25 - 0.02 + 5),
        (np.pi, -0.25 * 2 - 0.02 + 5),
    ],
)
def test_reward_by_hand(angle: float, expected: float) -> None:
    worlds = one_world("humanoid-dir", goal_angle=angle)
    sim = worlds.simulator
    before = sim.snapshot(("subtree_com",))
    sim.qpos[0, :2] += torch.tensor([0.006, -0.003], dtype=torch.float64)
    sim.refresh(None)
    sim.ctrl[:] = 0.0
    sim.ctrl[0, :2] = torch.tensor([0.4, -0.2], dtype=torch.float64)
    action = sim.ctrl / 0.4
    got = worlds.family.reward(sim, before, action, worlds.task)
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_rewards_and_ends_on_recorded_states() -> None:
    tasks, steps = record("humanoid-dir", 60)
    model, angle = find_family("humanoid-dir").compile(), tasks.column("goal_angle")
    ended = 0
    for at in steps:
        moved = centre_of_mass(model, at.qpos) - centre_of_mass(model, at.qpos_before)
        along = moved[:, 0] * np.cos(angle) + moved[:, 1] * np.sin(angle)
        expected = 0.25 * along / 0.003 - 0.1 * ((0.4 * at.action) ** 2).sum(1) + 5
        np.testing.assert_allclose(at.reward, expected, rtol=0, atol=1e-9)
        fell = (at.qpos[:, 2] < 1.0) | (at.qpos[:, 2] > 2.0)
        np.testing.assert_array_equal(at.terminated, fell)
        ended += fell.sum()
    assert ended > 0


@pytest.mark.parametrize("height", [0.99, 1.01, 1.99, 2.01])
def test_where_an_episode_ends(height: float) -> None:
    worlds = one_world("humanoid-dir")
    worlds.simulator.qpos[0, 2] = height
    assert bool(worlds.family.terminated(worlds.simulator)) == (height in (0.99, 2.01))


def test_observation_and_start() -> None:
    worlds = TaskWorlds("humanoid-dir", 1000, 1)
    assert worlds.spec[:3] == (45, 17, 200)
    assert worlds.family.dt == pytest.approx(0.015)
    obs, sim = worlds.reset(), worlds.simulator
    assert torch.equal(obs, torch.cat((sim.qpos[:, 2:], sim.qvel), 1).float())
    assert 0.0099 < float(sim.qvel.abs().max()) <= 0.01
    assert 0.0099 < float(sim.qpos[:, 7:].abs().max()) <= 0.01
    np.testing.assert_allclose(torch.linalg.vector_norm(sim.qpos[:, 3:7], dim=1), 1, rtol=1e-12)


def test_physics_and_reward_agree_with_gymnasium_s_humanoid() -> None:
    """The states to the bit. 1.25 times the velocity is 0.25 times Δc over the timestep."""
    env = gymnasium.make("Humanoid-v5", contact_cost_weight=0).unwrapped
    env.reset(seed=0)
    family = find_family("humanoid-dir")
    worlds = TaskWorlds(without_termination(family), 1, 1)
    worlds.set_tasks(one_world("humanoid-dir", goal_angle=0.0).tasks, 1)
    worlds.reset()
    sim = worlds.simulator
    env.set_state(sim.qpos[0].numpy(), sim.qvel[0].numpy())
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.uniform(-1, 1, 17)
        before = centre_of_mass(env.model, env.data.qpos[None])[0, 0]
        _, _, terminated, _, info = env.step(0.4 * action)
        got = worlds.step(torch.from_numpy(action[None]))
        np.testing.assert_allclose(sim.qpos[0].numpy(), env.data.qpos, rtol=0, atol=1e-9)
        assert bool(family.terminated(sim)) == (not 1.0 <= env.data.qpos[2] <= 2.0)
        speed = (centre_of_mass(env.model, env.data.qpos[None])[0, 0] - before) / 0.015
        expected = 1.25 * speed + info["reward_ctrl"] + 5
        assert got.reward.item() == pytest.approx(expected, abs=1e-6)
    assert terminated
    env.close()


def test_before_keeps_the_centre_of_mass_of_the_state_before() -> None:
    seen: list[tuple[State, np.ndarray]] = []

    def reward(sim, before, action, task):
        seen.append((before, sim.bind("subtree_com").numpy().copy()))
        return family.reward(sim, before, action, task)

    family = find_family("humanoid-dir")
    worlds = TaskWorlds(without_termination(replace_attributes(family, reward=reward)), 3, 1)
    for _ in range(3):
        worlds.step(torch.ones(3, 17))
    for (_, after), (before, _) in pairwise(seen):
        np.testing.assert_array_equal(before.kept["subtree_com"].numpy(), after)
    assert not TaskWorlds("ant-dir", 1, 1).simulator.snapshot().kept


def test_a_field_to_keep_that_does_not_exist() -> None:
    family = replace_attributes(find_family("humanoid-dir"), keep=("subtree_comm",))
    with pytest.raises(UserError, match=r"family 'humanoid-dir', keep: .*mean 'subtree_com'"):
        TaskWorlds(family, 1, 1)
