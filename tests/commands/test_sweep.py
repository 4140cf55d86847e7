"""Many runs of one command: each is what it would be alone, and what is finished stays so."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.cli import main
from metarl.commands.training.sweep import limits, planned, take_sweep
from metarl.commands.training.train import guess_algorithm, parse_train
from metarl.evaluation.statistics import interval_over_seeds, iqm
from metarl.learning import checkpoint as checkpoints
from metarl.run import start_run

SMALL = (
    "point-goal", "ppo", "--iterations", "2", "--tasks-per-iteration", "4", "--rollouts-per-task",
    "1", "--evaluate-tasks", "6", "--hidden", "8", "--device", "cpu",
)  # fmt: skip


def read(words):
    return parse_train(words, guess_algorithm(words))


def weights(run: Path) -> torch.Tensor:
    return load_file(checkpoints.newest(run) / "weights.safetensors")["params"]


@pytest.mark.usefixtures("_empty_charts")
def test_a_sweep_trains_what_single_runs_would_and_compares_them(
    tmp_path, capsys, commands
) -> None:
    out = tmp_path / "out"
    words = ["train", *SMALL, "--sweep", "lr=1e-3,1e-2", "--seeds", "4", "--out", str(out)]
    assert main(words) == 0
    assert commands == [[sys.executable, "-m", "metarl", "train"]] * 2
    said = capsys.readouterr().out
    assert f"2 runs in {out}" in said
    rows = json.loads((out / "sweep.json").read_text())
    assert [row["setting"] for row in rows] == ["lr=1e-3", "lr=1e-2"]
    assert [row["runs"] for row in rows] == [["lr=1e-3-seed4"], ["lr=1e-2-seed4"]]
    assert (out / "report.html").is_file()
    swept = {"lr": ["1e-2"], "seed": ["4"]}
    runs, _ = planned(swept, [*SMALL, "--out", str(tmp_path / "one")], read)
    parsed = runs[0].parsed
    train = replace(parsed.train, progress=False)
    alone = start_run("point-goal", "ppo", train, parsed.learner)
    assert torch.equal(weights(alone), weights(out / "lr=1e-2-seed4"))
    last = json.loads((alone / "curve.json").read_text())[-1]
    assert rows[1]["means"] == [last["after"]]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")}
    assert main(words) == 0
    assert "2 finished before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")}


@pytest.mark.parametrize(
    ("argv", "swept", "rest"),
    [
        (["a", "--seeds", "1", "2", "--lr", "3"], {"seed": ["1", "2"]}, ["a", "--lr", "3"]),
        (["--seeds=1,2", "a"], {"seed": ["1", "2"]}, ["a"]),
        (["--seeds", "1", "2", "a"], {"seed": ["1", "2"]}, ["a"]),
        (
            ["a", "b", "--sweep", "inner_lr=0.1,0.2", "gamma=1", "--sweep", "lr=1"],
            {"inner-lr": ["0.1", "0.2"], "gamma": ["1"], "lr": ["1"]}, ["a", "b"],
        ),
    ],
)  # fmt: skip
def test_what_is_swept(argv, swept, rest) -> None:
    assert take_sweep(argv) == (swept, rest)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds"], "--seeds needs values"),
        (["--sweep", "lr"], "--sweep needs values, as in"),
        (["--sweep", "=3"], "--sweep needs values"),
        (["--sweep", "lr=wrong"], "lr"),
        (["--sweep", "nothing=1"], "nothing"),
        (["--seeds", "1", "1"], "a value is swept twice"),
        (
            ["--seeds", "1", "2", "--seed", "3"],
            "--seed gives one value to what",
        ),
        (["--sweep", "lr=0.1,0.2", "--lr=0.3"], "--lr gives one value"),
        (["--sweep", "evaluate_ood=1,0", "--no-evaluate_ood"], "--no-evaluate-ood gives one value"),
        (["--seeds", *map(str, range(1001))], "1001 runs; the limit is 1000"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_trained(argv, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        planned(*take_sweep([*SMALL, *argv, "--out", str(tmp_path / "out")]), read)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", ["0", "-3", "many", "nan", "1e400", "1.5"])
def test_a_number_of_jobs_that_is_none_is_one_line(jobs, tmp_path, capsys) -> None:
    words = ["train", *SMALL, "--seeds", "1", "2", "--jobs", jobs, "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"--jobs must be a whole number of at least 1, not '{jobs}'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_comparison_says_what_its_intervals_do_not_hold() -> None:
    assert limits(3, [30, 6]) == []
    assert limits(1, [30]) == ["of one seed: what another would give is not in the interval"]
    assert limits(2, [30, 5]) == ["5 tasks behind an interval: too few to rely on it"]
    assert limits(2, [0])[0].startswith("0 tasks behind")


def test_the_interval_over_seeds_covers() -> None:
    """Of ten seeds that differ more than their tasks do, it holds the truth 85 to 99 times in 100:
    seeds are drawn anew."""
    rng, inside = np.random.default_rng(0), 0
    for trial in range(100):
        returns = rng.normal(0, 1, (10, 1)) + rng.normal(0, 0.3, (10, 8))
        centre, low, high = interval_over_seeds(returns, Key("test", trial).numpy())
        assert centre == pytest.approx(float(iqm(returns.flatten())))
        inside += low <= 0 <= high
    assert 85 <= inside <= 99
    one = np.array([[1.0, np.nan, 3.0]])
    assert interval_over_seeds(one, rng)[0] == 2.0
