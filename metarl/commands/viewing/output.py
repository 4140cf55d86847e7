"""Where a video goes, and what is said of it once it is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.base.plugins import short_name
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.learning.checkpoint import Checkpoint
    from metarl.video.film import Film
    from metarl.video.versus import Reel


def draw(film: Film | Reel, out: Path, threads: int | None) -> None:
    """Write a video, and say what it is."""
    from metarl.video import encode as video

    started = time.perf_counter()
    with bar("drawing") as show:
        video.write(film, out, threads=threads, progress=show)
    took = time.perf_counter() - started
    say(
        f"wrote {out}: {film.width} × {film.height}, {film.frames / film.config.fps:.1f} s, "
        f"{out.stat().st_size / 2**20:.1f} MiB, in {took:.1f} s "
        f"({film.frames * film.pictures / took:.0f} pictures/s)"
    )


def default_out(checkpoint: Checkpoint, split: str, settings: Sequence[str]) -> Path:
    """Return where a video goes if nobody says: a name of its own for each task."""
    name = "_".join(word.replace("/", "").strip() for word in settings) or split
    if Path(checkpoint.path).parent.name == "checkpoints":
        return Path(checkpoint.path).parent.parent / "videos" / f"{name}.mp4"
    of = (Path(short_name(one)).name for one in (checkpoint.family, checkpoint.algorithm))
    return Path(f"{'-'.join(of).replace('.py:', '-')}-{name}.mp4")
