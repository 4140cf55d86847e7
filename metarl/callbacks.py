"""Callbacks of a training run: the page, the figures and the videos that it leaves on the way.

Training calls each of them; it imports neither reports nor videos. A callback changes nothing of a
run, and what goes wrong in one of these is printed as a warning and ends no run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from metarl.errors import UserError
from metarl.files import file_errors

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from metarl.evaluation import Report
    from metarl.family import TaskFamily
    from metarl.learner import Learner
    from metarl.run_folder import RunFolder
    from metarl.tasks import Tasks
    from metarl.train_config import Position, TrainConfig


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


class Callback:
    """Does nothing: override what is needed."""

    def on_iteration(self, run: Run, metrics: dict[str, float]) -> None:
        """Called after each meta-update and its checkpoint, unless a signal has come."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Called after each held-out evaluation, when its files are written."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """Called after each checkpoint, with its folder."""

    def on_end(self, run: Run) -> None:
        """Called once, after the last checkpoint, also of a run that a signal stopped."""


class _Warning(Callback):
    """Warns of a problem once a run."""

    def __init__(self) -> None:
        self._warned = False

    def _warn(self, run: Run, problem: str | None) -> None:
        if problem and not self._warned:
            run.say(f"warning: {problem}; the training goes on")
            self._warned = True


class ReportCallback(_Warning):
    """Writes report.html in the run folder at each evaluation, and once more at the end."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Write the page of a running training, which a browser reads again by itself."""
        self._refresh(run, running=True)

    def on_end(self, run: Run) -> None:
        """Write the page of a training that has ended."""
        self._refresh(run, running=False)

    def _refresh(self, run: Run, *, running: bool) -> None:
        from metarl.report import live

        at = run.position
        position = {"iteration": at.iteration, "env_steps": at.env_steps, "seconds": at.seconds}
        self._warn(run, live.refresh(run.folder.path, position, running=running))


class TensorBoardCallback(_Warning):
    """Adds the adaptation curve of each evaluation to TensorBoard, as a figure."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Add the figure."""
        from metarl.report import live

        self._warn(run, live.log_figure(run.logger, report, run.position.env_steps))


class VideoCallback(Callback):
    """Films one held-out task before and after adaptation, as a GIF and in TensorBoard."""

    def __init__(self, every: int) -> None:
        """Set the number of iterations between videos; 0 makes none."""
        self.every = every

    def on_iteration(self, run: Run, metrics: dict[str, float]) -> None:
        """Make a video, if one is due. Where none can be made, a warning says so each time."""
        at = run.position.iteration
        if self.every and at % self.every == 0:
            try:
                self._film(run)
            except UserError as error:
                run.say(f"warning: no video of iteration {at}: {error}")

    def _film(self, run: Run) -> None:
        from metarl.video.encode import VideoConfig, render
        from metarl.video.recording import record
        from metarl.worlds import TaskWorlds

        config, at = run.config, run.position
        worlds = TaskWorlds(run.family, config.rollouts_per_task, config.threads)
        path = run.folder.path / "videos" / f"step_{at.iteration:08d}.gif"
        with run.interruptible():
            recording = record(
                run.learner, worlds, run.eval_tasks[:1], episodes=config.evaluate_episodes,
                seed=config.seed,
            )  # fmt: skip
            render(recording, path, VideoConfig(size=240, fps=10), threads=run.threads)
        with file_errors(run.folder.path):
            run.folder.log_gif("heldout/video", path, at.env_steps)


def default_callbacks(config: TrainConfig) -> list[Callback]:
    """Return the callbacks of `metarl train`, in the order in which they are called."""
    return [ReportCallback(), TensorBoardCallback(), VideoCallback(config.video_every)]
