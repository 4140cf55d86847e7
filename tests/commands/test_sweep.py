"""Many runs of one command: each is what it would be alone, and what is finished stays so."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from safetensors.torch import load_file

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.cli import main
from metarl.commands.training.one_run import OneRun
from metarl.commands.training.sweep import limits, over_seeds, planned, take_sweep
from metarl.commands.training.train import guess_algorithm, parse_train
from metarl.evaluation.statistics import interval_over_seeds, iqm, iqm_interval
from metarl.learning import checkpoint as checkpoints
from metarl.run import start_run, train_or_resume

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
        (["--seeds", "1", "01"], "a value is swept twice"),
        (["--sweep", "curriculum_param=a/b,a_b"], "a value is swept twice"),
        (["--seeds", "abc"], "--seeds needs values, as in --seeds 1 2 3, and 'abc' is none"),
        (["--seeds", "-1"], "--seeds needs values, as in --seeds 1 2 3, and '-1' is none"),
        (["--sweep", "state_std=true,maybe"], "--state-std takes true or false, and not 'maybe'"),
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


def test_a_switch_is_swept_by_true_and_false() -> None:
    runs, _ = planned(*take_sweep([*SMALL, "--sweep", "state_std=true,False"]), read)
    assert [run.parsed.learner.state_std for run in runs] == [True, False]
    assert [run.setting for run in runs] == ["state-std=true", "state-std=False"]


def test_a_comparison_says_what_its_intervals_do_not_hold() -> None:
    enough = {"tasks": 30, "few": False, "train_is_heldout": False}
    few = {"tasks": 5, "few": True, "train_is_heldout": False}
    assert limits(3, [enough, enough]) == []
    assert limits(1, [enough]) == ["of one seed: what another would give is not in the interval"]
    assert limits(2, [enough, few]) == ["5 tasks behind an interval: too few to rely on it"]
    seen = limits(2, [enough | {"train_is_heldout": True}])
    assert seen == ["train = held-out: these tasks are those of training"]


def test_a_sweep_s_interval_is_that_of_an_evaluation() -> None:
    """Of two directions, each a stratum: over all rows it would be the spread between the two."""
    rng, direction = np.random.default_rng(0), np.tile([1.0, -1.0], 10)
    returns = 400 + 600 * direction + rng.normal(0, 10, 20)
    of = {"tasks": direction[:, None].tolist(), "returns": [[0.0, value] for value in returns]}
    report = SimpleNamespace(**of, mean=[0.0, 1.0], stand_still=0.0, train_is_heldout=True)
    found = over_seeds([report], Key("test").numpy())
    centre, interval = iqm_interval(returns[:, None], of["tasks"], Key("test").numpy())
    assert found["iqm"] == pytest.approx(centre[0])
    assert np.ptp(found["ci95"]) == pytest.approx(np.ptp(interval[0]), rel=0.3)
    assert np.ptp(found["ci95"]) < 20
    assert (found["tasks"], found["few"], found["train_is_heldout"]) == (20, False, True)


@pytest.mark.usefixtures("_empty_charts", "commands")
def test_a_sweep_does_not_take_another_experiment_for_its_own(tmp_path, capsys) -> None:
    """The same folder with another family, algorithm or setting: refused, and not reported."""
    more = ["--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(["train", *SMALL, *more]) == 0
    page = (tmp_path / "out" / "sweep.json").read_text()
    other = [word if word != "8" else "9" for word in SMALL]
    for words, what in (
        (["half-cheetah-vel", *SMALL[1:]], "FAMILY cannot change"),
        (["point-goal", "finetune", *SMALL[2:]], "ALGORITHM cannot change"),
        (other, "hidden cannot change"),
        ([*SMALL, "--evaluate-episodes", "1"], "evaluate_episodes cannot change"),
    ):
        capsys.readouterr()
        assert main(["train", *words, *more]) == 2
        said = capsys.readouterr().err
        assert what in said
        assert said.count("\n") == 1
    assert (tmp_path / "out" / "sweep.json").read_text() == page


def test_an_experiment_does_not_go_on_with_another_family(tmp_path) -> None:
    parsed = read([*SMALL, "--out", str(tmp_path / "run")])
    train = replace(parsed.train, progress=False)
    start_run("point-goal", "ppo", train, parsed.learner)
    with refused("FAMILY cannot change"):
        train_or_resume("half-cheetah-vel", "ppo", train, parsed.learner)
    assert train_or_resume("point-goal", "ppo", train, parsed.learner) == tmp_path / "run"


def test_a_run_of_a_sweep_ends_with_what_started_it(tmp_path) -> None:
    """`kill -9` of the sweep closes its standard input: it saves and ends, with no word of it."""
    words = [*SMALL, "--threads", "1", "--checkpoint-every", "1000", "--out", str(tmp_path / "run")]
    long = [word if word != "2" else "100000" for word in words]
    process = OneRun("", tuple(long), read(long)).start(1)
    log, until = tmp_path / "run" / "train.log", time.monotonic() + 300
    while "iteration 1 " not in log.read_text() and time.monotonic() < until:
        time.sleep(0.1)
    process.stdin.close()
    assert process.wait(60) != 0
    assert "saved" in log.read_text()
    assert checkpoints.newest(tmp_path / "run").is_dir()


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
