"""Command-line arguments over dataclasses: tyro parses, and every refusal is one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from metarl.errors import UserError, did_you_mean

T = TypeVar("T")

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def parse(cls: type[T], argv: Sequence[str], *, prog: str, flags: Iterable[str] | None = None) -> T:
    """Parse `argv` into an instance of the dataclass `cls`.

    Args:
        cls: the docstring under each field is its help text.
        argv: the arguments after the command's name.
        prog: the command, for usage lines.
        flags: field names that options may set, if not just those of `cls`.

    Raises:
        UserError: one line on the first argument that is wrong.
        SystemExit: after ``--help``, with code 0.
    """
    refuse_unknown(argv, field_names(cls) if flags is None else flags, prog)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, prog=prog, args=list(argv))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _cause(stop) or UserError(
            f"{_one_line(said.getvalue())}; see {prog} --help"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the user says of plug-in files that a run names: see `metarl.trust`."""

    family: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:CLASS")] = None
    """The family's file, if a RUN that names one comes from elsewhere, or the file was moved."""
    algorithm: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:CLASS")] = None
    """Likewise, the algorithm's."""
    trust_code: bool = False
    """Run the files that a RUN names, whoever wrote them."""

    def said(self) -> dict[str, Any]:
        """Return what was said, as arguments of `metarl.launch.open_run`."""
        return {item.name: getattr(self, item.name) for item in fields(Said)}


def field_names(cls: object) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [item.name for item in fields(cls)] if is_dataclass(cls) else []  # type: ignore[arg-type]


def check_counts(args: object, **least: int) -> None:
    """Raise UserError for a field that is set, but is no count of at least `least`."""
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and not low <= value < 2**31:
            raise UserError(f"{name} must be a whole number of at least {low}, not {value}")


def refuse_unknown(argv: Sequence[str], names: Iterable[str], prog: str) -> None:
    """Raise UserError, with the closest spelling, for the first option that is none of `names`."""
    known = ["help"]
    for name in names:
        known += [name.replace("_", "-"), "no-" + name.replace("_", "-")]
    for token in argv:
        if token == "-h" or not re.match(r"--?[A-Za-z]", token) or _is_number(token):
            continue
        name = token.partition("=")[0].lstrip("-").replace("_", "-")
        if token.startswith("--") and name in known:
            continue
        hint = did_you_mean("--" + name, ["--" + k for k in known if not k.startswith("no-")])
        raise UserError(f"unknown option '{token.partition('=')[0]}'{hint}; see {prog} --help")


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


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _cause(stop: BaseException) -> UserError | None:
    """The UserError of a dataclass's own check, which tyro turned into an exit."""
    error: BaseException | None = stop
    while error is not None and not isinstance(error, UserError):
        error = error.__context__
    return UserError(str(error)) if error is not None else None


def _one_line(box: str) -> str:
    """The first section of the box that tyro draws around an error, without the box."""
    words = []
    for line in _ANSI.sub("", box).splitlines():
        text = line.strip().strip("│").strip()
        if not text or text[0] in "╭╰":
            continue
        if text[0] == "─" or text.startswith("Got errors"):
            break
        words.append(text)
    line = " ".join(words)
    line = re.sub(r"^Missing from [^:]+: (\S+) .*", r"\1 is missing", line)
    return re.sub(r"^Error parsing ([^:]+): ", r"\1: ", line).rstrip(".") or "invalid arguments"
