"""Videos as files, and those that training makes."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.recording import CONFIG, SMALL
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from metarl.base.errors import UserError
from metarl.learning import checkpoint as checkpoints
from metarl.run import start_run
from metarl.runs.config import TrainConfig
from metarl.video.encode import check_out, draw_frames, render
from metarl.video.film import Film, VideoConfig

TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_tasks=2, threads=1,
    device="cpu", progress=False,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("_gl")
def test_frames_do_not_depend_on_the_threads(recording):
    film = Film(recording, SMALL)
    one, three = list(draw_frames(film, 1)), list(draw_frames(film, 3))
    assert len(one) == len(three) == film.frames
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    assert one[0].shape == (film.height, film.width, 3)
    assert not np.array_equal(one[0], one[6])


def probe(path: Path) -> str:
    done = subprocess.run([get_ffmpeg_exe(), "-i", str(path), "-f", "null", "-"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.stderr


@pytest.mark.usefixtures("_gl")
def test_mp4(recording, tmp_path):
    """H.264 in yuv420p, index first, 2 s of play and 1 s of rest at 4 frames/s."""
    seen = []
    film = render(recording, tmp_path / "a.mp4", SMALL, progress=lambda *p: seen.append(p))
    said = probe(tmp_path / "a.mp4")
    assert re.search(r"Video: h264.*yuv420p", said)
    assert f"{film.width}x{film.height}" in said
    assert "4 fps" in said
    assert film.frames == 8 + 1 + 4
    assert seen[-1] == (13, 13)
    assert int(re.findall(r"frame=\s*(\d+)", said)[-1]) == 13
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.usefixtures("_gl")
def test_gif(recording, tmp_path):
    film = render(recording, tmp_path / "deep" / "a.gif", SMALL)
    with Image.open(tmp_path / "deep" / "a.gif") as got:
        assert (got.width, got.height) == (film.width, film.height)
        assert got.n_frames >= 9  # FFmpeg merges equal frames of the rest


@pytest.mark.parametrize(
    ("out", "word"), [("a.avi", ".mp4 or .gif"), ("a", ".mp4"), ("d.mp4", "folder")]
)
def test_check_out(out, word, tmp_path):
    (tmp_path / "d.mp4").mkdir()
    with pytest.raises(UserError, match=re.escape(word)):
        check_out(tmp_path / out)


@pytest.mark.parametrize("field", ["size", "fps", "speed"])
def test_video_config_is_checked(field):
    with pytest.raises(UserError, match=field):
        VideoConfig(**{field: 0})


@pytest.mark.usefixtures("_gl")
def test_a_file_that_cannot_be_written(recording, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        render(recording, tmp_path / "file" / "a.mp4", SMALL)


def test_an_error_of_a_drawing_thread_is_raised(recording, monkeypatch):
    film = Film(recording, SMALL)

    def broken():
        raise UserError("no OpenGL")

    monkeypatch.setattr(film, "renderer", broken)
    with pytest.raises(UserError, match="no OpenGL"):
        list(draw_frames(film, 2))


# --- during training ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_gl", "_small_videos")
def test_training_makes_videos_and_is_not_changed(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(TRAIN, out=str(tmp_path / "run"), video_every=2)
    out = start_run("point-goal", "maml-trpo", config, CONFIG)
    names = sorted(path.name for path in (out / "videos").iterdir())
    assert names == ["step_00000002.gif"]
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    images = events.Images("heldout/video")
    assert len(images) == 1
    assert images[0].encoded_image_string.startswith(b"GIF89a")
    plain = start_run(
        "point-goal", "maml-trpo", replace(TRAIN, out=str(tmp_path / "plain")), CONFIG
    )
    same = [(checkpoints.newest(p) / "weights.safetensors").read_bytes() for p in (plain, out)]
    assert same[0] == same[1]


def test_training_goes_on_where_nothing_can_be_drawn(tmp_path, monkeypatch, capsys):
    def no_gl(*_):
        raise UserError("cannot render without a display")

    monkeypatch.setattr(Film, "renderer", no_gl)
    config = replace(TRAIN, out=str(tmp_path / "run"), video_every=2, progress=True)
    start_run("point-goal", "maml-trpo", config, CONFIG)
    assert "warning: no video of iteration 2: cannot render" in capsys.readouterr().out
