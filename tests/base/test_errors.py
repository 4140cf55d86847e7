"""Words of others in what is printed."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest

from metarl import UserError
from metarl.base.errors import LONGEST_WORDS, one_line, printable, shortened, user_code
from metarl.cli import guarded, main
from metarl.learning import checkpoint as checkpoints
from metarl.runs.progress import TrainingProgress, say

NASTY = "\x1b[31mred\x07\x9b2J\u202eevil\ud800\nmetarl: all is well"
SHOWN = r"\x1b[31mred\x07\x9b2J\u202eevil\ud800 metarl: all is well"


def raised(error: Exception, capsys) -> str:
    def command(argv: list[str]) -> int:
        raise error

    guarded(command, [])
    return capsys.readouterr().err


def warned(category: type[Warning], capsys) -> str:
    guarded(lambda argv: warnings.warn(NASTY, category, stacklevel=1) or 0, [])
    return capsys.readouterr().err


def told(capsys) -> str:
    with TrainingProgress(total=1, done=0, print_every=1, show=True) as progress:
        progress.say(NASTY)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "way",
    [
        lambda capsys: raised(UserError(NASTY), capsys),
        lambda capsys: raised(MemoryError(NASTY), capsys),
        lambda capsys: raised(RuntimeError(f"{NASTY} tried to allocate"), capsys),
        lambda capsys: warned(UserWarning, capsys),
        lambda capsys: warned(SyntaxWarning, capsys),
        told,
        lambda capsys: say(NASTY) or capsys.readouterr().out,
    ],
    ids=["UserError", "memory", "allocate", "warning", "other warning", "progress", "say"],
)
def test_control_characters_are_shown_and_not_obeyed(way, capsys) -> None:
    assert SHOWN in way(capsys)


def test_an_error_is_one_harmless_line_in_python_too() -> None:
    assert str(UserError(f"unknown '{NASTY}'")) == f"unknown '{SHOWN}'"


@pytest.mark.parametrize("character", ["é", "→", "×", "日", "−", "…"])
def test_text_stays_as_it_is(character: str) -> None:
    assert printable(character) == character


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"unknown family '{'x' * 10**5}'; known: ant-dir", 2),
        (f"unknown family '{'x y ' * 10**5}'; known: ant-dir", 2),
        (f"{'x' * 10**7}", 0),
    ],
)
def test_long_words_are_cut_in_the_middle(line: str, words: int) -> None:
    cut = shortened(line)
    assert "…" in cut
    assert len(cut) <= LONGEST_WORDS + len("unknown family ; known: ant-dir")
    if words:
        assert cut.startswith("unknown family 'x")
        assert cut.endswith("'; known: ant-dir")


def test_an_exception_of_others_is_cut() -> None:
    text = one_line(RuntimeError("a b " * 1000), TrainingProgress)
    assert text == f"RuntimeError: {('a b ' * 50)[:199]}…"


def test_an_exception_that_cannot_say_what_it_is_keeps_its_place() -> None:
    class Dumb(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise ValueError("no words")

    class Owner:
        def work(self) -> None:
            raise Dumb

    with pytest.raises(UserError) as caught, user_code("family 'x': reward()", Owner):
        Owner().work()
    line = Owner.work.__code__.co_firstlineno + 1
    assert str(caught.value) == f"family 'x': reward() failed: Dumb (line {line} of test_errors.py)"


def test_a_checkpoint_cannot_write_to_the_terminal(trained_run, tmp_path, capsys) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    header = checkpoints.newest(run) / "checkpoint.json"
    for change in ({"family": NASTY}, {"family": f"/{NASTY}.py:{NASTY}"}, {"algorithm": NASTY},
                   {"learner_config": {NASTY: 1}}, {"spec": {NASTY: 1}}, {"format": NASTY},
                   {"files": NASTY, "family": "x.py:X"}):  # fmt: skip
        body = json.loads(header.read_text())
        good = dict(body)
        del body["self_sha256"]
        body |= change
        header.write_text(json.dumps(body | {"self_sha256": checkpoints._digest(body)}))
        assert main(["evaluate", str(header.parent), "--threads", "1"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.strip().isprintable()
        header.write_text(json.dumps(good))


FAMILY = '''
from metarl import find_family, Param, Interval
class Nasty(type(find_family("point-goal"))):
    """Say {nasty} and [bold]more[/red]."""
    name = "nasty{nasty}"
    params = (Param("goal", Interval(0, 1), unit="m{nasty}[/m]", doc="where {nasty}"),)
    def observe(self, sim, task):
        return sim.qpos
    def reward(self, sim, before, action, task):
        return sim.qvel[:, 0]
    def initial_state(self, qpos, qvel, rng=None):
        raise ValueError("{nasty}" + 10000 * " y")
'''


@pytest.mark.parametrize("command", ["families", "check", "train"])
def test_a_family_cannot_write_to_the_terminal(tmp_path, capsys, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    nasty = NASTY.replace("\ud800", "").encode("unicode_escape").decode()
    (tmp_path / "nasty.py").write_text(FAMILY.replace("{nasty}", nasty))
    words = ["maml-trpo", "--out", "run", "--threads", "1"] if command == "train" else []
    main([command, "nasty.py:Nasty", *words])
    got = capsys.readouterr()
    assert all(line.isprintable() for line in (got.out + got.err).split("\n"))
    assert "red" in got.out + got.err
