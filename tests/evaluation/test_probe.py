"""Whether a policy adapts, and to what, on policies of which that is known."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from metarl import Policy, TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.cli import main
from metarl.commands.evaluating.probe import lines
from metarl.evaluation.probe import Effect, Probe, identified, probe, readable
from metarl.evaluation.sweep import sweep, swept_tasks
from metarl.report.run_summary import read_run


class Told(Policy):
    """Walks to a goal that its state holds: it learns the goal from what the worlds are."""

    name = "told"

    def __init__(self, worlds: TaskWorlds) -> None:
        self.worlds = worlds

    def begin(self, tasks, worlds):
        return {"goal": torch.zeros(tasks * worlds, 2)}

    def act(self, step, state, *, explore, noise):
        return (5 * (state["goal"] - step.obs[:, :2])).clamp(-1, 1), state

    def adapt(self, state, rollout):
        task = self.worlds.task
        return {"goal": torch.stack((task["goal_x"], task["goal_y"]), 1).float()}


class RewardSeeker(Told):
    """The same, but it finds the goal only where it sees a reward."""

    def adapt(self, state, rollout):
        return super().adapt(state, rollout) if rollout.reward.any() else state


def found(cls: type[Told], tasks: int = 12):
    worlds = TaskWorlds("point-goal", 2 * tasks, 1)
    split = TaskDistribution(worlds.family).split("heldout", tasks)
    return probe(cls(worlds), worlds, split, episodes=1, seed=0)


def test_a_sweep_goes_through_one_parameter_and_says_where_training_ends() -> None:
    worlds = TaskWorlds("point-goal", 8, 1)
    distribution = TaskDistribution(worlds.family)
    tasks = swept_tasks(distribution, "goal_y", 4)
    assert tasks.column("goal_x").tolist() == [0.0] * 4
    got = sweep(Told(worlds), worlds, distribution, "goal_y", tasks, episodes=1, seed=0)
    assert got.values == [-1.0, -0.25, 0.5, 1.25]
    assert got.trained == [True, True, True, False]
    assert all(last > first for first, last in zip(got.first, got.last, strict=True))
    assert got.first[1] > got.first[2] > got.first[0] > got.first[3]  # by the way to the goal
    with pytest.raises(UserError, match=r"no parameter 'goalx' \(did you mean 'goal_x'"):
        swept_tasks(distribution, "goalx", 4)


def test_a_sweep_takes_each_choice_once() -> None:
    distribution = TaskDistribution(find_family("half-cheetah-dir"))
    assert swept_tasks(distribution, "direction", 9).values.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize(("cls", "seeks"), [(Told, False), (RewardSeeker, True)])
def test_what_an_adapted_state_is_worth(cls, seeks) -> None:
    got = found(cls)
    change = {name: effect.change for name, effect in got.effects.items()}
    assert change["as it is"] == (0.0, 0.0, 0.0)
    assert change["state cleared"][2] < 0
    assert change["state swapped"][2] < 0
    assert (change["reward hidden"][2] < 0) == seeks
    assert got.readable == {
        "goal_x": pytest.approx(1, abs=0.1), "goal_y": pytest.approx(1, abs=0.1)
    }  # fmt: skip
    assert len(got.first) == len(got.last) == 20


def test_a_policy_without_a_state_is_not_touched() -> None:
    from metarl.worlds.policy import ZeroPolicy

    worlds = TaskWorlds("point-goal", 12, 1)
    split = TaskDistribution(worlds.family).split("heldout", 12)
    got = probe(ZeroPolicy(), worlds, split, episodes=1, seed=0)
    assert all(effect.change == (0.0, 0.0, 0.0) for effect in got.effects.values())
    assert got.readable == {}


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [
        ([0.0] * 20 + [1.0] * 30, [1.0] * 50, 28),  # nine of ten steps in the window are there
        ([0.0] * 50, [1.0] * 50, None),
        ([1.0] * 50, [1.0] * 50, None),  # there from the start: nothing was to be identified
    ],
)
def test_identification_time(first, last, steps) -> None:
    assert identified(first, last) == steps


def test_a_readout_needs_what_it_reads() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (40, 2))
    tasks = Tasks("point-goal", ("goal_x", "goal_y"), values)
    state = (torch.tensor(values[:, :1] * 3 + 1), torch.tensor(rng.normal(size=(80, 3))))
    got = readable(state, tasks, 2)
    assert got["goal_x"] > 0.9
    assert got["goal_y"] < 0.2


def test_no_verdict_on_few_tasks_or_on_none_that_stayed_whole() -> None:
    """Two tasks give an interval without 0, which says nothing of others."""
    values = np.arange(12.0)[:, None]

    def said(returns: list[float], tasks: int) -> str:
        base = Effect([0.0] * tasks, (0.0, 0.0, 0.0))
        hidden = Effect(returns, (-1.0, -2.0, -0.5))
        found = Probe({"as it is": base, "reward hidden": hidden}, {}, [0.0], [0.0], None)
        about = Tasks("point-goal", ("goal_x",), values[:tasks])
        return next(line for line in lines(found, about) if line.startswith("reward hidden ("))

    assert said([-1.0] * 12, 12).endswith("it costs return, so the policy makes use of it")
    assert said([-1.0] * 2, 2).endswith("too few tasks for a verdict")
    broken = said([-1.0] * 2 + [math.nan] * 10, 12)
    assert broken.endswith("too few tasks for a verdict; in 10 tasks all diverged")
    assert said([-1.0] * 11 + [math.nan], 12).endswith("makes use of it; in 1 task all diverged")


def test_the_command(trained_run, tmp_path, capsys) -> None:
    """What is found is kept in the run for its report, too; hence a copy of the run."""
    out, run = tmp_path / "probe.json", tmp_path / "run"
    shutil.copytree(trained_run, run)
    argv = [
        "probe",
        str(run),
        "--tasks",
        "4",
        "--episodes",
        "1",
        "--json",
        str(out),
        "--sweep",
        "goal_x",
        "--points",
        "2",
    ]
    assert main(argv) == 0
    said = capsys.readouterr().out
    for words in ("reward hidden", "state cleared", "state swapped", "goal_x ", f"wrote {out}"):
        assert words in said
    about = json.loads(out.read_text())
    assert read_run(run).probe == about
    assert about["algorithm"] == "maml-trpo"
    assert set(about["effects"]) == {"as it is", "reward hidden", "state cleared", "state swapped"}
    assert main(["probe", str(trained_run), "--tasks", "1"]) == 2
    assert "tasks must be a whole number from 2" in capsys.readouterr().err
