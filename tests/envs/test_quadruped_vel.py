"""The quadruped that follows commands: walking pays more than standing and than shuffling."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch

from envs.quadruped_vel import COMMANDS, FOOT, LIFT, STANDING
from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.base.keys import Key
from metarl.tasks.family import without_termination

NAME = "quadruped-vel"
STANCE = np.array((0.0, 0.9, -1.8) * 4)
SCALE = np.array((0.25, 0.5, 0.6) * 4)


def rotation(quaternion: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def ready(count: int = 4, **values: float) -> TaskWorlds:
    worlds = TaskWorlds(without_termination(find_family(NAME)), count, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(**values), count)
    worlds.seed(Key(3))
    worlds.reset()
    return worlds


def walked(
    way: str, command: tuple[float, float, float] = (0.5, 0.0, 0.0)
) -> tuple[float, torch.Tensor, float]:
    """Return what 3 s are paid, how fast it went (3: m/s, rad/s), and the feet's greatest height.

    It walks by the family's own strides, or takes them off to stand, or all but the part along the
    ground, to shuffle with feet that hardly leave it.
    """
    worlds = ready(4)
    sim, family, paid, high = worlds.simulator, worlds.family, 0.0, 0.0
    begin, turned = sim.qpos.clone(), 0.0
    for step in range(150):
        sim.memory["command"] = torch.tensor(command, dtype=torch.float64)
        strides = family.strides(sim).unflatten(1, (4, 3))
        away = strides.clone()
        if way == "shuffle":  # thighs and shanks swing, and the legs keep their length
            bend = -strides[..., 2] / 2
            away = torch.stack((0 * bend, 0.9 * bend, -1.8 * bend), 2)
        action = -away.flatten(1) / torch.from_numpy(SCALE) * (way != "walk")
        paid += float(worlds.step(action.float()).reward.mean())
        turned += float(sim.qvel[:, 5].mean()) / 150
        if step > 50:
            high = max(high, float(family.foot_heights(sim).max()))
    gone = (sim.qpos - begin).mean(0) / 3.0
    return paid, torch.tensor([float(gone[0]), float(gone[1]), turned]), high


def test_walking_is_paid_more_than_standing_and_shuffling() -> None:
    standing, still, _ = walked("stand")
    shuffling, slow, low = walked("shuffle")
    walking, fast, high = walked("walk")
    assert float(still.abs().max()) < 0.03
    assert float(fast[0]) > 0.2
    assert high > 0.035 > 0.02 > low
    assert float(slow[0]) < float(fast[0])
    assert walking > 1.15 * max(standing, shuffling)


@pytest.mark.parametrize(
    ("command", "column"), [((-0.4, 0.0, 0.0), 0), ((0.0, 0.3, 0.0), 1), ((0.0, 0.0, 0.8), 2)]
)
def test_strides_go_where_the_command_asks(command, column: int) -> None:
    _, went, _ = walked("walk", command)
    assert 0.3 < float(went[column]) / command[column] < 1.7


def test_strides_put_the_feet_where_they_should_be() -> None:
    """MuJoCo's kinematics of the inverse kinematics: by hand for a foot in the air and one down."""
    worlds = ready(1)
    sim, family = worlds.simulator, worlds.family
    model, data = family.compile(), mujoco.MjData(family.compile())

    def feet(offsets: np.ndarray) -> np.ndarray:
        data.qpos[:] = [0, 0, 0.3, 1, 0, 0, 0, *(STANCE + offsets)]
        mujoco.mj_kinematics(model, data)
        names = [f"{a}_{b}_foot" for a in ("front", "rear") for b in ("left", "right")]
        return np.stack([data.geom(name).xpos for name in names])

    sim.memory["command"] = torch.tensor([0.6, -0.2, 0.5], dtype=torch.float64)
    sim.memory["phase"] = torch.tensor([[0.2]], dtype=torch.float64)
    moved = feet(family.strides(sim)[0].numpy()) - feet(np.zeros(12))
    # 0.2 of a stride: front left and rear right are in the air, at −1 + 4 · 0.2 = −0.2 of a stride
    # half as long as 1.5 · 0.125 s times the ground's speed under the foot; the others, at 0.7, are
    # down, at 3 − 4 · 0.7 = 0.2 of theirs.
    for foot, (along, x, y) in enumerate(
        [(-0.2, 0.19, 0.13), (0.2, 0.19, -0.13), (0.2, -0.19, 0.13), (-0.2, -0.19, -0.13)]
    ):
        half = 1.5 * 0.125 * along
        up = 1.3 * LIFT * math.sin(0.4 * math.pi) if along < 0 else -0.02
        expected = half * (0.6 - 0.5 * y), half * (-0.2 + 0.5 * x), up
        np.testing.assert_allclose(moved[foot], expected, atol=6e-3)  # hips are 8 cm out
    sim.memory["command"] = torch.zeros(1, 3)
    assert float(family.strides(sim).abs().max()) < 1e-12


def test_reward_on_recorded_states() -> None:
    """Against the formula, world by world, with numpy and rotation matrices."""
    worlds = TaskWorlds(without_termination(find_family(NAME)), 6, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 6), 1)
    worlds.reset()
    sim, strength = worlds.simulator, worlds.task["strength"].numpy()
    generator, last, data = torch.Generator().manual_seed(1), np.zeros((6, 12)), None
    for _ in range(25):
        action = 3 * torch.rand(6, 12, generator=generator) - 1.5
        command, phase = (sim.memory[name].numpy().copy() for name in ("command", "phase"))
        steps = worlds.family.strides(sim).numpy()
        got = worlds.step(action).reward.numpy()
        clipped = action.double().clamp(-1, 1).numpy()
        for i in range(6):
            model, data = sim.world_model(i), mujoco.MjData(worlds.family.compile())
            data.qpos[:], data.qvel[:] = sim.qpos[i], sim.qvel[i]
            mujoco.mj_forward(model, data)
            turn = rotation(data.qpos[3:7]).T
            v, w, g = turn @ data.qvel[:3], data.qvel[3:6], turn @ [0.0, 0.0, -1.0]
            low, high = model.actuator_ctrlrange.T
            wave = np.sin(2 * np.pi * (phase[i] + [0, 0.5, 0.5, 0])) * bool(command[i].any())
            target = np.clip(np.clip(STANCE + SCALE * clipped[i], low, high) + steps[i], low, high)
            limit = np.tile([23.7, 23.7, 35.5], 4)
            torque = np.clip(60 * (target - data.qpos[7:]) - 2 * data.qvel[6:], -limit, limit)
            feet = [f"{a}_{b}_foot" for a in ("front", "rear") for b in ("left", "right")]
            z = np.array([data.geom(foot).xpos[2] for foot in feet]) - 0.022
            wanted = 0.05 * np.maximum(wave, 0)
            expected = np.exp(-((v[:2] - command[i, :2]) ** 2).sum() / 0.2)
            expected += 0.5 * np.exp(-((w[2] - command[i, 2]) ** 2) / 0.25)
            expected -= 0.2 * np.abs(z - wanted).sum() / 0.05
            expected -= 0.5 * v[2] ** 2 + 0.02 * (w[:2] ** 2).sum() + 0.5 * (g[:2] ** 2).sum()
            expected -= 0.05 * ((data.qpos[7:] - STANCE) ** 2).sum()
            expected -= 1e-4 * ((strength[i] * torque) ** 2).sum()
            expected -= 0.01 * ((clipped[i] - last[i]) ** 2).sum()
            assert got[i] == pytest.approx(expected, abs=1e-9)
            error = np.linalg.norm(v[:2] - command[i, :2])
            assert float(worlds.reward_terms["velocity_error"][i]) == pytest.approx(error)
        last = clipped


def test_commands_are_drawn_anew_within_their_ranges() -> None:
    worlds = TaskWorlds(without_termination(find_family(NAME)), 400, 1)
    worlds.reset()
    drawn = worlds.simulator.memory["command"]
    for column, (low, high) in enumerate(COMMANDS):
        assert low <= float(drawn[:, column].min()) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < float(drawn[:, column].max()) < high
    still = ~drawn.any(1)
    assert abs(float(still.double().mean()) - STANDING) < 0.06
    assert len(torch.unique(drawn, dim=0)) == 400 - int(still.sum()) + 1
    worlds, seen = ready(20), []
    for _ in range(160):  # 3.2 s, and a command lasts 1 to 3 s
        seen.append(worlds.simulator.memory["command"].clone())
        worlds.step(torch.zeros(20, 12))
    changes = (torch.stack(seen).diff(dim=0) != 0).any(2)
    assert not changes[:49].any()
    assert changes.any(0).double().mean() > 0.9  # to stand may follow on to stand
    assert 1 < float(changes.sum(0).double().mean()) < 2.2


def test_the_clock_runs_while_it_is_to_move() -> None:
    worlds = ready(2)
    sim, family = worlds.simulator, worlds.family
    phases = []
    for _ in range(26):
        sim.memory["command"] = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
        phases.append(sim.memory["phase"][:, 0].clone())
        worlds.step(torch.zeros(2, 12))
    moved = torch.stack(phases)
    assert float((moved[25, 0] - moved[0, 0]).abs()) < 1e-9  # 25 steps of 0.02 s are a stride
    assert torch.allclose((moved.diff(dim=0) % 1.0)[:, 0], torch.full((25,), 0.04).double())
    assert (moved[:, 1] == moved[0, 1]).all()
    clock = family.observe(sim, worlds.task)[:, 45:]
    assert float(clock[0].norm()) == pytest.approx(1.0)
    assert clock[1].tolist() == [0.0, 0.0]
    assert family.lifts(sim)[1].tolist() == [0.0] * 4
    raised = family.lifts(sim)[0] > 0
    assert raised.tolist() in ([True, False, False, True], [False, True, True, False])


def test_critics_alone_see_velocity_and_feet() -> None:
    worlds = ready(3)
    sim, family = worlds.simulator, worlds.family
    assert worlds.spec[:2] == (47, 12)
    assert worlds.spec.privileged_size == 7
    before = family.observe(sim, worlds.task)
    sim.qpos[:, :3] += 1.0
    sim.qvel[:, :3] += 1.0
    sim.refresh(None)
    assert torch.equal(family.observe(sim, worlds.task), before)
    shown = family.privileged(sim, worlds.task)
    heights = family.feet(sim)[..., 2] - FOOT
    torch.testing.assert_close(shown[:, 3:], heights / LIFT)
    assert (heights > 0.9).all()
    for i in range(3):
        v = rotation(sim.qpos[i, 3:7].numpy()).T @ sim.qvel[i, :3].numpy()
        np.testing.assert_allclose(shown[i, :3], v, atol=1e-12)


@pytest.mark.parametrize(
    ("tilt", "z", "fallen"), [(1.0, 0.3, False), (1.1, 0.3, True), (0.0, 0.14, True)]
)
def test_a_fall_ends_the_episode(tilt: float, z: float, fallen: bool) -> None:
    """60 degrees are 1.047 rad; half of the stance's height is 0.1435 m."""
    worlds = TaskWorlds(NAME, 2, 1)
    sim = worlds.simulator
    sim.qpos[:, 2], sim.qpos[:, 3], sim.qpos[:, 4] = z, np.cos(tilt / 2), np.sin(tilt / 2)
    assert worlds.family.terminated(sim).tolist() == [fallen] * 2
