"""A parameter that moves nothing stops a training before it begins, and draws nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.families import every_family
from helpers.robots import robot

from envs.point import PointGoal
from metarl import Choices, Interval, Param, UserError, assign, shift
from metarl.check.notes import notes
from metarl.check.suite import CheckError, check_parameters
from metarl.cli import main
from metarl.tasks.composition import compose
from metarl.worlds.model_probe import idle_ends, inert_parameter, refuse_inert

INERT = """
from envs.point import PointGoal
from metarl import Interval, Param

class Inert(PointGoal):
    name = "inert"
    params = (Param("weight", Interval(1, 2)),)

    def reward(self, sim, before, action, task):
        return -action.square().sum(-1)

class HalfRead(PointGoal):
    name = "half-read"

    def reward(self, sim, before, action, task):
        return task["goal_x"]
"""
SHORT = (
    "--iterations", "1", "--tasks-per-iteration", "2", "--rollouts-per-task", "1",
    "--evaluate-tasks", "2", "--hidden", "4",
)  # fmt: skip
READ = (*PointGoal.params, Param("wind", Interval(1.0, 2.0)))


def family(**attributes: object) -> PointGoal:
    return type("Probed", (PointGoal,), {"name": "probed", **attributes})()


def late(step: int):
    """A reward that reads the parameter `wind` from a step on."""

    def reward(self, sim, before, action, task):
        paid = PointGoal.reward(self, sim, before, action, task)
        return paid + (sim.time > (step - 0.5) * self.dt) * task["wind"]

    return reward


def test_training_stops_with_the_line_of_check(tmp_path: Path, capsys) -> None:
    (tmp_path / "inert.py").write_text(INERT)
    words = ["train", f"{tmp_path}/inert.py:Inert", "maml-trpo", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("metarl: error: family 'inert': weight=")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert main(["check", words[1]]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line[:4] == "FAIL")
    assert line.partition("reward: ")[2] == error.strip().partition("'inert': ")[2]


def test_a_parameter_that_nothing_reads_beside_one_that_is_read_is_warned_of(
    tmp_path: Path, capsys
) -> None:
    (tmp_path / "inert.py").write_text(INERT)
    family = f"{tmp_path}/inert.py:HalfRead"
    assert main(["train", family, "maml-trpo", *SHORT, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert said.count("metarl: warning: family 'half-read': goal_y=") == 1
    assert "reward() must read task['goal_y']" in said
    assert main(["check", family]) == 1


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"params": (*READ,)}, r"reward\(\) must read task\['wind'\]"),
        ({"params": (*PointGoal.params, Param("lift", Interval(0.0, 1.0), edit=shift(
            "geom_pos", "robot", index=2)))}, "its edit moves nothing"),
        ({"params": (*PointGoal.params, Param("side", Choices((0, 1))))}, "side=0 gives the run"),
        ({"params": READ, "reward": late(9), "probe_steps": 8}, "raise `probe_steps` = 8"),
    ],
)  # fmt: skip
def test_what_moves_nothing_is_named(attributes: dict, words: str) -> None:
    """An edit that moves nothing is a mistake; what a reward does not read, it may read later."""
    if "lift" in (param.name for param in attributes["params"]):
        with pytest.raises(UserError, match=words):
            refuse_inert(family(**attributes))
    else:
        with pytest.warns(UserWarning, match=words):
            refuse_inert(family(**attributes))
    for one in (family(**attributes), compose(type(family(**attributes)), ["told"])()):
        with pytest.raises(CheckError, match=words):  # to be told of a task is not to move
            check_parameters(one)


@pytest.mark.parametrize(
    "attributes",
    [
        {"params": READ, "reward": late(9), "probe_steps": 9},
        {"params": READ, "reward": late(9), "probe_steps": 0},
        {"params": ()},
    ],
)
def test_what_moves_late_or_is_not_probed_passes(attributes: dict) -> None:
    refuse_inert(family(**attributes))


@pytest.mark.parametrize("steps", [-1, 2.5, "many"])
def test_steps_that_cannot_be_are_refused(steps: object) -> None:
    with pytest.raises(UserError, match="probe_steps must be a whole number of at least 0"):
        family(probe_steps=steps)


@pytest.mark.parametrize("name", every_family(without=("terrain", "-sparse")))
def test_the_families_of_the_library_are_moved_by_every_parameter(name: str) -> None:
    from metarl import find_family

    family = find_family(name)
    assert inert_parameter(family, 200) == ""
    assert idle_ends(family, 200) == []


PUCK = """<mujoco><worldbody><geom type="plane" size="5 5 .1" friction=".5"/>
<body pos="0 0 .05"><freejoint/><geom name="puck" type="box" size=".1 .1 .05" mass="1"/>
<site name="s"/></body></worldbody>
<actuator><motor site="s" gear="20 0 0 0 0 0" ctrlrange="-1 1"/></actuator></mujoco>"""


@pytest.mark.parametrize(
    ("low", "high", "nominal", "idle"),
    [(0.1, 0.9, 0.5, "0.1"), (0.1, 0.7, 0.4, "0.1"), (0.5, 0.9, 0.5, None), (0.6, 0.9, 0.7, None)],
)
def test_an_end_that_changes_nothing_is_noted_and_the_other_is_tried(low, high, nominal, idle):
    """Of two frictions MuJoCo takes the larger: below the ground's, a puck's is all the same."""
    param = Param(
        "friction", Interval(low, high), nominal=nominal,
        edit=assign("geom_friction", "puck", index=0),
    )  # fmt: skip
    puck = robot(PUCK, params=(param,), reward=lambda self, sim, *_: sim.qvel[:, 0])()
    assert inert_parameter(puck, 60) == ""
    said = [] if idle is None else [f"friction={idle} gives the run of its nominal {nominal}"]
    assert [line.partition(" in ")[0] for line in idle_ends(puck, 60)] == said
    assert [note for note in notes(puck) if note.startswith("friction=")] == idle_ends(puck, 60)


def test_a_probe_draws_nothing() -> None:
    """Not even where a family draws from the generators of the process."""

    def noisy(self, sim, before, action, task):
        noise = torch.rand(1).item() + np.random.rand() + random.random()  # noqa: NPY002
        return PointGoal.reward(self, sim, before, action, task) + 1e-6 * noise

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    refuse_inert(family(reward=noisy))
    after = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    assert after == (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002


def test_a_family_that_fails_is_left_to_the_training() -> None:
    def fails(self, sim, before, action, task):
        raise RuntimeError("no reward")

    refuse_inert(family(reward=fails))
