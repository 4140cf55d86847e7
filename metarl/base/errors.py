"""The one exception that a user is meant to read, and spelling hints for it."""

from __future__ import annotations

import difflib
import inspect
import re
import shlex
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LONGEST_WORDS = 200
"""Characters that are printed of words that come from a file, an argument or an exception."""
LONGEST_LINE = 4000
"""Characters of a line, whatever it is made of."""
_LONGEST_INPUT = 10**6
_LONG = re.compile(rf"(?<!\w)'[^']{{{LONGEST_WORDS + 1},}}'|\S{{{LONGEST_WORDS + 1},}}")


class UserError(ValueError):
    """Bad input: one line that says what was wrong, where, and what is allowed.

    The command line prints it without a traceback and exits with code 2. Whatever words of others
    are in it, it is one line that does nothing to a terminal.
    """

    def __init__(self, line: object) -> None:
        """Take the line; see `shortened`."""
        super().__init__(shortened(line))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the option closest to `word`, or ``""``.

    One that `word` is the beginning of is closer than any other: maml is maml-trpo, not es-maml.
    """
    options = list(options)
    begun = [one for one in options if len(word) > 2 and one.startswith(f"{word}-")]
    close = begun if len(begun) == 1 else difflib.get_close_matches(word, options, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def refuse_unknown(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for the first keyword argument that a function does not have."""
    for name in given:
        options = list(known)
        raise UserError(
            f"{function} has no argument '{name}'{did_you_mean(name, options)}; "
            f"it has {', '.join(options)}"
        )


def check_kinds(**given: tuple[object, Any]) -> None:
    """Raise UserError for the first argument that is not of its kind: name=(value, kind)."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            words = getattr(kind, "__name__", kind)
            raise UserError(f"{name} must be of type {words}, not {value!r:.80}")


def check_progress(progress: object) -> None:
    """Raise UserError for a `progress` that cannot be called."""
    if progress is not None and not callable(progress):
        raise UserError(f"progress must be a function of (done, in all), not {progress!r:.80}")


def quoted(word: Path | str) -> str:
    """Return a path or another word as a shell takes it, for a command to be copied."""
    return shlex.quote(str(word))


def printable(words: object, most: int | None = None) -> str:
    r"""Return text as one line that does nothing to a terminal.

    Line breaks become spaces. Control, format and bidirectional characters, and bytes that are no
    text, are shown as escapes, such as ``\x1b``.

    Args:
        words: of anybody.
        most: characters that are kept; the end is cut off and marked with "…".
    """
    text = "".join(map(_visible, str(words) if most is None else str(words)[: most + 1]))
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def shortened(line: object) -> str:
    """Return a printable line without the middle of what is too long in it.

    That is a word, or what is quoted, of more than `LONGEST_WORDS` characters.
    """
    return printable(_LONG.sub(_middle_out, printable(line, _LONGEST_INPUT)), LONGEST_LINE)


def warn(line: object) -> None:
    """Warn the user in one line that does nothing to a terminal."""
    warnings.warn(shortened(line), stacklevel=3)


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _middle_out(found: re.Match[str]) -> str:
    half = LONGEST_WORDS // 2
    return f"{found[0][:half]}…{found[0][1 - half :]}"


class Abort(BaseException):
    """Ends what runs without being an error: no user's code has raised it."""


STOPS = (KeyboardInterrupt, Abort)
"""What passes wherever everything else that user code raises is turned into a line."""


class CheckError(AssertionError):
    """A family breaks its contract: one line that says why, and how to mend it."""


class user_code:  # noqa: N801  (a context manager, used as a function is)
    """Turns whatever a user's class raises, SystemExit included, into one line.

    A UserError that names the same owner, a CheckError, a MemoryError and `STOPS` pass.
    """

    def __init__(self, what: str, source: object) -> None:
        """Say whose code it is.

        Args:
            what: as in ``family 'ant': reward()``.
            source: the object, or its class.
        """
        self.what, self.source = what, source

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, place: object) -> None:
        """Raise UserError for what was raised."""
        if error is None or isinstance(error, (CheckError, MemoryError, *STOPS)):
            return
        if isinstance(error, UserError) and self.what.partition(":")[0] in str(error):
            return
        raise UserError(f"{self.what} failed: {one_line(error, self.source)}") from error


def worded(error: BaseException) -> str:
    """Return the type and the text of an exception in one line."""
    try:
        words = str(error)
    except Exception:  # an exception of a user's may fail to say what it is
        words = ""
    text = printable(" ".join(words.split()), LONGEST_WORDS)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(error: BaseException, source: object) -> str:
    """Return an exception as one line, with its type and place if it is user code.

    Args:
        error: what was raised; the text of a UserError or a CheckError stands for itself.
        source: the plug-in, or its class, whose file the place is looked for in.
    """
    if isinstance(error, UserError | CheckError):
        return " ".join(str(error).split())
    file = inspect.getsourcefile(source if isinstance(source, type) else type(source))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    where = f" (line {lines[-1]} of {Path(str(file)).name})" if lines else ""
    return worded(error) + where
