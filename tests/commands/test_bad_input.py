"""Malformed input: exit code 2, one line on stderr that names what is wrong, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.process import run_forked

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.cli import main
from metarl.commands.training.experiment import main as experiment
from metarl.learning import checkpoint as checkpoints
from metarl.run import start_run
from metarl.runs.config import TrainConfig
from metarl.runs.presets import Preset

TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=1, evaluate_tasks=2, threads=1,
    device="cpu", progress=False,
)  # fmt: skip
LEARNER = MamlTrpoConfig(hidden=(4,), cg_iterations=2)
START = ["train", "point-goal", "maml-trpo"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained run; the tests only read it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bad") / "run"
    return start_run("point-goal", "maml-trpo", replace(TRAIN, out=str(out)), LEARNER)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Whatever a command should not have written is found in `tmp_path`."""
    monkeypatch.chdir(tmp_path)


def refused(capsys, argv, *names: str, command=main) -> str:
    """Check that `argv` is refused in one line that has every one of `names`; return the line."""
    code = command([str(word) for word in argv])
    got = capsys.readouterr()
    assert code == 2, got
    lines = got.err.splitlines()
    assert len(lines) == 1, got.err
    assert lines[0].startswith("metarl: error: ")
    assert "Traceback" not in got.out + got.err
    plain = lines[0].replace("-", "_")
    for name in names:
        assert name.replace("-", "_") in plain, lines[0]
    return lines[0]


# --- commands, names and flags -----------------------------------------------------------------

WORDS = [
    (["trian"], "'trian'", "did you mean 'train'"),
    (["--frobnicate"], "--frobnicate"),
    (["rendr", "runs/x"], "'rendr'", "render"),
    (["train"], "FAMILY", "ALGORITHM"),
    (["train", "point-goal"], "ALGORITHM"),
    (["train", "pont-goal", "maml-trpo"], "'pont-goal'", "did you mean 'point-goal'"),
    (["train", "point-goal", "maml-trop"], "'maml-trop'", "did you mean 'maml-trpo'"),
    (["train", "maml-trpo", "point-goal"], "point-goal"),
    (["train", "point-goal", "maml-trpo", "extra"], "extra"),
    (["train", "missing.py:Robot", "maml-trpo"], "missing.py"),
    (["train", "missing.py", "maml-trpo"], "missing.py"),
    (["train", "point-goal", "missing.py:Learner"], "missing.py"),
    ([*START, "--sed", "1"], "--sed", "did you mean '--seed'"),
    ([*START, "--inner-learning-rate", "1"], "--inner-learning-rate"),
    ([*START, "--iterations"], "--iterations"),
    ([*START, "--iterations", "--seed", "1"], "--iterations"),
    ([*START, "-x"], "-x"),
    ([*START, "--no-seed"], "seed"),
    ([*START, "--first-order", "maybe"], "maybe"),
    ([*START, "--resume"], "--resume"),
    ([*START, "--resume="], "--resume"),
    (["train", "--resume", "no/such/run"], "no/such/run"),
    (["families", "--jsn"], "--jsn", "did you mean '--json'"),
    (["families", "extra"], "'extra'", "half-cheetah-vel"),
    (["families", "half-cheeta-vel"], "did you mean 'half-cheetah-vel'"),
    (["families", "half-cheetah-vel", "extra"], "extra"),
    (["families", "half-cheetah-vel+dynamcs"], "no variation 'dynamcs'", "did you mean 'dynamics'"),
    (["families", "missing.py:Robot"], "missing.py"),
    (
        ["check", "half-cheetah-vel+payload"],
        "no variation 'payload'",
        "takes dynamics, crippled",
    ),
    (["train", "point-goal+latency+latency", "maml-trpo"], "named twice"),
    (["train", "half-cheetah-dynamics+dynamics", "maml-trpo"], "parameter 'mass' already"),
    (["algorithms", "--verbose"], "--verbose"),
    (["check"], "FAMILY"),
    (["check", "half-cheeta-vel"], "half-cheeta-vel", "did you mean 'half-cheetah-vel'"),
    (["evaluate"], "RUN"),
    (["evaluate", "no/such/run"], "no/such/run"),
    (["adapt"], "RUN"),
    (["adapt", "no/such/run", "--set", "goal_x=1"], "no/such/run"),
]


@pytest.mark.parametrize("case", WORDS, ids=lambda case: " ".join(case[0]))
def test_words(case, capsys, tmp_path):
    refused(capsys, *case)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["curve.json", "metrics.csv", ".lock", "config.json"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(name, run, tmp_path):
    """Nobody writes to it: whoever read it would wait for ever."""
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    page = ["report", str(copy), "--tasks", "2", "--episodes", "0", "--threads", "1"]
    done = run_forked(lambda: main([*page, "--out", str(tmp_path / "page.html")]), timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    if name == "curve.json":
        assert "cannot read 'curve.json': it is no regular file" in done.stdout
    done = run_forked(lambda: main(["train", "--resume", str(copy), "--iterations", "2"]))
    assert done.returncode == 2
    assert f"{name}': it is " in done.stderr or "No such device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_folder_whose_name_is_no_text_is_refused(capsys, tmp_path):
    line = refused(capsys, [*START, "--iterations", "1", "--threads", "1", "--out", "run\udcff"])
    assert line == r"metarl: error: cannot write 'run\udcff': its name is not in UTF-8"
    assert list(tmp_path.iterdir()) == []


# --- values of train's flags -------------------------------------------------------------------

COUNTS = ["tasks-per-iteration", "rollouts-per-task", "iterations", "env-steps", "evaluate-every",
          "evaluate-tasks", "evaluate-episodes", "checkpoint-every", "keep-checkpoints", "threads",
          "print-every"]  # fmt: skip
VALUES = (
    [(f"--{name}", value) for name in COUNTS for value in ("0", "-3", "nan", "2.5", "many", "")]
    + [("--seed", value)
       for value in ("-1", "nan", "inf", "1.5e0", "1e99", "0x1", "9" * 20, "9" * 5000)]
    + [("--device", value) for value in ("tpu", "", "cuda:99", "CPU")]
    + [("--out", "")]
    + [("--tasks-per-iteration", "1000000"), ("--evaluate-tasks", "10000000")]
    + [(f"--{name}", value) for name in ("inner-lr", "max-kl", "init-std", "action-scale")
       for value in ("nan", "inf", "-inf", "-0.1", "0", "fast")]
    + [(f"--{name}", value) for name in ("gamma", "gae-lambda", "fisher-fraction")
       for value in ("nan", "1.1", "-1", "0", "inf")]
    + [("--inner-steps", "0"), ("--inner-steps", "-1"), ("--cg-iterations", "0"),
       ("--cg-damping", "-1"), ("--cg-damping", "nan"), ("--hidden", "0"), ("--hidden", "-5"),
       ("--hidden", "64.5"), ("--hidden", "nan")]
)  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), VALUES, ids=lambda word: word or "empty")
def test_values(flag, value, capsys, tmp_path):
    refused(capsys, [*START, f"{flag}={value}"], flag.lstrip("-"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["-3", "nan", "-inf"])
def test_negative_and_special_numbers_are_values_also_after_a_space(value, capsys):
    refused(capsys, [*START, "--inner-lr", value], "inner-lr", value)


def test_a_missing_cuda_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(capsys, [*START, "--device", "cuda"], "device", "cuda")


# --- evaluate, adapt and resume ----------------------------------------------------------------

ON_RUN = [
    ("evaluate", ["--split", "test"], "--split"),
    ("evaluate", ["--tasks", "0"], "tasks"),
    ("evaluate", ["--tasks", "-1"], "tasks"),
    ("evaluate", ["--tasks", "ten"], "tasks"),
    ("evaluate", ["--tasks", "1000000"], "tasks", "worlds"),
    ("evaluate", ["--episodes", "-1"], "episodes"),
    ("evaluate", ["--episodes", "nan"], "episodes"),
    ("evaluate", ["--seed", "-1"], "seed"),
    ("evaluate", ["--rollouts-per-task", "0"], "rollouts_per_task"),
    ("evaluate", ["--threads", "0"], "threads"),
    ("evaluate", ["--device", "gpu"], "--device"),
    ("evaluate", ["--taks", "3"], "--taks", "did you mean '--tasks'"),
    ("evaluate", ["--tasks", "1", "--json", "/dev/null/x.json"], "/dev/null"),
    ("evaluate", ["--json"], "--json"),
    ("evaluate", ["again"], "again"),
    ("adapt", ["--set", "goal=1"], "'goal'", "goal_x"),
    ("adapt", ["--set", "goal_z=1"], "goal_z", "did you mean"),
    ("adapt", ["--set", "goal_x"], "goal_x", "NAME=VALUE"),
    ("adapt", ["--set", "=1"], "NAME=VALUE"),
    ("adapt", ["--set", "goal_x=far"], "far", "goal_x"),
    ("adapt", ["--set", "goal_x="], "goal_x"),
    ("adapt", ["--set", "goal_x=nan"], "goal_x", "finite"),
    ("adapt", ["--set", "goal_x=inf"], "goal_x", "finite"),
    ("adapt", ["--set", "goal_x=1", "--set", "goal_x=2"], "goal_x", "twice"),
    ("adapt", ["--set"], "--set"),
    ("adapt", ["--episodes", "-2"], "episodes"),
    ("adapt", ["--rollouts-per-task", "2000000"], "rollouts_per_task"),
    ("train", ["--seed", "5"], "seed", "cannot change"),
    ("train", ["--iterations", "2", "--rollouts-per-task", "7"], "rollouts_per_task"),
    ("train", ["--iterations", "2", "--inner-lr", "0.7"], "inner_lr", "cannot change"),
    ("train", ["--iterations", "0"], "iterations"),
    ("train", ["half-cheetah-vel", "maml-trpo"], "FAMILY", "half-cheetah-vel"),
    ("train", ["point-goal", "pearl"], "ALGORITHM", "pearl"),
    ("train", ["--inner-lrr", "1"], "--inner-lrr", "did you mean '--inner-lr'"),
]


@pytest.mark.parametrize("case", ON_RUN, ids=lambda case: " ".join([case[0], *case[1]]))
def test_commands_on_a_run(case, run, capsys):
    command, words, *names = case
    before = sorted(run.rglob("*"))
    argv = [command, "--resume", run] if command == "train" else [command, run]
    refused(capsys, [*argv, *words], *names)
    assert sorted(run.rglob("*")) == before


def test_adapt_refuses_an_out_that_is_a_file(run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    refused(capsys, ["adapt", run, "--episodes", "0", "--out", tmp_path / "file"], "file")


def test_train_refuses_a_folder_that_holds_a_run_or_cannot_be_one(run, capsys, tmp_path):
    refused(capsys, [*START, "--out", run, "--threads", "1"], "already holds a run", "--resume")
    (tmp_path / "file").write_text("")
    refused(capsys, [*START, "--out", tmp_path / "file" / "run", "--threads", "1"], "file")


# --- files that are not what they should be ----------------------------------------------------


def damaged(run: Path, to: Path, change) -> Path:
    """A copy of the run whose one checkpoint `change` has been at."""
    shutil.copytree(run, to)
    for old in checkpoints.checkpoints(to / "checkpoints")[:-1]:
        shutil.rmtree(old)
    change(checkpoints.newest(to))
    return to


def _edit(change):
    """Edit checkpoint.json as somebody with the digest's recipe could."""

    def edit(step: Path) -> None:
        body = json.loads((step / "checkpoint.json").read_text())
        body.pop("self_sha256")
        change(body)
        body["self_sha256"] = checkpoints._digest(body)
        (step / "checkpoint.json").write_text(json.dumps(body))

    return edit


DAMAGE = {
    "weights cut short": lambda step: (step / "weights.safetensors").write_bytes(b"12"),
    "header cut short": lambda step: (step / "checkpoint.json").write_text('{"form'),
    "pickle": lambda step: (step / "weights.safetensors").write_bytes(b"\x80\x04."),
    "no weights": lambda step: (step / "weights.safetensors").unlink(),
    "no training": _edit(lambda body: body.update(meta={})),
    "strange setting": _edit(lambda body: body["meta"]["train"].update(sneed=1)),
    "negative setting": _edit(lambda body: body["meta"]["train"].update(iterations=-1)),
    "curve of numbers": _edit(lambda body: body["meta"].update(curve=[1, 2])),
    "algorithm unknown": _edit(lambda body: body.update(algorithm="alchemy")),
    "family unknown": _edit(lambda body: body.update(family="atlantis")),
    "learner setting": _edit(lambda body: body["learner_config"].update(inner_lr=-1.0)),
    "other robot": _edit(lambda body: body.update(family="half-cheetah-vel")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_run_is_refused(what, run, tmp_path, capsys):
    bad = damaged(run, tmp_path / "bad", DAMAGE[what])
    refused(capsys, ["train", "--resume", bad, "--iterations", "2"])


@pytest.mark.parametrize("what", ["weights cut short", "pickle", "no training", "other robot"])
@pytest.mark.parametrize("command", ["evaluate", "adapt"])
def test_a_damaged_run_cannot_be_used(what, command, run, tmp_path, capsys):
    refused(capsys, [command, damaged(run, tmp_path / "bad", DAMAGE[what])])


@pytest.mark.parametrize(
    ("text", "name"),
    [("import no_such_module_at_all", "no_such_module_at_all"),
     ("1 / 0", "ZeroDivisionError"),
     ("def broken(:", "SyntaxError"),
     ("Robot = 3", "TaskFamily"),
     ("class Robot: pass", "TaskFamily"),
     ("from metarl import TaskFamily\nclass Robott(TaskFamily): pass", "did you mean 'Robott'"),
     ("from metarl import TaskFamily\nclass Robot(TaskFamily): pass", "model"),
     ("from metarl import TaskFamily\nclass Robot(TaskFamily): model = '<mujoco'", "MJCF"),
     ("from metarl import TaskFamily\nclass Robot(TaskFamily): model = 'no.xml'", "no.xml")],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used(text, name, tmp_path, capsys):
    (tmp_path / "robot.py").write_text(text)
    refused(capsys, ["train", tmp_path / "robot.py:Robot", "maml-trpo"], name)


# --- experiments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name"),
    [([], "which algorithm"), (["maml"], "'maml'"), (["maml-trpo", "--sed", "1"], "--sed"),
     (["maml-trpo", "--test-tasks", "0"], "test_tasks"),
     (["maml-trpo", "--test-episodes", "-1"], "test_episodes"),
     (["maml-trpo", "--results="], "results"), (["--seed", "1"], "which algorithm"),
     (["maml-trpo", "--iterations", "nan"], "iterations"),
     (["maml-trpo", "--inner-lr", "nan"], "inner_lr")],
)  # fmt: skip
def test_experiments(argv, name, capsys, tmp_path):
    found = {"maml-trpo": Preset("point-goal/maml-trpo", "maml-trpo", {"iterations": 1})}
    refused(capsys, argv, name, command=lambda words: experiment("point-goal", found, words))
    assert list(tmp_path.iterdir()) == []


# --- from the outside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name"),
    [(["train", "point-goal", "maml-trpo", "--inner-lr", "nan"], "inner_lr"),
     (["train", "point-goal", "maml-trpo", "--sed", "1"], "--sed"),
     (["evaluate", "nowhere"], "nowhere")],
)  # fmt: skip
def test_a_real_process(argv, name):
    done = run_forked(lambda: main(argv))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
