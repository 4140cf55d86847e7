"""Adaptation videos as files: threads draw the frames of a film, and FFmpeg encodes them.

A frame is a function of its number, so threads draw several at the same time, and each goes to the
encoder in its turn. Nothing runs the learner or the physics here: see `metarl.video.recording`.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarl.base.errors import UserError
from metarl.base.files import file_errors, whole_file
from metarl.base.threads import available_cores
from metarl.video.film import Film, VideoConfig
from metarl.video.renderer import Renderer

if TYPE_CHECKING:
    from metarl.video.recording import Recording
    from metarl.video.versus import Reel

__all__ = ["Film", "VideoConfig", "check_out", "draw_frames", "render"]

FORMATS = (".mp4", ".gif")
GIF_WIDTH, GIF_FPS = 960, 12.5
"""Most that a GIF has, by column of tasks: it is for a README, and has no motion compensation."""

# --- drawing in parallel -----------------------------------------------------------------------


def draw_frames(film: Film | Reel, threads: int | None = None) -> Iterator[np.ndarray]:
    """Yield all frames in order, drawn by several threads at most a few frames ahead.

    A renderer belongs to the thread that made it, so each worker is a pool of one thread.

    Raises:
        UserError: there is no headless OpenGL.
    """
    count = min(threads or available_cores(), film.frames)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count)]
        renderers = [worker.submit(film.renderer) for worker in workers]
        for worker, renderer in zip(workers, renderers, strict=True):
            stack.callback(lambda w=worker, r=renderer: w.submit(_close, r))

        def draw(number: int) -> Future[np.ndarray]:
            at = number % count
            return workers[at].submit(lambda: film.frame(number, renderers[at].result()))

        ahead = deque(draw(number) for number in range(min(2 * count, film.frames)))
        try:
            for number in range(film.frames):
                frame = ahead.popleft().result()
                if number + 2 * count < film.frames:
                    ahead.append(draw(number + 2 * count))
                yield frame
        finally:
            for pending in ahead:
                pending.cancel()


def _close(renderer: Future[Renderer]) -> None:
    if renderer.exception() is None:
        renderer.result().close()


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
    film: Film | Reel, out: Path | str, *, threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Write a film, or what draws frames as one does; the arguments are those of `render`."""
    path = check_out(out)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            draft.touch()  # what cannot be written is better said before the work than after it
            _encode(film, draft, path.suffix.lower(), threads, progress)


def _encode(
    film: Film | Reel, path: Path, suffix: str, threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """Pipe the frames into FFmpeg.

    `imageio_ffmpeg.write_frames` would not say that FFmpeg failed, as on a full disk.
    """
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


def _codec(suffix: str, film: Film | Reel) -> list[str]:
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
