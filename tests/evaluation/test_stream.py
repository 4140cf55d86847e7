"""Tasks that change without notice: when, what is earned meanwhile, regret and recovery."""

import json
import shutil

import numpy as np
import pytest
import torch

from metarl import Policy, TaskDistribution, Tasks, TaskWorlds, UserError
from metarl.algorithms import Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.cli import main
from metarl.commands.evaluating.stream import lines
from metarl.evaluation import stream as streams
from metarl.evaluation.stream import Stream, Timeline, aligned, best_of, recovered, timeline
from metarl.report.run_summary import read_run
from metarl.worlds.policy import ZeroPolicy

TASKS = Tasks("toy", ("x",), np.array([[0.0], [1.0], [1.0], [5.0]]))


# --- which task runs when ------------------------------------------------------------------------


def test_a_timeline_jumps_to_other_tasks_at_random_moments() -> None:
    line = timeline(TASKS, 200, 400, 20.0, Key(0))
    assert line.values[:, 0].tolist() == [0, 1, 5]  # the same task twice is one
    assert line.switched.sum() == pytest.approx(200 * 399 / 20, rel=0.05)
    gaps = np.concatenate([np.diff(np.flatnonzero(own)) for own in line.switched.T])
    assert (gaps == 1).mean() == pytest.approx(1 / 20, abs=0.02)  # without memory
    assert np.bincount(line.task.ravel()).tolist() == pytest.approx([80000 / 3] * 3, rel=0.1)
    end = line.switched[1:]
    assert (line.next_task[:-1][end] == line.task[1:][end]).all()


def test_a_stream_is_the_same_beside_others_and_goes_on_as_it_began() -> None:
    line, longer = (timeline(TASKS, m, t, 5.0, Key(1)) for m, t in ((2, 50), (4, 90)))
    for short, long in zip(line[1:], longer[1:], strict=True):
        assert np.array_equal(short, long[:50, :2])
    assert not np.array_equal(line.task, timeline(TASKS, 2, 50, 5.0, Key(2)).task)
    with pytest.raises(UserError, match="two different tasks or more"):
        timeline(TASKS[1:3], 2, 50, 5.0, Key(1))


def test_what_drifts_moves_evenly_and_choices_jump() -> None:
    steps = 40
    line = Timeline(
        np.array([[0.0, 1.0], [8.0, 2.0]]), np.array([[0] * steps]).T, np.array([[1] * steps]).T,
        (np.arange(steps) / steps)[:, None],
    )  # fmt: skip
    drifts = np.array([True, False])
    found = [line.at(t, drifts)[0].tolist() for t in (0, 9, 10, 25, 39)]
    assert found == [[0, 1], [0, 1], [2, 1], [4, 1], [6, 1]]  # moves every ten steps
    assert line.at(25, None).tolist() == [[0, 1]]


# --- what is earned ------------------------------------------------------------------------------


def test_windows_and_regret_by_hand() -> None:
    line = Timeline(np.zeros((1, 1)), *np.zeros((3, 5, 2), int))
    poor = Stream(line, np.array([[1.0, 0], [2, 0], [3, 0], [4, 1], [9, 9]]), 5, 0)
    rich = Stream(line, np.full((5, 2), 4.0), 5, 0)
    assert poor.windows(2).tolist() == [[3, 0], [7, 1]]
    assert poor.regret(rich)[:, 0].tolist() == [3, 5, 6, 6, 1]
    assert best_of([poor, rich]) == 1
    found = poor.to_json(2, 2, rich, 0)
    assert found["windows"]["mean"] == [1.5, 4.0]
    assert found["regret"]["mean"] == [(5 + 8) / 2, (6 + 15) / 2]
    assert found["recovery"] is None  # nothing changed


def test_a_gap_is_in_no_window_no_regret_and_no_recovery() -> None:
    """Nor does a run that earns nothing since it fails beat one that pays for every step."""
    nan, line = np.nan, Timeline(np.zeros((1, 1)), *np.zeros((3, 4, 2), int))
    broken = Stream(line, np.array([[-1.0, -2], [-1, -2], [nan, -2], [nan, -2]]), 2, 7, 2)
    whole = Stream(line, np.array([[-1.0, -1]] * 4), 2, 0)
    np.testing.assert_array_equal(broken.windows(2), [[-2, -4], [nan, -4]])
    assert broken.by_phase.ravel().tolist() == pytest.approx([-5 / 3] * 4)
    np.testing.assert_array_equal(broken.regret(whole), [[0, 1], [0, 2], [nan, 3], [nan, 4]])
    assert best_of([broken, whole]) == 1
    found = broken.to_json(2, 1, whole, 0)
    assert found["windows"]["mean"] == [-3, -4]
    assert found["regret"]["mean"] == [1, 4]
    assert (found["diverged"], found["left_out"], found["gaps"]) == (7, 2, 1)
    alone = aligned(broken.rewards, np.array([[0, 0], [1, 1], [0, 0], [0, 0]], bool), 1)
    assert [part.tolist() for part in alone] == [[[-1, -1]], [[-2, -2]]]
    alone = aligned(broken.rewards, np.array([[0, 0], [0, 0], [1, 1], [0, 0]], bool), 2)
    assert [part.tolist() for part in alone] == [[], [[-2] * 4]]
    none = Stream(line, np.full((4, 2), nan), 2, 8, 4).to_json(2, 1, whole, 0)
    assert str(none["windows"]["mean"]) == "[nan, nan]"
    assert none["recovery"] is None


def test_rewards_around_lone_switches_alone() -> None:
    rewards = np.arange(24.0).reshape(12, 2)
    switched = np.zeros((12, 2), bool)
    switched[[3, 8], 0] = True
    switched[[2, 5, 7], 1] = True  # each too near to another one or to an end
    first, second = aligned(rewards, switched, 3)
    assert first.tolist() == [[0, 2, 4, 6, 8, 10], [10, 12, 14, 16, 18, 20]]
    assert second.shape == (0, 6)


def test_recovery_by_hand() -> None:
    """It falls from 1 to 0 and climbs a tenth a step from the fifth on, to 0.8."""
    climb = np.minimum(np.maximum(np.arange(40) - 4, 0) * 0.1, 0.8)
    curve = np.concatenate((np.ones(40), climb))
    drop, lasting, steps = recovered(curve, 40)
    assert (drop, lasting) == (pytest.approx(0.85), pytest.approx(0.2))
    smooth = [climb[i : i + 10].mean() for i in range(31)]
    level = smooth[0] + 0.9 * (0.8 - smooth[0])
    assert steps == 10 + next(i for i, value in enumerate(smooth) if value >= level)
    assert recovered(np.concatenate((np.ones(40), -np.arange(40.0))), 40)[2] is None


def test_a_recovery_leaves_out_what_an_episode_earns_by_itself() -> None:
    """Two rewards that differ by what every episode pays alike recover alike."""
    line = timeline(TASKS, 30, 400, 60.0, Key(3))
    since = np.zeros((400, 30))
    for t in range(1, 400):
        since[t] = np.where(line.switched[t], 0, since[t - 1] + 1)
    since[: line.switched.argmax(0).max()] = 99
    own = 1 - 0.8 ** (1 + since)
    plain, uphill = (
        Stream(line, own + slope * np.tile(np.arange(100), 4)[:, None], 100, 0).recovery(30)
        for slope in (0.0, 0.5)
    )
    assert plain is not None
    assert uphill is not None
    assert plain.steps == uphill.steps
    assert plain.drop == pytest.approx(uphill.drop)
    assert plain.steps is not None
    assert plain.low is not None
    assert plain.low <= plain.steps <= plain.high < 30
    oracle, one = Stream(line, np.ones((400, 30)), 100, 0), Stream(line, own, 100, 0)
    assert one.recovery(30, oracle).steps == pytest.approx(plain.steps, abs=2)
    told = one.to_json(100, 30, oracle, 0, oracle)["recovery"]
    assert told == one.recovery(30, oracle)._asdict()
    best = one.to_json(100, 30, one, 0)  # who earns most is not compared with itself
    assert best["recovery"] == plain._asdict()
    assert best["regret"]["mean"] == [0] * 4


# --- acting in it --------------------------------------------------------------------------------


def played(policy: Policy, threads: int = 1, **more) -> tuple[Stream, Tasks]:
    worlds = TaskWorlds("point-goal", 8, threads)
    tasks = TaskDistribution(worlds.family).split("heldout", 6)
    settings = {"streams": 4, "rounds": 3, "every": 7.0, "seed": 0}
    return streams.stream(policy, worlds, tasks, **settings | more), tasks


def test_a_change_takes_hold_within_an_episode_at_its_step() -> None:
    """A robot that stands still pays the distance to the goal of each step, as the timeline is."""
    found, tasks = played(ZeroPolicy())
    assert found.timeline.switched.reshape(3, 20, 4)[:, 1:].any()
    goal = tasks.values[found.timeline.task]
    np.testing.assert_allclose(found.rewards, -np.linalg.norm(goal, axis=-1), atol=0.015)
    drifting, _ = played(ZeroPolicy(), drift=True)
    at = np.stack([drifting.timeline.at(t, np.ones(2, bool)) for t in range(60)])
    np.testing.assert_allclose(drifting.rewards, -np.linalg.norm(at, axis=-1), atol=0.015)


def test_what_moves_the_ground_waits_for_the_next_episode(monkeypatch) -> None:
    monkeypatch.setattr(streams, "never_nominal", lambda family: np.array([True, True]))
    found, tasks = played(ZeroPolicy())
    goal = tasks.values[found.timeline.task[::20]].repeat(20, 0)
    np.testing.assert_allclose(found.rewards, -np.linalg.norm(goal, axis=-1), atol=0.015)


class Counter(Policy):
    """Counts in its state what it was asked for."""

    name = "counter"
    adapts_per_task = True

    def begin(self, tasks, worlds):
        self.begun = [*getattr(self, "begun", []), (tasks, worlds)]
        return 0

    def act(self, step, state, *, explore, noise):
        assert explore == self.adapts_on_exploration == (noise is not None)
        return torch.zeros_like(step.prev_action), state + 1

    def adapt(self, state, rollout):
        assert (rollout.tasks, rollout.obs.shape[:2]) == (4, (20, 8))
        self.seen = [*getattr(self, "seen", []), state]
        return state + 1000


def test_a_state_is_carried_on_unless_it_is_to_be_forgotten() -> None:
    policy = Counter()
    played(policy)
    assert policy.begun == [(4, 2)]
    assert policy.seen == [20, 1040, 2060]
    policy = Counter()
    played(policy, forget=2)
    assert (len(policy.begun), policy.seen) == (2, [20, 1040, 20])


def test_the_same_bits_on_any_number_of_threads() -> None:
    agent = Rl2(TaskWorlds("point-goal", 1, 1).spec, Rl2Config(units=8, hidden=8))
    one, two = (played(agent, threads)[0] for threads in (1, 4))
    assert np.array_equal(one.rewards, two.rewards)
    assert not np.array_equal(one.rewards, played(agent, seed=1)[0].rewards)


def test_what_cannot_change_its_tasks_is_refused() -> None:
    worlds = TaskWorlds("point-goal+switch", 2, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    how = {"streams": 2, "rounds": 1, "every": 5.0, "seed": 0}
    with pytest.raises(UserError, match=r"switches its tasks itself"):
        streams.stream(ZeroPolicy(), worlds, tasks, **how)
    worlds = TaskWorlds("half-cheetah-dir", 2, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    with pytest.raises(UserError, match=r"is a choice: none can drift"):
        streams.stream(ZeroPolicy(), worlds, tasks, drift=True, **how)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_keeps_what_it_found_for_the_report(trained_run, tmp_path, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "new" / "stream.json"
    shutil.copytree(trained_run, run)
    argv = ["stream", str(run), "--tasks", "4", "--episodes", "3", "--streams", "6", "--every"]
    assert main([*argv, "50", "--against", str(trained_run), "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}" in said
    assert f"wrote {run}/stream/heldout.json" in said
    assert "changes of task in 6 streams" in said
    found = json.loads(out.read_text())
    assert found == json.loads((run / "stream" / "heldout.json").read_text())
    assert (found["reference"], found["every"], found["window"]) == ("best", 50, 20)
    first, second = found["runs"]
    assert [one["reference"] for one in (first, second)] == [True, False]  # equals: the first
    assert second["regret"]["mean"] == [0, 0, 0]
    assert second["windows"] == first["windows"]
    assert read_run(run).stream == found
    assert not any("diverged" in line for line in lines(found))
    found["runs"][1] |= {"diverged": 3, "left_out": 2, "gaps": 1}
    found["runs"][1]["regret"] |= {"iqm": [None], "ci95": [[None, None]]}
    found["runs"][1]["windows"]["mean"] = [-3.0, None, -1.0]
    row, warning = lines(found)[3], next(line for line in lines(found) if "warning" in line)
    assert row.split()[3:] == ["-3.0", "-2.0", "-1.0", "all", "diverged"]
    assert warning == (
        "warning: 3 steps of maml-trpo on point-goal diverged: 2 of 36 episodes are left out; 1 of "
        "6 streams have no world left in some, and no regret from there on"
    )
    del found["runs"][1]["left_out"]  # as earlier versions wrote it
    assert "counted as a reward of 0: run `metarl stream` again" in lines(found)[-1]
    found["runs"][0]["windows"]["mean"] = [None]
    (run / "stream" / "heldout.json").write_text(json.dumps(found))
    assert any("stream/heldout.json cannot be read" in note for _, note in read_run(run).notes)


def test_an_oracle_is_whom_regret_is_counted_from(trained_run, capsys, monkeypatch) -> None:
    """And runs on other tasks are refused before they act; a drift has nothing to recover from."""
    argv = ["stream", str(trained_run), "--tasks", "4", "--episodes", "1", "--streams", "2"]
    monkeypatch.setattr("metarl.evaluation.score.is_oracle", lambda one: one.run == "other")
    other = trained_run.parent / "other"
    shutil.copytree(trained_run, other)
    assert main([*argv, "--drift", "--against", str(other), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["reference"], [one["reference"] for one in found["runs"]]) == (
        "oracle", [False, True],
    )  # fmt: skip
    assert [one["recovery"] for one in found["runs"]] == [None, None]
    assert main([*argv, "--against", "half-cheetah-vel-rl2"]) == 2
    assert "only runs on the same tasks can be compared" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (["--tasks", "1"], "tasks must be a whole number of at least 2"),
    (["--every", "0.5"], "every must be a number of steps from 1"),
    (["--streams", "0"], "streams must be a whole number of at least 1"),
    (["--forget", "0"], "forget must be a whole number of at least 1"),
])  # fmt: skip
def test_bad_numbers_are_one_line(words, said, trained_run, capsys) -> None:
    assert main(["stream", str(trained_run), *words]) == 2
    assert said in capsys.readouterr().err
