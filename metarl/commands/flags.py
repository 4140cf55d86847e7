"""The flags of a command, as its dataclass declares them, and the help page that they make."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import shutil
import textwrap
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

GROUPS = {
    "run": "resume preset config tasks_per_iteration rollouts_per_task num_train_tasks iterations "
    "env_steps seed device simulator simulator_room threads family algorithm trust_code",
    "evaluation": "split tasks episodes set evaluate evaluate_every evaluate_tasks "
    "evaluate_episodes evaluate_ood test_tasks test_episodes test_seed result",
    "output": "out json results checkpoint_every keep_checkpoints video_every print_every progress "
    "track size fps speed seconds labels live half note",
}
"""Title of a part of the help page -> the fields in it; what is in none of them is an option."""

LEARNER = "learner"
"""The field that holds an algorithm's settings, which are a part of the help page of their own."""

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}
_WIDEST = 100


@dataclass(frozen=True)
class Flag:
    """One flag or positional word of a command."""

    name: str
    """The field."""
    kind: Any
    """Its type, without None and annotations: int, float, str, bool, Literal[...] or a tuple."""
    optional: bool
    """Whether it may be None."""
    default: Any
    """MISSING if it must be given."""
    doc: str
    metavar: str
    positional: bool
    repeats: bool
    """Whether it may be given several times."""
    group: str

    @property
    def option(self) -> str:
        """How it is written."""
        return "--" + self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether one flag takes several words."""
        return get_origin(self.kind) is tuple and not self.repeats

    @property
    def word(self) -> Any:
        """The type of each of its words; None if they differ."""
        if get_origin(self.kind) is not tuple:
            return self.kind
        kinds = set(get_args(self.kind)) - {...}
        return kinds.pop() if len(kinds) == 1 else None


def flags_of(cls: type, defaults: object = None, group: str = "") -> list[Flag]:
    """Return the flags of a dataclass, those of the dataclasses in its fields among them.

    Args:
        cls: the docstring under each field is its help text.
        defaults: an instance whose values are the defaults, if not those of the class.
        group: the part of the help page that all of them are in; "" looks each up in `GROUPS`.
    """
    hints, docs, found = _hints(cls), _field_docs(cls), []
    for item in fields(cls):
        default = _default(item) if defaults is None else getattr(defaults, item.name)
        kind, marks = hints[item.name], ()
        if get_origin(kind) is Annotated:
            kind, *marks = get_args(kind)
        if is_dataclass(kind):
            part = LEARNER if item.name == LEARNER else group
            found += flags_of(kind, None if default is MISSING else default, part)  # type: ignore[arg-type]
            continue
        plain = kind
        if get_origin(kind) in (Union, UnionType):
            others = tuple(one for one in get_args(kind) if one is not NoneType)
            plain = others[0] if len(others) == 1 else kind
            plain = get_args(plain)[0] if get_origin(plain) is Annotated else plain
        given = {key: getattr(mark, key, None) for mark in marks for key in ("metavar", "help")}
        found.append(
            Flag(
                item.name, plain, plain is not kind, default,
                given.get("help") or docs.get(item.name, ""),
                given.get("metavar") or _metavar(plain), tyro.conf.Positional in marks,
                tyro.conf.UseAppendAction in marks, group or _group(item.name),
            )
        )  # fmt: skip
    return found


def help_page(cls: type, flags: list[Flag], prog: str) -> str:
    """Return what ``--help`` prints: the usage, what the command does, and its flags by groups."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    words = [flag for flag in flags if flag.positional]
    usage = " ".join([prog, *(flag.metavar for flag in words), "[options]"])
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    parts = [
        f"usage: {usage}",
        *(textwrap.fill(text, width, break_on_hyphens=False) for text in about),
    ]
    if words:
        parts.append("\n".join(_entry(flag.metavar, flag.doc, width) for flag in words))
    for title in (*GROUPS, "options", LEARNER):
        some = [flag for flag in flags if flag.group == title and not flag.positional]
        lines = [_entry(_spelled(flag), _text(flag), width) for flag in some]
        if title == "options":
            lines.append(_entry("-h, --help", "Print this page.", width))
        if lines:
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts)


def _entry(name: str, text: str, width: int) -> str:
    column = 26
    rows = textwrap.wrap(
        " ".join(text.split()), max(width - column, 30), break_on_hyphens=False
    ) or [""]
    first = f"  {name}"
    if len(first) > column - 2:
        rows, first = [first, *(" " * column + row for row in rows)], ""
        return "\n".join(rows)
    return "\n".join([f"{first:<{column}}{rows[0]}", *(" " * column + row for row in rows[1:])])


def _spelled(flag: Flag) -> str:
    if flag.kind is bool:
        return flag.option.replace("--", "--[no-]", 1) if flag.default else flag.option
    return f"{flag.option} {flag.metavar}"


def _text(flag: Flag) -> str:
    """A flag's help with its default, where that is a value and not the absence of one."""
    if flag.default is MISSING or flag.default in (None, "", ()) or flag.default is False:
        return flag.doc
    many = isinstance(flag.default, list | tuple)
    shown = " ".join(map(str, flag.default)) if many else flag.default
    return f"{flag.doc} (default: {'yes' if flag.default is True else shown})"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        words = [_metavar(one) for one in get_args(kind) if one is not ...]
        return f"{words[0]} [{words[0]} ...]" if ... in get_args(kind) else " ".join(words)
    return _METAVARS.get(kind, "VALUE")


def _group(name: str) -> str:
    return next((title for title, names in GROUPS.items() if name in names.split()), "options")


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields; the same class is asked for at each command."""
    return get_type_hints(cls, include_extras=True)


def _field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and of those that it extends."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= _own_docs(base) if base.__module__ != "types" else {}  # that is made at run time
    return docs


@functools.cache
def _own_docs(cls: type) -> dict[str, str]:
    """Return the docstrings under the fields that stand in the source of a class."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # made at run time, or built in
        return {}
    lines = body.body if isinstance(body, ast.ClassDef) else []
    return {
        line.target.id: str(below.value.value)
        for line, below in itertools.pairwise(lines)
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }
