"""Videos of third-party environments: what their ``rgb_array`` draws, before and after adaptation.

A frame is a step. Nothing is known of the environment's model, so there are no markers and gauges.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.text import shown
from metarl.learning.adaptation import adaptation_rounds
from metarl.report.text import first_name
from metarl.tasks.family import replace_attributes
from metarl.tasks.gymnasium_family import GymnasiumFamily, maker_name
from metarl.video.overlay import font
from metarl.worlds.gymnasium_worlds import GymnasiumWorlds

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.video.film import VideoConfig
    from metarl.worlds.vector import Transition


class DrawingWorlds(GymnasiumWorlds):
    """Worlds that keep pictures of the first episode of the first world of each task."""

    def __init__(self, family: GymnasiumFamily, num_worlds: int, height: int) -> None:
        """Start one process.

        Args:
            family: whose environments are made to draw.
            num_worlds: B.
            height: of a picture, in pixels.
        """
        self.height = height
        self.pictures: list[list[Image.Image]] = []
        super().__init__(drawing(family), num_worlds, 1)

    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial, and the pictures anew."""
        obs = super().reset(ids)
        self._running = torch.arange(len(self.tasks)) * self.worlds_per_task
        self.pictures = [[] for _ in self._running]
        self._keep(torch.zeros(self.num_worlds, dtype=torch.bool))
        return obs

    def step(self, action: Tensor) -> Transition:
        """Advance every world, and draw those whose first episode goes on."""
        got = super().step(action)
        self._keep(got.terminated | got.truncated | got.diverged)
        return got

    def _keep(self, ended: Tensor) -> None:
        self._running = torch.where(ended[self._running.clamp(min=0)], -1, self._running)
        if not (self._running >= 0).any():
            return
        drawn = self.render()
        for m, world in enumerate(self._running.tolist()):
            if world >= 0:
                self.pictures[m].append(self._scaled(drawn[world]))

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
        try:
            for k, (_, scored) in enumerate(
                adaptation_rounds(learner, worlds, len(tasks), episodes, seed)
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
