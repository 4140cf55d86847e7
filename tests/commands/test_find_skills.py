"""`metarl skills`, and a training on what it found."""

import dataclasses
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused

from envs.point import PointGoal
from metarl.algorithms import Diayn
from metarl.cli import main
from metarl.commands.evaluating.opened import same_tasks
from metarl.commands.export import export_agent
from metarl.commands.training.overfitting import _planned, _taken
from metarl.commands.training.sweep import planned
from metarl.commands.training.train import read_train
from metarl.commands.viewing.output import default_out
from metarl.learning import checkpoint as checkpoints
from metarl.report.page import check_runs
from metarl.report.run_summary import evaluation_path, read_run
from metarl.tasks.distribution import Tasks
from metarl.tasks.variations.skills import Skills

SHORT = ["--iterations", "1", "--tasks-per-iteration", "2", "--rollouts-per-task", "2",
         "--evaluate-tasks", "2", "--units", "4", "--hidden", "4", "--threads", "1"]  # fmt: skip


def test_skills_are_found_and_trained_on(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 5)
    monkeypatch.chdir(tmp_path)
    words = ["skills", "point-goal", "--count", "3", "--inputs", "0", "1", "--env-steps", "1"]
    assert (
        main([*words, "--out", "mine/three.safetensors", "--run", "found", "--threads", "1"]) == 0
    )
    assert "3 skills; to meta-train on them: metarl train" in capsys.readouterr().out
    found = Skills.load("mine/three.safetensors")
    assert (found.count, found.columns, found.size, found.family) == (3, (0, 1), 4, "point-goal")
    name = "point-goal+skills=mine/three.safetensors"
    assert main(["train", name, "rl2", *SHORT, "--out", "run"]) == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1", "--tasks", "2"]) == 0
    assert "skill" in capsys.readouterr().out
    assert main(["families", "point-goal+skills=" + str(tmp_path / "mine/three.safetensors")]) == 0
    (tmp_path / "mine/three.safetensors").unlink()
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1"]) == 2
    error = capsys.readouterr().err
    assert "three.safetensors' is missing" in error
    assert error.count("\n") == 1


def test_the_search_goes_on_when_the_same_command_is_given_again(tmp_path, capsys, monkeypatch):
    """Ctrl-C says so, and names no command that would train on and write no skills."""
    monkeypatch.setattr(PointGoal, "horizon", 5)
    update = Diayn.update

    def interrupted(self, *args):
        signal.raise_signal(signal.SIGINT)
        return update(self, *args)

    monkeypatch.chdir(tmp_path)
    words = ["skills", "point-goal", "--count", "3", "--env-steps", "8000", "--threads", "1",
             "--out", "three.safetensors", "--run", "run"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Diayn, "update", interrupted)
        assert main(words) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("metarl: stopped after iteration 1; saved ")
    assert said.endswith("; the same command goes on with it")
    assert main(words) == 0
    assert "going on with" in capsys.readouterr().out
    assert Skills.load(tmp_path / "three.safetensors").count == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on skills of a file in a folder of its own."""
    folder = tmp_path_factory.mktemp("skills")
    words = ["point-goal", "--count", "3", "--env-steps", "1", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PointGoal, "horizon", 5)
        patch.chdir(folder)
        assert main(["skills", *words, "--out", "mine/three.safetensors", "--run", "found"]) == 0
        name = "point-goal+skills=mine/three.safetensors"
        assert main(["train", name, "rl2", *SHORT, "--out", "run"]) == 0
    return folder / "run"


@pytest.fixture
def _there(run, monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 5)
    monkeypatch.chdir(run.parent)


NAME = "point-goal+skills=mine/three.safetensors"


def test_tasks_of_other_skills_are_others_though_as_many() -> None:
    def of(family: str) -> Tasks:
        return Tasks(family, ("skill",), np.arange(3.0)[:, None])

    mine = of("point-goal+skills=/a/three.safetensors#12ab")
    assert same_tasks(mine, of("point-goal+skills=/b/copy.safetensors#12ab+told"))
    assert not same_tasks(mine, of("point-goal+skills=/a/three.safetensors#34cd"))
    assert not same_tasks(of("point-goal"), mine)


@pytest.mark.usefixtures("_there", "_empty_charts")
def test_a_report_names_the_family_and_keeps_its_evaluations(run, capsys) -> None:
    words = ["report", "run", "--tasks", "2", "--episodes", "1", "--threads", "1"]
    for evaluated in (True, False):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert ("evaluating on" in said) == evaluated
        assert "cannot be" not in said
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "point-goal+skills" in page
    assert "three.safetensors" not in page
    found = read_run(run)
    assert found.family == "point-goal+skills"
    path = evaluation_path(run, "heldout", found.iteration)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("point-goal+skills", "point-goal"), encoding="utf-8")
    again = read_run(run)
    path.write_text(whole, encoding="utf-8")
    assert any("it is of heldout tasks of point-goal" in text for _, text in again.notes)


@pytest.mark.usefixtures("_there")
def test_runs_on_the_skills_of_two_files_are_not_compared(run) -> None:
    one = read_run(run)
    moved = dataclasses.replace(one, source=one.source.replace("/mine/", "/elsewhere/"))
    check_runs([one, moved])
    other = dataclasses.replace(one, source=one.source[:-1] + "x")
    with refused("runs of different families cannot be compared", "point-goal+skills#"):
        check_runs([one, other])


@pytest.mark.usefixtures("_there")
def test_an_agent_of_a_file_is_refused_before_it_is_evaluated(run) -> None:
    said = []
    with refused("'point-goal+skills' cannot be shared", str(run.parent / "mine")):
        export_agent(run, run.parent / "agent", say=said.append)
    assert said == []


@pytest.mark.usefixtures("_there")
def test_the_page_of_a_family_ends_with_a_command_that_can_be_given(capsys) -> None:
    """Commands to follow would be observed before the skills are, so they are not proposed."""
    assert main(["families", NAME]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == NAME
    name = shlex.split(said[-1])[2]
    assert name.startswith(f"{NAME}+")
    assert main(["families", name]) == 0


@pytest.mark.usefixtures("_there")
def test_folders_and_videos_are_named_without_the_file(run) -> None:
    runs = "runs/point-goal+skills-rl2"
    _, folder = planned({"seed": ["1"]}, [NAME, "rl2"], read_train)
    assert folder == Path(f"{runs}-sweep")
    _, folder, _ = _planned(*_taken([NAME, "rl2", "--num-tasks", "2"]))
    assert folder == Path(f"{runs}-overfitting")
    checkpoint = checkpoints.load(checkpoints.newest(run))
    shared = dataclasses.replace(checkpoint, path=Path("alone"))
    assert default_out(shared, "heldout", ()) == Path("point-goal+skills-rl2-heldout.mp4")


@pytest.mark.usefixtures("_there")
def test_a_run_goes_on_under_the_name_that_was_given(run, capsys) -> None:
    copy = shutil.copytree(run, run.parent / "copy")
    assert main(["train", NAME, "rl2", "--resume", str(copy), "--iterations", "2"]) == 0
    capsys.readouterr()
    assert main(["train", "point-goal+told", "rl2", "--resume", str(copy)]) == 2
    assert "FAMILY cannot change" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["point-goall"], "unknown family 'point-goall'"),
        (["point-goal", "--count", "1"], "count must be a whole number of at least 2"),
        (["point-goal", "--inputs", "9"], "skill_inputs: the observation has 4 numbers, 0 to 3"),
        (["point-goal", "--out", " "], "--out must be the name of a file"),
    ],
)
def test_bad_input_is_one_line(words, error, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["skills", *words]) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1
