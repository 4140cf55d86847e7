"""One of many runs: `metarl train` in a process of its own, for sweeps and searches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metarl.base.distributed import environment_of_one
from metarl.base.errors import UserError
from metarl.base.files import file_errors, open_regular

STARTED = "METARL_STARTED_BY_MANY"
"""In the environment of a process that one of many runs was given to."""
ORPHANED = 60.0
"""Seconds that a run waits for the process of one that was killed to leave its folder."""


@dataclass(frozen=True)
class OneRun:
    """One run of a sweep."""

    setting: str
    """NAME=VALUE of what is swept, or ''"""
    argv: tuple[str, ...]
    """What `metarl train` is given"""
    parsed: Any
    """FAMILY, ALGORITHM, and the settings, as `metarl train` reads them"""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.parsed.train.out)

    def finished(self) -> bool:
        """Whether it has been trained to its end.

        Raises UserError if what was trained in its folder is another run.
        """
        from metarl.learning import checkpoint as checkpoints
        from metarl.run import refuse_changes, refuse_other, train_config
        from metarl.runs.config import finished

        if not self.resumable():
            return False
        given = {"family": self.parsed.family, "algorithm": self.parsed.algorithm}
        files = {name: value for name, value in given.items() if ":" in value}
        newest = checkpoints.load(checkpoints.newest(self.folder), **files)
        train = self.parsed.train
        refuse_other(newest, self.parsed.family, self.parsed.algorithm)
        shards = train.task_shards or train_config(newest).task_shards
        refuse_changes(newest, replace(train, task_shards=shards), self.parsed.learner)
        return finished(newest, train)

    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        from metarl.runs.run_folder import has_trained

        return has_trained(self.folder)

    def command(self) -> list[str]:
        """Return the words that train it, or go on with it."""
        again = ("--resume", str(self.folder)) if self.resumable() else ()
        return ["train", *self.argv, *again]

    def start(self, threads: int) -> subprocess.Popen[bytes]:
        """Run its command in a process of its own that prints to RUN/train.log.

        The standard input of that process ends when this one does.
        """
        with file_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            log = open_regular(self.folder / "train.log", "ab")
        own = {"OMP_NUM_THREADS": str(threads), STARTED: "1"}
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "metarl", *self.command()], stdin=subprocess.PIPE,
                stdout=log, stderr=subprocess.STDOUT, env=environment_of_one() | own,
            )  # fmt: skip

    def last_words(self) -> str:
        """Return the last line that it printed."""
        try:
            with open_regular(self.folder / "train.log", errors="replace") as log:
                return log.read().strip().rpartition("\n")[2]
        except OSError:
            return ""


def accompany(folder: Path) -> None:
    """Let this process end, and save, with the one that started it; wait for its run's folder.

    In there another may still train whose own parent was killed, and which is about to end.
    """
    from metarl.runs.run_folder import lock

    threading.Thread(target=_end_with_parent, daemon=True).start()
    until = time.monotonic() + ORPHANED
    while True:
        try:
            lock(folder).close()
            return
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _end_with_parent() -> None:
    """Stop this process when its standard input ends, as it does with the one that started it."""
    if not os.read(0, 1):
        os.kill(os.getpid(), signal.SIGTERM)
