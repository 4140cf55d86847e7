"""Searches of settings: what is tried, what counts, and that a killed search goes on as it was."""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.process import forked

from metarl.algorithms.ppo import Ppo
from metarl.base.errors import UserError
from metarl.cli import main
from metarl.commands.training.sweep import take_sweep
from metarl.commands.training.train import read_train
from metarl.commands.tuning.space import Range, read_space
from metarl.commands.tuning.trial import Reporting, handle, open_study, read_off, score
from metarl.runs.config import Position, TrainConfig

optuna = pytest.importorskip("optuna")

TOY = (
    "point-goal", "ppo", "--iterations", "2", "--tasks-per-iteration", "4", "--rollouts-per-task",
    "1", "--evaluate-tasks", "6", "--hidden", "8", "--device", "cpu", "--evaluate-every", "1",
    "--checkpoint-every", "1",
)  # fmt: skip
SPACE = ("--space", "lr=1e-4:1e-2:log", "epochs=1:3", "gae-lambda=0.9,0.95")


def search(out: Path, trials: int, *more: str) -> list[str]:
    return ["tune", *TOY, *SPACE, "--trials", str(trials), "--jobs", "1", "--out", str(out), *more]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path, commands, capsys) -> None:
    """Killed while its second trial trains: the same settings and returns as of one that was not.

    The process of the trial sees that the search is gone, and leaves its folder to the next one.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(search(whole, 2)) == 0
    said = capsys.readouterr().out
    rows = table(whole)
    best = max(rows, key=lambda row: float(row["return"]))
    settings = " ".join(f"--{name}={best[name]}" for name in ("lr", "epochs", "gae-lambda"))
    assert f"best: metarl train {' '.join(TOY)} {settings}" in said
    assert "2 complete, 0 pruned, 0 fail" in said

    process = forked(lambda: main(search(killed, 2)), stdout=None, stderr=None)
    while not (killed / "trial-0001" / "checkpoints" / "step_00000000").is_dir():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(search(killed, 2)) == 0
    assert "half-done" in capsys.readouterr().out
    assert table(killed) == rows
    assert len(commands) == 2 + 1  # those of the killed search were started in its process

    assert main([*search(killed, 2), "--gamma", "0.5"]) == 2
    assert "holds another search, with gamma 0.99 and not 0.5" in capsys.readouterr().err
    other = [word.replace("1e-4:", "1e-3:") for word in search(killed, 2)]
    assert main(other) == 2
    assert "holds another search, with space lr=0.0001:0.01:log" in capsys.readouterr().err


@pytest.mark.slow
def test_only_a_trial_that_ended_well_is_the_best(tmp_path, commands, monkeypatch, capsys) -> None:
    """With one epoch the learner raises, with two the last held-out return is NaN, with four the
    pruner stops it, which leaves a checkpoint. None of them is run again."""
    step, record, epochs = Ppo.meta_step, Position.record, [0]

    def fail(self, worlds, tasks, key):
        epochs[0] = self.config.epochs  # of this process, which is one trial
        if epochs == [1]:
            raise UserError("no good")
        return step(self, worlds, tasks, key)

    def diverge(self, report):
        record(self, report)
        if epochs == [2]:
            self.curve[-1] |= {"after": math.nan, "mean": [1e6, math.nan]}

    monkeypatch.setattr(Ppo, "meta_step", fail)
    monkeypatch.setattr(Position, "record", diverge)
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda *_: epochs == [4])
    words = ["tune", *TOY, "--space", "epochs=1,2,3,4", "--trials", "4", "--seed", "1"]
    words += ["--jobs", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    found = {row["epochs"]: (row["state"], row["why"]) for row in table(tmp_path)}
    assert found == {
        "1": ("fail", "metarl: error: no good"),
        "2": ("fail", "its held-out return is not finite"), "3": ("complete", ""),
        "4": ("pruned", "50 %"),
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "  pruned at 50 %  --epochs=4" in said
    assert "--epochs=3\n" in said.partition("best: ")[2]
    (pruned,) = [row["trial"] for row in table(tmp_path) if row["state"] == "pruned"]
    assert (tmp_path / f"trial-000{pruned}" / "checkpoints" / "step_00000001").is_dir()
    assert main(words) == 0
    assert len(commands) == 4


def entry(iteration: int, *rounds: float | None) -> dict:
    return {"iteration": iteration, "env_steps": 100 * iteration, "mean": list(rounds)}


CURVE = [entry(0, 0, 1), entry(3, 2, 4), entry(5, 3, 9), entry(10, 4, 16)]


@pytest.mark.parametrize(
    ("objective", "env_steps", "upto", "parts"),
    [
        ("last", None, 4, {1: 1, 2: 1, 3: 4, 4: 4, **dict.fromkeys(range(5, 10), 9), 10: 16}),
        ("first", 1000, 2, {1: 0, 2: 0, 3: 2}),
        ("mean", None, 2, {1: 0.5, 2: 0.5, 3: 3}),
        ("last", 600, 4, {1: 1, 2: 1, 3: 1, 4: 1, 5: 4, 6: 4, 7: 4, 8: 4, 9: 9, 10: 9}),
        ("last", None, 1, {}),
    ],
)
def test_the_curve_is_read_off_at_tenths_of_the_run(objective, env_steps, upto, parts) -> None:
    """Part k has the newest evaluation that was made when k tenths were over, or before."""
    curve = CURVE[:upto]
    config = TrainConfig(iterations=10, env_steps=env_steps)
    got = read_off(curve, config, objective)
    assert {part: got[part] for part in parts if part in got or part < 10} == {
        part: value for part, value in parts.items() if part < 10 or part in got
    }


def test_a_round_that_diverged_is_worth_nothing() -> None:
    assert math.isnan(score(entry(1, 0, None), "last"))
    assert math.isnan(score(entry(1, 0, math.nan), "mean"))
    assert score(entry(1, 2, None), "first") == 2


def finished(study, curve: list[float]) -> None:
    trial = study.ask()
    for part, value in enumerate(curve, 1):
        trial.report(value, part)
    study.tell(trial, curve[-1])


@pytest.mark.parametrize(
    ("returns", "prune", "pruned"), [(1, True, True), (9, True, False), (1, False, False)]
)
def test_a_trial_below_the_median_is_stopped(tmp_path, monkeypatch, returns, prune, pruned) -> None:
    """The others have 5 at three tenths; the signal is what ends a run with its state saved."""
    signals = []
    monkeypatch.setattr(signal, "raise_signal", signals.append)
    study = open_study(tmp_path / "study.db", prune=prune)
    for last in (4, 5, 5, 6):
        finished(study, [0, 0, last])
    callback = Reporting(handle(study, study.ask().number, 0), "last")
    report: Any = None
    run: Any = SimpleNamespace(
        config=TrainConfig(iterations=10),
        position=Position(3, 300, 0, [entry(0, 0, 0), entry(3, 0, returns)]),
    )
    callback.on_evaluation(run, report)
    callback.on_evaluation(run, report)  # as a resumed run does, which reports nothing twice
    assert study.trials[-1].intermediate_values == {1: 0, 2: 0, 3: returns}
    assert (callback.pruned, bool(signals)) == (pruned, pruned)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ([], "say what to search, as in --space inner_lr=0.01:0.3:log"),
        (["--space"], "--space needs values, as in --space inner_lr=0.01:0.3:log"),
        (["--space", "lrr=0.1:1"], r"unknown option '--lrr' \(did you mean '--lr'\?\)"),
        (["--space", "lr=0.3:0.1"], "the range 0.3:0.1 is empty"),
        (["--space", "lr=0.1:0.1"], "the range 0.1:0.1 is empty"),
        (["--space", "lr=0:1:log"], "a logarithmic range begins above 0, not at 0"),
        (["--space", "lr=0.1:1:lig"], "must be LOW:HIGH, .* not '0.1:1:lig'"),
        (["--space", "lr=0.1:nan"], "must be LOW:HIGH"),
        (["--space", "epochs=1:2.5"], "the ends of 1:2.5 must be whole numbers"),
        (["--space", "epochs=0:3"], "epochs"),
        (["--space", "hidden=8"], "needs different values to choose from"),
        (["--space", "hidden=8,8"], "needs different values to choose from"),
        (["--space", "lr=0.1:0.3", "--lr", "1"], "--lr gives one value to what --space varies"),
        (["--space", "seed=1,2"], "seed is the same in all trials"),
    ],
)
def test_a_wrong_space_is_refused(space, message) -> None:
    def read_words() -> None:
        found, _ = take_sweep(space, ("--space",))
        read_space(found, read_train(TOY), lambda more: read_train([*TOY, *more]))

    with pytest.raises(UserError, match=message):
        read_words()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "trials must be a whole number of at least 1"),
        (["--trials", "1001"], "trials must be at most 1000"),
        (["--objective", "lst"], "did you mean 'last'"),
        (["--trails", "3"], "unknown option '--trails' (did you mean '--trials'?)"),
    ],
)
def test_a_wrong_option_is_one_line(words, message, tmp_path, capsys) -> None:
    assert main(["tune", *TOY, *SPACE, "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [[], ["study.db"], ["study.db", "0", "last"], ["study.db", "0", "last", "2", *TOY],
     ["study.db", "-1", "last", "1", *TOY], ["study.db", "many", "last", "1", *TOY],
     ["study.db", "0", "best", "1", *TOY], ["none.db", "0", "last", "1", *TOY]],
)  # fmt: skip
def test_what_starts_a_trial_is_not_for_users(words, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.db").touch()
    for argv in (["tune", "--run-trial", *words], ["tune", "point-goal", "--run-trial", *words]):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("metarl: error: --run-trial is what `metarl tune` starts")
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_a_file_that_is_no_study_is_one_line(tmp_path, capsys) -> None:
    (tmp_path / "study.db").write_text("something else, and longer than a header of SQLite " * 9)
    assert main(search(tmp_path, 1)) == 2
    assert "study.db' as a study: file is not a database" in capsys.readouterr().err
    (tmp_path / "study.db").unlink()
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as other:
        other.execute("create table trials (name text)")
    assert main(search(tmp_path, 1)) == 2
    said = capsys.readouterr().err
    assert "study.db' as a study: it is another program's database" in said
    assert said.count("\n") == 1


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(search(tmp_path, 1)) == 2
    assert "pip install 'metarl-toolkit[tune]'" in capsys.readouterr().err


def test_words_of_a_range_stay_in_it() -> None:
    """Four digits are enough for a setting, and the ends are included."""
    trial: Any = SimpleNamespace(suggest_float=lambda *_, **__: 0.012345678)
    assert Range(0.01, 0.02, False, False).suggest(trial, "x") == "0.01235"
    assert Range(0.0123456, 0.012346, False, False).suggest(trial, "x") == "0.012346"
