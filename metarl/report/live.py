"""What one can watch while a run trains: report.html in its folder, and figures in TensorBoard.

Neither may end a run: what goes wrong here comes back as a line of text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from metarl.evaluation import Report


def refresh(folder: Path, position: dict[str, Any], *, running: bool) -> str | None:
    """Write the folder's report.html anew from what is in it. Returns what went wrong, or None.

    Args:
        folder: of the run.
        position: its iteration, env_steps and seconds.
        running: whether the page is to say that training goes on.
    """
    try:
        from metarl.report.page import write_page
        from metarl.report.run_summary import read_run

        write_page([read_run(folder, position)], folder / "report.html", live=True, running=running)
    except Exception as error:
        return f"report.html was not written: {_one_line(error)}"
    return None


def log_figure(logger: Logger, report: Report, env_steps: int) -> str | None:
    """Add the adaptation curve to TensorBoard. Returns what went wrong, or None."""
    try:
        from stable_baselines3.common.logger import Figure

        from metarl.report.charts import adaptation_figure

        figure = Figure(adaptation_figure([report]), close=False)
        logger.record("heldout/adaptation", figure, exclude="csv")
        logger.dump(env_steps)
    except Exception as error:
        return f"the adaptation curve was not added to TensorBoard: {_one_line(error)}"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
