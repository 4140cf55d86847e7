"""`metarl completion`: what a shell offers after a word."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metarl import cli
from metarl.commands.completion import CLASSES

TRY = """
source "$1"
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_metarl
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    pytest.importorskip("shtab")
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "metarl.bash"
    path.write_text(out.getvalue())
    return path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ev", {"evaluate"}),
        ("train half-cheetah-ve", {"half-cheetah-vel"}),
        ("train half-cheetah-vel rl", {"rl2"}),
        ("train half-cheetah-vel rl2 --tasks-", {"--tasks-per-iteration"}),
        ("train half-cheetah-vel rl2 --device c", {"cpu", "cuda"}),
        ("evaluate half-cheetah-vel-pe", {"half-cheetah-vel-pearl"}),
        ("evaluate half-cheetah-vel-rl2 --split o", {"ood"}),
        ("push half-cheetah-vel-rl2 me/agent --pri", {"--private"}),
    ],
)
def test_bash_offers(script, words, offered):
    command = ["bash", "--norc", "-c", TRY, "bash", str(script), "metarl", *words.split()]
    got = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert set(got.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command_and_flag(shell, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in (*cli.COMMANDS, "half-cheetah-vel-pearl", "tasks-per-iteration", "inner-lr"):
        assert word in text


def test_every_command_has_its_arguments_there():
    assert CLASSES.keys() | {"train"} == cli.COMMANDS.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_name_of_a_folder_is_never_code(shell, tmp_path, monkeypatch, capsys):
    """The script goes into a start-up file: of what was unpacked, only plain names are in it."""
    pytest.importorskip("shtab")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("plain-1.0", "$(touch HIT)", "`touch HIT`", "a'; touch HIT; '", 'b"; touch HIT'):
        (tmp_path / "metarl" / "agents" / "owner" / name).mkdir(parents=True)
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "owner/plain-1.0" in text
    assert "HIT" not in text


def test_an_unknown_shell_and_a_missing_library_are_one_line(monkeypatch, capsys):
    assert cli.main(["completion", "csh"]) == 2
    assert "bash, zsh or fish, not 'csh'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'metarl-toolkit[completion]'" in capsys.readouterr().err
