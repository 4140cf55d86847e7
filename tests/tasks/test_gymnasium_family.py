"""A third-party gymnasium environment behind the methods of TaskWorlds."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers.refusals import refused

from metarl import (
    Interval,
    Param,
    TaskDistribution,
    UserError,
    cli,
    evaluate,
    find_family,
    find_learner,
    scale,
)
from metarl.adapters import GymEnv, GymnasiumFamily
from metarl.base.keys import BatchedRNG, Key
from metarl.worlds.factory import make_worlds
from metarl.worlds.vector import Spec, VecWorlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")

FILE = '''
import gymnasium
import numpy as np
from metarl import Interval, Param

class Walk(gymnasium.Env):
    """x moves by a tenth of the action, and the goal is known to the reward alone."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float64)
    action_space = gymnasium.spaces.Box(0, 4, (1,), np.float32)

    def set_task(self, task):
        self.goal = task["goal"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return np.array([self.x]), -abs(self.x - self.goal), self.x > 1.5, False, {}

def make_env():
    return gymnasium.wrappers.TimeLimit(Walk(), 8)

make_env.params = (Param("goal", Interval(-1, 1), ood=(Interval(1, 2),)),)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("third_party") / "walk.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def family(file):
    return find_family(f"{file}:make_env")


def test_a_function_of_a_file_is_a_family(family) -> None:
    assert (family.name, family.horizon) == ("make-env", 8)
    assert [param.name for param in family.params] == ["goal"]
    worlds = make_worlds(family, 5, threads=2)
    assert isinstance(worlds, VecWorlds)
    assert worlds.spec == Spec(1, 1, 8, task_size=1)
    assert (worlds.num_worlds, worlds.worlds_per_task, len(worlds.tasks)) == (5, 5, 1)
    worlds.close()


def plain(family, tasks, per_task: int, key: Key, script: np.ndarray):
    """The environment in a loop: (T, B) of obs, reward, terminated, truncated, next_obs."""
    rows = []
    for i in range(len(tasks) * per_task):
        env, episode, row = family.make(), 0, []
        m, e = divmod(i, per_task)

        def begin(episode, env=env, m=m, e=e):
            place = (np.array([n]) for n in (m, e, episode))
            seed = int(BatchedRNG(key, *place).uniform(0, 2**31, 1))
            env.get_wrapper_attr("set_task")({"goal": float(tasks.values[m, 0])})
            return env.reset(seed=seed)[0]

        begin(0)
        for action in script[:, i]:
            low_to_high = (2 + 2 * np.clip(action, -1, 1).astype(np.float64)).astype(np.float32)
            after, reward, terminated, truncated, _ = env.step(low_to_high)
            truncated = truncated and not terminated
            obs = after
            if terminated or truncated:
                episode += 1
                obs = begin(episode)
            row.append((obs[0], reward, terminated, truncated, after[0]))
        rows.append(row)
    return np.array(rows).transpose(1, 0, 2)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_worlds_are_a_plain_loop_of_the_environment(family, threads: int) -> None:
    """However many processes share them out; the last one has fewer worlds than the others."""
    tasks = TaskDistribution(family).split("train", 3)
    worlds = make_worlds(family, 9, threads)
    script = 1.4 * torch.randn(20, 9, 1, generator=Key(2).torch()) + 0.6
    expected = plain(family, tasks, 3, Key("here"), script.numpy())
    for _ in range(2):  # set_tasks and seed begin everything anew
        worlds.set_tasks(tasks, 3)
        worlds.seed(Key("here"))
        worlds.reset()
        for t, action in enumerate(script):
            got = worlds.step(action)
            parts = (got.obs[:, 0], got.reward, got.terminated, got.truncated, got.next_obs[:, 0])
            for part, numbers in zip(parts, expected[t].T, strict=True):
                assert np.array_equal(part.numpy(), numbers.astype(part.numpy().dtype))
            assert torch.equal(worlds.current.obs, got.obs)
            assert torch.equal(worlds.current.prev_action, action.clamp(-1, 1))
            assert torch.equal(worlds.current.first, got.terminated | got.truncated)
    assert expected[..., 2].any()
    assert expected[..., 3].any()
    assert worlds.env_steps == 2 * 20 * 9
    worlds.close()


def test_a_reset_of_some_leaves_the_others(family) -> None:
    worlds = make_worlds(family, 4, 2)
    before = worlds.step(torch.ones(4, 1)).obs
    after = worlds.reset(torch.tensor([False, True, False, False]))
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert abs(after[1, 0]) <= 0.1
    assert worlds.current.prev_action[:, 0].tolist() == [1, 0, 1, 1]
    assert worlds.current.first.tolist() == [False, True, False, False]
    worlds.close()


def test_a_slice_of_a_task_set_begins_as_the_whole_set_does(family) -> None:
    tasks = TaskDistribution(family).split("train", 4)
    starts = []
    for part, count in ((tasks, 4), (tasks[2:], 2)):
        worlds = make_worlds(family, count, 1)
        worlds.set_tasks(part, 1)
        worlds.seed(Key("here"))
        starts.append(worlds.reset())
        worlds.close()
    assert torch.equal(starts[0][2:], starts[1])


def test_it_says_that_it_is_slow(file) -> None:
    class Slow(type(find_family(f"{file}:make_env"))):
        name = "slow-walk"

    with pytest.warns(UserWarning, match="'slow-walk' is a gymnasium environment: .* slower"):
        make_worlds(Slow(), 2, 1).close()


def test_a_learner_evaluates_on_it(family) -> None:
    worlds = make_worlds(family, 6, 2)
    cls = find_learner("maml-trpo")
    learner = cls(worlds.spec, cls.Config(), seed=1)
    tasks = TaskDistribution(family).split("heldout", 3)
    one, two = (evaluate(learner, worlds, tasks, episodes=1, seed=0) for _ in range(2))
    assert one.returns == two.returns
    assert np.isfinite(one.returns).all()
    worlds.close()


@pytest.mark.slow
def test_the_command_line_trains_resumes_and_evaluates_it(file, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    flags = "--iterations 1 --tasks-per-iteration 2 --rollouts-per-task 3 --evaluate-tasks 2"
    words = ["train", f"{file}:make_env", "maml-trpo", *flags.split(), "--threads", "2"]
    assert cli.main([*words, "--out", str(run)]) == 0
    assert cli.main(["train", "--resume", str(run), "--iterations", "2"]) == 0
    assert cli.main(["evaluate", str(run), "--tasks", "2", "--split", "ood"]) == 0
    assert "make-env  maml-trpo  ood: 2 tasks" in capsys.readouterr().out
    assert cli.main(["check", f"{file}:make_env"]) == 0
    assert "FAIL" not in capsys.readouterr().out


# --- tasks that are set in other ways ----------------------------------------------------------


class Options(GymnasiumFamily):
    """An environment that takes its task as an option of reset, and acts on a number alone."""

    params = (Param("force", Interval(5.0, 15.0), size=2),)
    horizon = 30

    class env(gymnasium.Env):  # noqa: N801
        observation_space = gymnasium.spaces.Dict(
            {"a": Box(-1, 20, (2,), np.float32), "b": Discrete(3)}
        )
        action_space = Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            self.force = options["force"]
            return {"a": np.array(self.force, np.float32), "b": 1}, {}

        def step(self, action):
            if action[0] > 0.9:
                raise ValueError("the motor\nburns")
            reward = np.nan if action[0] < -0.9 else float(self.force[1])
            return {"a": np.array(self.force, np.float32), "b": 2}, reward, False, False, {}

    def begin(self, env, task, seed):
        return env.reset(seed=seed, options=task)[0]


@pytest.fixture
def options():
    worlds = make_worlds(Options(), 4, 2)
    yield worlds
    worlds.close()


def test_any_sort_of_set_task_and_of_observation(options) -> None:
    """The observation is (a, one-hot b); force has two elements."""
    tasks = TaskDistribution(options.family).make(**{"force[0]": 6.0, "force[1]": 7.0})
    options.set_tasks(tasks, 4)
    assert options.reset().tolist() == [[6.0, 7.0, 0.0, 1.0, 0.0]] * 4
    got = options.step(torch.zeros(4, 1))
    assert got.obs.tolist() == [[6.0, 7.0, 0.0, 0.0, 1.0]] * 4
    assert got.reward.tolist() == [7.0] * 4


def test_a_number_that_is_none_is_a_divergence(options) -> None:
    options.reset()
    before = options.step(torch.zeros(4, 1)).obs
    got = options.step(torch.tensor([[0.0], [-1.0], [torch.nan], [0.0]]))
    assert got.diverged.tolist() == [False, True, True, False]
    assert (got.reward[1:3] == 0).all()
    assert torch.equal(got.next_obs[1:3], before[1:3])
    assert not (got.terminated | got.truncated).any()
    assert options.current.first.tolist() == [False, True, True, False]
    with pytest.raises(UserError, match="'options': reward or observation is not finite in any"):
        options.step(torch.full((4, 1), -1.0))


def test_what_it_raises_is_one_line(options) -> None:
    with refused("family 'options': its environment failed: ValueError: the motor burns"):
        options.step(torch.ones(4, 1))


class Graphs(Options):
    class env(Options.env):  # noqa: N801
        action_space = gymnasium.spaces.Graph(Box(0, 1, (2,)), None)


class Timeless(Options):
    horizon = 0


class Taskless(GymnasiumFamily):
    env = "Pendulum-v1"
    params = (Param("gravity", Interval(8, 12)),)


class Edits(Taskless):
    params = (Param("mass", Interval(0.5, 2.0), edit=scale("body_mass")),)


class Unknown(Taskless):
    env = "Pendulumm-v1"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Graphs, "'graphs': its actions must be a bounded Box of one axis, Discrete, MultiD"),
        (Timeless, "'timeless': set `horizon`"),
        (Edits, "'edits', parameter 'mass': an edit changes a MuJoCo model"),
        (Unknown, "'unknown': making it failed: NameNotFound: Environment `Pendulumm` doesn't"),
        (lambda: make_worlds(Taskless(), 1, 1), "env.unwrapped"),
        (lambda: GymEnv(Options()), "'options' is a gymnasium environment, without a model"),
        (lambda: make_worlds(Options(), 2, 1).simulator, "without a model"),
    ],
)
def test_refusals_are_one_line(make, words: str) -> None:
    with refused(words):
        make()


def test_a_function_without_params_says_what_to_add(tmp_path) -> None:
    (tmp_path / "bare.py").write_text(FILE.partition("make_env.params")[0])
    for name in ("make_env", "Walk"):
        with pytest.raises(UserError, match=rf"set {name}\.params = \(Param"):
            find_family(f"{tmp_path}/bare.py:{name}")
    (tmp_path / "good.py").write_text(FILE)
    with pytest.raises(UserError, match="has no variation 'latency'; it takes none"):
        find_family(f"{tmp_path}/good.py:make_env+latency")
