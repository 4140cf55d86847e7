"""Plug-ins: classes from entry points, or from ``file.py:Class``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from metarl.base.errors import STOPS, UserError, did_you_mean, quoted, worded

KINDS = ("family", "algorithm")
"""What a run has of plug-ins."""


def load_plugin(name: str, group: str, kind: str) -> Any:
    """Return what an entry point, or ``file.py:Class``, names."""
    check_name(name, kind)
    if ".py:" in name or name.endswith(".py"):
        return _from_file(name, kind)
    known = plugins(group)
    if name not in known:
        raise UserError(
            f"unknown {kind} '{name}'{did_you_mean(name, known)}; "
            f"known: {', '.join(sorted(known))}, or file.py:Class"
        )
    try:
        return known[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{kind} '{name}' cannot be imported: {error}") from None


def check_name(name: object, kind: str) -> None:
    """Raise UserError for what cannot be the name of a plug-in."""
    if not isinstance(name, str) or "\0" in name:
        raise UserError(
            f"{kind}: give a name, or 'file.py:Class', as a string without zeros, not {name!r:.80}"
        )


def plugin_class(cls: Any, name: str, base: type, kind: str) -> type[Any]:
    """Return a plug-in's class, marked with the name it was found by. Raises UserError."""
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{kind} '{name}' is not a subclass of metarl.{base.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{kind} '{name}' does not define {missing}")
    cls.source = name
    return cls


def reference(thing: object) -> str:
    """Return the name by which the class of a family or learner is found again."""
    return absolute(str(getattr(type(thing), "source", "") or getattr(thing, "name", "")))


def first_line(cls: type) -> str:
    """Return what the docstring of a family or learner says in one sentence."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def plugin_file(name: str) -> Path | None:
    """Return the file of ``file.py:Class``, and None for a registered name."""
    path, mark, _ = name.rpartition(".py:")
    return Path(path + ".py") if mark else None


def absolute(name: str) -> str:
    """Return ``file.py:Class`` with the file's full path, and a registered name as it is."""
    file = plugin_file(name)
    return name if file is None else f"{file.resolve()}:{name.rpartition(':')[2]}"


def folder_name(name: str) -> str:
    """Return what a folder is called by: of ``/a/b.py:Class`` the class."""
    return short_name(name).rpartition(":")[2]


def short_name(name: str) -> str:
    """Return a name without where on this machine its files are, and without a variation's file.

    ``/a/b.py:Class`` is ``b.py:Class``, and ``ant-vel+skills=/a/b#12`` is ``ant-vel+skills``.
    """
    file, mark, rest = name.rpartition(".py:")
    words = (word.partition("=")[0] for word in rest.split("+"))
    return file.rpartition("/")[2] + mark + "+".join(words)


def digest(file: Path) -> str | None:
    """Return the sha256 of what was run of a plug-in's file, or else of what is in it now.

    None if it is no file, or too large to be one of Python.
    """
    if file in _RAN:
        return _RAN[file]
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_FILE:
            return None
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def run_alone(file: Path, sha256: str) -> None:
    """From now on run a file only with these contents, and without the modules beside it."""
    _ALONE[file] = sha256


def run_freely(file: Path) -> None:
    """Undo `run_alone`."""
    _ALONE.pop(file, None)


_RAN: dict[Path, str] = {}
"""The sha256 of each file that was run in this process."""
_ALONE: dict[Path, str] = {}

LARGEST_FILE = 16 * 2**20
"""Bytes of a plug-in's file."""


@functools.cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def _from_file(name: str, kind: str) -> Any:
    path, _, attribute = name.rpartition(".py:")
    file = Path(path + ".py")
    if name.endswith((".py", ".py:")):
        raise UserError(f"{kind} '{name}': say which class, as in {name.rstrip(':')}:MyClass")
    if not file.is_file():
        raise UserError(f"{kind} '{name}': there is no file {file}")
    module = _import(file.resolve(), kind)
    if not hasattr(module, attribute):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{file} has no class '{attribute}'{did_you_mean(attribute, classes)}")
    return getattr(module, attribute)


@functools.cache
def _import(file: Path, kind: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"metarl_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        # Not by the loader: it would run a file of bytecode, which could say something else.
        source = file.read_bytes()
        _RAN[file] = hashlib.sha256(source).hexdigest()
        if _ALONE.get(file, _RAN[file]) != _RAN[file]:
            raise UserError("it changed while it was loaded")
        beside = contextlib.nullcontext() if file in _ALONE else _importable(str(file.parent))
        with beside:
            exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except UserError as error:
        raise UserError(f"{_place(error, file)}: {error}") from error
    except STOPS:
        raise
    except BaseException as error:  # whatever a user's file raises is one line
        text = worded(error)
        if isinstance(error, ModuleNotFoundError) and file in _ALONE:
            text += f"; for modules beside it, name the file: --{kind} {quoted(file)}:CLASS"
        last = _frame(error, file)
        line = f", line {last.lineno}" if last else ""  # a syntax error names its line itself
        raise UserError(f"{kind} file {file}{line}: {text}") from error
    return module


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let modules of a folder be imported, after all that can be anyway."""
    kept = folder in sys.path
    if not kept:
        sys.path.append(folder)
    try:
        yield
    finally:
        if not kept:
            with contextlib.suppress(ValueError):  # it may have changed the path itself
                sys.path.remove(folder)


def plugin_error(error: BaseException) -> str:
    """Return, in one line, what a plug-in's file raised and where, or '' if none of them did."""
    files = {str(getattr(module, "__file__", "")) for name, module in list(sys.modules.items())
             if name.startswith("metarl_plugin_")}  # fmt: skip
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return f"{Path(frame.filename).name}, line {frame.lineno}: {worded(error)}"
    return ""


def _place(error: BaseException, file: Path) -> str:
    """Return where in a plug-in's file an error arose: its line, and the class if in one."""
    last = _frame(error, file)
    if last is None:
        return file.name
    inside = "" if last.name.startswith("<") else f", in '{last.name}'"
    return f"{file.name}, line {last.lineno}{inside}"


def _frame(error: BaseException, file: Path) -> traceback.FrameSummary | None:
    """Return the innermost frame of an error in a plug-in's file, if there is one."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return frames[-1] if frames else None


def check_methods(own: object, base: type, names: Iterable[str], where: str) -> None:
    """Raise UserError, one line, if a method cannot be called as that of its base class is.

    Args:
        own: an object of a class that derives from `base`.
        base: whose methods say what they are called with.
        names: of the methods.
        where: words that name `own`.
    """
    for name in names:
        wanted = list(inspect.signature(getattr(base, name)).parameters.values())[1:]
        named = {one.name: one for one in wanted if one.kind is one.KEYWORD_ONLY}
        placed = [one.name for one in wanted if one.kind is not one.KEYWORD_ONLY]
        try:
            inspect.signature(getattr(own, name)).bind(*placed, **named)
        except TypeError:
            star = ["*"] if named else []
            raise UserError(
                f"{where}: {name} must take ({', '.join(('self', *placed, *star, *named))}), not "
                f"{inspect.signature(getattr(type(own), name))}"
            ) from None
