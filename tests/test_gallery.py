"""The gallery shows what its captions say: the tasks, their split, and what the results show."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarl import TaskDistribution
from metarl.base.versions import hardware
from metarl.commands.export import export_agent
from metarl.tasks.registry import find_family

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "videos" / "render_gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)

GIFS = sorted((ROOT / "videos").glob("*.gif"))


@pytest.mark.parametrize("agent", sorted(gallery.AGENTS.iterdir()), ids=lambda path: path.name)
def test_a_video_shows_tasks_of_the_split_in_its_caption(agent: Path) -> None:
    shot, words = gallery.shot_of(agent.name), gallery.caption(agent)
    which, why = gallery.chosen(agent)
    report = gallery.results(agent, shot.split)
    tasks = TaskDistribution(find_family(report.family)).split(shot.split, max(which) + 1)
    for m in which:
        assert gallery.tasks_of(agent)[m] == tasks[m]
        assert report.tasks[m] == tasks.values[m].tolist()
    name = gallery.SPLITS[shot.split]
    said = f"{name} task{'s' if len(which) > 1 else ''} {gallery.listed(which)}"
    assert said in words
    assert ("on which it was trained, too" in words) == report.train_is_heldout
    assert why in words
    assert gallery.number(report.mean[0]) in words or report.verdict() in words


def test_the_task_beside_others_is_that_of_the_median_lead() -> None:
    """Of 30 leads over the blind policy, 15 are lower and 14 are higher."""
    agent = gallery.AGENTS / "half-cheetah-vel-rl2"
    (at,), why = gallery.chosen(agent)
    mine, blind = (
        np.array(gallery.results(agent.with_name(name), "heldout").returns)[:, 0]
        for name in (agent.name, "half-cheetah-vel-ppo")
    )
    assert sorted(mine - blind).index(mine[at] - blind[at]) == 15
    assert why in gallery.caption(agent)


def test_three_tasks_are_the_quartiles_of_the_first_episode() -> None:
    agent = gallery.AGENTS / "half-cheetah-terrain-rl2"
    which, _ = gallery.chosen(agent)
    first = np.array(gallery.results(agent, "heldout").returns)[:, 0]
    assert [sorted(first).index(first[m]) for m in which] == [7, 15, 22]


def test_what_adapts_between_episodes_shows_the_task_of_median_gain() -> None:
    agent = gallery.AGENTS / "half-cheetah-terrain-maml-trpo"
    (at,), _ = gallery.chosen(agent)
    gains = [row[1] - row[0] for row in gallery.results(agent, "heldout").returns]
    assert sorted(gains).index(gains[at]) == 15


@pytest.mark.usefixtures("_empty_charts")
def test_the_task_that_is_drawn_is_that_of_the_caption(trained_run, tmp_path) -> None:
    """Its returns are to the bit those of the results for the task of median gain."""
    torch.set_num_threads(1)
    run = shutil.copytree(trained_run, tmp_path / "run")
    agent = export_agent(run, tmp_path / "point", threads=1)
    (at,), _ = gallery.chosen(agent)
    recording = gallery.play(agent)
    results = gallery.results(agent, "heldout")
    rounds = gallery.rounds(results)
    assert recording.tasks == gallery.tasks_of(agent)[at]
    assert recording.report.tasks == [results.tasks[at]]
    assert recording.report.returns == [results.returns[at][: rounds + 1]]
    assert len(recording.models) == len(recording.episodes["score", rounds]) == 1


def test_a_policy_that_does_not_adapt_has_no_rounds() -> None:
    """Its video is of the first episode, on three tasks, and its returns are those of its file.

    To all digits on the kind of processor that the file is of: elsewhere sums are rounded
    otherwise, and a contact more or less is a few points of return.
    """
    torch.set_num_threads(1)
    agent = gallery.AGENTS / "half-cheetah-vel-ppo"
    report = gallery.results(agent, "heldout")
    assert gallery.rounds(report) == 0
    film = gallery.film_of(agent)
    which, _ = gallery.chosen(agent)
    clips = [clip for block in film.blocks for clip in block.clips]
    assert [clip.overlay.panel.name for clip in clips] == ["blind"] * 3
    made_on = json.loads((agent / "result.json").read_text())["hardware"]
    near = 1e-6 if made_on["cpu"] == hardware()["cpu"] else 0.1
    for m, row in zip(which, film.recording.report.returns, strict=True):
        assert row == pytest.approx(report.returns[m][:1], rel=near)


# --- the files ---------------------------------------------------------------------------------


def test_every_gif_that_comes_with_the_repository_has_an_entry() -> None:
    assert {path.stem for path in GIFS} == set(gallery.SHOTS)


@pytest.mark.parametrize("path", GIFS, ids=lambda path: path.stem)
def test_a_gif_is_small_smooth_and_as_wide_as_a_page(path: Path) -> None:
    """2 MB, at least 12 frames a second, and letters that are not scaled down in a README."""
    assert path.stat().st_size <= gallery.GIF_BYTES
    with Image.open(path) as gif:
        seconds = []
        for n in range(gif.n_frames):
            gif.seek(n)
            seconds.append(gif.info["duration"] / 1000)
        assert gif.n_frames / sum(seconds) >= 12
        assert gif.width <= 880
        assert np.asarray(gif.convert("L")).std() > 20  # no black frame


def test_the_gallery_is_of_many_robots() -> None:
    robots = [name.split("-")[0] for name in gallery.SHOTS]
    assert {"half", "walker2d", "quadruped", "ant"} <= set(robots)
    assert 2 * robots.count("half") <= len(robots)
    assert any("crippled" in name for name in gallery.SHOTS)
    assert any("terrain" in name for name in gallery.SHOTS)


@pytest.mark.parametrize("page", gallery.PAGES, ids=lambda path: path.name)
def test_the_captions_are_those_of_the_entries(page: Path) -> None:
    """`python videos/render_gallery.py --captions` would change nothing, and none is left out."""
    text = page.read_text(encoding="utf-8")
    assert gallery.put_captions(text, gallery.PAGES[page]) == text
    assert text.count(".gif)") == len(gallery.BLOCK.findall(text)) > 0
