"""What a third-party environment does with its tasks, and what is said when that is wrong."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.third_party import Base, Goal, family

from metarl import Choices, Interval, Param, TaskDistribution, UserError
from metarl.adapters import GymnasiumFamily
from metarl.check import gymnasium_suite
from metarl.check.suite import check_family
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")


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
    with refused(words) as caught:
        make_worlds(family(env, params), 2, 1)
    start = (
        f"family '{env.__name__.lower()}', parameter 'goal': -9.0 and 9.0 give the same episodes"
    )
    assert str(caught.value).replace("redraws-globally", "redrawsglobally").startswith(start)


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
    with refused(words) as caught:
        make_worlds(make(), 2, 2)
    assert str(caught.value).startswith("family '")
