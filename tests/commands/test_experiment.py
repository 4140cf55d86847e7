"""The experiments, from the outside."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
from helpers.process import run_forked

from metarl.commands.training.experiment import main as experiment
from metarl.runs.presets import Preset
from metarl.tasks.registry import find_family

SMALL = dict(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_tasks=2, threads=1,
    device="cpu", progress=False, hidden=[4], cg_iterations=2,
)  # fmt: skip
FOUND = {"maml-trpo": Preset("point-goal/maml-trpo", "maml-trpo", SMALL)}


def run_experiment(folder: Path, *argv: str) -> int:
    quick = ["--test-tasks", "2", "--test-episodes", "1", "--results", str(folder / "results")]
    return experiment("point-goal", FOUND, ["maml-trpo", *quick, *argv])


@pytest.fixture
def _no_plot(monkeypatch):
    """A plot takes as long as the training."""
    monkeypatch.setattr("metarl.report.charts.plot_results", lambda *_, **__: None)


def test_an_experiment_writes_its_result_and_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/experiments/point_goal.py"])
    with monkeypatch.context() as patch:  # the second plot shows both runs
        patch.setattr("metarl.report.charts.plot_results", lambda *_, **__: None)
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


@pytest.mark.usefixtures("_no_plot")
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


@pytest.mark.usefixtures("_no_plot")
def test_an_algorithm_may_have_several_presets_and_a_family_no_ood(tmp_path, plugin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {"maml-trpo-wide": Preset("it/maml-trpo-wide", "maml-trpo", SMALL)}
    argv = ["maml-trpo-wide", "--results", "results", "--test-tasks", "2"]
    assert experiment(plugin, found, argv) == 0
    (run,), (path,) = (tmp_path / "runs").iterdir(), (tmp_path / "results").glob("*.json")
    assert run.name == f"{plugin.rpartition(':')[2]}-maml-trpo-wide-seed0"
    assert path.stem == f"{find_family(plugin).name}-maml-trpo-wide-seed0"
    got = json.loads(path.read_text())
    assert (got["algorithm"], got["settings"]) == ("maml-trpo", "maml-trpo-wide")
    assert got["ood"] is None


@pytest.mark.parametrize(
    ("script", "word", "code", "said"),
    [("demo.py", "--help", 0, "usage: demo.py"), ("summarise.py", "--help", 0, "--write"),
     ("reference_lines.py", "nowhere", 2, "metarl: error: unknown family 'nowhere'")],
)  # fmt: skip
def test_a_script_explains_itself(script, word, code, said, tmp_path):
    path = Path(__file__).parents[2] / "experiments" / script

    def run():
        sys.argv = [str(path), word]
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    done = run_forked(run, cwd=tmp_path)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
