"""`metarl skills`, and a training on what it found."""

import pytest

from envs.point import PointGoal
from metarl.cli import main
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
