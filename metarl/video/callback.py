"""A callback that films the adaptation during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarl.base.errors import UserError
from metarl.base.files import file_errors
from metarl.runs.callback import Callback
from metarl.simulation.warp.choice import Physics
from metarl.video.encode import VideoConfig, render
from metarl.video.recording import record
from metarl.worlds.factory import make_worlds
from metarl.worlds.task_worlds import TaskWorlds

if TYPE_CHECKING:
    from metarl.runs.callback import Run


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
        config, at = run.config, run.position
        size = run.family, config.rollouts_per_task, config.threads
        worlds = TaskWorlds(*size) if config.simulator == "mujoco" else _on_another(run)
        path = run.folder.path / "videos" / f"step_{at.iteration:08d}.gif"
        with run.interruptible():
            recording = record(
                run.learner, worlds, run.eval_tasks[:1], episodes=config.evaluate_episodes,
                seed=config.seed,
            )  # fmt: skip
            render(recording, path, VideoConfig(size=240, fps=12), threads=run.threads)
        with file_errors(run.folder.path):
            run.folder.log_gif("heldout/video", path, at.env_steps)


def _on_another(run: Run) -> TaskWorlds:
    """Return worlds on the simulator of a run, where its learner is."""
    config = run.config
    physics = Physics(config.simulator, config.simulator_room, str(run.learner.device))
    worlds = make_worlds(run.family, config.rollouts_per_task, config.threads, physics)
    assert isinstance(worlds, TaskWorlds)
    return worlds
