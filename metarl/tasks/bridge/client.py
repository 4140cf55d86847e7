"""A worker process of another interpreter: started, asked, and found dead in one line."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

from metarl.base.errors import UserError, printable
from metarl.base.text import process_ending
from metarl.tasks.bridge import worker

WORKER = Path(worker.__file__)
TIMEOUT = 600.0
"""Seconds that an answer may take; METARL_BRIDGE_TIMEOUT in the environment overrides it."""
_LARGEST = 1 << 30


def timeout() -> float:
    """Return how many seconds an answer may take."""
    text = os.environ.get("METARL_BRIDGE_TIMEOUT", str(TIMEOUT))
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise UserError(f"METARL_BRIDGE_TIMEOUT must be a number of seconds, not {text!r:.40}")


class Worker:
    """A process of another interpreter, with any number of environments in it."""

    def __init__(self, python: str, suite: str) -> None:
        """Start it.

        Args:
            python: path of the interpreter.
            suite: a key of `metarl.tasks.bridge.worker.SUITES`.

        Raises:
            UserError: there is no such interpreter, it lacks the suite, or it is another version.
        """
        self.suite, self.python, self._timeout = suite, python, timeout()
        self._said = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._said, env=_environment(), bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"bridge: the interpreter '{python}' cannot be started: {error.strerror}; give "
                "--python PATH of one that has the suite"
            ) from None
        self._closed = weakref.finalize(self, _end, self.process, self._said, os.getpid())
        hello = self.ask("hello", protocol=worker.PROTOCOL, suite=suite)
        if hello["protocol"] != worker.PROTOCOL:
            self.close()
            raise UserError(
                f"bridge: the worker of '{python}' speaks protocol {hello['protocol']}, and this "
                f"metarl {worker.PROTOCOL}: use the worker.py that comes with it"
            )
        self.versions: dict[str, str] = hello["versions"]
        self.names: list[str] = hello["names"]

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            UserError: the worker says what failed, it ended, or it does not answer.
        """
        assert self.process.stdin is not None
        try:
            view = memoryview(worker.packed({"op": op, **request}))
            while view:
                view = view[self.process.stdin.write(view) :]
            head = self._read(worker.HEAD.size, op)
            magic, text, body = worker.HEAD.unpack(head)
            if magic != worker.MAGIC or text > _LARGEST or body > _LARGEST:
                self.close()
                raise UserError(f"bridge: '{self.python}' does not answer as a worker does")
            answer = worker.unpacked(self._read(text, op), self._read(body, op))
        except (BrokenPipeError, EOFError):
            raise self._dead(op) from None
        if "error" in answer:
            raise UserError(f"bridge, {self.suite}: {op}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._closed()

    def _read(self, size: int, op: str) -> bytes:
        parts, left, until = [], size, time.monotonic() + self._timeout
        assert self.process.stdout is not None
        while left:
            ready, _, _ = select.select([self.process.stdout], [], [], until - time.monotonic())
            if not ready:
                self.close()
                raise UserError(
                    f"bridge: the worker of {self.suite} (process {self.process.pid}, "
                    f"{self.python}) did not answer '{op}' for {self._timeout:g} s and was killed; "
                    "METARL_BRIDGE_TIMEOUT=SECONDS waits longer"
                )
            part = os.read(self.process.stdout.fileno(), min(left, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _dead(self, op: str) -> UserError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        last = self._last_words() if code is not None and code >= 0 else ""
        self.close()
        return UserError(
            f"bridge: the worker of {self.suite} (process {self.process.pid}, {self.python}) ended "
            f"in '{op}' {process_ending(code)}{last}"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._said.seek(0)
            lines = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()
            return f": {printable(lines[-1], 200)}" if lines else ""
        return ""


def _environment() -> dict[str, str]:
    """The variables of the worker: a search path of ours is none of its own, and one thread."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    if path := os.environ.get("METARL_BRIDGE_PYTHONPATH"):
        kept["PYTHONPATH"] = path
    return {"MUJOCO_GL": "egl", **kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[bytes], said: Any, owner: int) -> None:
    if os.getpid() != owner:  # a fork: the process is its parent's
        return
    process.kill()
    process.wait()
    for file in (process.stdin, process.stdout, said):
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()


_WORKERS: dict[tuple[int, str, str], Worker] = {}


def shared_worker(python: str, suite: str) -> Worker:
    """Return the worker of this process for an interpreter and a suite; a dead one is replaced."""
    place = os.getpid(), python, suite
    if place not in _WORKERS or not _WORKERS[place].alive:
        _WORKERS[place] = Worker(python, suite)
    return _WORKERS[place]
