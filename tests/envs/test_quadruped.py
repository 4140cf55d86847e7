"""The quadruped: it stands, its torques keep to their limits, its reward equals a formula."""

import mujoco
import numpy as np
import pytest
import torch

from metarl import TaskDistribution, Tasks, TaskWorlds, find_family
from metarl.simulation.root import gravity_in, into_body
from metarl.tasks.family import without_termination

STANCE = (0.0, 0.9, -1.8) * 4
TORQUE_LIMITS = (23.7, 23.7, 35.5) * 4
NAME = "quadruped-terrain"


def standing(**values: float) -> TaskWorlds:
    worlds = TaskWorlds(NAME, 4, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(difficulty=0.0, **values), 4)
    worlds.reset()
    return worlds


def test_it_has_the_size_of_a_common_robot() -> None:
    model = find_family(NAME).compile()
    assert model.nu == 12
    assert 12.0 < model.body_mass.sum() < 15.0
    assert (model.jnt_range[1:, 0] < model.jnt_range[1:, 1]).all()
    np.testing.assert_array_equal(model.actuator_forcerange[:, 1], TORQUE_LIMITS)
    np.testing.assert_allclose(model.actuator_ctrlrange.mean(1), STANCE, atol=1e-12)
    inside = model.jnt_range[1:]  # the root is joint 0; motors keep the order of their joints
    assert (model.actuator_ctrlrange[:, 0] >= inside[:, 0]).all()
    assert (model.actuator_ctrlrange[:, 1] <= inside[:, 1]).all()
    for moments in model.body_inertia[model.body_mass > 0]:
        assert moments.sum() >= 2 * moments.max()  # the triangle inequality of real bodies


@pytest.mark.parametrize(
    ("payload", "strength"),
    [
        (0.0, 1.1),
        (4.0, 0.7),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in ((0.0, 0.7), (4.0, 1.1))),
    ],
)
def test_it_stands_at_zero_action(payload: float, strength: float) -> None:
    """For the whole horizon, without a fall, drift, turn or shake, on its feet alone."""
    worlds = standing(payload=payload, strength=strength)
    sim, places = worlds.simulator, []
    for step in range(worlds.family.horizon - 1):
        got = worlds.step(torch.zeros(4, 12))
        assert not (got.terminated | got.diverged).any()
        if step >= 100:  # 2 s to settle
            places.append(sim.qpos.clone())
            assert sim.qvel.abs().max() < 0.01
    places = torch.stack(places)
    assert places[:, :, 2].min() > 0.23
    assert (places[-1] - places[0]).abs().max() < 0.005  # m and rad over 3 s
    assert places[:, :, :2].abs().max() < 0.05
    for world in range(4):
        model, data = sim.batch.get_model(world), sim.batch.get_data(world)
        mujoco.mj_forward(model, data)
        names = {model.geom(int(g)).name for pair in data.contact.geom for g in pair}
        assert names == {"floor", *(n for n in names if n.endswith("_foot"))}
        assert len(names) == 5


def test_torques_keep_to_their_limits_and_equal_the_engine_s() -> None:
    worlds = TaskWorlds(without_termination(find_family(NAME)), 8, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 8), 1)
    worlds.reset()
    sim, family = worlds.simulator, worlds.family
    generator = torch.Generator().manual_seed(0)
    strongest = 0.0
    for _ in range(40):
        worlds.step(4 * torch.rand(8, 12, generator=generator) - 2)
        ours = family.torques(sim, worlds.task["strength"])
        for world in range(8):
            model, data = sim.batch.get_model(world), sim.batch.get_data(world)
            mujoco.mj_forward(model, data)
            np.testing.assert_allclose(ours[world], data.actuator_force, rtol=0, atol=1e-9)
            limit = worlds.task["strength"][world].item() * np.array(TORQUE_LIMITS)
            assert (np.abs(data.actuator_force) <= limit + 1e-12).all()
            strongest = max(strongest, np.abs(data.actuator_force / limit).max())
    assert strongest == pytest.approx(1.0)  # the limits were reached


def rotation(quaternion: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def test_frames_equal_rotation_matrices() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(20, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    v = rng.normal(size=(20, 3))
    got, down = into_body(torch.tensor(q), torch.tensor(v)), gravity_in(torch.tensor(q))
    for i in range(20):
        np.testing.assert_allclose(got[i], rotation(q[i]).T @ v[i], atol=1e-12)
        np.testing.assert_allclose(down[i], rotation(q[i]).T @ [0, 0, -1], atol=1e-12)


def test_reward_on_recorded_states() -> None:
    """Against the formula, world by world, with numpy and rotation matrices."""
    worlds = TaskWorlds(without_termination(find_family(NAME)), 6, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 6), 1)
    worlds.reset()
    sim, task = worlds.simulator, {k: v.numpy() for k, v in worlds.task.items()}
    generator = torch.Generator().manual_seed(1)
    last = np.zeros((6, 12))
    for _ in range(25):
        action = 3 * torch.rand(6, 12, generator=generator) - 1.5
        got = worlds.step(action).reward.numpy()
        clipped = action.double().clamp(-1, 1).numpy()
        for i in range(6):
            qpos, qvel = sim.qpos[i].numpy(), sim.qvel[i].numpy()
            turn = rotation(qpos[3:7]).T
            v, w, g = turn @ qvel[:3], qvel[3:6], turn @ [0.0, 0.0, -1.0]
            off = (v[0] - task["command_x"][i]) ** 2 + (v[1] - task["command_y"][i]) ** 2
            yaw = (w[2] - task["command_yaw"][i]) ** 2
            target = np.array(STANCE) + clipped[i] * np.tile([0.5, 0.8, 0.9], 4)
            torque = 60 * (target - qpos[7:]) - 2 * qvel[6:]
            torque = np.clip(torque, -np.array(TORQUE_LIMITS), TORQUE_LIMITS)
            torque = task["strength"][i] * torque
            expected = np.exp(-off / 0.25) + 0.5 * np.exp(-yaw / 0.25)
            expected -= 0.5 * v[2] ** 2 + 0.02 * (w[0] ** 2 + w[1] ** 2)
            expected -= 0.5 * (g[0] ** 2 + g[1] ** 2)
            expected -= 5e-5 * (torque**2).sum() + 0.01 * ((clipped[i] - last[i]) ** 2).sum()
            assert got[i] == pytest.approx(expected, abs=1e-9)
        last = clipped


def test_perfect_tracking_by_hand() -> None:
    """At rest in the stance with command 0: 1 + 0.5, and no torque but for the pose's error."""
    worlds = standing(command_x=0.0, command_y=0.0, command_yaw=0.0)
    sim = worlds.simulator
    sim.qvel[:] = 0.0
    sim.qpos[:, 3:7] = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    sim.qpos[:, 7:] = torch.tensor(STANCE, dtype=torch.float64)
    before = sim.snapshot(worlds.family.keep)
    zero = torch.zeros(4, 12, dtype=torch.float64)
    weights = worlds.family.reward_weights

    def paid() -> dict[str, float]:
        terms = worlds.family.reward(sim, before, zero, worlds.task)
        return {name: weights.get(name, 1.0) * float(term[0]) for name, term in terms.items()}

    nothing = {"posture": 0.0, "effort": 0.0, "action_rate": 0.0}
    nothing |= {"velocity_error": 0.0, "turning_error": 0.0}
    assert paid() == pytest.approx({"velocity": 1.0, "turning": 0.5} | nothing, abs=1e-12)
    sim.qpos[:, 7] += 0.1  # 6 N·m at one joint: 5e-5 · 36
    assert sum(paid().values()) == pytest.approx(1.5 - 0.0018, abs=1e-12)


def test_the_observation_is_what_a_robot_measures() -> None:
    worlds = standing()
    sim, family = worlds.simulator, worlds.family
    assert worlds.spec[:2] == (45, 12)
    before = family.observe(sim, worlds.task)
    assert before[:, 3:6].tolist() == [[0.0, 0.0, -1.0]] * 4
    assert before[0, 6:9].tolist() == [0.25, 0.0, 0.0]  # the nominal command
    assert not before[:, 33:].any()  # no action yet
    sim.qpos[:, :3] += 1.0  # where it is
    sim.qvel[:, :3] += 1.0  # and how fast, no sensor tells
    assert torch.equal(family.observe(sim, worlds.task), before)
    action = torch.linspace(-1, 1, 12).expand(4, -1)
    obs = worlds.step(action).obs
    np.testing.assert_allclose(obs[:, 33:], action, atol=1e-6)


@pytest.mark.parametrize(
    ("tilt", "z", "fallen"),
    [(0.0, 0.27, False), (1.0, 0.3, False), (1.1, 0.3, True), (0.0, 0.09, True)],
)
def test_a_fall_ends_the_episode(tilt: float, z: float, fallen: bool) -> None:
    """60 degrees are 1.047 rad."""
    worlds = standing()
    sim = worlds.simulator
    sim.qpos[:, 2] = z
    sim.qpos[:, 3] = np.cos(tilt / 2)
    sim.qpos[:, 4] = np.sin(tilt / 2)
    assert worlds.family.terminated(sim).tolist() == [fallen] * 4


def test_heights_count_from_the_ground() -> None:
    """On a deck of 0.14 m, a trunk at z = 0.2 m is on its belly; beside it, it is not."""
    family = find_family(NAME)
    worlds = TaskWorlds(family, 2, 1)
    row = TaskDistribution(family).make(ground=3, difficulty=0.7).values
    worlds.set_tasks(Tasks(family.name, TaskDistribution(family).names, row), 2)
    sim = worlds.simulator
    sim.qpos[:, 2], sim.qpos[:, 3:7] = 0.2, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    sim.qpos[:, 0] = torch.tensor([0.0, 1.6])
    assert family.ground(sim, sim.qpos[:, :1], sim.qpos[:, 1:2])[:, 0].tolist() == pytest.approx(
        [0.0, 0.14], abs=1e-6
    )
    assert family.terminated(sim).tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "field", "factor"),
    [({"strength": 0.7}, "actuator_forcerange", 0.7), ({"strength": 0.7}, "actuator_biasprm", 0.7)],
)
def test_motor_strength_scales_gains_and_limits(values, field: str, factor: float) -> None:
    worlds = standing(**values)
    nominal = getattr(worlds.family.compile(), field)
    np.testing.assert_array_equal(worlds.simulator.batch.expand(field)[0], nominal * factor)


def test_friction_is_the_feet_s() -> None:
    """Pushed along a floor of friction 0.8, the feet of a robot with friction 0.2 slide."""
    slid = []
    for friction in (0.2, 1.2):
        worlds = standing(friction=friction)
        for _ in range(25):
            worlds.step(torch.zeros(4, 12))
        start = worlds.simulator.qpos[:, 0].clone()
        push = worlds.simulator.bind("xfrc_applied")
        push[:, worlds.family.compile().body("trunk").id, 0] = 40.0  # N, of 132 N of weight
        for _ in range(25):
            worlds.step(torch.zeros(4, 12))
        slid.append(float((worlds.simulator.qpos[:, 0] - start).mean()))
    assert slid[0] > 0.15
    assert slid[1] < 0.05


def test_critics_are_shown_how_fast_the_trunk_is_and_the_ground_around_it() -> None:
    worlds = standing()
    sim, family = worlds.simulator, worlds.family
    shown = family.privileged(sim, worlds.task)
    assert shown.shape == (4, worlds.spec.privileged_size) == (4, 3 + 39)
    assert torch.equal(shown[:, :3], family.root.linear_velocity(sim))
    ground = family.heights(sim)
    torch.testing.assert_close(shown[:, 3:], ground - sim.qpos[:, 2:3])
