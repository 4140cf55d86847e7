"""`metarl overfitting`: runs by number of training tasks, tested near and far from those."""

import json
import shutil

import numpy as np
import pytest
from helpers.demonstrations import demonstrations_file
from helpers.refusals import refused

from envs.point import PointGoal
from metarl import Choices, Interval, Key, Param, TaskDistribution, UserError, evaluate
from metarl.cli import main
from metarl.commands.training.overfitting import _planned, _taken, table
from metarl.curriculum import make_sampler
from metarl.evaluation.shift import distance, task_sets
from metarl.report.run_summary import read_run
from metarl.report.sections.overfitting import overfitting_panels
from metarl.run import load_run, worlds_for
from metarl.runs.config import TrainConfig
from metarl.tasks.registry import find_family

SMALL = (
    "point-goal", "ppo", "--iterations", "1", "--tasks-per-iteration", "4", "--rollouts-per-task",
    "1", "--evaluate-tasks", "4", "--hidden", "8", "--device", "cpu", "--test-tasks", "5",
    "--test-episodes", "1",
)  # fmt: skip


@pytest.mark.usefixtures("_empty_charts")
def test_one_command_trains_tests_and_draws(tmp_path, capsys, commands) -> None:
    out = tmp_path / "out"
    words = ["overfitting", *SMALL, "--num-tasks", "2", "inf", "--seeds", "3", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"2 runs in {out}" in said
    assert len(commands) == 2
    found = json.loads((out / "overfitting.json").read_text())
    few, many = found["rows"]
    assert (few["num_tasks"], many["num_tasks"]) == (2, None)
    assert set(few["sets"]) == {"train", "heldout", "near ood", "far ood"}
    assert [few["sets"]["train"]["tasks"], many["sets"]["train"]["tasks"]] == [2, 5]
    run = out / "num-train-tasks=2-seed3"
    _, family, learner = load_run(str(run), "cpu", 1)
    tasks = TaskDistribution(family).split("heldout", 5)
    alone = evaluate(learner, worlds_for(family, learner, 5, 1), tasks, episodes=1, seed=0)
    assert few["sets"]["heldout"]["mean"] == [alone.mean[-1]]
    assert "Overfitting and shift" in (out / "report.html").read_text()
    assert overfitting_panels([read_run(run)])[0].title == "Overfitting and shift"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*")}
    assert main(words) == 0
    assert "2 finished before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/*")}


def test_a_run_has_so_many_tasks_however_many_an_iteration_has() -> None:
    """Eight slots for three tasks: each comes up two or three times, and in six sweeps evenly."""
    family = find_family("point-goal")
    train = TrainConfig(tasks_per_iteration=8, num_train_tasks=3)
    sampler = make_sampler(family.distribution, train, None)
    pool = family.distribution.split("train", 3)
    counts = np.zeros(3)
    for i in range(6):
        tasks = sampler.sample(i, Key(0))
        found = np.array([(tasks.values == row).all(1).sum() for row in pool.values])
        assert sorted(found) == [2, 3, 3]
        counts += found
    assert counts.sum() == 48
    with pytest.raises(UserError, match="keeps data of 5 training tasks"):
        make_sampler(family.distribution, train, 5)
    curriculum = TrainConfig(curriculum="alp-gmm", num_train_tasks=3)
    with pytest.raises(UserError, match="draws new tasks: leave out --num-train-tasks"):
        make_sampler(family.distribution, curriculum, None)
    with pytest.raises(UserError, match="num_train_tasks must be a whole number"):
        TrainConfig(num_train_tasks=0)


def test_near_is_the_half_of_an_ood_range_that_touches_the_box() -> None:
    """By hand: above the box, below it, on a logarithmic scale, and two parameters at once."""

    class Ranges:
        name, split_name = "ranges", ""
        params = (
            Param("a", Interval(0.0, 1.0), ood=(Interval(-2.0, 0.0), Interval(1.0, 3.0))),
            Param("b", Interval(1.0, 2.0, log=True), ood=(Interval(2.0, 8.0, log=True),)),
            Param("c", Choices((1.0, 2.0), ood=(5.0,))),
        )

    distribution = TaskDistribution(Ranges())
    rows = [[0.5, 1.5, 1.0], [1.5, 1.0, 1.0], [-1.5, 1.0, 1.0], [0.5, 4.0, 1.0], [2.0, 8.0, 1.0],
            [0.5, 1.5, 5.0]]  # fmt: skip
    tasks = distribution.nominal().__class__("ranges", distribution.names, np.array(rows))
    expected = [np.nan, 0.25, 0.75, 0.5, 1.0, np.nan]
    np.testing.assert_allclose(distance(distribution, tasks), expected)
    sets = task_sets(distribution, 6, 4)
    assert {name: len(some) for name, some in sets.items()} == {
        "train": 4, "heldout": 6, "near ood": 6, "far ood": 6,
    }  # fmt: skip
    assert (distance(distribution, sets["near ood"]) <= 0.5).all()
    assert (distance(distribution, sets["far ood"]) > 0.5).all()
    Ranges.params = Ranges.params[2:]
    assert set(task_sets(TaskDistribution(Ranges()), 2, None)) == {"train", "heldout", "ood"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-tasks"], "--num-tasks needs values"),
        (["--num-tasks", "many"], "'many' is neither a whole number"),
        (["--num-tasks=0"], "'0' is neither"),
        (["--num-tasks", "4", "4"], "a value is swept twice"),
        (["--num-train-tasks", "5", "--num-tasks", "8"], "--num-train-tasks gives one value"),
        (["--seed", "5", "--seeds", "1"], "--seed gives one value to what --seeds varies"),
        (["--nothing", "1"], "unknown option '--nothing'"),
        (["--test-tasks", "0"], "test_tasks must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _planned(*_taken([*SMALL[:-4], *words]))


def test_a_learner_with_a_pool_of_its_own_is_given_that_setting() -> None:
    words = ["point-goal", "pearl", "--tasks-per-iteration", "4", "--num-tasks"]
    runs, _, numbers = _planned(*_taken([*words, "8,16"]))
    assert [run.parsed.learner.train_tasks for run in runs] == [8, 16]
    assert list(numbers.values()) == [8, 16]
    with pytest.raises(UserError, match="their number is finite"):
        _planned(*_taken([*words, "inf"]))


@pytest.mark.parametrize("name", ["mil", "contextual-bc"])
def test_who_imitates_has_at_most_as_many_tasks_as_are_demonstrated(name: str) -> None:
    file = demonstrations_file(tasks=3)
    words = ["point-goal", name, "--tasks-per-iteration", "3", "--demos", file, "--num-tasks"]
    runs, _, numbers = _planned(*_taken([*words, "2", "3"]))
    assert list(numbers.values()) == [2, 3]
    assert [run.parsed.learner.train_tasks for run in runs] == [2, 3]
    with refused("their number is finite"):
        _planned(*_taken([*words, "3", "inf"]))
    with refused("of 3 tasks, and not of 8", "--tasks 8"):
        _planned(*_taken([*words, "3", "8"]))


def test_the_table_leaves_out_what_a_row_lacks() -> None:
    one = {"iqm": 1.5, "ci95": [1.0, 2.0], "tasks": 30, "few": False, "train_is_heldout": False}
    rows = [
        {"num_tasks": 8, "seeds": [1], "sets": {"train": one}},
        {"num_tasks": None, "seeds": [1, 2], "sets": {"heldout": one}},
    ]
    lines = table(rows)
    assert lines[1].split() == ["8", "1", "1.50", "[1.00,", "2.00]"]
    assert lines[2].split() == ["inf", "2", "1.50", "[1.00,", "2.00]"]
    assert lines[-1] == "of one seed: what another would give is not in the interval"


@pytest.mark.usefixtures("_empty_charts", "commands")
def test_who_imitates_is_shown_demonstrations_in_the_test(tmp_path, monkeypatch) -> None:
    """Of the sets that have some; an evaluation of the learner by itself adapts to nothing."""
    monkeypatch.setattr(PointGoal, "horizon", 5)
    files = {
        split: shutil.copy(demonstrations_file(split, tasks=3), tmp_path / f"{split}.safetensors")
        for split in ("train", "heldout")
    }
    words = (
        "overfitting", "point-goal", "mil", "--demos", str(files["train"]), "--heldout-demos",
        str(files["heldout"]), "--num-tasks", "2", "3", "--test-tasks", "9", "--iterations", "1",
        "--tasks-per-iteration", "2", "--rollouts-per-task", "1", "--evaluate-tasks", "3",
        "--evaluate-episodes", "1", "--test-episodes", "1", "--device", "cpu",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert main(words) == 0
    rows = json.loads((tmp_path / "out" / "overfitting.json").read_text())["rows"]
    assert [set(row["sets"]) for row in rows] == [{"train", "heldout"}] * 2
    assert [row["sets"]["train"]["tasks"] for row in rows] == [2, 3]
    held = rows[1]["sets"]["heldout"]
    assert held["tasks"] == 3
    run = next((tmp_path / "out").glob("train-tasks=3*/curve.json"))
    last = json.loads(run.read_text())[-1]
    assert [held["mean_before"], held["mean"]] == [[last["before"]], [last["after"]]]
    assert held["mean"] != held["mean_before"]
    report = json.loads((run.parent / "evaluation" / "overfitting.json").read_text())
    assert report["sets"]["heldout"]["adapts_within"] is False  # round 0 knows nothing of the task

    # As recorded anew under the same name.
    shutil.copy(demonstrations_file("heldout", tasks=2), files["heldout"])
    assert main(words) == 0
    rows = json.loads((tmp_path / "out" / "overfitting.json").read_text())["rows"]
    assert rows[1]["sets"]["heldout"]["tasks"] == 2  # no test of other demonstrations is kept
