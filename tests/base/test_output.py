"""An output that cannot be written: a run goes on, and other commands say so."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import torch
from helpers.process import forked, run_forked

from metarl import UserError, cli
from metarl.base.output import Output
from metarl.learning.registry import find_learner
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import Spec

TRAIN = (
    "train point-goal maml-trpo --iterations 2 --tasks-per-iteration 2 --rollouts-per-task 2 "
    "--evaluate-tasks 1 --evaluate-episodes 1 --print-every 1 --threads 1 --device cpu --out run"
)


def test_an_output_writes_what_its_encoding_has():
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding="ascii"))
    print("1 → 2 \udcff", file=out, flush=True)
    assert raw.getvalue() == b"1 ? 2 ?\n"
    assert out.lost is None


def test_an_output_that_is_lost_drops_the_rest():
    read, write = os.pipe()
    os.close(read)
    closed = io.StringIO()
    closed.close()
    with open(write, "w") as pipe, open("/dev/full", "w") as full:
        for stream, why in (
            (None, "closed"),
            (closed, "closed"),
            (full, "No space"),
            (pipe, "pipe"),
        ):
            out = Output(stream)
            for _ in range(3):
                print("a line", file=out, flush=True)
            assert not out.isatty()
            assert why in str(out.lost)


@pytest.mark.parametrize(
    ("words", "where", "code", "said"),
    [
        ("--version", "> /dev/full", 2, "cannot write to the standard output: No space left"),
        ("nope", ">&-", 2, "unknown command 'nope'"),
        ("evaluate --help", ">&-", 2, "cannot write to the standard output: it is closed"),
    ],
)
def test_commands_without_an_output(words, where, code, said, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m metarl.cli {words} {where}; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=300,
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_help_of_training_is_no_training():
    done = run_forked(lambda: cli.main(["train", "--help"]), closed=(1,))
    said = "metarl: error: cannot write to the standard output: it is closed\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("where", ["| head -1", ">&- 2>&-", "> /dev/full"])
def test_a_training_goes_on_without_an_output(where, tmp_path):
    closed = (1, 2) if where == ">&- 2>&-" else ()

    def train():
        if where == "> /dev/full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        return cli.main(TRAIN.split())

    with forked(train, closed=closed, cwd=tmp_path) as run:
        if where == "| head -1":
            assert run.stdout.readline().startswith("point-goal  maml-trpo")
            run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 0
    assert (tmp_path / "run/checkpoints/step_00000002").is_dir()


@pytest.mark.parametrize("command", ["adapt", "evaluate", "export", "render", "report"])
def test_a_name_that_no_file_can_have_is_one_line(command, capsys):
    assert cli.main([command, "a" * 300]) == 2
    error = capsys.readouterr().err
    assert "File name too long" in error
    assert error.count("\n") == 1


def test_a_warning_that_python_stops_at_is_one_line(monkeypatch, capsys):
    def warns(argv):
        raise DeprecationWarning("old")

    monkeypatch.setattr("metarl.commands.families.families", warns)
    assert cli.main(["families"]) == 2
    assert "DeprecationWarning: old" in capsys.readouterr().err


@pytest.mark.parametrize("raised", ["raise SystemExit", "assert False, 'no'", "1 / 0"])
def test_an_algorithm_in_a_file_that_fails_is_one_line(raised, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from metarl.algorithms.maml_trpo import MamlTrpo\n"
        "class Mine(MamlTrpo):\n"
        "    name = 'mine'\n"
        "    def meta_step(self, worlds, tasks, key):\n"
        f"        {raised}\n"
    )
    assert cli.main(TRAIN.replace("maml-trpo", "mine.py:Mine").split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("metarl: error: mine.py, line 5: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("train point-goal maml-trpo --hidden 99999999999999999999999", "hidden"),
        ("train point-goal maml-trpo --inner-steps 1000000000000", "inner_steps"),
        ("train point-goal rl2 --episodes 1000000000000", "episodes"),
        ("train point-goal pearl --train-tasks 1000000000000", "train_tasks"),
        ("train point-goal maml-trpo --evaluate-episodes 1000000000000", "evaluate_episodes"),
        ("train point-goal maml-trpo --threads 1000000000000", "threads"),
        ("evaluate run --episodes 1000000000000", "episodes"),
        ("evaluate run --rollouts-per-task 1000000000000", "rollouts_per_task"),
        ("render run --tasks 1000000000000", "tasks"),
        ("report run --tasks 1000000000000", "tasks"),
    ],
)
def test_absurd_counts_are_refused(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert f"metarl: error: {name} " in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_defaults_of_torch_that_do_not_fit_are_refused():
    cls = find_learner("maml-trpo")
    try:
        torch.set_default_dtype(torch.float64)
        with pytest.raises(UserError, match=r"default type is torch\.float64"):
            cls(Spec(4, 2, 20), cls.Config())
        torch.set_default_device("meta")
        with pytest.raises(UserError, match="default device is meta"):
            TaskWorlds("point-goal", 1)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
