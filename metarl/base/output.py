"""A standard output that may be closed, full, left by its reader or too narrow for a sign."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any, TextIO


class Output:
    """A text stream that never raises: what cannot be printed must not end what prints it.

    A sign that the encoding lacks becomes '?'. Once the stream is closed, full or left by its
    reader, what is written to it is dropped, and `lost` says why.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Take the stream; None is one that was closed before the process began."""
        self._stream = stream
        self.lost = None if stream else _closed()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        """What the stream encodes to."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def closed(self) -> bool:
        """Whether Python has closed it."""
        return self._stream is None or self._stream.closed

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and not self.closed and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write what can be written."""
        known = text.encode(self.encoding, "replace").decode(self.encoding)
        self._try(lambda stream: stream.write(known))
        return len(text)

    def flush(self) -> None:
        """Flush it, if it can be."""
        self._try(lambda stream: stream.flush())

    def _try(self, work: Callable[[TextIO], object]) -> None:
        if self._stream is None or self.lost:
            return
        try:
            work(self._stream)
        except (OSError, ValueError) as error:  # a ValueError: Python has closed it
            self.lost = error if isinstance(error, OSError) else _closed()
            with contextlib.suppress(OSError, ValueError):  # so that nothing complains at exit
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
                self._stream.flush()


def _closed() -> OSError:
    return OSError(errno.EBADF, "it is closed")
