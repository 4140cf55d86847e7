"""TaskWorlds against plain MuJoCo, episodes, masked resets, and the isolation of divergence."""

import itertools
from collections.abc import Callable

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.base.keys import Key
from metarl.worlds.vector import Transition

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


# --- where it is tempting to cut a corner ---------------------------------------------------------


def worlds_of(num: int = 4, **methods: object) -> TaskWorlds:
    """Worlds of a point-goal with some methods or attributes replaced."""
    return TaskWorlds(type("Variant", (PointGoal,), {"name": "variant"} | methods)(), num, 1)


def path(
    worlds: TaskWorlds, steps: int, between: Callable[[int], object] = lambda _: None
) -> list[Transition]:
    """The transitions under the same random actions, with something done before each step."""
    got = []
    for t, move in enumerate(actions(steps, worlds.num_worlds, 2)):
        between(t)
        got.append(worlds.step(move))
    return got


def test_a_failure_at_the_time_limit_is_a_failure() -> None:
    def terminated(self, sim) -> Tensor:
        return torch.arange(4) == 1

    last = path(worlds_of(terminated=terminated, horizon=1), 1)[0]
    assert last.terminated.tolist() == [False, True, False, False]
    assert last.truncated.tolist() == [True, False, True, True]


def test_a_divergence_at_the_time_limit_is_only_that() -> None:
    worlds = worlds_of(horizon=3)

    def spoil(t: int) -> None:
        if t == 2:
            worlds.simulator.qvel[2, 0] = float("nan")

    last = path(worlds, 3, spoil)[-1]
    assert last.diverged.tolist() == [False, False, True, False]
    assert last.truncated.tolist() == [True, True, False, True]
    assert worlds.current.first.all()


def test_each_world_has_a_clock_of_its_own() -> None:
    """After a partial reset the time limits of the worlds come at different steps."""
    worlds = worlds_of(2, horizon=5)

    def restart(t: int) -> None:
        if t == 3:
            worlds.reset(torch.tensor([1]))

    ends = torch.stack([got.truncated for got in path(worlds, 10, restart)])
    assert ends.nonzero().tolist() == [[4, 0], [7, 1], [9, 0]]


def test_every_sort_of_bad_number_in_a_few_of_many_worlds() -> None:
    """64 of 4096: nothing that is not finite comes back, and the others are equal to the bit."""
    bad = torch.arange(5, 4096, 64)
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30]).double()
    calm, ill = (TaskWorlds("point-goal", 4096, 2) for _ in range(2))
    others = torch.ones(4096, dtype=torch.bool)
    others[bad] = False
    for t in range(4):
        if t == 1:
            ill.simulator.qvel[bad, 1] = values.repeat(16)
        move = torch.full((4096, 2), 0.3 * t)
        well, got = calm.step(move), ill.step(move)
        assert torch.equal(got.diverged, ~others if t == 1 else torch.zeros_like(others))
        for name in ("obs", "next_obs", "reward"):
            assert getattr(got, name).isfinite().all()
            assert torch.equal(getattr(got, name)[others], getattr(well, name)[others])
    assert all(part.isfinite().all() for part in ill.current)


def test_a_robot_that_explodes_by_itself() -> None:
    """Motors far too strong in one task: its worlds diverge in every step, the others never."""
    worlds = dynamics()
    tasks = TaskDistribution(worlds.family)
    values = tasks.split("train", 3).values.copy()
    values[1, tasks.names.index("strength")] = 1e12
    worlds.set_tasks(Tasks("half-cheetah-dynamics", tasks.names, values), 2)
    for _ in range(3):
        got = worlds.step(torch.ones(6, 6))
        assert got.diverged.tolist() == [False, False, True, True, False, False]
        assert all(part.isfinite().all() for part in worlds.current)


@given(st.permutations(range(8)), st.lists(st.integers(1, 7), max_size=3), st.integers(1, 4))
def test_keyed_resets_do_not_depend_on_order_or_company(
    order: list[int], cuts: list[int], threads: int
) -> None:
    """All at once, or in any groups in any order, on any threads: the same initial states."""
    together, apart = SAME[0], SAME[threads]
    for worlds in (together, apart):
        worlds.seed(Key(11))
    expected = together.reset()
    bounds = [0, *sorted(set(cuts)), 8]
    for low, high in itertools.pairwise(bounds):
        got = apart.reset(torch.tensor(order[low:high]))
    assert torch.equal(got, expected)
    assert torch.equal(apart.simulator.qvel, together.simulator.qvel)


SAME = [TaskWorlds("half-cheetah-vel", 8, threads) for threads in (1, 1, 2, 3, 4)]


def test_a_masked_reset_changes_no_other_path() -> None:
    calm, disturbed = worlds_of(6), worlds_of(6)

    def interrupt(t: int) -> None:
        if t % 4 == 3:
            disturbed.reset(torch.tensor([4, 1]))
            disturbed.reset(torch.tensor([], dtype=torch.int64))

    rest = [0, 2, 3, 5]
    for a, b in zip(path(calm, 30), path(disturbed, 30, interrupt), strict=True):
        for name in ("obs", "reward", "next_obs", "truncated"):
            assert torch.equal(getattr(a, name)[rest], getattr(b, name)[rest])


def test_a_mask_resets_the_world_that_it_names_or_is_refused() -> None:
    worlds = worlds_of(2)
    path(worlds, 2)
    try:
        worlds.reset(torch.tensor([True, False]))
    except UserError:
        return
    assert worlds.current.first.tolist() == [True, False]
