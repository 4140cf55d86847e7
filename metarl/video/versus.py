"""Several policies on the same task, from the same state, in step: a split screen.

A film of one round for each, and a reel of the films of several rounds, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metarl.base.errors import UserError
from metarl.evaluation.score import is_blind, is_oracle
from metarl.video.film import Column, Film, VideoConfig, knows

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.video.recording import Recording
    from metarl.video.renderer import Renderer

MOST = 4
"""Panels that fit beside each other."""


class Versus(Film):
    """One round of an evaluation of several policies, side by side."""

    def __init__(
        self, recordings: Sequence[Recording], config: VideoConfig, k: int = 0,
        labels: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Plan the pictures.

        Args:
            recordings: of one task each, two to four. The film is of the first, which has its own
                colour; policies that are blind to the task go before it, and those that are told
                it behind.
            config: how it looks.
            k: the number of the round.
            labels: what to call the policies; without, they are called by what they are.

        Raises:
            UserError: the tasks or the states in which the episodes begin are not the same.
        """
        self.recordings, self.k = recordings, k
        self.labels = labels or [_label(one.report) for one in recordings]
        check_same(recordings)
        super().__init__(recordings[0], config)

    def shown(self, m: int) -> list[Column]:
        """Return the columns of a task: a policy each."""
        columns, spare = [], iter(("other", "another"))
        for n, (label, one) in enumerate(zip(self.labels, self.recordings, strict=True)):
            report = one.report
            place = 0 if is_blind(report) else 3 if is_oracle(report) else 1 if n == 0 else 2
            phase = ("before", "after", "", "during")[place] or next(spare, "another")
            k = min(self.k, len(report.experience) - 1)
            column = Column(phase, label, knows(report, k), one.episodes["score", k][m],
                            one.models[m])  # fmt: skip
            columns.append((place, column))
        return [column for _, column in sorted(columns, key=lambda pair: pair[0])]

    def clock(self, step: float) -> str:
        """Return what the header says of the time: in which episode of the trial, and when."""
        return f"episode {self.k + 1}   {super().clock(step)}"


class Reel:
    """Films that are shown one after the other; for `encode.write` it is a film."""

    def __init__(self, films: Sequence[Film]) -> None:
        """Take films of one size, whose worlds have one layout."""
        self.films, first = films, films[0]
        self.config, self.columns, self.pictures = first.config, first.columns, first.pictures
        self.width, self.height = first.width, first.height
        self.frames = sum(film.frames for film in films)

    def renderer(self) -> Renderer:
        """Return a renderer of the panels, for the calling thread."""
        return self.films[0].renderer()

    def frame(self, number: int, renderer: Renderer) -> np.ndarray:
        """Return frame `number`, (height, width, 3) uint8."""
        for film in self.films:
            if number < film.frames:
                return film.frame(number, renderer)
            number -= film.frames
        raise IndexError(f"there are {self.frames} frames")


def check_same(recordings: Sequence[Recording]) -> None:
    """Raise UserError if policies are not to do the same task from the same state."""
    first = recordings[0]
    if not 2 <= len(recordings) <= MOST:
        raise UserError(f"a split screen shows 2 to {MOST} policies, not {len(recordings)}")
    start = first.episodes["score", 0][0].qpos[0]
    for one in recordings[1:]:
        if not np.array_equal(one.tasks.values, first.tasks.values):
            raise UserError(f"{one.family.name} and {first.family.name} have not the same tasks")
        if not np.array_equal(one.episodes["score", 0][0].qpos[0], start):
            raise UserError(
                f"the episodes of {one.report.algorithm} and {first.report.algorithm} do not begin "
                "in the same state: give them the same number of --rollouts-per-task"
            )


def _label(report: Report) -> str:
    return "blind" if is_blind(report) else "oracle" if is_oracle(report) else report.algorithm
