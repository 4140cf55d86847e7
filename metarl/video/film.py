"""A film: what every frame of a video shows, drawn when it is asked for.

Episodes of the same task side by side: a picture of each under a title, its gauges and its return
below it, and the curves of the returns at the foot. An adaptation is shown before, during and after
it; `metarl.video.versus` shows several policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import mujoco
import numpy as np
from PIL import Image

from metarl.base.errors import STOPS, UserError, one_line
from metarl.evaluation.score import is_blind, is_oracle
from metarl.report.text import first_name
from metarl.video.ground import Course, View, write_labels
from metarl.video.overlay import COLOURS, DARK, Header, Panel, PanelOverlay, Strip, gauge_spans
from metarl.video.recording import between
from metarl.video.renderer import (
    Marks,
    Renderer,
    brighten,
    extend_ground,
    trail_of,
)
from metarl.video.scene import (
    Camera,
    Marker,
    Reading,
    Root,
    Shot,
    body_path,
    find_root,
    markers_of,
    plan_shots,
    readings_of,
    robot_size,
    velocity_of,
)

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.tasks.family import TaskFamily
    from metarl.video.recording import Episode, Recording

T = TypeVar("T")

SHORTEST = 5.0
"""Seconds that a video lasts at least: shorter episodes are shown in slow motion."""
SMALLEST = 160
"""Pixels; a smaller panel has no room for a picture beside the words."""
SLOWEST = 0.2
"""The slowest motion for that."""
WIDEST = 4
"""Pictures in a row, each of a task, at most."""
HOLD = 1.0
"""Seconds for which the last state stays on screen."""


@dataclass(frozen=True)
class VideoConfig:
    """How a video looks."""

    size: int = 480
    """Height of the picture of one task, in pixels; several tasks have smaller ones."""
    fps: float = 20
    """Frames in a second."""
    speed: float | None = None
    """1 is real time; None: real time, or slower if an episode would last less than 5 s."""
    seconds: float | None = None
    """Of an episode that are shown at most; None: all of it"""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        if not SMALLEST <= self.size <= 2160:
            raise UserError(f"size must be from {SMALLEST} to 2160 pixels, not {self.size}")
        if not 1 <= self.fps <= 120:
            raise UserError(f"fps must be from 1 to 120, not {self.fps}")
        if self.speed is not None and not 0.01 <= self.speed <= 100:
            raise UserError(f"speed must be from 0.01 to 100, not {self.speed}")
        if self.seconds is not None and not 0.1 <= self.seconds <= 1e6:
            raise UserError(f"seconds must be at least 0.1, not {self.seconds}")


# --- a film: what there is to draw -------------------------------------------------------------


class Column(NamedTuple):
    """What one panel is to show."""

    phase: str
    """Which chooses the colour: a key of `COLOURS`"""
    name: str
    """What the panel is called"""
    title: str
    """What the policy knows of the task by then"""
    episode: Episode
    model: mujoco.MjModel
    """Of the world of the episode"""
    mean: float | None = None
    """The return of this round that the evaluation reports, if it is to be said"""


@dataclass
class _Clip:
    """One panel: an episode of a task, its shot and its overlay."""

    episode: Episode
    model: mujoco.MjModel
    root: Root
    path: np.ndarray
    velocity: np.ndarray
    shot: Shot
    overlay: PanelOverlay
    marks: Marks
    course: Course
    trail: np.ndarray
    """(T+1, 3) the path on the ground, m"""


@dataclass
class _Block:
    """One task: a header, its panels, and where there is room the curves of its returns."""

    header: Header
    clips: list[_Clip]
    strip: Strip | None


class Film:
    """All frames of a video, each drawn when it is asked for."""

    def __init__(self, recording: Recording, config: VideoConfig) -> None:
        """Plan the pictures.

        Args:
            recording: of M tasks.
            config: how it looks.
        """
        self.recording, self.config = recording, config
        count, dt = len(recording.tasks), recording.family.dt
        columns = [self.shown(m) for m in range(count)]
        # Of a policy that does not adapt there is one picture of each task: they stand in a row.
        in_a_row = count <= WIDEST and max(map(len, columns)) == 1
        whole = count == 1 or in_a_row
        self.panel = config.size if whole else max(SMALLEST, round(config.size * 0.6) // 2 * 2)
        self.head = max(24, round(44 * self.panel / 480)) // 2 * 2
        self.foot = max(44, round(96 * self.panel / 480)) // 2 * 2 if count == 1 else 0
        self.steps = max(len(one.episode.reward) for row in columns for one in row)
        """Of the longest episode, as much of it as is shown"""
        self.speed = config.speed or min(1.0, max(SLOWEST, self.steps * dt / SHORTEST))
        if config.seconds is not None:
            self.steps = min(self.steps, max(1, round(config.seconds / dt)))
            columns = [[cut(one, self.steps) for one in row] for row in columns]
        self.columns = count if in_a_row else 1 if count < 4 else 2 if count < 9 else 3
        episodes = [one.episode for row in columns for one in row]
        switched = [model for episode in episodes for _, model in episode.models]
        self.models = [one.model for row in columns for one in row]
        for model in (*self.models, *switched):
            brighten(model)
            extend_ground(model)
        self.blocks = [self._block(m, row) for m, row in enumerate(columns)]
        panels = max(len(block.clips) for block in self.blocks)
        self.gap = 0 if count == 1 else 6
        self.block_size = (panels * self.panel, self.head + self.panel + self.foot)
        rows = math.ceil(count / self.columns)
        self.width = _even(self.columns * (self.block_size[0] + self.gap) - self.gap)
        self.height = _even(rows * (self.block_size[1] + self.gap) - self.gap)
        self.frames = math.ceil(self.steps * dt / self.speed * config.fps) + 1
        self.frames += round(HOLD * config.fps)
        self.pictures = sum(len(block.clips) for block in self.blocks)
        """Panels in one frame."""

    def shown(self, m: int) -> list[Column]:
        """Return the columns of a task: before, during and after adaptation."""
        recording = self.recording
        report, phases = recording.report, _phases(recording, m)
        first = first_name(report.adapts_within)
        if len(phases) == 1:
            first = "blind" if is_blind(report) else "oracle" if is_oracle(report) else first
            phases = [("alone", knows(report, 0), *phases[0][2:])]
        return [
            Column(phase, first if phase in ("before", "alone") else phase, title, row[m],
                   recording.models[m], mean)
            for phase, title, row, mean in phases
        ]  # fmt: skip

    def _block(self, m: int, columns: Sequence[Column]) -> _Block:
        recording, family = self.recording, self.recording.family
        task, model, dt = recording.task(m), columns[0].model, family.dt
        root = asked(family, "camera", lambda: find_root(model, (family.camera or Camera()).body))
        paths = [body_path(one.model, one.episode.qpos, root.body) for one in columns]
        speeds = [velocity_of(path, dt) for path in paths]
        markers = _listed(family, "markers()", lambda: markers_of(family, task), Marker)
        worlds = recording.report.rollouts_per_task
        panels = []
        for one, path, speed in zip(columns, paths, speeds, strict=True):
            readings = _readings(family, path, speed, task)
            told = readings, one.episode.ended, one.mean, worlds, one.episode.terms
            panels.append(Panel(one.phase, one.name, one.title, one.episode.running, *told))
        spans = gauge_spans(panels)
        overlays = [PanelOverlay(panel, self.panel, spans, dt) for panel in panels]
        self.picture = overlays[0].picture
        aspect = self.picture[0] / self.picture[1]
        shots = plan_shots(family, model, paths, markers, aspect)
        clips = []
        for one, overlay, path, speed, shot in zip(
            columns, overlays, paths, speeds, shots, strict=True
        ):
            marks = _marks(model, root, markers, shot, speeds, overlay.panel.phase)
            course = Course(one.model, root, shot.distance, aspect)
            told = one.episode, one.model, root, path, speed, shot, overlay
            clips.append(_Clip(*told, marks, course, course.under(path)))
        width = len(clips) * self.panel
        header = Header(family.name, described(family, task), width, self.head, self.clock(0))
        return _Block(header, clips, Strip(panels, width, self.foot, dt) if self.foot else None)

    def clock(self, step: float) -> str:
        """Return what the header says of the time at a step of the episode."""
        slow = "" if self.speed == 1 else f"  ×{self.speed:.2g} speed"
        return f"{step * self.recording.family.dt:.1f} s{slow}"

    def step(self, number: int) -> float:
        """Return the step of the episode, maybe a fraction, that a frame shows."""
        step = number / self.config.fps * self.speed / self.recording.family.dt
        return min(round(step, 6), float(self.steps))

    def renderer(self) -> Renderer:
        """Return a renderer of the panels, for the calling thread."""
        return Renderer(self.models, *self.picture)

    def frame(self, number: int, renderer: Renderer) -> np.ndarray:
        """Return frame `number`, (height, width, 3) uint8."""
        step = self.step(number)
        sheet = Image.new("RGB", (self.width, self.height), DARK)
        for m, block in enumerate(self.blocks):
            left = m % self.columns * (self.block_size[0] + self.gap)
            top = m // self.columns * (self.block_size[1] + self.gap)
            sheet.paste(block.header(self.clock(step)), (left, top))
            for k, clip in enumerate(block.clips):
                picture = clip.overlay(self._draw(clip, step, renderer), step)
                sheet.paste(picture, (left + k * self.panel, top + self.head))
            if block.strip is not None:
                sheet.paste(block.strip(step), (left, top + self.head + self.panel))
        return np.asarray(sheet)

    def _draw(self, clip: _Clip, step: float, renderer: Renderer) -> np.ndarray:
        last = len(clip.episode.qpos) - 1
        step = min(step, float(last))
        low = min(int(step), last)
        part, high = step - low, min(low + 1, last)
        qpos = between(clip.model, clip.episode.qpos[low], clip.episode.qpos[high], part)
        position = clip.path[low] + part * (clip.path[high] - clip.path[low])
        lookat = clip.shot.lookat[low] + part * (clip.shot.lookat[high] - clip.shot.lookat[low])
        marks = clip.marks._replace(
            position=position,
            velocity=clip.velocity[low],
            trail=trail_of(clip.trail, step, clip.root),
            ground=clip.course.near(position),
        )
        view = View(lookat, *clip.shot[1:])
        model = clip.episode.model(low, clip.model)
        image = renderer.draw(model, qpos, clip.episode.mocap[low], view, marks)
        return write_labels(
            image, marks.ground, view, float(model.vis.global_.fovy), clip.overlay.letters
        )


def asked(family: TaskFamily, what: str, question: Callable[[], T]) -> T:
    """Return what a member of a family answers. Raises UserError: one line if that fails."""
    try:
        return question()
    except STOPS:
        raise
    except BaseException as error:  # whatever a user's code raises becomes one line
        reason = one_line(error, family)
        raise UserError(f"family '{family.name}', {what}: {reason}") from error


def described(family: TaskFamily, task: Mapping[str, Any]) -> list[str]:
    """Return a family's words for a task. Raises UserError."""
    return _listed(family, "describe()", lambda: family.describe(task), str)


def _listed(
    family: TaskFamily, what: str, question: Callable[[], Sequence[T]], kind: type[T]
) -> list[T]:
    """Return what a member of a family answers, if it is a list of `kind`. Raises UserError."""
    got = asked(family, what, question)
    if not isinstance(got, list | tuple) or not all(isinstance(item, kind) for item in got):
        text = " ".join(repr(got).split())
        raise UserError(
            f"family '{family.name}', {what}: must return a list of {kind.__name__}, not {text:.80}"
        )
    return list(got)


def _readings(
    family: TaskFamily, path: np.ndarray, speed: np.ndarray, task: Mapping[str, Any]
) -> list[Reading]:
    got = _listed(family, "readings()", lambda: readings_of(family, path, speed, task), Reading)
    for reading in got:
        if np.shape(reading.values) != (len(path),):
            raise UserError(
                f"family '{family.name}', readings(): '{reading.label}' has values of shape "
                f"{np.shape(reading.values)}, expected ({len(path)},)"
            )
    return got


def _marks(
    model: mujoco.MjModel, root: Root, markers: Sequence[Marker], shot: Shot,
    speeds: Sequence[np.ndarray], phase: str,
) -> Marks:  # fmt: skip
    """Return what is drawn beside the robot, but for where it is at the time."""
    wide, down, up = robot_size(model, root)
    size = max(wide, (down + up) / 2)
    fastest = max(float(np.abs(speed[:, :2]).max(initial=0.0)) for speed in speeds)
    asked = [float(np.linalg.norm(vector)) for kind, vector in markers if kind == "velocity"]
    red, green, blue = (c / 255 for c in COLOURS[phase])
    return Marks(
        markers, np.zeros(3), np.zeros(3), np.zeros((0, 3)),
        radius=max(size, 0.045 * shot.distance), above=up + 0.35 * wide,
        ground=(), scale=size / max(fastest, *asked, 1e-6),
        colour=(red, green, blue),
    )  # fmt: skip


def _phases(recording: Recording, m: int) -> list[tuple[str, str, list[Episode], float | None]]:
    """Return (phase, title, episodes, reported return) of the columns: before, during, after.

    During is the middle of the adaptation: the episode that the learner explores in, or, if it
    adapts to those that are scored, one of them.
    """
    report, episodes = recording.report, recording.episodes
    last, seen = len(report.experience) - 1, report.experience
    middle = max(last // 2, 0 if recording.explores else 1)

    def scored(phase: str, k: int) -> tuple[str, str, list[Episode], float | None]:
        words = "exploring, " * (k < report.exploring) + experience(seen[k])
        return phase, words, episodes["score", k], report.returns[m][k]

    out = [scored("before", 0)]
    if recording.explores and last > 0:
        title = "exploring, " + experience(seen[middle])
        out.append(("during", title, episodes["explore", middle], None))
    elif middle < last:
        out.append(scored("during", middle))
    return [*out, scored("after", last)] if last > 0 else out


def cut(column: Column, steps: int) -> Column:
    """Return a column of the first steps of its episode."""
    episode = column.episode
    if len(episode.reward) <= steps:
        return column
    return column._replace(
        mean=None,  # it is of the whole
        episode=replace(
            episode, qpos=episode.qpos[: steps + 1], mocap=episode.mocap[: steps + 1],
            reward=episode.reward[:steps], ended="time limit",
            terms={name: term[:steps] for name, term in episode.terms.items()},
        ),
    )  # fmt: skip


def knows(report: Report, k: int) -> str:
    """Return what a policy knows of the task in round k, in a few words."""
    if is_blind(report):
        return "does not adapt"
    if is_oracle(report):
        return "is told the task"
    if k == 0 and report.adapts_within and not report.exploring:
        return "adapts as it acts"
    return "exploring, " * (k < report.exploring) + experience(report.experience[k])


def experience(episodes: int) -> str:
    """Return how much of the task a learner has seen, in words."""
    if not episodes:
        return "no data yet"
    return f"after {episodes} episode{'s' if episodes > 1 else ''}"


def _even(pixels: int) -> int:
    """H.264 in 4:2:0 has no odd sizes."""
    return pixels + pixels % 2
