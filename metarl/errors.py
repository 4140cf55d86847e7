"""The one exception that a user is meant to read, and spelling hints for it."""

from __future__ import annotations

import difflib
import inspect
import shlex
import traceback
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Bad input: one line that says what was wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the option closest to `word`, or ``""``."""
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def quoted(word: Path | str) -> str:
    """Return a path or another word as a shell takes it, for a command to be copied."""
    return shlex.quote(str(word))


def one_line(error: Exception, source: object) -> str:
    """Return an exception as one line, with its type and place if it is a stranger's own.

    Args:
        error: what was raised; the text of a UserError or an AssertionError stands for itself.
        source: the plug-in, or its class, whose file the place is looked for in.
    """
    text = " ".join(str(error).split())
    if isinstance(error, UserError | AssertionError):
        return text
    file = inspect.getsourcefile(source if isinstance(source, type) else type(source))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    where = f" (line {lines[-1]} of {Path(str(file)).name})" if lines else ""
    return f"{type(error).__name__}: {text}{where}"
