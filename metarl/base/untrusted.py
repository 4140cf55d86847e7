"""Reading files that may come from anybody: every way in which they are wrong is one line."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from metarl.base.errors import LONGEST_WORDS, UserError, printable

LARGEST_HEADER = 64 * 2**20
"""Bytes of JSON."""


@contextmanager
def refusing(path: Path, what: str = "checkpoint") -> Iterator[None]:
    """Turn whatever a bad file causes into one line that names it, and what it should be."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing: not a whole {what}") from None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ArithmeticError,
            RuntimeError, MemoryError, safetensors.SafetensorError) as error:  # fmt: skip
        text = printable(" ".join(str(error).split()), LONGEST_WORDS)
        raise UserError(f"'{path}' is not a {what} that can be read: {text}") from None


def read_object(path: Path, form: int) -> dict[str, Any]:
    """Read a JSON object of a format; for use inside `refusing`, whatever it raises."""
    if regular_size(path) > LARGEST_HEADER:
        raise ValueError("it is too large to be one")
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict) or body.get("format") != form:
        found = body.get("format") if isinstance(body, dict) else None
        raise ValueError(f"its format is {found!r}, this metarl reads {form}")
    return body


def regular_size(path: Path) -> int:
    """Return the bytes of a file, if it is one: a pipe or a device could be read for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    return found.st_size
