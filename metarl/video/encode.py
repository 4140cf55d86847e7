"""Adaptation videos as files: threads draw the frames of a film, and FFmpeg encodes them.

A frame is a function of its number, so threads draw several at the same time, and each goes to the
encoder in its turn. Nothing runs the learner or the physics here: see `metarl.video.recording`.
"""

from __future__ import annotations

import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.errors import UserError
from metarl.run_folder import disk_errors
from metarl.threads import available_cores
from metarl.video.film import Film, VideoConfig

if TYPE_CHECKING:
    from metarl.video.recording import Recording

__all__ = ["Film", "VideoConfig", "check_out", "draw_frames", "render"]

FORMATS = (".mp4", ".gif")
GIF_WIDTH, GIF_FPS = 800, 12.5
"""Most that a GIF has, by column of tasks: it is for a README, and has no motion compensation."""

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
    film = Film(recording, config or VideoConfig())
    write(film, out, threads=threads, progress=progress)
    return film


def write(
    film: Film, out: Path | str, *, threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Write a film, or what draws frames as one does; the arguments are those of `render`."""
    path = check_out(out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    try:
        _encode(film, temporary, path.suffix.lower(), threads, progress)
        with disk_errors(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        "[a]palettegen=max_colors=128[p];"
        "[b][p]paletteuse=dither=none:diff_mode=rectangle"
    )
    return ["-filter_complex", graph, "-f", "gif"]
