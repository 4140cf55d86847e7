"""Child processes that begin with what another has imported: importing torch takes seconds."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
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


_AFTER_TORCH = """if True:
    import json, os, sys, torch, traceback
    codes, answers = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
    for line in codes:
        code, environment = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(write, 1), os.dup2(write, 2)
            os.environ.update(environment)
            try:
                exec(code, {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as said:
            print(json.dumps(said.read()), file=answers, flush=True)
        os.waitpid(child, 0)
"""


@contextlib.contextmanager
def processes_after_torch() -> Iterator[Callable[..., str]]:
    """Give a function that runs code in a process that has imported torch, and nothing of ours.

    It takes the code and variables of the environment, in which OpenMP is left to its defaults, and
    returns what the code prints. The processes are forks of one, which imports torch for them all.
    """
    own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    (codes, ask), (answer, answers) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _AFTER_TORCH, str(codes), str(answers)],
        env=own, pass_fds=(codes, answers),
    )  # fmt: skip
    os.close(codes)
    os.close(answers)
    with process, os.fdopen(answer) as said, os.fdopen(ask, "w") as asked:

        def run(code: str, **environment: str) -> str:
            print(json.dumps([code, environment]), file=asked, flush=True)
            return json.loads(said.readline())

        try:
            yield run
        finally:
            process.kill()  # a fork of ours may hold the pipe open, whose end it waits for
