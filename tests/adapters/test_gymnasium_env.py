"""The gymnasium and SB3 views: they pass the checkers, and show what TaskWorlds does to the bit."""

from __future__ import annotations

import copy
import functools
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from helpers.families import each_with, every_family
from helpers.gym_views import Fragile, actions, gym_key
from stable_baselines3.common.env_checker import check_env as sb3_check

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.adapters import GymEnv, GymVectorEnv, SB3VecEnv
from metarl.adapters.registration import ANY, env_id
from metarl.tasks.registry import list_families

PRODUCT = "half-cheetah-vel+dynamics"

# --- what others demand ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*every_family(), PRODUCT])
@pytest.mark.filterwarnings("ignore:.*infinity")
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_family_passes_gymnasium_s_check_and_sb3_s(name: str) -> None:
    known = name in list_families()
    env = gymnasium.make(env_id(name)) if known else gymnasium.make(ANY, family=name)
    gymnasium_check(env.unwrapped, skip_render_check=True)
    sb3_check(env.unwrapped)


@pytest.mark.parametrize(
    ("name", "split"),
    each_with(("train", "heldout", "ood"), every_family(), slow=("train", "ood")),
)
def test_every_family_and_split_can_be_made(name: str, split: str) -> None:
    if split == "ood" and not TaskDistribution(find_family(name)).has_ood:
        pytest.skip("no ood ranges")
    env = gymnasium.make(env_id(name), split=split)
    worlds = gymnasium.make_vec(env_id(name), num_envs=3, split=split, threads=1)
    one, (_, many) = env.reset(seed=2)[1]["task"], worlds.reset(seed=2)
    if split != "train":
        tasks = TaskDistribution(find_family(name)).split(split, 3)
        assert list(one.values()) == tasks.values[0].tolist()
        assert np.array_equal([many["task"][n] for n in tasks.names], tasks.values.T)
    assert worlds.step(worlds.action_space.sample())[0].dtype == np.float32


def test_the_id_of_a_family() -> None:
    assert env_id("half-cheetah-vel") == "metarl/HalfCheetahVel-v0"
    assert env_id("walker2d-params") == "metarl/Walker2dParams-v0"


def test_gymnasium_can_import_us_by_itself(after_torch) -> None:
    said = after_torch(
        "import gymnasium as g; print(g.make('metarl:metarl/PointGoal-v0').reset(seed=1)[0].shape)"
    )
    assert said == "(4,)\n"


def test_gymnasium_s_own_wrappers_fit() -> None:
    envs = gymnasium.make_vec(env_id("point-goal"), num_envs=4)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=1)
    for action in actions(20, 4, 2):
        infos = envs.step(action)[-1]
    assert infos["episode"]["l"].tolist() == [20] * 4


# --- one world ---------------------------------------------------------------------------------


def test_a_gym_env_is_one_world_to_the_bit() -> None:
    env = GymEnv("half-cheetah-vel", task={"goal_velocity": 1.5})
    worlds = TaskWorlds("half-cheetah-vel", 1, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(goal_velocity=1.5), 1)
    worlds.seed(gym_key(3))
    obs, info = env.reset(seed=3)
    assert info == {"task": {"goal_velocity": 1.5}}
    assert np.array_equal(obs, worlds.reset()[0].numpy())
    for t, action in enumerate(actions(200, 1, 6)):
        expected = worlds.step(torch.from_numpy(action))
        obs, reward, terminated, truncated, info = env.step(action[0])
        assert np.array_equal(obs, expected.next_obs[0].numpy())
        assert (reward, terminated) == (float(expected.reward[0]), False)
        assert truncated == (t == 199) == bool(expected.truncated[0])
        assert info == {"diverged": False}
    assert np.array_equal(env.reset()[0], expected.obs[0].numpy())  # the worlds went on alone


def test_a_failure_terminates_and_is_no_truncation() -> None:
    env = GymEnv(Fragile())
    env.reset(seed=1)
    for _ in range(20):
        obs, _, terminated, truncated, _ = env.step(np.ones(2))
        if terminated:
            break
    assert (terminated, truncated) == (True, False)
    assert np.abs(obs[:2]).max() > 0.02  # the state that failed, not the next episode's


def test_a_divergence_is_a_truncation_that_says_so() -> None:
    for env in (GymEnv("point-goal"), GymVectorEnv("point-goal", 1)):
        env.reset(seed=1)
        env.worlds.simulator.qvel[0] = torch.nan
        action = np.zeros(env.action_space.shape)
        obs, reward, terminated, truncated, info = env.step(action)
        flags = (float(np.ravel(reward)[0]), *map(bool, (terminated, truncated, info["diverged"])))
        assert flags == (0.0, False, True, True)
        assert np.isfinite(obs).all()


def test_tasks_are_drawn_pinned_and_drawn_again() -> None:
    env = GymEnv("half-cheetah-vel")
    first = env.reset(seed=7)[1]["task"]
    assert env.reset(seed=7)[1]["task"] == first
    assert env.reset()[1]["task"] != first
    pinned = {"goal_velocity": 2.5}
    assert env.reset(options={"task": pinned})[1]["task"] == env.reset()[1]["task"] == pinned
    env.set_task(None)
    again = env.reset()[1]["task"]
    assert again not in (pinned, first)
    assert 0.0 <= again["goal_velocity"] <= 3.0
    env.set_task({"goal_velocity": 1.0})
    assert env.reset()[1]["task"] == env.task == {"goal_velocity": 1.0}


def test_a_choice_that_is_not_there_is_refused() -> None:
    words = "family 'ant-crippled': parameter 'fault' must be one of {0, …, 8}"
    env = GymEnv("ant-crippled", task={"fault": 4})
    envs = GymVectorEnv("ant-crippled", 2, threads=1)
    for make in (
        lambda: GymEnv("ant-crippled", task={"fault": 9}),
        lambda: env.reset(options={"task": {"fault": 9}}),
        lambda: env.set_task(Tasks("ant-crippled", ("fault",), np.array([[9.0]]))),
        lambda: envs.reset(options={"task": {"fault": [1, 9]}}),
    ):
        with pytest.raises(UserError) as caught:
            make()
        assert str(caught.value) == words + ", not 9"
    assert env.reset()[1]["task"] == {"fault": 4.0}


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (GymEnv, "task, max_episode_steps, simulator"),
        (
            functools.partial(GymVectorEnv, num_envs=2),
            "task, autoreset_mode, max_episode_steps, threads, simulator",
        ),
    ],
)
def test_a_keyword_that_is_none_is_answered_with_all_that_are(make, own: str) -> None:
    with pytest.raises(UserError, match="unknown option 'nosuch'; there are split,") as caught:
        make("point-goal", nosuch=1)
    assert str(caught.value).endswith(f"height, {own}")


def test_frozen_tasks_take_turns() -> None:
    env = GymEnv("point-goal", split="heldout", num_tasks=3, episodes_per_task=2)
    tasks = TaskDistribution(env.family).split("heldout", 3).values.tolist()
    seen = [list(env.reset(seed=4)[1]["task"].values())]
    seen += [list(env.reset()[1]["task"].values()) for _ in range(7)]
    assert seen == [tasks[i] for i in (0, 0, 1, 1, 2, 2, 0, 0)]
    assert list(env.reset(seed=4)[1]["task"].values()) == tasks[0]


# --- many worlds -------------------------------------------------------------------------------


def test_a_vector_env_is_the_worlds_to_the_bit() -> None:
    """With the tasks held, its rows are those of TaskWorlds, over three episodes."""
    envs = GymVectorEnv(Fragile(), 5, {"goal_x": np.linspace(-1, 1, 5)}, threads=1)
    worlds = TaskWorlds(Fragile(), 5, 1)
    distribution = TaskDistribution(worlds.family)
    rows = np.concatenate([distribution.make(goal_x=x).values for x in np.linspace(-1, 1, 5)])
    worlds.set_tasks(type(distribution.nominal())("fragile", distribution.names, rows), 1)
    worlds.seed(gym_key(9))
    assert np.array_equal(envs.reset(seed=9)[0], worlds.reset().numpy())
    ended = 0
    for action in actions(60, 5, 2):
        expected = worlds.step(torch.from_numpy(action))
        obs, reward, terminated, truncated, infos = envs.step(action)
        assert np.array_equal(obs, expected.obs.numpy())
        assert np.array_equal(reward, expected.reward.numpy())
        assert np.array_equal(terminated, expected.terminated.numpy())
        assert np.array_equal(truncated, expected.truncated.numpy())
        over = terminated | truncated
        ended += over.sum()
        assert ("final_obs" in infos) == over.any()
        for i in over.nonzero()[0]:
            assert np.array_equal(infos["final_obs"][i], expected.next_obs[i].numpy())
    assert ended > 5
    assert worlds.env_steps == 300


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_the_autoreset_modes_differ_in_when_an_episode_begins_alone(mode) -> None:
    """Each world's episodes are those of the same-step mode, each one step later than the last."""
    task = {"goal_x": 0.3, "goal_y": 0.4}
    same, other = (
        GymVectorEnv(Fragile(), 4, task, autoreset_mode=m, threads=1)
        for m in (AutoresetMode.SAME_STEP, mode)
    )
    assert other.metadata["autoreset_mode"] is mode
    script = actions(12, 4, 2)
    a, b = same.reset(seed=2)[0], other.reset(seed=2)[0]
    assert np.array_equal(a, b)
    running = np.ones(4, bool)  # in its first episode
    waiting = np.zeros(4, bool)
    for action in script:
        a, ra, ta, ua, info = same.step(action)
        b, rb, tb, ub, _ = other.step(action)
        over = (ta | ua) & running
        last = np.where(over[:, None], np.stack([x if o else y for x, y, o in zip(
            info.get("final_obs", a), a, over, strict=True)]).astype(np.float32), a)  # fmt: skip
        assert np.array_equal(b[running], last[running])
        assert np.array_equal((rb, tb, ub)[0][running], ra[running])
        assert np.array_equal((tb | ub)[running], (ta | ua)[running])
        if mode is AutoresetMode.NEXT_STEP and waiting.any():
            assert not (tb | ub)[waiting].any()
            assert (rb[waiting] == 0).all()
            assert (np.abs(b[waiting, :2]) <= 0.01).all()  # a first observation
            assert (b[waiting, 2:] == 0).all()
        waiting, running = over.copy(), running & ~over
        if mode is AutoresetMode.DISABLED and over.any():
            before = b.copy()
            b, info = other.reset(options={"reset_mask": over})
            assert (np.abs(b[over, :2]) <= 0.01).all()
            assert np.array_equal(b[~over & running], before[~over & running])
            assert info["_task"].tolist() == over.tolist()
    assert not running.all()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (3, "a task by hand is {parameter: number}, or Tasks, not 3"),
        ({"mass": "x"}, "a task by hand is {parameter: number}, or Tasks, not {'mass': 'x'}"),
        ({"mass": -1.0}, "'half-cheetah-dynamics', parameter 'mass': body_mass would be -6.25021"),
    ],
)
def test_a_task_that_was_refused_leaves_no_trace(task, words: str) -> None:
    for view in (
        GymEnv("half-cheetah-dynamics"), GymVectorEnv("half-cheetah-dynamics", 2, threads=1)
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            view.reset(options={"task": task})
        assert words in str(caught.value)
        drawn = view.reset(seed=1)[1]["task"]
        assert (np.asarray(drawn["mass"]) >= 0.5).all()


def test_what_a_step_gave_may_be_written_to() -> None:
    envs = GymVectorEnv("point-goal", 2, threads=1)
    envs.reset(seed=1)
    for _ in range(2):
        _, _, terminated, truncated, infos = envs.step(np.zeros((2, 2), np.float32))
        for flags in (terminated, truncated, infos["diverged"]):
            assert not flags.any()
            flags[:] = True


def test_each_world_gets_a_task_of_its_own_when_its_episode_begins() -> None:
    """The physics and the reward follow the new tasks, as in worlds that were made with them."""
    envs = GymVectorEnv("half-cheetah-dir+dynamics", 3, threads=1, max_episode_steps=4)
    envs.reset(seed=1)
    before = envs.task
    for action in actions(4, 3, 6):
        envs.step(action)
    after = envs.task
    assert all((before[name] != after[name]).all() for name in ("mass", "friction", "strength"))
    mass = envs.worlds.simulator.batch.get_model(2).body_mass
    nominal = envs.family.compile().body_mass
    np.testing.assert_allclose(mass[1:], nominal[1:] * after["mass"][2], rtol=1e-12)
    fresh = GymVectorEnv("half-cheetah-dir+dynamics", 3, after, threads=1)
    fresh.reset(seed=1)
    for field in ("qpos", "qvel"):
        state = getattr(envs.worlds.simulator, field)
        getattr(fresh.worlds.simulator, field)[:] = state
    for action in actions(3, 3, 6):
        one, two = envs.step(action), fresh.step(action)
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])


def test_a_seed_repeats_everything() -> None:
    def roll(envs):
        first = envs.reset(seed=11)
        rest = [envs.step(action) for action in actions(45, 4, 2)]
        return first[0], first[1]["task"]["goal_x"], *(part for one in rest for part in one[:4])

    one = GymVectorEnv(Fragile(), 4, threads=1)
    two = GymVectorEnv(Fragile(), 4, threads=2)
    for a, b, c in zip(roll(one), roll(one), roll(two), strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


def test_the_horizon_can_be_another() -> None:
    envs = gymnasium.make_vec(env_id("point-goal"), num_envs=2, max_episode_steps=3)
    envs.reset(seed=0)
    cuts = [envs.step(action)[3].tolist() for action in actions(6, 2, 2)]
    assert cuts == [[t % 3 == 2] * 2 for t in range(6)]


@pytest.mark.parametrize("steps", [7, 30])
def test_make_honours_its_time_limit(steps: int) -> None:
    env = gymnasium.make(env_id("point-goal"), max_episode_steps=steps)
    for one in (env, gymnasium.make(env.spec), pickle.loads(pickle.dumps(env))):
        one.reset(seed=0)
        length = 1
        while not one.step(one.action_space.sample())[3]:
            length += 1
        assert (length, one.spec.max_episode_steps) == (steps, steps)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: GymEnv("point-goal+latency", {"goal_x": 0.5}, max_episode_steps=5),
        lambda: GymVectorEnv("point-goal", 2, {"goal_x": [0.5, 0.2]}, autoreset_mode="Disabled"),
        lambda: SB3VecEnv("point-goal", 2, split="heldout"),
    ],
)  # fmt: skip
def test_a_copy_is_a_new_environment_of_the_same_arguments(make, copied) -> None:
    env = make()
    again = copied(env)
    with pytest.raises(UserError, match="call reset"):
        again.step(np.zeros(env.action_space.shape))
    for one in (env, again):
        one.seed(4) if isinstance(one, SB3VecEnv) else one.reset(seed=4)
    assert np.array_equal(env.reset()[0], again.reset()[0])


def test_a_view_of_a_family_without_a_name_says_that_it_cannot_be_copied() -> None:
    for env in (GymEnv(Fragile()), SB3VecEnv(Fragile(), 2)):
        with pytest.raises(UserError, match="family 'fragile' can be neither copied nor pickled"):
            copy.deepcopy(env)
