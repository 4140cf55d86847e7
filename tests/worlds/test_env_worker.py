"""The processes of third-party environments: what a signal does to them, and what they refuse."""

from __future__ import annotations

import os
import signal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from metarl import Interval, Param, UserError
from metarl.adapters import GymnasiumFamily
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")


class Goal(gymnasium.Env):
    """x moves by a tenth of the action; the reward alone knows the goal."""

    observation_space: gymnasium.Space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space: gymnasium.Space = Box(-1, 1, (1,), np.float32)
    goal = 0.0

    def set_task(self, task):
        self.goal = task["goal"]

    def observed(self):
        return np.array([self.x])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return self.observed(), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return self.observed(), -abs(self.x - self.goal), False, False, {}


def family(env: object, **members: object) -> GymnasiumFamily:
    members = {"env": env, "horizon": 20, "params": (Param("goal", Interval(-1, 1)),), **members}
    return type("Goal", (GymnasiumFamily,), members)()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_leaves_the_worlds_to_the_parent(number: int) -> None:
    # A terminal sends Ctrl-C and a hang-up to every process, as a scheduler does SIGTERM: the
    # parent, which saves, must not lose the worlds of the iteration that it finishes.
    worlds = make_worlds(family(Goal), 2, 2)
    processes = worlds._vector.processes  # type: ignore[attr-defined]
    for process in processes:
        os.kill(process.pid, number)
    assert torch.isfinite(worlds.step(torch.zeros(2, 1)).reward).all()
    worlds.close()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2


def raising(error: BaseException) -> type[Goal]:
    class Raises(Goal):
        def reset(self, *, seed=None, options=None):
            raise error

    return Raises


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), SystemExit(3)])
def test_whatever_an_environment_raises_is_one_line(error: BaseException) -> None:
    with pytest.raises(UserError, match=f"family 'goal': .*{type(error).__name__}"):
        make_worlds(family(raising(error)), 1, 1)


class Named(Goal):
    def set_task(self, goal):
        self.goal = goal


class Keywords(Goal):
    def set_task(self, *, goal, speed=1.0):
        self.goal = goal


class AnyKeywords(Goal):
    def set_task(self, **task):
        self.goal = task["goal"]


@pytest.mark.parametrize("env", [Named, Keywords, AnyKeywords])
def test_a_setter_whose_arguments_are_the_parameters_gets_their_values(env: type) -> None:
    worlds = make_worlds(family(env), 1, 1)
    worlds.set_tasks(worlds.family.distribution.make(goal=0.5), 1)
    x = worlds.reset()[0, 0].double()
    reward = worlds.step(torch.zeros(1, 1)).reward[0]
    torch.testing.assert_close(reward, -(x - 0.5).abs(), rtol=1e-6, atol=1e-7)
    worlds.close()


class Number(Goal):
    """Its task is the goal itself, as in ProMP's environments."""

    def set_task(self, task):
        self.goal = task


class Seven(Goal):
    observation_space = Discrete(3)

    def observed(self):
        return 7


class Motionless(Goal):
    action_space = Box(-1, 1, (0,))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Number, r"unsupported operand .*'dict'.*; if that is the task.*write `def set_task\(self"),
        (Seven, r"an observation does not fit its space Discrete\(3\): 7 \(IndexError"),
        (Motionless, "it has no actions"),
        ("", "set `env` to a gymnasium id, or to a function or class that makes"),
        (None, "set `env` to a gymnasium id"),
        (lambda: 5, "`env` made int, which is no gymnasium.Env"),
        (lambda: gymnasium.vector.SyncVectorEnv([Goal]), "`env` made SyncVectorEnv, which is no"),
    ],
)
def test_what_is_no_environment_of_tasks_is_named(env: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_worlds(family(env), 1, 1)


@pytest.mark.parametrize("value", [-1, 1.5, "all", None, True])
def test_probe_steps_are_a_whole_number(value: object) -> None:
    with pytest.raises(UserError, match="probe_steps must be a whole number of at least 0"):
        family(Goal, probe_steps=value)


def test_hide_takes_the_name_of_one_key() -> None:
    class Told(Goal):
        observation_space = Dict(x=Goal.observation_space, desired_goal=Box(-1, 1, (1,)))

    assert family(Told, hide="desired_goal").observation.size == 1
