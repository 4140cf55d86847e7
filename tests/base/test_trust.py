"""Whose files a checkpoint may run, and where they are found."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import SMALL, TRAIN

from metarl import UserError, load_adapted
from metarl.base import trust
from metarl.cli import main
from metarl.learning import checkpoint as checkpoints
from metarl.learning.checkpoint import load
from metarl.run import start_run

FAMILY = """
import pathlib
from metarl import find_family
pathlib.Path({mark!r}).touch()
Mine = type(find_family("point-goal"))
"""
LEARNER = """
import pathlib
from metarl import find_learner
pathlib.Path({mark!r}).touch()
class Mine(find_learner("maml-trpo")):
    pass
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A user who has trained nothing yet, in a folder of their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_TRAINED_HERE", {})
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    torch.set_num_threads(1)


@pytest.fixture
def ran(tmp_path) -> Path:
    """What the files below make when they are run."""
    return tmp_path / "ran"


@pytest.fixture
def strange(tmp_path, trained_run, ran):
    """A function that returns a run which names a file for its family or its algorithm."""

    def make(kind: str, name: str = "{file}:Mine", files: object = None) -> Path:
        run, file = tmp_path / "work" / "run", tmp_path / "work" / "tools" / f"{kind}.py"
        shutil.copytree(trained_run, run)
        shutil.rmtree(run / "evaluation")
        file.parent.mkdir(exist_ok=True)
        code = FAMILY if kind == "family" else LEARNER
        for place in (file, run / "inside.py"):
            place.write_text(code.format(mark=str(ran)))
        header = checkpoints.newest(run) / "checkpoint.json"
        body = json.loads(header.read_text())
        del body["self_sha256"]
        body[kind] = name.format(file=file, run=run)
        body |= {} if files is None else {"files": files}
        header.write_text(json.dumps(body | {"self_sha256": checkpoints._digest(body)}))
        return run

    return make


QUICK = ["--tasks", "2", "--episodes", "0", "--threads", "1"]
COMMANDS = {
    "evaluate": ["evaluate", "run", *QUICK],
    "adapt": ["adapt", "run", "--episodes", "0", "--threads", "1"],
    "render": ["render", "run", "--episodes", "0", "--threads", "1", "--out", "x.gif"],
    "report": ["report", "run", "run", *QUICK],
    "resume": ["train", "--resume", "run", "--iterations", "3"],
}
NAMES = (
    "{file}:Mine", "/proc/self/cwd/tools/{kind}.py:Mine", "tools/{kind}.py:Mine",
    "{run}/inside.py:Mine", "tools/../tools/{kind}.py:Mine+latency", "tools/{kind}.py:",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", trust.KINDS)
def test_no_command_runs_the_file_of_a_stranger(strange, ran, capsys, kind, name) -> None:
    strange(kind, name.replace("{kind}", kind))
    for argv in (*COMMANDS.values(), ["export", "run", "--out", "agent"]):
        assert main(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert ".py:Mine" in lines[0] or name.endswith(":")
    assert not ran.exists()


def test_the_line_says_what_to_give(strange, ran, capsys) -> None:
    run = strange("family")
    assert main(COMMANDS["evaluate"]) == 2
    line = capsys.readouterr().err
    named = f"--family {run.parent}/tools/family.py:Mine"
    assert f"give {named}, or --trust-code" in line
    assert main([*COMMANDS["evaluate"], *named.split()]) == 0
    assert ran.exists()


@pytest.mark.usefixtures("_empty_charts")
@pytest.mark.parametrize("command", ["evaluate", "adapt", "report", "resume"])
@pytest.mark.parametrize("kind", trust.KINDS)
def test_a_file_that_the_user_names_or_trusts_is_run(strange, ran, kind, command) -> None:
    strange(kind)
    for said in (["--trust-code"], [f"--{kind}", f"tools/{kind}.py:Mine"]):
        shutil.rmtree("run/evaluation", ignore_errors=True)
        words = [*COMMANDS[command], *said, *(["--no-progress"] if command == "resume" else [])]
        assert main(words) == 0
    assert ran.exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--family", "tools/family.py:Other"], "give --family FILE.py:Mine"),
        (["--family", "point-goal"], "give --family FILE.py:Mine"),
        (["--family", "tools/other.py:Mine"], "there is no file"),
        (["--algorithm", "x.py:X"], "the algorithm of 'run/checkpoints/step_00000002' is 'maml-tr"),
        (["--algorithm", "maml-trpo"], "give --family"),
    ],
)
def test_what_is_named_must_be_what_the_run_has(strange, ran, capsys, said, message) -> None:
    strange("family")
    assert main([*COMMANDS["evaluate"], *said]) == 2
    assert message in capsys.readouterr().err
    assert not ran.exists()


def test_in_python_an_argument_says_so(strange) -> None:
    path = checkpoints.newest(strange("family"))
    file = path.parents[2] / "tools" / "family.py"
    with pytest.raises(UserError, match="would run the family"):
        load(path)
    assert load(path, trust_code=True).family == f"{file}:Mine"
    assert load(path, family="tools/family.py:Mine").family == f"{file}:Mine"


# --- one's own runs ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, ran) -> Path:
    """A folder with a family and a learner of the user's own, and a run that was trained with them.

    Nothing of it is left in this process.
    """
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "robot.py").write_text(FAMILY.format(mark=str(ran)))
    (folder / "learner.py").write_text(LEARNER.format(mark=str(ran)))
    start_run(
        f"{folder}/robot.py:Mine", f"{folder}/learner.py:Mine",
        replace(TRAIN, out=str(folder / "runs" / "mine"), iterations=1), SMALL,
    )  # fmt: skip
    ran.unlink()
    return folder


@pytest.fixture
def another_process(monkeypatch):
    """Forget what this process has trained with and imported: the user's state folder remains."""

    def forget() -> None:
        from metarl.base import plugins

        monkeypatch.setattr(trust, "_TRAINED_HERE", {})
        monkeypatch.setattr(plugins, "_RAN", {})
        monkeypatch.setattr(plugins, "_ALONE", {})
        plugins._import.cache_clear()

    return forget


def evaluate(run: Path, *more: str) -> int:
    return main(["evaluate", str(run), *QUICK, *more])


def test_a_run_of_ones_own_needs_no_flag(project, another_process, ran, capsys) -> None:
    another_process()
    assert evaluate(project / "runs" / "mine") == 0
    assert ran.exists()
    assert not capsys.readouterr().err


def test_a_file_that_was_edited_since_is_named(project, another_process, capsys) -> None:
    another_process()
    with (project / "robot.py").open("a") as file:
        file.write("# edited\n")
    assert evaluate(project / "runs" / "mine") == 0
    err = capsys.readouterr().err
    assert err == (
        f"metarl: warning: family file '{project}/robot.py' has changed since training\n"
    )


def test_a_renamed_folder_is_found_relative_to_the_run(project, another_process, capsys) -> None:
    another_process()
    moved = project.rename(project.with_name("renamed"))
    assert evaluate(moved / "runs" / "mine") == 0
    shutil.move(moved / "runs" / "mine", moved / "mine")  # not as it lay any more
    another_process()
    assert evaluate(moved / "mine") == 2
    assert "its family is in" in capsys.readouterr().err
    said = [f"--family={moved}/robot.py:Mine", f"--algorithm={moved}/learner.py:Mine"]
    assert evaluate(moved / "mine", *said) == 0


def test_another_machine_asks_and_then_finds_it(
    project, another_process, ran, monkeypatch, tmp_path, capsys
) -> None:
    moved = project.rename(project.with_name("copied"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    another_process()
    assert evaluate(moved / "runs" / "mine") == 2
    line = capsys.readouterr().err
    assert f"--family {moved}/robot.py:Mine --algorithm {moved}/learner.py:Mine, or" in line
    assert not ran.exists()
    assert evaluate(moved / "runs" / "mine", "--trust-code") == 0


def test_a_known_file_at_another_place_runs_nothing_that_lies_beside_it(
    project, another_process, ran, tmp_path, capsys
) -> None:
    """Neither a module that it imports, nor bytecode in its name."""
    (project / "robot.py").write_text("import helper\n" + FAMILY.format(mark=str(ran)))
    (project / "helper.py").touch()
    another_process()
    run = start_run(
        f"{project}/robot.py:Mine", "maml-trpo",
        replace(TRAIN, out=str(project / "runs" / "two"), iterations=1), SMALL,
    )  # fmt: skip
    for name in ("helper", "metarl_plugin_robot"):
        sys.modules.pop(name, None)
    another_process()
    moved = project.rename(project.with_name("elsewhere"))
    (moved / "helper.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')")
    assert evaluate(moved / "runs" / run.name) == 2
    err = capsys.readouterr().err
    assert "No module named 'helper'" in err
    assert f"--family {moved}/robot.py" in err
    assert not (tmp_path / "evil").exists()


def test_bytecode_does_not_stand_for_a_file(tmp_path) -> None:
    import importlib.util
    import py_compile

    from metarl.base.plugins import load_plugin

    file, evil = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("X = 1\n")
    evil.write_text("X = 2\n")
    os.utime(evil, (file.stat().st_atime, file.stat().st_mtime))
    py_compile.compile(str(evil), importlib.util.cache_from_source(str(file)), doraise=True)
    assert load_plugin(f"{file}:X", "metarl.families", "family") == 1


def test_a_known_path_with_a_strangers_file_is_refused(strange, ran, tmp_path) -> None:
    """What the run says of the file is not what this machine has trained with."""
    said = {"sha256": "0" * 64, "relative": "../tools/family.py"}
    run = strange("family", files={"family": said})
    file = tmp_path / "work" / "tools" / "family.py"
    (tmp_path / "state" / "metarl").mkdir(parents=True)
    known = tmp_path / "state" / "metarl" / "trained_with.json"
    known.write_text(json.dumps({str(file): ["1" * 64]}))
    assert evaluate(run) == 2
    assert not ran.exists()


HOSTILE = [None, 1, [], "x", {"family": None}, {"family": {"relative": "\0"}},
           {"family": {"relative": "x" * 10**5, "sha256": []}},
           {"family": {"relative": "/dev/zero"}}]  # fmt: skip


@pytest.mark.parametrize("files", HOSTILE)
def test_no_value_of_files_is_a_traceback(strange, capsys, files) -> None:
    assert evaluate(strange("family", "gone.py:Mine", files)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("state", ["[]", "{", '{"a": 1}', "\xff"])
def test_a_state_folder_that_cannot_be_used_is_no_error(
    project, another_process, tmp_path, state, monkeypatch
) -> None:
    known = tmp_path / "state" / "metarl" / "trained_with.json"
    known.write_text(state, encoding="latin-1")
    another_process()
    assert evaluate(project / "runs" / "mine") == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust.remember([f"{project}/robot.py:Mine", f"{project}/learner.py:Mine"])
    assert evaluate(project / "runs" / "mine") == 0  # this process knows


def test_the_state_folder_is_never_one_of_the_working_folder(monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert trust._state() == Path("/home/somebody/.local/state/metarl/trained_with.json")
    monkeypatch.setenv("HOME", "home")
    assert trust._state() is None


def test_processes_that_remember_at_once_lose_nothing(tmp_path) -> None:
    names = []
    for number in range(4):
        (tmp_path / f"robot{number}.py").write_text(f"# {number}\n")
        names.append(f"{tmp_path}/robot{number}.py:Robot")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=trust.remember, args=([name],)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    known = json.loads((tmp_path / "state" / "metarl" / "trained_with.json").read_text())
    assert sorted(known) == [name.rpartition(":")[0] for name in names]


def test_an_adapted_policy_runs_no_strangers_file(strange, ran, tmp_path) -> None:
    strange("algorithm")
    words = ["--algorithm", "tools/algorithm.py:Mine", "--out", "adapted"]
    assert main([*COMMANDS["adapt"], *words]) == 0
    about = json.loads(Path("adapted/adapted.json").read_text())
    assert about["files"]["algorithm"]["relative"] == "../tools/algorithm.py"
    with pytest.raises(UserError, match="would run the algorithm"):
        load_adapted("adapted")
    learner, _ = load_adapted("adapted", algorithm="tools/algorithm.py:Mine")
    assert type(learner).__name__ == "Mine"
    assert load_adapted("adapted", trust_code=True)


def test_a_state_folder_that_cannot_be_written_is_said_where_it_matters(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "mine.py").write_text("class Mine: ...")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(trust, "_TRAINED_HERE", {})
    trust.remember(["point-goal", "rl2"])  # no warning: nothing to remember
    with pytest.warns(UserWarning, match=r"cannot be remembered in .*will ask for --trust-code"):
        trust.remember([f"{tmp_path}/mine.py:Mine"])
    assert list(trust._TRAINED_HERE) == [f"{tmp_path}/mine.py"]  # this process knows it
