"""Videos of third-party environments: what their ``rgb_array`` draws, before and after adaptation.

A frame is a step. Nothing is known of the environment's model, so there are no markers and gauges.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from metarl.base.errors import UserError
from metarl.base.text import shown
from metarl.learning.adaptation import adaptation_rounds
from metarl.report.text import first_name
from metarl.tasks.family import replace_attributes
from metarl.tasks.gymnasium_family import GymnasiumFamily, maker_name
from metarl.video import opengl
from metarl.video.overlay import font
from metarl.worlds.env_worker import EnvWorker
from metarl.worlds.gymnasium_worlds import GymnasiumWorlds

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.video.film import VideoConfig
    from metarl.worlds.rollout import OnStep
    from metarl.worlds.vector import Transition


_OF_OPENGL = re.compile("OpenGL|EGL|GLFW|OSMesa|display", re.IGNORECASE)


class DrawingWorker(EnvWorker):
    """A process whose environments draw without a display, as our own pictures are drawn."""

    _no_opengl: str | None = None

    def _guarded(self, work: Callable[[], object]) -> dict[str, Any]:
        """Open OpenGL before anything else is done, and say what it lacks where that matters.

        It is none of an environment that draws in another way.
        """
        if self._no_opengl is None:
            self._no_opengl = opengl.lend()
        got = super()._guarded(work)
        if self._no_opengl and _OF_OPENGL.search(got["error"]):
            got["error"] += f"; {self._no_opengl}"
        return got


class DrawingWorlds(GymnasiumWorlds):
    """Worlds that keep pictures of the first episode of the first world of each task."""

    worker = DrawingWorker

    def __init__(self, family: GymnasiumFamily, num_worlds: int, height: int) -> None:
        """Start one process, and see whether it draws. Raises UserError if it doesn't.

        Args:
            family: whose environments are made to draw.
            num_worlds: B.
            height: of a picture, in pixels.
        """
        self.height = height
        self.pictures: list[list[Image.Image]] = []
        """Of each task, in the episode that was filmed last."""
        self._running: dict[int, int] = {}
        super().__init__(drawing(family), num_worlds, 1)
        self._scaled(self.render([0])[0])

    def film(self) -> OnStep:
        """Draw the first episodes, which begin now; return what to call after each step."""
        self._running = {m: m * self.worlds_per_task for m in range(len(self.tasks))}
        self.pictures = [[] for _ in self._running]
        self._draw()
        return self._after_step

    def _after_step(self, got: Transition) -> None:
        ended = got.terminated | got.truncated | got.diverged
        self._running = {m: world for m, world in self._running.items() if not ended[world]}
        self._draw()

    def _draw(self) -> None:
        if not self._running:
            return
        drawn = self.render(list(self._running.values()))
        for m, picture in zip(self._running, drawn, strict=True):
            self.pictures[m].append(self._scaled(picture))

    def _scaled(self, picture: Any) -> Image.Image:
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.dtype != np.uint8:
            raise UserError(
                f"family '{self.family.name}': render() returned {type(picture).__name__}, not an "
                "rgb_array of (height, width, 3) uint8"
            )
        image = Image.fromarray(picture[..., :3])
        width = max(2, round(image.width * self.height / image.height / 2) * 2)  # even, for H.264
        return image.resize((width, self.height))


def drawing(family: GymnasiumFamily) -> GymnasiumFamily:
    """Return the family with environments that draw ``rgb_array``. Raises UserError if it can't."""
    made = family.env
    if not isinstance(made, str):
        takes = inspect.signature(made).parameters.values()
        if not any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in takes):
            raise UserError(
                f"family '{family.name}': to be drawn, {maker_name(made)} must take render_mode, "
                "and its environment then draw with render_mode='rgb_array'"
            )
    return replace_attributes(family, render_mode="rgb_array", probed=True)  # type: ignore[return-value]


class PictureFilm:
    """A column before adaptation and one after, a row for each task; for `encode.write`."""

    def __init__(
        self, learner: Learner, family: GymnasiumFamily, tasks: Tasks, config: VideoConfig, *,
        worlds_per_task: int, episodes: int, seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        """Play the rounds of an evaluation, with the same returns.

        Args:
            learner: as in `metarl.evaluate`.
            family: whose environments.
            tasks: M.
            config: how it looks.
            worlds_per_task: E.
            episodes: K rounds of adaptation.
            seed: of initial states and exploration.
            progress: called with (rounds done, rounds in all).
        """
        self.config, self.columns = config, 2
        height = config.size // (2 if len(tasks) == 1 else len(tasks)) // 2 * 2
        worlds = DrawingWorlds(family, len(tasks) * worlds_per_task, max(height, 64))
        worlds.set_tasks(tasks, worlds_per_task)
        returns, rounds = [], []

        def watch(phase: str, k: int) -> OnStep:
            shown = phase == "score" and k in (0, episodes)
            return worlds.film() if shown else lambda got: None

        try:
            for k, (_, scored) in enumerate(
                adaptation_rounds(learner, worlds, len(tasks), episodes, seed, watch)
            ):
                returns.append(scored.return_by_task().cpu().numpy())
                rounds = [*rounds[:1], worlds.pictures]
                progress(k + 1, episodes + 1)
        finally:
            worlds.close()
        self.returns = np.stack(returns, 1)
        """(M, K+1), the mean return of each task in each round; NaN where all worlds diverged."""
        self._cells = [(rounds[0][m], rounds[-1][m]) for m in range(len(tasks))]
        first = first_name(not learner.adapts_on_exploration)
        self.captions = [
            (f"{first}: {shown(row[0], 1)}", f"after round {episodes}: {shown(row[-1], 1)}")
            for row in self.returns
        ]
        self.frames = max(len(cell) for row in self._cells for cell in row)
        self.pictures = 2 * len(tasks)
        self._cell = width, height = self._cells[0][0][0].size
        self.width, self.height = 2 * width, len(tasks) * height

    def renderer(self) -> PictureFilm:
        """Return what draws the frames."""
        return self

    def close(self) -> None:
        """Do nothing: the pictures are there already."""

    def frame(self, number: int, renderer: object) -> np.ndarray:
        """Return a frame, (height, width, 3) uint8; an episode that is over stays as it was."""
        page = Image.new("RGB", (self.width, self.height))
        draw, face = ImageDraw.Draw(page), font(max(12, self._cell[1] // 16))
        for m, row in enumerate(self._cells):
            for column, cell in enumerate(row):
                at = (column * self._cell[0], m * self._cell[1])
                page.paste(cell[min(number, len(cell) - 1)], at)
                text = self.captions[m][column]
                draw.text((at[0] + 6, at[1] + 4), text, "white", face, stroke_width=2,
                          stroke_fill="black")  # fmt: skip
        return np.asarray(page)
