"""Broken families each fail the check that they should, with one line that says why."""

from collections.abc import Callable

import pytest
import torch

from envs.point import MJCF, PointGoal
from metarl import Choices, Interval, Param, scale
from metarl.check import check_family

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


def unclipped_reward(self, sim, before, action, task):
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


GOALS = PointGoal.params
GRIP = Param("grip", Interval(0.5, 2), edit=scale("geom_friction", "robot"))


@pytest.mark.parametrize(
    ("family", "check", "why"),
    [
        (broken(reward=forgetful_reward), "Every parameter", "must read task['goal_x']"),
        (broken(reward=nan_reward), "Everything stays finite", "reward() is not finite"),
        (broken(reward=unclipped_reward), "Resets and draws", "keep no state"),
        (broken(reward=crash), "Observations, rewards", "RuntimeError: out of cheese (line"),
        (broken(initial_state=random_start), "Resets and draws", "from `rng`"),
        (broken(observe=mixed_observe), "A world does not depend", "that world's row alone"),
        (broken(observe=flat_observe), "Observations, rewards", "observe() returned shape"),
        (broken(terminated=always), "Episodes are cut", "every episode ends"),
        (
            broken(
                params=(
                    *GOALS,
                    Param("grip", Interval(0.5, 2), edit=scale("geom_friction", "robot")),
                )
            ),
            "Every parameter",
            "its edit moves nothing",
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


def test_choices_pass() -> None:
    side: Callable = PointGoal.reward

    def reward(self, sim, before, action, task):
        goal = {"goal_x": task["side"], "goal_y": 0 * task["side"]}
        return side(self, sim, before, action, goal)

    family = broken(params=(Param("side", Choices((-1, 1))),), reward=reward)
    assert lines_of(family) == (0, [])
