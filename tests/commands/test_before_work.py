"""What is wrong is said before the work: places to write to, and every run that is compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from metarl.base.errors import UserError
from metarl.cli import main
from metarl.commands.evaluating.opened import keep
from metarl.worlds.task_worlds import TaskWorlds

FILES = {
    "evaluate": ["--json", "out.json"], "probe": ["--json", "out.json"],
    "stream": ["--json", "out.json"], "demos": ["--out", "out.safetensors"],
    "report": ["--out", "out.html"], "render": ["--out", "out.mp4"],
    "export": ["--onnx", "out.onnx"],
}  # fmt: skip
"""Command -> the option that names a file, and such a file."""


@pytest.fixture(autouse=True)
def _no_work(tmp_path, monkeypatch):
    """A world that is stepped ends the test; commands run in an empty folder."""

    def step(self, action):
        raise AssertionError("this is the work")

    monkeypatch.setattr(TaskWorlds, "step", step)
    monkeypatch.chdir(tmp_path)


def refused(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_where_no_file_can_be_is_known_beforehand(command, kind, trained_run, capsys) -> None:
    option, name = FILES[command]
    if kind == "device":
        Path(name).symlink_to("/dev/full")
    else:
        os.mkfifo(name) if kind == "pipe" else os.mkdir(name)
    line = refused(capsys, command, trained_run, option, name)
    words = ("Is a directory", "that is a folder") if kind == "folder" else (f"is a {kind} and no",)
    assert name in line
    assert any(word in line for word in words), line
    assert os.listdir() == [name]
    assert not Path(name).is_file()


@pytest.mark.parametrize("kind", ["file", "device", "filled folder"])
def test_where_no_folder_can_be_is_known_beforehand(kind, trained_run, capsys) -> None:
    out = Path("out")
    if kind == "device":
        out.symlink_to("/dev/null")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes").write_text("mine")
    assert "out" in refused(capsys, "adapt", trained_run, "--set", "goal_x=1", "--out", out)
    assert os.listdir() == ["out"]


@pytest.fixture
def torn(trained_run, tmp_path) -> Path:
    """A run of whose weights nothing can be read."""
    run = shutil.copytree(trained_run, tmp_path / "torn")
    for weights in run.rglob("weights.safetensors"):
        weights.write_bytes(b"torn")
    return run


@pytest.mark.usefixtures("_gl")
@pytest.mark.parametrize("command", ["evaluate", "stream", "render"])
def test_every_run_is_read_before_the_first_one_acts(command, trained_run, torn, capsys) -> None:
    assert "no readable checkpoint" in refused(
        capsys, command, trained_run, "--against", trained_run, torn
    )
    words = (command, trained_run, "--against", trained_run, "half-cheetah-vel-rl2")
    line = refused(capsys, *words)
    assert "tasks" in line
    assert "half-cheetah-vel" in line


def test_a_run_that_cannot_be_written_to_is_a_note_and_a_file_that_was_named_an_error(capsys):
    """The numbers are printed: somebody else's run may be looked at."""
    Path("probe").write_text("in the way")
    keep({"step": 1}, "out.json", Path("probe/heldout.json"))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "wrote out.json"
    assert said[1].startswith("note: it is not kept for `metarl report`: cannot write 'probe")
    with pytest.raises(UserError, match="cannot write 'probe"):
        keep({"step": 1}, "probe/out.json", None)
