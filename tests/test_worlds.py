"""TaskWorlds against plain MuJoCo, episodes, masked resets, and the isolation of divergence."""

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl import TaskDistribution, TaskWorlds, UserError, find_family
from metarl.keys import Key

PointGoal = type(find_family("point-goal"))


def actions(steps: int, worlds: int, size: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 2.4 * torch.rand(steps, worlds, size, generator=rng) - 1.2  # some beyond the limits


def dynamics(num: int = 6, threads: int = 2) -> TaskWorlds:
    worlds = TaskWorlds("half-cheetah-dynamics", num, threads)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", num // 2), 2)
    worlds.seed(Key(1))
    worlds.reset()
    return worlds


def edited(model: mujoco.MjModel, task: dict[str, float]) -> mujoco.MjModel:
    """The task's model made by hand."""
    spec_model = find_family("half-cheetah-dynamics").compile()
    assert spec_model is not model
    spec_model.body_mass *= task["mass"]
    spec_model.body_inertia *= task["mass"]
    spec_model.geom_friction *= task["friction"]
    spec_model.dof_damping *= task["damping"]
    spec_model.actuator_gear *= task["strength"]
    mujoco.mj_setConst(spec_model, mujoco.MjData(spec_model))
    return spec_model


def test_every_world_equals_a_plain_loop_to_the_bit() -> None:
    worlds = dynamics()
    sim, moves = worlds.simulator, actions(60, 6, 6)
    starts = sim.snapshot()
    tasks = [dict(zip(worlds.tasks.names, row, strict=True)) for row in worlds.tasks.values]
    paths = [[] for _ in range(6)]
    for t in range(60):
        worlds.step(moves[t])
        for i in range(6):
            paths[i].append(torch.cat((sim.qpos[i], sim.qvel[i])).numpy().copy())
    for i in range(6):
        model = edited(sim.model, tasks[i // 2])
        data = mujoco.MjData(model)
        data.qpos, data.qvel = starts.qpos[i].numpy(), starts.qvel[i].numpy()
        for t in range(60):
            data.ctrl = np.clip(moves[t, i].double().numpy(), -1, 1)
            for _ in range(5):
                mujoco.mj_step(model, data)
            np.testing.assert_array_equal(np.concatenate((data.qpos, data.qvel)), paths[i][t])


def test_equals_gymnasium_half_cheetah_to_the_bit() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("imageio")
    env = gymnasium.make("HalfCheetah-v5").unwrapped
    env.reset(seed=0)
    worlds = TaskWorlds("half-cheetah-vel", 1, 1)
    qpos, qvel = env.data.qpos.copy(), env.data.qvel.copy()
    worlds.simulator.qpos[0] = torch.from_numpy(qpos)
    worlds.simulator.qvel[0] = torch.from_numpy(qvel)
    for move in actions(50, 1, 6).clamp(-1, 1).double():
        obs, _, _, _, info = env.step(move[0].numpy())
        got = worlds.step(move)
        np.testing.assert_array_equal(got.next_obs[0].numpy(), obs.astype(np.float32))
        expected = -abs(info["x_velocity"] - 1.5) - 0.05 * float(move.square().sum())
        assert float(got.reward[0]) == pytest.approx(expected, abs=1e-9)
    env.close()


def test_set_tasks_is_idempotent_and_order_free() -> None:
    worlds, other = dynamics(), TaskDistribution(find_family("half-cheetah-dynamics"))
    tasks, fields = worlds.tasks, ("body_mass", "geom_friction", "dof_invweight0")
    before = {f: worlds.simulator.batch.expand(f).copy() for f in fields}
    worlds.set_tasks(other.split("ood", 3), 2)
    changed = [np.array_equal(worlds.simulator.batch.expand(f), before[f]) for f in fields]
    assert changed == [False] * 3
    for _ in range(2):
        worlds.set_tasks(tasks, 2)
        for name in fields:
            np.testing.assert_array_equal(worlds.simulator.batch.expand(name), before[name])


def test_time_limits_truncate_and_next_obs_is_the_true_successor() -> None:
    worlds = TaskWorlds("point-goal", 3, 1)
    for t in range(1, 45):
        got = worlds.step(torch.ones(3, 2))
        ended = t % 20 == 0
        assert got.truncated.tolist() == [ended] * 3
        assert not got.terminated.any()
        assert torch.equal(got.obs, got.next_obs) != ended
        if ended:
            assert (got.next_obs[:, 0] > 0.5).all()
            assert (got.obs[:, 0].abs() <= 0.011).all()
        assert worlds.current.first.tolist() == [ended] * 3
        assert torch.equal(worlds.current.obs, got.obs)
    assert worlds.env_steps == 44 * 3


class Tripwire(PointGoal):
    """A point that fails when it goes beyond x = 0.3."""

    name = "tripwire"

    def terminated(self, sim):
        return sim.qpos[:, 0] > 0.3


def test_a_failed_world_restarts_and_the_others_go_on_to_the_bit() -> None:
    def run(moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        worlds = TaskWorlds(Tripwire(), 4, 2)
        worlds.seed(Key(0))
        worlds.reset()
        got = [worlds.step(move) for move in moves]
        return torch.stack([g.next_obs for g in got]), torch.stack([g.terminated for g in got])

    moves = actions(18, 4, 2) * 0.3
    calm, none = run(moves)
    moves[:, 2, 0] = 1.0
    mixed, failed = run(moves)
    assert not none.any()
    assert failed[:, 2].sum() >= 1
    assert not failed[:, [0, 1, 3]].any()
    assert torch.equal(calm[:, [0, 1, 3]], mixed[:, [0, 1, 3]])
    at = int(failed[:, 2].nonzero()[0])
    assert float(mixed[at, 2, 0]) > 0.3
    assert abs(float(mixed[at + 1, 2, 0])) < 0.3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e12])
def test_a_diverged_world_is_flagged_at_once_and_harms_no_other(bad: float) -> None:
    def run(spoil: bool) -> list:
        worlds = dynamics(64)
        got = []
        for t, move in enumerate(actions(12, 64, 6)):
            if spoil and t == 5:
                worlds.simulator.qvel[[3, 40], 4] = bad
            got.append(worlds.step(move))
        return got

    well, ill = run(False), run(True)
    others = [i for i in range(64) if i not in (3, 40)]
    for t in range(12):
        assert ill[t].diverged.nonzero()[:, 0].tolist() == ([3, 40] if t == 5 else [])
        for field in ("obs", "next_obs", "reward"):
            assert getattr(ill[t], field).isfinite().all()
            assert torch.equal(getattr(well[t], field)[others], getattr(ill[t], field)[others])
    assert ill[5].reward[[3, 40]].tolist() == [0.0, 0.0]
    assert not (ill[5].terminated | ill[5].truncated)[[3, 40]].any()


def test_an_action_that_is_not_a_number_is_a_divergence() -> None:
    worlds = TaskWorlds("point-goal", 3, 1)
    move = torch.zeros(3, 2)
    move[1, 0] = float("nan")
    got = worlds.step(move)
    assert got.diverged.tolist() == [False, True, False]
    assert got.next_obs.isfinite().all()
    assert not worlds.step(torch.zeros(3, 2)).diverged.any()


def test_resets_do_not_depend_on_company_or_threads() -> None:
    first = TaskWorlds("half-cheetah-vel", 8, 1)
    second = TaskWorlds("half-cheetah-vel", 8, 4)
    for worlds in (first, second):
        worlds.seed(Key(7))
    a = first.reset()
    second.reset(torch.tensor([5, 2]))
    b = second.reset(torch.tensor([0, 1, 3, 4, 6, 7]))
    assert torch.equal(a, b)
    assert not torch.equal(first.reset(), a)
    first.seed(Key(7))
    assert torch.equal(first.reset(), a)


def test_a_partial_reset_leaves_the_rest_alone() -> None:
    worlds = dynamics()
    for move in actions(4, 6, 6):
        worlds.step(move)
    before, step = worlds.simulator.snapshot(), worlds.current
    worlds.reset(torch.tensor([1, 4]))
    rest = [0, 2, 3, 5]
    assert torch.equal(worlds.simulator.qpos[rest], before.qpos[rest])
    assert torch.equal(worlds.current.prev_action[rest], step.prev_action[rest])
    assert worlds.current.first.tolist() == [False, True, False, False, True, False]
    assert not worlds.current.prev_action[[1, 4]].any()


def test_derived_fields_are_current() -> None:
    worlds = TaskWorlds("half-cheetah-vel", 4, 2)
    heights = worlds.simulator.bind("xpos")
    torso = worlds.family.compile().body("torso").id
    for move in actions(3, 4, 6):
        worlds.step(move)
        expected = 0.7 + worlds.simulator.qpos[:, 1]
        torch.testing.assert_close(heights[:, torso, 2], expected)
    worlds.reset()
    torch.testing.assert_close(heights[:, torso, 2], 0.7 + worlds.simulator.qpos[:, 1])


class Bad(PointGoal):
    """Breaks one promise a test."""

    name = "bad"
    wrong = ""

    def observe(self, sim, task):
        obs = super().observe(sim, task)
        if self.wrong == "observe":
            return obs[0]
        return obs * float("nan") if self.wrong == "nan observe" else obs

    def reward(self, sim, before, action, task):
        reward = super().reward(sim, before, action, task)
        if self.wrong == "reward":
            return reward[:, None]
        return reward * float("nan") if self.wrong == "nan reward" else reward

    def terminated(self, sim):
        return (
            torch.zeros(1, dtype=torch.bool)
            if self.wrong == "terminated"
            else super().terminated(sim)
        )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("observe", r"'bad': observe\(\) returned shape"),
        ("reward", r"'bad': reward\(\) returned shape \(3, 1\), expected \(3,\)"),
        ("terminated", r"'bad': terminated\(\) returned shape"),
        ("nan reward", r"'bad': reward\(\) is not finite"),
        ("nan observe", r"'bad': observe\(\) is not finite"),
    ],
)
def test_a_family_that_returns_nonsense_is_named(wrong: str, words: str) -> None:
    family = Bad()
    family.wrong = wrong
    with pytest.raises(UserError, match=words):
        TaskWorlds(family, 3, 1).step(torch.zeros(3, 2))


def test_refusals() -> None:
    with pytest.raises(UserError, match="did you mean 'point-goal'"):
        TaskWorlds("point-gaol", 1)
    with pytest.raises(UserError, match="at least 1"):
        TaskWorlds("point-goal", 0)
    worlds = TaskWorlds("point-goal", 4, 1)
    with pytest.raises(UserError, match="do not fill"):
        worlds.set_tasks(TaskDistribution(worlds.family).split("train", 3), 1)
    foreign = TaskDistribution(find_family("half-cheetah-vel"))
    with pytest.raises(UserError, match="parameters"):
        worlds.set_tasks(foreign.split("train", 4), 1)
    with pytest.raises(UserError, match="no field 'xposs'"):
        worlds.simulator.bind("xposs")
