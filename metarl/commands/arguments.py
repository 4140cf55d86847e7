"""Command-line arguments over dataclasses: every word is checked here, and tyro builds."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from metarl.base.errors import UserError, did_you_mean
from metarl.commands.flags import Flag, flags_of, help_page
from metarl.runs.config import MAX_EPISODES, MAX_WORLDS
from metarl.runs.elsewhere import called_here

T = TypeVar("T")

WORDS = {
    "algo algorithm agent model": "ALGORITHM",
    "env env-id env-name environment task": "FAMILY",
    "run path run-dir": "RUN",
}
"""What other libraries have a flag for -> the word for it, if the command takes that."""


def parse(cls: type[T], argv: Sequence[str], *, prog: str) -> T:
    """Parse `argv` into an instance of the dataclass `cls`.

    Args:
        cls: the docstring under each field is its help text.
        argv: the arguments after the command's name.
        prog: the command, for usage lines.

    Raises:
        UserError: one line on the first argument that is wrong.
        SystemExit: after ``--help``, with code 0.
    """
    flags = flags_of(cls)
    if {"-h", "--help"} & set(argv):
        print(help_page(cls, flags, prog))
        raise SystemExit(0)
    words = _checked(argv, flags, prog)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(record=True) as warned,
        ):
            found = tyro.cli(cls, prog=prog, args=words)
    except SystemExit as stop:
        raise UserError(_cause(stop) or f"invalid arguments; see {prog} --help") from None
    for one in warned:  # what is deprecated, to the stream that is the standard error again
        warnings.warn(one.message, stacklevel=2)
    return found


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the user says of plug-in files that a run names: see `metarl.base.trust`."""

    family: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:CLASS")] = None
    """The family's file, if a RUN that names one comes from elsewhere, or the file was moved."""
    algorithm: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:CLASS")] = None
    """Likewise, the algorithm's."""
    trust_code: bool = False
    """Run the files that a RUN names, whoever wrote them."""

    def said(self) -> dict[str, Any]:
        """Return what was said, as arguments of `metarl.run.load_run`."""
        return {item.name: getattr(self, item.name) for item in fields(Said)}


def called(run: str, checkpoint: Path) -> str:
    """Return what to call a RUN: where its checkpoint lies, or the name of an agent."""
    return str(checkpoint) if Path(run).exists() else run


def field_names(cls: object) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [item.name for item in fields(cls)] if is_dataclass(cls) else []  # type: ignore[arg-type]


_MOST = {"episodes": MAX_EPISODES, "tasks": MAX_WORLDS}


def check_counts(args: object, **least: int) -> None:
    """Raise UserError for a field that is set, but is no count of at least `least`."""
    for name, low in least.items():
        value = getattr(args, name)
        high = _MOST.get(name.removeprefix("test_"), 2**31 - 1)
        if value is not None and not low <= value <= high:
            raise UserError(
                f"{name} must be a whole number of at least {low} and at most {high}, not {value}"
            )


def take_option(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Take ``--name VALUE`` or ``--name=VALUE`` out of the arguments.

    Returns:
        The value, or None if the option is not there, and the other arguments.
    """
    value, rest, tokens = None, [], iter(argv)
    for token in tokens:
        if token == name:
            value = next(tokens, "")
            if not value or value.startswith("--"):
                raise UserError(f"{name} needs a value")
        elif token.startswith(name + "="):
            value = token.partition("=")[2]
            if not value:
                raise UserError(f"{name} needs a value")
        else:
            rest.append(token)
    return value, rest


def whole_number(text: str) -> int:
    """Return the integer that `text` writes, as 300, 1_000_000 or 1e6. Raises ValueError."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number.adjusted() > 25 or number != number.to_integral_value():
        raise ValueError("a whole number")
    return int(number)


# --- every word, checked ------------------------------------------------------------------------


def _switch(option: str, value: str, plain: bool) -> str:
    """Return the option that ``--NAME=true`` or ``--NAME=false`` stands for, as in sweeps."""
    if not plain or value.lower() not in ("true", "false"):
        words = "true or false" if plain else "no value"
        raise UserError(f"{option} takes {words}, and not '{value}'")
    return option if value.lower() == "true" else f"--no-{option[2:]}"


def _checked(argv: Sequence[str], flags: list[Flag], prog: str) -> list[str]:
    """Return the arguments as tyro takes them. Raises UserError on the first that is wrong."""
    known = {flag.option: flag for flag in flags if not flag.positional}
    negated = {"--no-" + flag.option[2:]: flag for flag in known.values() if flag.kind is bool}
    words, options, tokens = [], [], list(argv)
    while tokens:
        token = tokens.pop(0)
        if not _is_option(token):
            words.append(token)
            continue
        name, attached, value = token.partition("=")
        option = name.replace("_", "-")
        flag = known.get(option) or negated.get(option)
        if flag is None:
            hint = _hint(option, flags, prog)
            raise UserError(f"unknown option '{name}'{hint}; see {prog} --help")
        if flag.kind is bool:
            options.append(_switch(option, value, option in known) if attached else option)
            continue
        values = [value] if attached else []
        while tokens and not attached and not _is_option(tokens[0]):
            values.append(tokens.pop(0))
            if not flag.many:
                break
        if not values:
            raise UserError(f"{option} needs a value; see {prog} --help")
        values = [_value(flag, value) for value in values]
        options += [option, *values] if flag.many else [f"{option}={values[0]}"]
    _check_positionals(words, flags, prog)
    return [*words, *options]


def _is_option(token: str) -> bool:
    return bool(re.match(r"--?[A-Za-z]", token)) and not _is_number(token)


def _check_positionals(words: list[str], flags: list[Flag], prog: str) -> None:
    wanted = [flag for flag in flags if flag.positional]
    missing = [flag for flag in wanted[len(words) :] if flag.default is MISSING and not flag.many]
    if missing:
        raise UserError(f"{missing[0].metavar} is missing; see {prog} --help")
    if len(words) > len(wanted) and not any(flag.many for flag in wanted):
        raise UserError(f"'{words[len(wanted)]}' is a word too many; see {prog} --help")


def _value(flag: Flag, text: str) -> str:
    """Return a flag's value as its type reads it. Raises UserError."""
    if flag.optional and text == "None":
        return text
    try:
        if flag.word is int:
            return str(whole_number(text))
        if flag.word is float and not _is_number(text):
            raise ValueError("a number")
        if get_origin(flag.word) is Literal and text not in map(str, get_args(flag.word)):
            raise ValueError(f"one of {', '.join(map(str, get_args(flag.word)))}")
    except ValueError as wanted:
        near = did_you_mean(text, map(str, get_args(flag.word)))
        raise UserError(f"{flag.option} must be {wanted}, not '{text}'{near}") from None
    return text


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _hint(option: str, flags: list[Flag], prog: str) -> str:
    """Return what an unknown option is called here, if that is known or close."""
    name = option.lstrip("-")
    names = [flag.option[2:] for flag in flags if not flag.positional]
    usage = " ".join([prog, *(flag.metavar for flag in flags if flag.positional)])
    for theirs, word in WORDS.items():
        if name in theirs.split() and word in usage:
            return f": it is {word} in `{usage}`"
    if here := called_here(name, names):
        return f": here it is {' and '.join(f'--{one}' for one in here[:2])}"
    begun = [one for one in names if len(name) > 2 and one.startswith(name)]
    close = begun if len(begun) == 1 else difflib.get_close_matches(name, names, 1, 0.75)
    return f" (did you mean '--{close[0]}'?)" if close else ""


def _cause(stop: BaseException) -> str:
    """Return what a dataclass's own check, or a type that only tyro knows, said; "" if nothing."""
    said, error = "", stop.__context__
    while error is not None:
        if isinstance(error, ValueError):
            said = " ".join(str(error).split())
        if isinstance(error, UserError):
            break
        error = error.__context__
    return said
