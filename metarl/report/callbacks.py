"""Callbacks that write a run's report and its figures while it trains.

What goes wrong in one of them is printed once as a warning: it ends no run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Figure, HParam

from metarl.base.errors import UserError
from metarl.base.files import file_errors, write_json
from metarl.evaluation.protocol import evaluate
from metarl.report.charts import adaptation_figure
from metarl.report.page import write_page
from metarl.report.run_summary import read_run
from metarl.runs.callback import Callback
from metarl.worlds.factory import make_worlds

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


class OodCallback(_Warning):
    """Evaluates on tasks outside the training box, too, whenever the run is evaluated.

    Their returns are ``ood/before`` and ``ood/after`` in the log; the report is a file of its own.
    """

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Evaluate, by the settings of the held-out evaluation."""
        config, at = run.config, run.position
        try:
            tasks = run.family.distribution.split("ood", config.evaluate_tasks)
            count = len(tasks) * config.rollouts_per_task
            with run.interruptible():
                outside = evaluate(
                    run.learner, make_worlds(run.family, count, config.threads), tasks,
                    episodes=config.evaluate_episodes, seed=config.seed, split="ood",
                )  # fmt: skip
        except UserError as error:
            self._warn(run, "no evaluation outside the training box", error)
            return
        with file_errors(run.folder.path):
            write_json(
                run.folder.evaluation / f"ood_step_{at.iteration:08d}.json", outside.to_json()
            )
            run.logger.record("ood/before", outside.mean[0], exclude="csv")
            run.logger.record("ood/after", outside.mean[-1], exclude="csv")
            run.logger.dump(at.env_steps)


class TensorBoardCallback(_Warning):
    """Adds the configuration and the adaptation curve of each evaluation to TensorBoard."""

    def on_start(self, run: Run) -> None:
        """Add the settings as hyperparameters, to compare runs by, and config.json as text."""
        about = run.describe()
        settings = about["train"] | about["learner"]
        known = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in settings.items()}
        names = {key: about[key] for key in ("family", "algorithm")}
        try:
            run.logger.record("hparams", HParam(names | known, {"heldout/after": 0.0}), ("csv",))
            text = json.dumps(about, indent=1).replace("\n", "\n    ")  # a block of code
            run.logger.record("config", f"    {text}", exclude="csv")
            run.logger.dump(run.position.env_steps)
        except Exception as error:
            self._warn(run, "the settings were not added to TensorBoard", error)

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Add the figure."""
        try:
            figure = Figure(adaptation_figure([report]), close=False)
            run.logger.record("heldout/adaptation", figure, exclude="csv")
            run.logger.dump(run.position.env_steps)
        except Exception as error:
            self._warn(run, "the adaptation curve was not added to TensorBoard", error)
