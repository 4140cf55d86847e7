"""The `metarl` command and the experiments, from the outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from metarl import checkpoint as checkpoints
from metarl import cli
from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.cli import main
from metarl.experiment import Settings
from metarl.experiment import main as experiment
from metarl.launch import start
from metarl.train_config import TrainConfig

SMALL = ["--tasks-per-iteration", "2", "--rollouts-per-task", "2", "--evaluate-tasks", "2",
         "--hidden", "4", "--cg-iterations", "2", "--threads", "1", "--device", "cpu"]  # fmt: skip
TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_tasks=2, threads=1,
    device="cpu", progress=False,
)  # fmt: skip
LEARNER = MamlTrpoConfig(hidden=(4,), cg_iterations=2)

FAMILY = """
from metarl import Choices, Param, TaskFamily
import torch

class Slider(TaskFamily):
    model = '''<mujoco><worldbody><body><joint name="x" type="slide" damping="1"/>
      <geom size=".1" mass="1"/></body></worldbody>
      <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>'''
    horizon = 5
    params = (Param("direction", Choices((-1.0, 1.0))),)

    def reward(self, sim, before, action, task):
        return sim.qvel[:, 0] * task["direction"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """A small trained run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("cli") / "run"
    return str(start("point-goal", "maml-trpo", replace(TRAIN, out=str(out)), LEARNER))


@pytest.fixture
def plugin(tmp_path) -> str:
    """A stranger's family, in a file."""
    (tmp_path / "slider.py").write_text(FAMILY)
    return f"{tmp_path / 'slider.py'}:Slider"


def weights(run: Path | str) -> bytes:
    return (checkpoints.newest(Path(run)) / "weights.safetensors").read_bytes()


def metarl(*argv: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "metarl.cli", *argv], capture_output=True,
                          text=True, timeout=120, **more)  # fmt: skip


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_an_example(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name in ("families", "algorithms", "train", "evaluate", "adapt", "check"):
        assert f"\n  {name} " in out
    assert "metarl train half-cheetah-vel maml-trpo" in out


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: metarl {command}" in out
    assert len(out.splitlines()) > 5


def test_train_help_lists_the_algorithms_own_settings(capsys):
    assert main(["train", "--help"]) == 0
    general = capsys.readouterr().out
    assert "--tasks-per-iteration" in general
    assert "--resume" in general
    assert "--inner-lr" not in general
    assert main(["train", "point-goal", "maml-trpo", "--help"]) == 0
    special = capsys.readouterr().out
    assert "FAMILY" in special
    assert "--inner-lr" in special
    assert "--first-order" in special


def test_help_imports_nothing_slow():
    code = ("import sys; from metarl.cli import main; main(['--help']); "
            "print([m for m in ('stable_baselines3', 'tensorboard', 'tyro', 'rich', 'scipy') "
            "if m in sys.modules], file=sys.stderr)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("metarl ")


# --- families, algorithms, check ---------------------------------------------------------------


def test_families(capsys):
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    row = next(line for line in out.splitlines() if "half-cheetah-vel " in line)
    assert row.split() == [
        "half-cheetah-vel", "cheetah", "17×6", "200", "=", "10", "s",
        "goal_velocity", "[0,", "3]", "m/s", "[3,", "3.5]",
    ]  # fmt: skip
    assert "+dynamics +crippled" in out
    assert "Each also takes +latency and +sensor-bias." in out


def test_some_families(capsys):
    assert main(["families", "cheetah"]) == 0
    out = capsys.readouterr().out
    assert "half-cheetah-dir" in out
    assert "point-goal" not in out
    assert main(["families", "--json", "cheetah"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert {"half-cheetah-dir", "half-cheetah-dynamics", "half-cheetah-vel"} <= set(names)
    assert all("cheetah" in name for name in names)


def test_one_family_in_full(capsys):
    assert main(["families", "half-cheetah-vel"]) == 0
    out = capsys.readouterr().out
    for words in (
        "Run at a velocity that the reward alone reveals", "200 steps of 0.05 s = 10 s",
        "metarl/HalfCheetahVel-v0", "train, heldout, ood", "+dynamics", "sensor_bias[17]",
        "scale of all motor torques", "metarl train half-cheetah-vel+dynamics maml-trpo",
    ):  # fmt: skip
        assert words in out, words


def test_a_product_in_full(capsys):
    assert main(["families", "half-cheetah-vel+latency+dynamics"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("half-cheetah-vel+dynamics+latency\n")
    assert "+dynamics  " not in out  # it has that already
    assert "+sensor-bias" in out
    assert main(["families", "half-cheetah-vel+dynamics", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [param["name"] for param in row["params"]][:2] == ["goal_velocity", "mass"]
    assert row["gymnasium_id"] == "metarl/TaskFamily-v0"


def test_families_as_json(capsys):
    assert main(["families", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    point = rows["point-goal"]
    assert (point["observation_size"], point["action_size"], point["horizon"]) == (4, 2, 20)
    goal = point["params"][0]
    assert (goal["name"], goal["unit"], goal["size"]) == ("goal_x", "m", 1)
    assert goal["train"] == {"low": -1.0, "high": 1.0, "log": False}
    assert goal["ood"] == [{"low": 1.0, "high": 1.25, "log": False}]
    assert rows["half-cheetah-dir"]["params"][0]["train"] == {"values": [-1.0, 1.0]}
    vel = rows["half-cheetah-vel"]
    assert (vel["robot"], vel["gymnasium_id"]) == ("cheetah", "metarl/HalfCheetahVel-v0")
    assert vel["splits"] == ["train", "heldout", "ood"]
    assert list(vel["variations"]) == [
        "dynamics", "terrain", "terrain-scan", "latency", "sensor-bias",
    ]  # fmt: skip
    assert vel["variations"]["dynamics"]["params"][0]["name"] == "mass"
    assert "dynamics" not in rows["half-cheetah-dynamics"]["variations"]  # it has that already


def test_a_broken_family_does_not_hide_the_others(monkeypatch, capsys):
    monkeypatch.setattr("metarl.families_command.list_families", lambda: ["gone", "point-goal"])
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert "gone cannot be used: unknown family 'gone'" in out
    assert "goal_x" in out


def test_algorithms(capsys):
    assert main(["algorithms"]) == 0
    assert "inner_lr=0.1" in capsys.readouterr().out
    assert main(["algorithms", "--json"]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out) if r["name"] == "maml-trpo")
    assert row["settings"]["max_kl"] == 0.01


def test_check_exits_by_what_it_finds(plugin, tmp_path, capsys):
    assert main(["check", plugin]) == 0
    assert "FAIL" not in capsys.readouterr().out
    bad = tmp_path / "bad.py"
    bad.write_text(FAMILY.replace("sim.qvel[:, 0] *", "sim.qvel *"))
    assert main(["check", f"{bad}:Slider"]) == 1
    assert "FAIL" in capsys.readouterr().out


# --- train -------------------------------------------------------------------------------------


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
    assert f"wrote {tmp_path / 'run'}: 1 iterations" in out
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


def test_resume_goes_on_to_the_same_bits(run, tmp_path, capsys):
    out = str(tmp_path / "run")
    first = ["train", "point-goal", "maml-trpo", *SMALL, "--no-progress", "--out", out]
    assert main([*first, "--iterations", "1"]) == 0
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
    process = subprocess.Popen(
        [sys.executable, "-m", "metarl.cli", "train", "point-goal", "maml-trpo", *SMALL,
         "--iterations", "100000", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (out / "checkpoints" / "step_00000010").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert len(err.splitlines()) == 1
    assert f"go on with: metarl train --resume {out}" in err
    assert checkpoints.load(checkpoints.newest(out)).step >= 10


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_is_one_line(tmp_path):
    """A limit on the size of files fails every writer: checkpoints, the CSV and TensorBoard's."""
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (80000, 80000)); "
            "from metarl.cli import main; sys.exit(main(sys.argv[1:]))")  # fmt: skip
    out = tmp_path / "run"
    argv = ["train", "point-goal", "maml-trpo", *SMALL, "--checkpoint-every", "5", "--out", out]
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert checkpoints.load(checkpoints.newest(out)).step >= 5


# --- evaluate and adapt ------------------------------------------------------------------------


def test_evaluate_prints_json_alone_on_a_dash(run, capsys):
    assert main(["evaluate", run, "--tasks", "3", "--episodes", "2", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == [
        "family", "algorithm", "split", "seed", "rollouts_per_task", "task_names", "tasks",
        "returns", "experience", "iqm", "ci95", "mean", "stand_still", "env_steps", "seconds",
        "diverged",
    ]  # fmt: skip
    assert (report["family"], report["algorithm"]) == ("point-goal", "maml-trpo")
    assert report["experience"] == [0, 2, 4]
    assert (len(report["returns"]), len(report["returns"][0])) == (3, 3)


def test_evaluate_says_which_checkpoint_it_takes_and_why(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    *_, old, new = checkpoints.checkpoints(copy / "checkpoints")
    (new / "weights.safetensors").write_bytes(b"x")
    assert main(["evaluate", str(copy), "--tasks", "2", "--episodes", "0"]) == 0
    got = capsys.readouterr()
    assert got.out.startswith(f"{old}: 2 heldout tasks, 2 worlds each\n")
    assert got.err.startswith(f"metarl: warning: '{new}/weights.safetensors' ")
    assert got.err.endswith(f"; using {old.name} instead\n")
    assert len(got.err.splitlines()) == 1


def test_evaluate_writes_a_file_and_takes_a_checkpoint(run, tmp_path, capsys):
    file = tmp_path / "new folder" / "report.json"
    step = str(checkpoints.newest(Path(run)))
    argv = ["evaluate", step, "--split", "ood", "--tasks", "2", "--rollouts-per-task", "3"]
    assert main([*argv, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["split"], report["rollouts_per_task"], report["experience"]) == (
        "ood", 3, [0, 3, 6, 9],
    )  # fmt: skip
    assert f"wrote {file}" in capsys.readouterr().out


def test_adapt_agrees_with_evaluate_to_the_bit(run, tmp_path, capsys):
    from metarl import TaskDistribution, TaskWorlds, evaluate, find_family
    from metarl.adapted import adapt_to

    learner = checkpoints.restore(checkpoints.load(checkpoints.newest(Path(run))))
    family = find_family("point-goal")
    task = TaskDistribution(family).make(goal_x=0.5)
    worlds = TaskWorlds(family, 3, 1)
    rounds = list(adapt_to(learner, worlds, task, episodes=2, seed=4))
    report = evaluate(learner, worlds, task, episodes=2, seed=4)
    assert [r.experience for r in rounds] == report.experience
    assert [float(r.returns.mean()) for r in rounds] == report.mean


def test_adapt_prints_the_rounds_and_saves_the_policy(run, tmp_path, capsys):
    out = tmp_path / "adapted"
    argv = ["adapt", run, "--set", "goal_x=-0.5", "--set", "goal-y=0.25", "--episodes", "2"]
    assert main([*argv, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "goal_x=-0.5, goal_y=0.25" in lines[0]
    assert [line.split()[1] for line in lines[1:4]] == ["0", "2", "4"]
    about = json.loads((out / "adapted.json").read_text())
    assert about["task"]["values"] == [[-0.5, 0.25]]
    assert about["experience"] == [0, 2, 4]
    tensors = safetensors.torch.load_file(out / "adapted.safetensors")
    prior = checkpoints.load(checkpoints.newest(Path(run))).tensors["theta"]
    assert tensors["params"].shape == (1, len(prior))
    assert not torch.equal(tensors["params"][0], prior)


def test_adapt_says_what_lies_outside_the_training_range(run, capsys):
    note = "note: goal_x=7 is outside the training range [-1, 1]\n"
    assert main(["adapt", run, "--set", "goal_x=7", "--episodes", "0"]) == 0
    assert note in capsys.readouterr().out
    assert main(["adapt", run, "--set", "goal_x=1", "--episodes", "0"]) == 0
    assert "note" not in capsys.readouterr().out


def test_reading_commands_leave_the_run_alone(run):
    before = {p: p.stat().st_mtime_ns for p in Path(run).rglob("*")}
    assert main(["evaluate", run, "--tasks", "2", "--episodes", "1"]) == 0
    assert main(["adapt", run, "--episodes", "1"]) == 0
    assert {p: p.stat().st_mtime_ns for p in Path(run).rglob("*")} == before


# --- interruptions of the command itself -------------------------------------------------------


def test_ctrl_c_anywhere_is_one_line(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("metarl.families_command.families", interrupted)
    assert main(["families"]) == 130
    assert capsys.readouterr().err == "metarl: interrupted\n"


def test_too_little_memory_for_torch_is_one_line(monkeypatch, capsys):
    def hungry(argv):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("metarl.families_command.families", hungry)
    assert main(["families"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("metarl: error: out of memory: use fewer tasks or rollouts")
    assert len(error.splitlines()) == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def buggy(argv):
        raise RuntimeError("a bug")

    monkeypatch.setattr("metarl.families_command.families", buggy)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["families"])


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m metarl.cli families --json | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# --- experiments -------------------------------------------------------------------------------

SETTINGS = {"maml-trpo": Settings(TRAIN, LEARNER)}


def run_experiment(folder: Path, *argv: str) -> int:
    quick = ["--test-tasks", "2", "--test-episodes", "1", "--results", str(folder / "results")]
    return experiment("point-goal", SETTINGS, ["maml-trpo", *quick, *argv])


def test_an_experiment_writes_its_result_and_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/experiments/point_goal.py"])
    assert run_experiment(tmp_path, "--seed", "1") == 0
    assert run_experiment(tmp_path, "--seed", "2") == 0
    results = tmp_path / "results"
    assert (results / "point-goal-maml-trpo.png").read_bytes()[:4] == b"\x89PNG"
    got = json.loads((results / "point-goal-maml-trpo-seed1.json").read_text())
    assert (got["split"], got["ood"]["split"]) == ("heldout", "ood")
    assert [set(entry) >= {"env_steps", "seconds", "before", "after"} for entry in got["curve"]]
    assert [entry["iteration"] for entry in got["curve"]] == [0, 2]
    assert got["config"]["train"]["seed"] == 1
    assert got["config"]["learner"]["hidden"] == [4]
    assert set(got["hardware"]) == {"cpu", "cores", "gpu"}
    assert got["versions"]["torch"]
    assert got["command"].startswith("python experiments/point_goal.py maml-trpo")
    assert str(tmp_path) not in json.dumps(got)
    assert os.uname().nodename not in json.dumps([got["hardware"], got["command"]])


def test_an_experiment_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_experiment(tmp_path, "--iterations", "1") == 0
    assert run_experiment(tmp_path, "--iterations", "2") == 0
    assert "going on with runs/point-goal-maml-trpo-seed0 from iteration 1" in (
        capsys.readouterr().out
    )
    assert run_experiment(tmp_path) == 0
    assert "has finished training; testing it" in capsys.readouterr().out
    assert run_experiment(tmp_path, "--inner-lr", "0.5") == 2
    assert "inner_lr cannot change" in capsys.readouterr().err


def test_a_family_without_ood_has_none(tmp_path, plugin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["maml-trpo", "--results", "results", "--test-tasks", "2"]
    assert experiment(plugin, SETTINGS, argv) == 0
    (path,) = (tmp_path / "results").glob("*.json")
    assert json.loads(path.read_text())["ood"] is None
