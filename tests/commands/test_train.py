"""`metarl train`, from the outside."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers.process import forked, run_forked

from envs.walker2d import Walker2dParams
from metarl.cli import main
from metarl.learning import checkpoint as checkpoints

SMALL = ["--tasks-per-iteration", "2", "--rollouts-per-task", "2", "--evaluate-tasks", "2",
         "--hidden", "4", "--cg-iterations", "2", "--threads", "1", "--device", "cpu"]  # fmt: skip


def weights(run: Path | str) -> bytes:
    return (checkpoints.newest(Path(run)) / "weights.safetensors").read_bytes()


def test_train_takes_flags_of_both_kinds(tmp_path, capsys):
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--iterations", "1", "--inner-lr", "0.3",
            "--first-order", "--out", str(tmp_path / "run"), "--seed", "3"]  # fmt: skip
    assert main(argv) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["seed"] == 3
    assert (
        config["learner"] | {"inner_lr": 0.3, "first_order": True, "hidden": [4]}
        == config["learner"]
    )
    out = capsys.readouterr().out
    assert f"wrote {tmp_path / 'run'}: 1 iteration" in out
    assert "episodes of experience" in out


def test_the_order_of_words_and_flags_is_free(tmp_path):
    argv = ["train", *SMALL, "--no-progress", "--iterations=1", "point-goal", "--first_order",
            "maml-trpo", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(argv) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["learner"]["first_order"]


def test_the_default_folder_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--iterations", "1", "--no-progress"]
    assert main([*argv, "--seed", "7"]) == 0
    assert (tmp_path / "runs" / "point-goal-maml-trpo-seed7" / "config.json").is_file()


def test_a_run_of_env_steps_goes_on_by_iterations(tmp_path, capsys):
    out = str(tmp_path / "run")
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--no-progress", "--env-steps", "160"]
    assert main([*argv, "--out", out]) == 0
    assert main(["train", "--resume", out, "--iterations", "3"]) == 0
    assert checkpoints.newest(Path(out)).name == "step_00000003"


@pytest.mark.usefixtures("_empty_charts")
def test_commands_to_copy_quote_what_a_shell_would_split(
    trained_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "small")
    monkeypatch.setattr(Walker2dParams, "horizon", 20)
    argv = ["train", "walker2d-params", "maml-trpo", *SMALL, "--iterations", "1"]
    assert main([*argv, "--out", "my run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "  metarl report 'my run'" in out
    assert "  metarl adapt 'my run' --set 'mass[0]=1'" in out
    assert main(["train", "--resume", "my run"]) == 0
    assert "try: metarl evaluate 'my run'" in capsys.readouterr().out
    assert main([*argv, "--out", "my run"]) == 2
    assert "`metarl train --resume 'my run'`" in capsys.readouterr().err
    assert main(["export", "small", "--out", "my agent", "--threads", "1"]) == 0
    assert "try: metarl adapt 'my agent'" in capsys.readouterr().out
    assert "metarl evaluate 'my agent' --split ood" in (tmp_path / "my agent/README.md").read_text()


def test_resume_goes_on_to_the_same_bits(tmp_path, capsys):
    run, out = str(tmp_path / "whole"), str(tmp_path / "run")
    start = ["train", "point-goal", "maml-trpo", *SMALL, "--no-progress"]
    assert main([*start, "--iterations", "2", "--out", run]) == 0
    assert main([*start, "--iterations", "1", "--out", out]) == 0
    assert main(["train", "--resume", out, "--iterations", "2"]) == 0
    assert weights(out) == weights(run)
    capsys.readouterr()
    assert main(["train", "--resume", out]) == 0
    assert "has already finished, at iteration 2" in capsys.readouterr().out
    assert main(["train", "point-goal", "maml-trpo", f"--resume={out}", *SMALL]) == 0


def test_a_strangers_family_trains_evaluates_and_resumes(plugin, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "run")
    assert main(["train", plugin, "maml-trpo", *SMALL, "--iterations", "1", "--out", out]) == 0
    monkeypatch.chdir("/")  # the file is found from anywhere
    assert main(["train", "--resume", out, "--iterations", "2", "--no-progress"]) == 0
    assert main(["evaluate", out, "--tasks", "4", "--episodes", "1"]) == 0
    assert "held-out tasks are the training tasks" in capsys.readouterr().out


def test_a_signal_ends_a_real_run_with_its_code_and_one_line(tmp_path):
    out = tmp_path / "run"
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--iterations", "100000", "--out", str(out)]
    process = forked(lambda: main(argv))
    try:
        deadline = time.monotonic() + 300
        while not (out / "checkpoints" / "step_00000010").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 143
    assert len(err.splitlines()) == 1
    assert f"go on with: metarl train --resume {out}" in err
    assert checkpoints.load(checkpoints.newest(out)).step >= 10


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_is_one_line(tmp_path):
    """A limit on the size of files fails every writer: checkpoints, the CSV and TensorBoard's."""
    import resource

    out = tmp_path / "run"
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--checkpoint-every", "5"]

    def train():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        return main([*argv, "--out", str(out)])

    done = run_forked(train)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert checkpoints.load(checkpoints.newest(out)).step >= 5
