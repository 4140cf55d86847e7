"""Flags: how numbers are written, what an unknown one is answered with, and the help page."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Literal

import pytest
import tyro

from metarl.base.errors import UserError
from metarl.cli import main
from metarl.commands.arguments import WORDS, parse
from metarl.commands.flags import GROUPS, flags_of
from metarl.commands.training.train import parse_train
from metarl.learning.registry import list_learners
from metarl.runs.elsewhere import ELSEWHERE


@dataclass(frozen=True)
class Inner:
    layers: tuple[int, ...] = (64, 64)
    """Units."""
    rate: float | None = None
    """Step size."""


@dataclass(frozen=True)
class Command:
    """What it does."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A folder."""
    learner: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    env_steps: int | None = None
    """How many."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    progress: bool = True
    """Whether to print."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """One of them."""


def got(*words: str) -> Command:
    return parse(Command, ["runs/x", *words], prog="metarl test")


@pytest.mark.parametrize(
    ("text", "number"),
    [("300", 300), ("1e6", 10**6), ("1.5E3", 1500), ("1_000_000", 10**6), ("2.0", 2), ("-3", -3),
     ("123456789012345678", 123456789012345678)],
)  # fmt: skip
def test_whole_numbers_may_be_written_as_floats(text, number):
    assert got("--env-steps", text).env_steps == number
    assert got("--layers", text, "8").learner.layers == (number, 8)


@pytest.mark.parametrize("text", ["1.5", "1e-3", "nan", "inf", "many", "", "1e999999999", "1e30"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(UserError, match=f"^--env-steps must be a whole number, not '{text}'$"):
        got(f"--env-steps={text}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "fast"], "--rate must be a number, not 'fast'"),
        (
            ["--device", "cud"],
            "--device must be one of cpu, cuda, not 'cud' (did you mean 'cuda'?)",
        ),
        (["--layers"], "--layers needs a value"),
        (["--rate", "--progress"], "--rate needs a value"),
        (["--progress=no"], "--progress takes true or false, and not 'no'"),
        (["--no-progress=true"], "--no-progress takes no value, and not 'true'"),
        (["runs/y"], "'runs/y' is a word too many"),
    ],
)
def test_a_wrong_word_is_named(words, said):
    with pytest.raises(UserError) as refusal:
        got(*words)
    assert said in str(refusal.value)


def test_words_and_flags_mix():
    assert got("--rate", "-0.5", "--no-progress") == Command(
        "runs/x", Inner(rate=-0.5), progress=False
    )
    assert got("--set", "a=1", "--set=b=-2", "--env_steps=None").set == ("a=1", "b=-2")
    assert parse(Command, ["--layers", "4", "8", "--device=cuda", "here"], prog="p").run == "here"
    with pytest.raises(UserError, match=r"^RUN is missing; see p --help$"):
        parse(Command, ["--progress"], prog="p")


def test_a_type_that_only_tyro_knows_is_still_one_line():
    kind = make_dataclass("Strange", [("size", tuple[int, float], field(default=(1, 2.0)))])
    assert parse(kind, ["--size", "3", "4.5"], prog="p").size == (3, 4.5)


@pytest.mark.parametrize(
    ("algorithm", "flag", "ours"),
    [
        ("rl2", "--total-timesteps", "--env-steps"),
        ("rl2", "--total_timesteps=1e6", "--env-steps"),
        ("rl2", "--timesteps", "--env-steps"),
        ("rl2", "--learning-rate", "--lr"),
        ("pearl", "--learning-rate", "--lr"),
        ("maml-trpo", "--learning-rate", "--inner-lr"),
        ("maml-trpo", "--lr", "--inner-lr"),
        ("rl2", "--n-envs", "--tasks-per-iteration and --rollouts-per-task"),
        ("rl2", "--num-envs", "--tasks-per-iteration and --rollouts-per-task"),
        ("rl2", "--n-steps", "--tasks-per-iteration and --rollouts-per-task"),
        ("rl2", "--batch-size", "--minibatches"),
        ("maml-trpo", "--batch-size", "--tasks-per-iteration"),
        ("rl2", "--algo", "it is ALGORITHM in `metarl train FAMILY ALGORITHM`"),
        ("rl2", "--env", "it is FAMILY in `metarl train FAMILY ALGORITHM`"),
        ("rl2", "--iter", "did you mean '--iterations'"),
        ("rl2", "--iteratons", "did you mean '--iterations'"),
    ],
)
def test_other_libraries_flags_are_answered_with_ours(algorithm, flag, ours):
    with pytest.raises(UserError) as refusal:
        parse_train(["point-goal", algorithm, flag, "3"], algorithm)
    assert ours in str(refusal.value)


@pytest.mark.parametrize("flag", ["--foo", "--policy", "--save-code", "--render-mode", "--x"])
def test_no_hint_is_far_off(flag):
    with pytest.raises(UserError) as refusal:
        parse_train(["point-goal", "rl2", flag, "3"], "rl2")
    assert str(refusal.value) == f"unknown option '{flag}'; see metarl train --help"


def test_every_answer_is_a_flag_of_some_command():
    commands = [flags_of(type(parse_train(["f", a], a))) for a in list_learners()]
    ours = {flag.option[2:] for flags in commands for flag in flags} | {"tasks", "episodes"}
    answers = {one for answer in ELSEWHERE.values() for one in answer}
    assert answers <= ours
    names = [name for theirs in (*ELSEWHERE, *WORDS) for name in theirs.split()]
    assert len(names) == len(set(names))


def test_the_help_page_has_groups_and_no_artefacts(capsys):
    assert main(["train", "point-goal", "rl2", "--help"]) == 0
    page = capsys.readouterr().out
    titles = [line[:-1] for line in page.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [*GROUPS, "options", "learner"]
    assert "  --env-steps INT " in page
    assert "  --[no-]progress " in page
    assert "(default: yes)" in page
    for artefact in ("None", "default: ''", "default: )", "required", "MISSING", "VALUE"):
        assert artefact not in page
    assert max(map(len, page.splitlines())) <= 100
    assert main(["evaluate", "-h"]) == 0
    assert "half-cheetah-vel-pearl" in capsys.readouterr().out


def test_every_flag_is_documented():
    for algorithm in list_learners():
        for flag in flags_of(type(parse_train(["f", algorithm], algorithm))):
            assert flag.doc, flag.name
