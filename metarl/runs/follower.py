"""Follower: a rank of a distributed run other than the first.

It samples, updates and evaluates its own shards, as the first rank does. It reads the run folder,
and writes nothing: files, lines and callbacks are the first rank's.
"""

from __future__ import annotations

import contextlib
from typing import Any

from metarl.evaluation.protocol import Report
from metarl.runs.run_folder import RunFolder
from metarl.runs.runner import Runner


class Follower(Runner):
    """A training run in a process beside the one that keeps its folder."""

    def __init__(self, *what: Any, **named: Any) -> None:
        """Take what `Runner` takes, without its callbacks."""
        super().__init__(*what, **named)
        self.callbacks, self.functions = [], []
        self.folder = _Unwritten(self.folder.path)

    def open(self) -> contextlib.AbstractContextManager[Any]:
        """Take over the resumed state."""
        if self.resume is not None:
            self.learner.load_state_dict(self.resume.tensors)
            self.sampler.load_state(self.resume.meta.get("sampler", {}))
        self.take_snapshot()
        return contextlib.nullcontext()

    def say(self, line: str) -> None:
        """Print nothing."""

    def log(self, metrics: dict[str, float], steps_per_second: float) -> None:
        """Write nothing."""

    def record(self, report: Report) -> None:
        """Append to the curve, which says what is evaluated, and write nothing."""
        self.position.record(report)

    def save(self, *, again: bool = False) -> None:
        """Write nothing."""

    def how_to_resume(self) -> tuple[str, str]:
        """Return what is not printed."""
        return f"rank {self.ranks.rank} stopped", "rank 0 says how to go on"

    def summarise(self) -> None:
        """Print nothing."""


class _Unwritten(RunFolder):
    """A run folder that another process keeps: it is neither made nor locked."""

    def __enter__(self) -> _Unwritten:
        return self
