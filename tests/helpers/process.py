"""Child processes that begin with what this one has imported: importing torch takes seconds."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn


def forked(main: Callable[[], object], *, closed: tuple[int, ...] = (), **more: Any):
    """Start a child process that calls `main` and exits with the code that it returns.

    It has descriptors, signals and an end of its own, as a command has. It computes on one thread,
    for the threads of this process are not in it.

    Args:
        main: what it calls.
        closed: which of the standard descriptors are closed in it.
        more: of `subprocess.Popen`.
    """

    def child() -> NoReturn:
        gc.freeze()  # simulators of this process would wait for their threads
        os.closerange(3, 1 << 16)  # for Popen the program has begun when this end of a pipe closes
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in closed:
            os.close(number)
        sys.stdout, sys.stderr = (
            None if number in closed else os.fdopen(number, "w", encoding="utf-8", closefd=False)
            for number in (1, 2)
        )
        code = 1
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:
                code = code or 120  # as Python does
        os._exit(int(code or 0))

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["-"], preexec_fn=child, restore_signals=False, **pipes | more)


def run_forked(
    main: Callable[[], object], *, timeout: float = 120, **more: Any
) -> subprocess.CompletedProcess:
    """Wait for such a process, and return what `subprocess.run` does."""
    with forked(main, **more) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
