"""Callbacks that write a run's report and its figures while it trains.

What goes wrong in one of them is printed once as a warning: it ends no run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Figure

from metarl.report.charts import adaptation_figure
from metarl.report.page import write_page
from metarl.report.run_summary import read_run
from metarl.runs.callback import Callback

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.runs.callback import Run


class _Warning(Callback):
    """Warns of a problem once a run."""

    def __init__(self) -> None:
        self._warned = False

    def _warn(self, run: Run, problem: str, error: Exception) -> None:
        if not self._warned:
            reason = " ".join(str(error).split()) or type(error).__name__
            run.say(f"warning: {problem}: {reason}; the training goes on")
            self._warned = True


class ReportCallback(_Warning):
    """Writes report.html in the run folder at each evaluation, and once more at the end."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Write the page of a running training, which a browser reads again by itself."""
        self._write(run, running=True)

    def on_end(self, run: Run) -> None:
        """Write the page of a training that has ended."""
        self._write(run, running=False)

    def _write(self, run: Run, *, running: bool) -> None:
        at, folder = run.position, run.folder.path
        position = {"iteration": at.iteration, "env_steps": at.env_steps, "seconds": at.seconds}
        try:
            summary = read_run(folder, position)
            write_page([summary], folder / "report.html", live=True, running=running)
        except Exception as error:
            self._warn(run, "report.html was not written", error)


class TensorBoardCallback(_Warning):
    """Adds the adaptation curve of each evaluation to TensorBoard, as a figure."""

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Add the figure."""
        try:
            figure = Figure(adaptation_figure([report]), close=False)
            run.logger.record("heldout/adaptation", figure, exclude="csv")
            run.logger.dump(run.position.env_steps)
        except Exception as error:
            self._warn(run, "the adaptation curve was not added to TensorBoard", error)
