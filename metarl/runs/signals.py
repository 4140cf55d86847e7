"""SIGINT, SIGTERM and SIGHUP during training: finish the iteration if that is quick, else leave it.

An iteration that was left half-way is run again after a resume, from the same state and the same
keys, so it comes out the same to the bit. So nothing is lost but its time.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from metarl.base.errors import Abort

GRACE = 2.5
"""Seconds that an iteration may take to finish after a signal; the save comes after that."""

EXIT_CODES = {
    getattr(signal, name): 128 + number
    for name, number in (("SIGHUP", 1), ("SIGINT", 2), ("SIGTERM", 15))
    if hasattr(signal, name)
}
"""Exit code of a run that a signal stopped: 128 plus the signal's number, as shells have it."""


class IterationAborted(Abort):
    """Raised out of an iteration that takes too long to wait for.

    A BaseException, so that no ``except Exception`` on the way stops it.
    """


class Ended(KeyboardInterrupt):
    """A signal ended what ran, as Ctrl-C does."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Say what was ended, and the exit code of the process."""
        super().__init__(message)
        self.exit_code = exit_code


class TrainingStopped(Ended):
    """A signal stopped training, and its state is saved.

    A KeyboardInterrupt, so that a script which trains several runs stops as a whole.
    """

    def __init__(self, saved: str, how: str, signum: int, run: Path) -> None:
        """Say what is saved, how to go on, which signal it was, and where the run folder is."""
        super().__init__(f"{saved}; {how}", EXIT_CODES[signal.Signals(signum)])
        self.saved, self.signum, self.run = saved, signum, run

    def for_the_same_command(self) -> TrainingStopped:
        """Return it as of a command that goes on by itself when it is given again."""
        return TrainingStopped(
            self.saved, "the same command goes on with it", self.signum, self.run
        )


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that this ends: that of its signal, or of Ctrl-C."""
    return getattr(stop, "exit_code", EXIT_CODES[signal.SIGINT])


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that it removes its half-made files.

    One that is ignored, as under nohup, stays so; and one that has a handler keeps it. One that
    comes as the block ends may be raised out of the ``with`` itself, or come too late to matter.
    """
    open_ = True

    def end(signum: int, _: FrameType | None) -> None:
        if not open_:
            return
        name = signal.Signals(signum).name
        raise Ended(f"ended by {name}", EXIT_CODES[signal.Signals(signum)])

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in set(EXIT_CODES) - {signal.SIGINT}:
            if signal.getsignal(signum) is signal.SIG_DFL:
                before[signum] = signal.signal(signum, end)
    try:
        yield
    finally:
        open_ = False
        for signum, handler in before.items():
            signal.signal(signum, handler)


class StopSignals:
    """Context in which the first such signal sets `signum` instead of ending the process.

    `IterationAborted` is raised in a block under `may_leave` when the block goes on for `GRACE`
    seconds after the signal, or when a second signal comes. Python runs signal handlers in the
    main thread only: in another thread this does nothing.
    """

    def __init__(self, grace: float | None = None) -> None:
        """Take the seconds that a block under `may_leave` gets to finish; None means `GRACE`."""
        self.signum: int | None = None
        self._grace = GRACE if grace is None else grace
        self._open = False
        self._timer: threading.Timer | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for signum in EXIT_CODES:
                if signum == getattr(signal, "SIGHUP", 0) and (
                    signal.getsignal(signum) is signal.SIG_IGN
                ):
                    continue  # under nohup, a run outlives its terminal
                self._previous[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        """Put the previous handlers back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def may_leave(self) -> Iterator[None]:
        """Mark a block that may be left half-way."""
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
            # A real signal from a timer, since it also wakes a sleep or a wait in the main thread.
            ident = threading.main_thread().ident or 0
            self._timer = threading.Timer(self._grace, signal.pthread_kill, (ident, signum))
            self._timer.daemon = True
            self._timer.start()
        elif self._open:
            self._open = False
            raise IterationAborted
