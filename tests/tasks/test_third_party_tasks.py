"""What a third-party environment does with its tasks, and what is said when that is wrong."""

from __future__ import annotations

import functools
import os
import signal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from metarl import Choices, Interval, Param, TaskDistribution, UserError, evaluate, find_learner
from metarl.adapters import GymnasiumFamily
from metarl.check import gymnasium_suite
from metarl.check.suite import check_family
from metarl.tasks.gymnasium_family import family_of
from metarl.tasks.gymnasium_spaces import FlatAction, FlatObservation
from metarl.video.encode import VideoConfig, write
from metarl.video.gymnasium import DrawingWorlds, PictureFilm, drawing
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")


class Base(gymnasium.Env):
    """x moves by a tenth of the action; the reward alone knows the goal."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)
    goal = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return np.array([self.x]), -abs(self.x - self.goal), False, False, {}


class Goal(Base):
    def set_task(self, task):
        self.goal = task["goal"]


class Redraws(Goal):
    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed)
        self.goal = self.np_random.uniform(-1, 1)
        return out


class RedrawsGlobally(Goal):
    def reset(self, *, seed=None, options=None):
        self.goal = np.random.uniform(-1, 1)  # noqa: NPY002
        return super().reset(seed=seed)


class Unread(Goal):
    def set_task(self, task):
        self.target = task["goal"]


class Distant(Goal):
    """Pays near the goal alone, where random actions do not get."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, float(reward > -0.1), *rest


class Noisy(Goal):
    def step(self, action):
        self.x += 1e-3 * int.from_bytes(os.urandom(1), "little")
        return super().step(action)


def family(env: type, params=(Param("goal", Interval(-1, 1)),), **members) -> GymnasiumFamily:  # noqa: B008
    members = {"env": env, "horizon": 20, "params": params, **members}
    return type(env.__name__, (GymnasiumFamily,), members)()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Redraws, "reset() draws the task anew, after set_task() has set it; write `task_after_"),
        (RedrawsGlobally, "reset() draws the task anew"),
        (Unread, "let step() or reset() use what set_task() sets"),
        (Distant, "raise `probe_steps` = 300 or set it to 0"),
    ],
)
def test_a_task_that_changes_nothing_is_refused(env: type, words: str) -> None:
    params = (Param("goal", Interval(-9, 9)),)
    with pytest.raises(UserError) as caught:
        make_worlds(family(env, params), 2, 1)
    start = (
        f"family '{env.__name__.lower()}', parameter 'goal': -9.0 and 9.0 give the same episodes"
    )
    assert str(caught.value).replace("redraws-globally", "redrawsglobally").startswith(start)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_parameter_must_change_something() -> None:
    params = (Param("goal", Interval(-1, 1)), Param("mass", Interval(1, 2), size=2))
    with pytest.raises(UserError, match=r"parameter 'mass': \[1.0, 1.0\] and \[2.0, 2.0\] give"):
        make_worlds(family(Goal, params), 1, 1)


def test_the_ways_out_of_a_refused_task() -> None:
    worlds = make_worlds(family(Redraws, task_after_reset=True), 2, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(goal=0.5), 2)
    obs = worlds.reset()
    got = worlds.step(torch.zeros(2, 1))
    torch.testing.assert_close(got.reward, -(obs[:, 0].double() - 0.5).abs(), rtol=1e-6, atol=1e-7)
    worlds.close()
    make_worlds(family(Distant, probe_steps=0), 1, 1).close()


def test_episodes_that_do_not_repeat_are_named() -> None:
    with pytest.warns(UserWarning, match="'noisy': two episodes of one task with one seed .* draw"):
        make_worlds(family(Noisy), 1, 1).close()


class Leaves(Goal):
    """What an earlier task has changed stays."""

    gain = 1.0

    def set_task(self, task):
        super().set_task(task)
        self.gain *= 1 + abs(task["goal"])

    def step(self, action):
        return super().step(self.gain * action)


@pytest.mark.parametrize(
    ("env", "failed"),
    [
        (Goal, ""),
        (Unread, "Every parameter changes"),
        (Noisy, "Episodes repeat from"),
        (Leaves, "Episodes repeat from"),
    ],
)
def test_the_conformance_suite(env: type, failed: str) -> None:
    lines = []
    made = check_family(family(env), lines.append, gymnasium_suite.CHECKS, gymnasium_suite.GATES)
    failures = [line for line in lines if line.startswith("FAIL  ")]
    assert made == len(failures) == bool(failed)
    assert all(line.startswith(f"FAIL  {failed}") for line in failures)
    assert len(lines) == len(gymnasium_suite.CHECKS)


# --- how public environments take their tasks --------------------------------------------------


class Pearl(Base):
    goals = (-0.5, 0.0, 0.5)

    def reset_task(self, idx):
        self.goal = self.goals[idx]
        self.reset()


class Maml(Base):
    def sample_tasks(self, num_tasks):
        return [{"goal": g} for g in np.random.uniform(-1, 1, num_tasks)]  # noqa: NPY002

    def reset_task(self, task):
        self.goal = task["goal"]


class Garage(Goal):
    def sample_tasks(self, num_tasks):
        return [{"goal": g} for g in self.np_random.uniform(-1, 1, num_tasks)]


IDX = (Param("idx", Choices((0, 1, 2))),)


@pytest.mark.parametrize(
    ("env", "params", "tasks"),
    [
        (Pearl, IDX, 3),
        (Maml, IDX, 3),
        (Garage, IDX, 3),
        (Pearl, (Param("speed_class", Choices((0, 1, 2))),), 3),
        (Maml, (Param("goal", Interval(-1, 1)),), 0),
        (Garage, (Param("goal", Choices((-1, 1))),), 0),
    ],
)
def test_tasks_are_set_as_public_environments_take_them(env, params, tasks: int) -> None:
    made = family(env, params)
    values = [{"idx": k, params[0].name: k} for k in range(3)]
    goals = []
    for task in values if tasks else ({"goal": -1}, {"goal": 1}):
        world = made.make()
        made.set_task(world, {name: task[name] for name in (params[0].name,)})
        goals.append(world.goal)
    assert len(set(goals)) == len(goals)
    again = family(env, params).make()
    family(env, params).set_task(again, {params[0].name: 2 if tasks else 1})
    assert again.goal == goals[-1]
    make_worlds(made, 1, 1).close()


def test_whole_choices_are_ints_and_others_are_not() -> None:
    params = (
        Param("idx", Choices((0, 1, 2)), size=2),
        Param("mass", Choices((0.5, 1.0))),
        Param("gain", Choices((1, 2)), ood=(Interval(3, 4),)),
        Param("goal", Interval(-1, 1)),
    )
    made = family(Goal, params)
    (task,) = made.task_dicts(TaskDistribution(made).nominal())
    kinds = {name: type(np.ravel(value).tolist()[0]) for name, value in task.items()}
    assert kinds == {"idx": int, "mass": float, "gain": float, "goal": float}
    assert isinstance(task["idx"], list)


# --- what is said of what is wrong -------------------------------------------------------------


def broken(**members) -> GymnasiumFamily:
    return family(type("Broken", (Goal,), members))


def dying(how):
    return broken(step=lambda self, action: how())


def silent(self, action):
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dying(lambda: os._exit(7)), "compared with exit code 7"),
        (lambda: dying(lambda: os.kill(os.getpid(), signal.SIGKILL)), "by SIGKILL (out of memory?"),
        (lambda: broken(step=silent), "its environment failed: AssertionError (line "),
        (lambda: broken(reset=lambda self, seed=None, options=None: np.zeros(1)),
         "its reset() returned an array of shape (1,), not (observation, info): write `def reset"),
        (lambda: broken(reset=lambda self: (np.zeros(1), {})), "its reset() takes no seed: write"),
        (lambda: broken(step=lambda self, a: (np.zeros(1), np.zeros(1), False, False, {})),
         "its reward has shape (1,): return a number, as in float(reward[0])"),
        (lambda: broken(step=lambda self, a: (np.zeros(1), 0.0, False, {})),
         "step() returned 4 values: return observation, reward, terminated, truncated, info"),
        (lambda: family(Base), "no set_task(task) or reset_task(task): write `def set_task(self, "),
        (lambda: family(Pearl), "its reset_task takes a task's number: give the family one"),
        (lambda: family(Goal, begin=lambda self, env, task, seed: env.reset(seed=seed)),
         "begin() returned (observation, info): return the observation alone"),
    ],
)  # fmt: skip
def test_the_message_names_what_to_write(make, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_worlds(make(), 2, 2)
    assert words in str(caught.value)
    assert str(caught.value).startswith("family '")
    assert "\n" not in str(caught.value)


# --- pictures ----------------------------------------------------------------------------------


class Drawn(Goal):
    """Draws a white row for each picture that was taken."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode, self.drawn = render_mode, 0

    def render(self):
        picture = np.zeros((64, 96, 3), np.uint8)
        self.drawn += 1
        picture[: self.drawn] = 255
        return picture


def test_a_film_shows_the_rounds_of_the_evaluation(tmp_path) -> None:
    made = family(Drawn)
    tasks = TaskDistribution(made).split("heldout", 2)
    cls = find_learner("rl2")
    worlds = make_worlds(made, 4, 1)
    learner = cls(worlds.spec, cls.Config(units=8, hidden=8))
    report = evaluate(learner, worlds, tasks, episodes=1, seed=3)
    worlds.close()
    film = PictureFilm(
        learner, made, tasks, VideoConfig(size=160), worlds_per_task=2, episodes=1, seed=3
    )
    np.testing.assert_allclose(film.returns, report.returns, rtol=1e-6)
    assert (film.width, film.height, film.frames) == (240, 160, 20)
    words = [[caption.split(":")[0] for caption in row] for row in film.captions]
    assert words == [["first episode", "after round 1"]] * 2
    first, last = (film.frame(number, film.renderer()) for number in (0, 19))
    assert first.shape == (160, 240, 3)
    assert (first[:80, :120] != last[:80, :120]).any()
    write(film, tmp_path / "film.gif", threads=1)
    assert (tmp_path / "film.gif").stat().st_size > 0


def test_an_environment_that_draws_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="'goal': to be drawn, Goal must take render_mode"):
        drawing(family(Goal))
    blank = type("Blank", (Drawn,), {"render": lambda self: None})
    failing = type("Failing", (Drawn,), {"render": lambda self: 1 // 0})
    for env, words in ((blank, "render() returned NoneType"), (failing, "ZeroDivisionError")):
        with pytest.raises(UserError, match="family '") as caught:
            DrawingWorlds(family(env), 1, 64)
        assert words in str(caught.value)


# --- spaces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "hide", "words"),
    [
        (Dict({}), (), "no numbers that can be flattened"),
        (Dict({"a": Dict({})}), (), "no numbers that can be flattened"),
        (Box(0, 1, (0,)), (), "no numbers"),
        (Dict({"goal": Box(0, 1, (2,))}), ("goal",), "no numbers"),
        (Dict({"goal": Box(0, 1, (2,))}), ("gaol",), "no key 'gaol' (did you mean 'goal'?)"),
        (None, (), "no numbers"),
    ],
)
def test_observations_that_are_none(space, hide, words: str) -> None:
    with pytest.raises(UserError) as caught:
        FlatObservation(space, hide)
    assert words in str(caught.value)


def test_a_goal_in_the_observation_is_said_and_can_be_hidden() -> None:
    class Reach(Goal):
        observation_space = Dict({"desired_goal": Box(-1, 1, (1,)), "x": Box(-9, 9, (1,))})

        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return {"desired_goal": np.array([self.goal]), "x": obs}, info

        def step(self, action):
            obs, *rest = super().step(action)
            return {"desired_goal": np.array([self.goal]), "x": obs}, *rest

    with pytest.warns(UserWarning, match="'reach': the agent observes 'desired_goal'"):
        told = make_worlds(family(Reach), 1, 1)
    hidden = make_worlds(family(Reach, hide=("desired_goal",)), 1, 1)
    assert (told.spec.observation_size, hidden.spec.observation_size) == (2, 1)
    told.close()
    hidden.close()


@pytest.mark.parametrize(
    ("space", "choices", "action", "expected"),
    [
        (Discrete(3, start=5), (3,), [0.1, 0.3, -1.0], 6),
        (MultiDiscrete([2, 3]), (2, 3), [0.0, 1.0, 0.0, 0.0, 2.0], [1, 2]),
        (MultiBinary(2), (2, 2), [1.0, 0.0, 0.0, 1.0], [0, 1]),
        (Box(np.array([0, -2]), np.array([4, 2]), dtype=np.float64), (), [0.5, -3.0], [3.0, -2.0]),
    ],
)
def test_actions_reach_the_environment_as_it_takes_them(space, choices, action, expected) -> None:
    flat = FlatAction(space)
    assert (flat.choices, flat.size) == (choices, len(action))
    taken = flat.taken(torch.tensor([action], dtype=torch.float64))
    sent = flat.to_env(taken[0].numpy())
    assert np.array_equal(sent, expected)
    assert space.contains(sent)
    if choices:
        assert sorted(set(taken[0].tolist())) == [0.0, 1.0]
        assert taken.sum() == len(choices)


class Bandit(gymnasium.Env):
    """One of three arms pays; the observation says nothing."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = Discrete(3)
    horizon = 10

    def set_task(self, task):
        self.arm = task["arm"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action == self.arm), False, False, {}


ARMS = (Param("arm", Choices((0, 1, 2))),)


def test_discrete_actions_cross_one_hot() -> None:
    worlds = make_worlds(family(Bandit, ARMS), 3, 1)
    assert worlds.spec.actions == (3,)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", 3), 1)
    worlds.reset()
    got = worlds.step(torch.tensor([[0.9, 0.2, 0.1]] * 3))
    assert got.reward.tolist() == [1.0, 0.0, 0.0]
    assert worlds.current.prev_action.tolist() == [[1.0, 0.0, 0.0]] * 3
    worlds.close()


@pytest.mark.parametrize("name", ["pearl", "maml-trpo"])
def test_learners_of_continuous_actions_say_so(name: str) -> None:
    worlds = make_worlds(family(Bandit, ARMS), 1, 1)
    cls = find_learner(name)
    with pytest.raises(UserError, match=f"{name} takes continuous actions, .* 3 choices: use rl2"):
        cls(worlds.spec, cls.Config())
    worlds.close()


class Gain(Goal):
    params = (Param("goal", Interval(-1, 1)),)
    horizon = 8

    def __init__(self, gain):
        self.gain = gain


def test_a_partial_is_what_its_function_is() -> None:
    """As an environment of a family, and as a family by its `params`."""
    half = functools.partial(Gain, gain=0.5)
    family = type("Half", (GymnasiumFamily,), {"env": half, "horizon": 8, "params": Gain.params})()
    assert family.make().gain == 0.5
    made = family_of(half)()
    assert (made.name, made.horizon, made.make().gain) == ("gain", 8, 0.5)
    with pytest.raises(UserError, match="to be drawn, Gain must take render_mode"):
        drawing(family)
    named = functools.partial(Gain, gain=0.25)
    named.name, named.horizon = "quarter", 4
    assert (family_of(named)().name, family_of(named)().horizon) == ("quarter", 4)
    with pytest.raises(UserError, match=r"'Base' makes gymnasium.*set Base\.params"):
        family_of(functools.partial(Base))


def test_a_base_exception_of_an_environment_is_one_line() -> None:
    class Stop(BaseException):
        pass

    class Stops(Goal):
        def step(self, action):
            raise Stop("here")

    body = {"env": Stops, "horizon": 8, "params": Gain.params}
    with pytest.raises(UserError, match=r"its environment failed: Stop: here \(line"):
        make_worlds(type("Stopping", (GymnasiumFamily,), body)(), 2, 1)
