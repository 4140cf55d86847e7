"""`metarl render`: its numbers, its files, its errors, and MuJoCo's viewer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metarl.cli import main


@pytest.fixture
def run(trained_run, tmp_path) -> str:
    """A copy of the small run, to put videos into."""
    return str(shutil.copytree(trained_run, tmp_path / "run"))


def one_line(capsys, argv, *words) -> None:
    assert main([str(word) for word in argv]) == 2
    got = capsys.readouterr().err
    assert len(got.splitlines()) == 1, got
    for word in words:
        assert word in got, got


@pytest.mark.usefixtures("_gl")
def test_render_command(run, tmp_path, capsys):
    """The printed returns are those that `metarl evaluate` reports of the same tasks and seed."""
    out = tmp_path / "v.mp4"
    flags = ["--tasks", "2", "--episodes", "1", "--seed", "4", "--threads", "1"]
    video = ["--out", str(out), "--size", "160", "--fps", "2", "--speed", "1"]
    assert main(["render", run, *flags, *video]) == 0
    said = capsys.readouterr().out
    assert out.is_file()
    assert f"wrote {out}" in said
    assert main(["evaluate", run, *flags, "--json", str(tmp_path / "e.json")]) == 0
    from metarl.evaluation.protocol import Report

    returns = Report.load(tmp_path / "e.json").returns
    lines = [line for line in said.splitlines() if "return " in line]
    assert len(lines) == 2
    for line, row in zip(lines, returns, strict=True):
        assert line.endswith("return " + " → ".join(f"{r:.1f}" for r in row))


@pytest.mark.usefixtures("_gl")
def test_render_one_task_without_a_display(run, after_torch):
    """In a process of its own, with nothing set; the video goes into the run's folder."""
    words = "--set goal_x=0.5 --episodes 0 --size 160 --fps 1 --speed 1 --threads 1"
    code = f"""if True:
        import contextlib, io, os
        for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM"):
            os.environ.pop(name, None)
        from metarl.cli import main
        with contextlib.redirect_stdout(io.StringIO()):  # what is left are errors
            assert main(["render", {run!r}, *{words.split()}]) == 0"""
    assert after_torch(code) == ""
    assert (Path(run) / "videos" / "goal_x=0.5.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "a.avi"], ["a.avi", ".mp4 or .gif"]),
        (["--tasks", "0"], ["tasks", "from 1 to 16"]),
        (["--tasks", "17"], ["tasks", "17"]),
        (["--set", "goal_x=1", "--tasks", "2"], ["--set", "--tasks"]),
        (["--set", "gaol_x=1"], ["gaol_x", "did you mean 'goal_x'"]),
        (["--size", "10"], ["size", "160"]),
        (["--fps", "0"], ["fps"]),
        (["--speed", "nan"], ["speed"]),
        (["--live", "--out", "a.mp4"], ["--live", "--out"]),
        (["--splt", "ood"], ["--splt", "did you mean '--split'"]),
    ],
)
def test_bad_input_is_one_line(run, flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(capsys, ["render", run, *flags], *words)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "videos").exists()


# --- the viewer --------------------------------------------------------------------------------


def test_live_needs_a_display(run, capsys, monkeypatch):
    monkeypatch.setattr("metarl.commands.viewing.render.platform.system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    one_line(capsys, ["render", run, "--live"], "display", "DISPLAY")


def test_live_plays_before_and_after(run, capsys, monkeypatch):
    """The viewer is shown the recorded states of both rounds, until it is closed."""
    import mujoco.viewer

    shown, said = [], []

    class Viewer:
        cam = mujoco.MjvCamera()

        def __init__(self, model, data, **_):
            self.data = data

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def is_running(self):
            return len(shown) < 42

        def set_texts(self, texts):
            said.append(texts[2])

        def sync(self):
            shown.append(self.data.qpos.copy())

    monkeypatch.setattr("metarl.commands.viewing.render.check_display", lambda *_: None)
    monkeypatch.setattr(mujoco.viewer, "launch_passive", Viewer)
    assert (
        main(["render", run, "--live", "--episodes", "1", "--speed", "100", "--threads", "1"]) == 0
    )
    assert len(shown) == 42
    assert re.findall(r"^round (\d)", capsys.readouterr().out, re.M) == ["0", "1"]
    returns = re.findall(r"return (\S+)$", "\n".join(said), re.M)
    assert said[0].splitlines()[1:] == ["no data yet", "return 0.0"]
    assert said[41].splitlines()[1:] == ["after 2 episodes", f"return {returns[41]}"]


def test_live_on_a_display_that_is_not_there(run, capsys, monkeypatch):
    """MuJoCo's viewer would end the process."""
    monkeypatch.setattr("metarl.commands.viewing.render.platform.system", lambda: "Linux")
    monkeypatch.setenv("DISPLAY", ":9999")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    one_line(capsys, ["render", run, "--live"], "--live", "no window", ":9999", "libgl1")


@pytest.fixture
def screen():
    """The name of a display that is not shown anywhere."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with open(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb here")
def test_live_opens_a_window(run, screen):
    """MuJoCo's own viewer, on a display in memory; an interrupt ends it."""
    words = "--live --episodes 1 --speed 100 --rollouts-per-task 1 --threads 1"
    process = subprocess.Popen(
        [sys.executable, "-m", "metarl.cli", "render", run, *words.split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"DISPLAY": screen},
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=300)
    assert [line[:8] for line in lines[1:]] == ["round 0:", "round 1:", "round 0:"], rest
    assert "Traceback" not in rest[1]


@pytest.mark.parametrize("more", [["--split", "ood"], ["--tasks", "2"]])
def test_a_task_that_is_set_has_no_split(trained_run, capsys, more) -> None:
    assert main(["render", str(trained_run), "--set", "goal_x=0.5", *more]) == 2
    assert capsys.readouterr().err.strip().endswith(f"leave out {more[0]}")
