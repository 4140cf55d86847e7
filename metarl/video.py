"""Adaptation videos: a task before adaptation, during and after it, side by side.

A `Recording` (of an evaluation) becomes a `Film`, whose frames are functions of their number; so
threads draw them at the same time, and each frame goes to the encoder in its turn.
"""

from __future__ import annotations

import math
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from PIL import Image

from metarl.errors import UserError
from metarl.overlay import COLOURS, DARK, Header, Panel, PanelOverlay, Strip, gauge_spans
from metarl.renderer import Marks, Renderer, View, brighten, needs_ticks, trail_of
from metarl.scene import Marker, Shot, body_path, find_root, plan_shots, robot_size, velocity_of
from metarl.threads import available_cores

if TYPE_CHECKING:
    from metarl.recording import Episode, Recording

FORMATS = (".mp4", ".gif")
GIF_WIDTH, GIF_FPS = 800, 12.5
"""Most that a GIF has, by column of tasks: it is for a README, and has no motion compensation."""
SHORTEST = 5.0
"""Seconds that a video lasts at least: shorter episodes are shown in slow motion."""
HOLD = 1.0
"""Seconds for which the last state stays on screen."""


@dataclass(frozen=True)
class VideoConfig:
    """How a video looks."""

    size: int = 480
    """Height of the picture of one task, in pixels; several tasks have smaller ones."""
    fps: int = 20
    """Frames in a second."""
    speed: float | None = None
    """1 is real time; None: real time, or slower if an episode would last less than 5 s."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        if not 64 <= self.size <= 2160:
            raise UserError(f"size must be from 64 to 2160 pixels, not {self.size}")
        if not 1 <= self.fps <= 120:
            raise UserError(f"fps must be from 1 to 120, not {self.fps}")
        if self.speed is not None and not 0.01 <= self.speed <= 100:
            raise UserError(f"speed must be from 0.01 to 100, not {self.speed}")


# --- a film: what there is to draw -------------------------------------------------------------


@dataclass
class _Clip:
    """One panel: an episode of a task, its shot and its overlay."""

    episode: Episode
    model: mujoco.MjModel
    path: np.ndarray
    velocity: np.ndarray
    shot: Shot
    overlay: PanelOverlay
    marks: Marks


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
        self.panel = config.size if count == 1 else max(64, round(config.size * 0.6) // 2 * 2)
        self.head = max(24, round(44 * self.panel / 480)) // 2 * 2
        self.foot = round(96 * self.panel / 480) // 2 * 2 if count == 1 else 0
        longest = max(len(e.reward) for row in recording.episodes.values() for e in row)
        self.speed = config.speed or min(1.0, longest * dt / SHORTEST)
        self.columns = 1 if count < 4 else 2 if count < 9 else 3
        for model in recording.models:
            brighten(model)
        self.blocks = [self._block(m) for m in range(count)]
        panels = max(len(block.clips) for block in self.blocks)
        self.gap = 0 if count == 1 else 6
        self.block_size = (panels * self.panel, self.head + self.panel + self.foot)
        rows = math.ceil(count / self.columns)
        self.width = _even(self.columns * (self.block_size[0] + self.gap) - self.gap)
        self.height = _even(rows * (self.block_size[1] + self.gap) - self.gap)
        self.frames = math.ceil(longest * dt / self.speed * config.fps) + 1
        self.frames += round(HOLD * config.fps)
        self.pictures = sum(len(block.clips) for block in self.blocks)
        """Panels in one frame."""

    def _block(self, m: int) -> _Block:
        recording, family = self.recording, self.recording.family
        task, model, dt = recording.task(m), recording.models[m], family.dt
        chosen = [(phase, title, row[m], mean) for phase, title, row, mean in _phases(recording, m)]
        root = find_root(model, family.camera.body if family.camera else None)
        paths = [body_path(model, episode.qpos, root.body) for _, _, episode, _ in chosen]
        speeds = [velocity_of(path, dt) for path in paths]
        markers = family.markers(task)
        worlds = recording.report.rollouts_per_task
        panels = [
            Panel(phase, title, episode.running, family.readings(path, speed, task),
                  episode.ended, mean, worlds)
            for (phase, title, episode, mean), path, speed in zip(
                chosen, paths, speeds, strict=True)
        ]  # fmt: skip
        spans = gauge_spans(panels)
        overlays = [PanelOverlay(panel, self.panel, spans, dt) for panel in panels]
        self.picture = overlays[0].picture
        aspect = self.picture[0] / self.picture[1]
        shots = plan_shots(family, model, paths, markers, aspect)
        clips = []
        for (_, _, episode, _), overlay, path, speed, shot in zip(
            chosen, overlays, paths, speeds, shots, strict=True
        ):
            marks = _marks(model, markers, shot, speeds, overlay.panel.phase)
            clips.append(_Clip(episode, model, path, speed, shot, overlay, marks))
        width = len(clips) * self.panel
        header = Header(family.name, family.describe(task), width, self.head)
        return _Block(header, clips, Strip(panels, width, self.foot, dt) if self.foot else None)

    def step(self, number: int) -> float:
        """Return the step of the episode, maybe a fraction, that a frame shows."""
        config, dt = self.config, self.recording.family.dt
        steps = max(len(c.episode.reward) for block in self.blocks for c in block.clips)
        step = number / config.fps * self.speed / dt
        return min(round(step, 6), float(steps))

    def renderer(self) -> Renderer:
        """Return a renderer of the panels, for the calling thread."""
        return Renderer(self.recording.models, *self.picture)

    def frame(self, number: int, renderer: Renderer) -> np.ndarray:
        """Return frame `number`, (height, width, 3) uint8."""
        step = self.step(number)
        seconds = step * self.recording.family.dt
        sheet = Image.new("RGB", (self.width, self.height), DARK)
        for m, block in enumerate(self.blocks):
            left = m % self.columns * (self.block_size[0] + self.gap)
            top = m // self.columns * (self.block_size[1] + self.gap)
            sheet.paste(block.header(seconds, self.speed), (left, top))
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
        root = find_root(clip.model)
        marks = clip.marks._replace(
            position=position, velocity=clip.velocity[low], trail=trail_of(clip.path, step, root)
        )
        view = View(lookat, *clip.shot[1:])
        return renderer.draw(clip.model, qpos, clip.episode.mocap[low], view, marks)


def _marks(
    model: mujoco.MjModel, markers: Sequence[Marker], shot: Shot, speeds: Sequence[np.ndarray],
    phase: str,
) -> Marks:  # fmt: skip
    """Return what is drawn beside the robot, but for where it is at the time."""
    root = find_root(model)
    wide, _, up = robot_size(model, root)
    fastest = max(float(np.abs(speed[:, :2]).max(initial=0.0)) for speed in speeds)
    asked = [float(np.linalg.norm(vector)) for kind, vector in markers if kind == "velocity"]
    red, green, blue = (c / 255 for c in COLOURS[phase])
    return Marks(
        markers, np.zeros(3), np.zeros(3), np.zeros((0, 3)),
        radius=max(wide, 0.045 * shot.distance), above=up + 0.35 * wide,
        ticks=needs_ticks(model, root), scale=0.8 * wide / max(fastest, *asked, 1e-6),
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
        return phase, experience(seen[k]), episodes["score", k], report.returns[m][k]

    out = [scored("before", 0)]
    if recording.explores and last > 0:
        title = "exploring, " + experience(seen[middle])
        out.append(("during", title, episodes["explore", middle], None))
    elif middle < last:
        out.append(scored("during", middle))
    return [*out, scored("after", last)] if last > 0 else out


def experience(episodes: int) -> str:
    """Return how much of the task a learner has seen, in words."""
    if not episodes:
        return "no data of this task yet"
    return f"after {episodes} episode{'s' if episodes > 1 else ''}"


def between(model: mujoco.MjModel, low: np.ndarray, high: np.ndarray, part: float) -> np.ndarray:
    """Return the position a part of the way from one to the next; quaternions turn."""
    if part == 0:
        return low
    way, out = np.zeros(model.nv), low.copy()
    mujoco.mj_differentiatePos(model, way, 1.0, low, high)
    mujoco.mj_integratePos(model, out, way, part)
    return out


def _even(pixels: int) -> int:
    """H.264 in 4:2:0 has no odd sizes."""
    return pixels + pixels % 2


# --- drawing in parallel -----------------------------------------------------------------------


def draw_frames(film: Film, threads: int | None = None) -> Iterator[np.ndarray]:
    """Yield all frames in order, drawn by several threads ahead of time.

    Raises:
        UserError: there is no headless OpenGL.
    """
    count = min(threads or available_cores(), film.frames)
    stop = threading.Event()
    queues: list[queue.Queue[Any]] = [queue.Queue(maxsize=2) for _ in range(count)]
    workers = [
        threading.Thread(target=_draw_some, args=(film, k, count, queues[k], stop), daemon=True)
        for k in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        for number in range(film.frames):
            got = queues[number % count].get()
            if isinstance(got, BaseException):
                raise got
            yield got
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _draw_some(
    film: Film, first: int, every: int, out: queue.Queue[Any], stop: threading.Event
) -> None:
    """Draw frames first, first + every, … into a queue; an error is the last thing in it."""
    try:
        renderer = film.renderer()
        try:
            for number in range(first, film.frames, every):
                if not _put(out, film.frame(number, renderer), stop):
                    return
        finally:
            renderer.close()
    except BaseException as error:
        _put(out, error, stop)


def _put(out: queue.Queue[Any], item: object, stop: threading.Event) -> bool:
    """Put an item in the queue unless nobody wants it any more."""
    while not stop.is_set():
        try:
            out.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


# --- encoding ----------------------------------------------------------------------------------


def check_out(out: Path | str) -> Path:
    """Return the path of a video to be written. Raises UserError if it names no known format."""
    path = Path(out)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: a video's name ends in .mp4 or .gif")
    if path.is_dir():
        raise UserError(f"--out {out}: that is a folder")
    return path


def render(
    recording: Recording, out: Path | str, config: VideoConfig | None = None, *,
    threads: int | None = None, progress: Callable[[int, int], None] | None = None,
) -> Film:  # fmt: skip
    """Write the video of a recording.

    Args:
        recording: of one task or several.
        out: a file that ends in .mp4 (H.264, yuv420p, ready to stream) or .gif.
        config: how it looks.
        threads: that draw; None takes every core.
        progress: called with (frames done, frames in all).

    Returns:
        The film, for its size and number of frames.

    Raises:
        UserError: there is no headless OpenGL, or the file cannot be written.
    """
    path = check_out(out)
    film = Film(recording, config or VideoConfig())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        _encode(film, temporary, path.suffix.lower(), threads, progress)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return film


def _encode(
    film: Film, path: Path, suffix: str, threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """Pipe the frames into FFmpeg."""
    from imageio_ffmpeg import get_ffmpeg_exe

    fps, size = film.config.fps, f"{film.width}x{film.height}"
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", size, "-r", str(fps), "-i", "-", *_codec(suffix, film)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, str(path)], stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        assert process.stdin is not None
        try:
            for number, frame in enumerate(draw_frames(film, threads)):
                process.stdin.write(frame.data)
                if progress is not None:
                    progress(number + 1, film.frames)
            process.stdin.close()
        except BrokenPipeError:
            pass  # FFmpeg has given up, and says why below
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait():
            said.seek(0)
            words = said.read().decode(errors="replace").split()
            raise UserError(f"cannot write '{path.name}': FFmpeg: {' '.join(words)[-200:]}")


def _codec(suffix: str, film: Film) -> list[str]:
    """Return FFmpeg's output options for a format."""
    if suffix == ".mp4":
        return ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p",
                "-movflags", "+faststart", "-f", "mp4"]  # fmt: skip
    fps, width = min(film.config.fps, GIF_FPS), min(film.width, GIF_WIDTH * film.columns)
    graph = (
        f"fps={fps},scale={width}:-2:flags=lanczos,split[a][b];"
        "[a]palettegen=max_colors=96:stats_mode=diff[p];"
        "[b][p]paletteuse=dither=none:diff_mode=rectangle"
    )
    return ["-filter_complex", graph, "-f", "gif"]
