"""What the training loop calls after an iteration, an evaluation, a checkpoint and at the end.

A callback reads the run and changes nothing of it. Those of metarl are in `metarl.callbacks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from metarl.base.errors import UserError, check_kinds

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from metarl.evaluation.protocol import Report
    from metarl.learning.learner import Learner
    from metarl.runs.config import Position, TrainConfig
    from metarl.runs.run_folder import RunFolder
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily


class Run(Protocol):
    """What callbacks see of a training run."""

    config: TrainConfig
    family: TaskFamily
    learner: Learner
    folder: RunFolder
    position: Position
    """Iterations and environment steps made so far."""
    eval_tasks: Tasks
    """The held-out tasks of its evaluations."""
    threads: int
    logger: Logger
    """Writes to metrics.csv and TensorBoard."""

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Return the context of work that a signal may break off; see `StopSignals`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what config.json holds."""
        ...


class Callback:
    """Does nothing: override what is needed."""

    def on_start(self, run: Run) -> None:
        """Called once and before all others, when the run folder is open."""

    def on_iteration(self, run: Run, metrics: dict[str, float]) -> None:
        """Called after each meta-update and its checkpoint, unless a signal has come."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Called after each held-out evaluation, when its files are written."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """Called after each checkpoint, with its folder."""

    def on_end(self, run: Run) -> None:
        """Called once, after the last checkpoint, also of a run that a signal stopped."""


def check_callbacks(callbacks: object) -> None:
    """Raise UserError unless these are callbacks, or functions, in order."""
    check_kinds(callbacks=(callbacks, Sequence))
    for one in cast("Sequence[object]", callbacks):
        if not (isinstance(one, Callback) or callable(one)):
            raise UserError(f"a callback must be a Callback or a function, not {one!r:.80}")
