"""Broken families each fail the check that they should, with one line that says why."""

from collections.abc import Callable

import pytest
import torch

from envs.point import MJCF, PointGoal
from metarl import Choices, Interval, Param, TaskDistribution, TaskWorlds, find_family, scale
from metarl.check import (
    CheckError,
    check_clipping,
    check_divergence,
    check_family,
    check_horizon,
    check_idempotent,
    check_order,
    check_parameters,
    check_plain_loop,
    check_splits,
    check_successor,
)

STATE = {"calls": 0}


def broken(name: str = "broken", **attributes: object) -> type[PointGoal]:
    return type("Broken", (PointGoal,), {"name": name, **attributes})


def lines_of(family: type[PointGoal]) -> tuple[int, list[str]]:
    lines: list[str] = []
    failures = check_family(family, lines.append)
    return failures, [line for line in lines if line.startswith("FAIL")]


def forgetful_reward(self, sim, before, action, task):
    return -sim.qpos.square().sum(1)


def nan_reward(self, sim, before, action, task):
    reward = -sim.qpos.square().sum(1)
    return torch.where(sim.qpos[:, 0] > 0.05, torch.nan, reward)


def counting_reward(self, sim, before, action, task):
    STATE["calls"] += 1
    return PointGoal.reward(self, sim, before, action, task) + STATE["calls"]


def random_start(self, sim, ids, rng):
    sim.qpos[ids] = torch.rand(len(ids), 2, dtype=torch.float64)


def mixed_observe(self, sim, task):
    obs = PointGoal.observe(self, sim, task)
    return obs - obs.mean(0)


def flat_observe(self, sim, task):
    return sim.qpos[:, 0]


def crash(self, sim, before, action, task):
    raise RuntimeError("out of cheese")


def always(self, sim):
    return torch.ones(len(sim.qpos), dtype=torch.bool)


def teleporting_reward(self, sim, before, action, task):
    sim.qvel[:, 0] += 1e-12
    return PointGoal.reward(self, sim, before, action, task)


def contagious_reward(self, sim, before, action, task):
    return PointGoal.reward(self, sim, before, action, task) + 0 * before.qpos.sum()


def clock_observe(self, sim, task):
    return torch.cat((sim.qpos, sim.qvel, sim.time[:, None] / (self.horizon * self.dt)), dim=1)


def threaded_reward(self, sim, before, action, task):
    return PointGoal.reward(self, sim, before, action, task) + sim.batch.nthread


GOALS = PointGoal.params
GRIP = Param("grip", Interval(0.5, 2), edit=scale("geom_friction", "robot"))
GRIPS = Param("grips", Interval(0.5, 2), edit=scale("geom_friction", each=True), size="model")
GEARS = Param("gears", Interval(0.5, 2), edit=scale("actuator_gear", each=True), size="model")
AIM = Param("aim", Interval(-1, 1), size=2)


def half_blind_reward(self, sim, before, action, task) -> torch.Tensor:
    return PointGoal.reward(self, sim, before, action, task) + task["aim"][:, 0]


@pytest.mark.parametrize(
    ("family", "check", "why"),
    [
        (broken(reward=forgetful_reward), "Every parameter", "must read task['goal_x']"),
        (broken(reward=nan_reward), "Everything stays finite", "reward() is not finite"),
        (broken(reward=counting_reward), "Resets and draws", "keep no state"),
        (broken(reward=crash), "Observations, rewards", "RuntimeError: out of cheese (line"),
        (broken(initial_state=random_start), "Resets and draws", "from `rng`"),
        (broken(observe=mixed_observe), "A world does not depend", "that world's row alone"),
        (broken(observe=flat_observe), "Observations, rewards", "observe() returned shape"),
        (broken(terminated=always), "Episodes are cut", "every episode ends"),
        (broken(reward=teleporting_reward), "The worlds equal a plain loop", "at step 1"),
        (broken(reward=contagious_reward), "A diverged world", "nan in qpos of world 1"),
        (broken(observe=clock_observe), "next_obs is the true successor", "next_obs of world 0"),
        (broken(reward=threaded_reward), "One, two and four", "on 2 threads"),
        (broken(params=(*GOALS, GRIP)), "Every parameter", "its edit moves nothing"),
        (broken(params=(*GOALS, GRIPS)), "Every parameter", "grips[0]=2 gives the run of"),
        (
            broken(params=(*GOALS, AIM), reward=half_blind_reward),
            "Every parameter",
            "aim[1]=-1 gives the run of",
        ),
        (
            broken(params=(*GOALS, Param("m", Interval(-1, 2), edit=scale("body_mass")))),
            "The model compiles",
            "body_mass of 'robot'",
        ),
        (
            broken(params=(*GOALS, Param("m", Interval(1, 2), edit=scale("body_mass", "robt")))),
            "The model compiles",
            "did you mean 'robot'",
        ),
        (broken(model=MJCF.replace("</worldbody>", "")), "The model compiles", "does not compile"),
        (broken(model=MJCF.replace("0.02", "nan")), "The model compiles", "timestep"),
        (broken(params=()), "The model compiles", "no parameters"),
    ],
)
def test_broken_families(family: type[PointGoal], check: str, why: str) -> None:
    failures, lines = lines_of(family)
    assert failures == len(lines) == 1, lines
    assert lines[0].startswith(f"FAIL  {check}")
    assert why in lines[0]
    assert "\n" not in lines[0]


def test_some_elements_of_an_edit_may_be_idle() -> None:
    """A gear has six components, of which a motor on a sliding joint uses the first."""
    family = broken(params=(*GOALS, GEARS))()
    assert len(family.params[-1].names) == 12
    check_parameters(family)


def test_choices_pass() -> None:
    side: Callable = PointGoal.reward

    def reward(self, sim, before, action, task):
        goal = {"goal_x": task["side"], "goal_y": 0 * task["side"]}
        return side(self, sim, before, action, goal)

    family = broken(params=(Param("side", Choices((-1, 1))),), reward=reward)
    assert lines_of(family) == (0, [])


def compounding(self, tasks, worlds_per_task):
    """Scale the masses from what the tasks before left, the classic mistake."""
    _set_tasks(self, tasks, worlds_per_task)
    self.simulator.batch.expand("body_mass")[:] *= getattr(self, "left", 1.0)
    self.simulator.batch.set_const()
    self.left = getattr(self, "left", 1.0) * 1.1


def train_again(self, name, n):
    return _split(self, "train" if name == "heldout" else name, n)


def never_truncated(self, action):
    got = _step(self, action)
    return got._replace(truncated=torch.zeros_like(got.truncated))


def successor_of_the_reset(self, action):
    got = _step(self, action)
    return got._replace(next_obs=got.obs)


def unclipped(self, action):
    got = _step(self, action)
    return got._replace(reward=got.reward - action.double().square().sum(1))


def unflagged(self, action):
    got = _step(self, action)
    return got._replace(diverged=torch.zeros_like(got.diverged))


_set_tasks, _step, _split = TaskWorlds.set_tasks, TaskWorlds.step, TaskDistribution.split


@pytest.mark.parametrize(
    ("check", "owner", "method", "mistake"),
    [
        (check_plain_loop, TaskWorlds, "set_tasks", compounding),
        (check_idempotent, TaskWorlds, "set_tasks", compounding),
        (check_order, TaskWorlds, "set_tasks", compounding),
        (check_splits, TaskDistribution, "split", train_again),
        (check_clipping, TaskWorlds, "step", unclipped),
        (check_horizon, TaskWorlds, "step", never_truncated),
        (check_successor, TaskWorlds, "step", successor_of_the_reset),
        (check_divergence, TaskWorlds, "step", unflagged),
    ],
)
def test_mistakes_in_the_worlds_are_found(monkeypatch, check, owner, method, mistake) -> None:
    family = find_family("half-cheetah-dynamics")
    monkeypatch.setattr(owner, method, mistake)
    with pytest.raises(CheckError):
        check(family)
