"""Each deprecated name works, warns, says what to use and when it ends, and is gone by then."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import metarl
from metarl import _moved, cli
from metarl.base.versions import ENDS
from metarl.learning.registry import find_learner
from metarl.video import recording
from metarl.worlds.policy import _OLD_FLAGS, Policy

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deprecations.md").read_text(encoding="utf-8")
SAID = rf"is {{}} now; the old name goes in {re.escape(ENDS)}"


def version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:3]]


def test_what_ends_in_this_version_is_gone():
    """When this fails, remove what the page names, or say that it stays longer."""
    assert version(metarl.__version__) < version(ENDS)
    assert f"**{ENDS}**" in PAGE


@pytest.mark.parametrize("old", sorted(_moved._MOVED))
def test_a_moved_module_warns_and_is_where_it_says(old, monkeypatch):
    new = f"metarl.{_moved._MOVED[old]}"
    assert importlib.util.find_spec(new).origin, new
    monkeypatch.setattr("metarl._moved.importlib.import_module", ModuleType)
    finder = _moved._Moved()
    with pytest.warns(DeprecationWarning, match=SAID.format(re.escape(new))):
        assert finder.create_module(finder.find_spec(f"metarl.{old}", None)).__name__ == new
    assert f"| `{old}` | `{_moved._MOVED[old]}` |" in PAGE


@pytest.mark.parametrize(("old", "new"), _OLD_FLAGS.items())
def test_a_flag_of_a_policy_warns(old, new):
    with pytest.warns(DeprecationWarning, match=SAID.format(new)):
        made = type("Old", (Policy,), {old: True})
    assert getattr(made, new) is True
    assert f"`{old}`" in PAGE
    assert f"`{new}`" in PAGE


def test_recording_worlds_warns():
    with pytest.warns(DeprecationWarning, match=SAID.format("metarl.TaskWorlds")):
        assert recording.RecordingWorlds is metarl.TaskWorlds
    with pytest.raises(AttributeError, match="has no attribute 'Recordings'"):
        _ = recording.Recordings
    assert "`RecordingWorlds`" in PAGE


@pytest.mark.parametrize("learner", ["ppo", "rl2"])
def test_the_setting_of_a_critic_warns(learner):
    with pytest.warns(FutureWarning, match=SAID.format("--critic privileged")):
        config = find_learner(learner).Config(privileged_critic=True)
    assert config.critic == "privileged"


def test_a_deprecated_flag_of_a_command_says_so_in_a_line(capsys, tmp_path):
    words = (
        "train point-goal ppo --privileged-critic --preset none --device cpu --hidden 8 --threads 1"
        " --iterations 1 --tasks-per-iteration 1 --rollouts-per-task 2 --evaluate-tasks 1"
    )
    assert cli.main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "metarl: warning: --privileged-critic is --critic privileged now" in said
    assert "Traceback" not in said


def test_the_page_has_what_the_code_says():
    """`python docs/deprecation_table.py` would change nothing."""
    spec = importlib.util.spec_from_file_location("table", ROOT / "docs" / "deprecation_table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.main(["--check"]) == 0
    assert len(re.findall(r"^\| `", table.filled(PAGE), re.M)) >= len(_moved._MOVED)
