"""Pictures, spaces and actions of environments that others wrote."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from helpers.third_party import Base, Goal, family

from metarl import Choices, Interval, Param, TaskDistribution, UserError, evaluate, find_learner
from metarl.adapters import GymnasiumFamily
from metarl.tasks.gymnasium_family import family_of
from metarl.tasks.gymnasium_spaces import FlatAction, FlatObservation
from metarl.video.encode import VideoConfig, write
from metarl.video.gymnasium import DrawingWorlds, PictureFilm, drawing
from metarl.worlds.factory import make_worlds

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
