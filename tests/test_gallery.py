"""The gallery shows what its captions say: the task, its split, and what the results show."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from metarl import TaskDistribution
from metarl.commands.export import export_agent
from metarl.tasks.registry import find_family

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "videos" / "render_gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)


@pytest.mark.parametrize("agent", sorted(gallery.AGENTS.iterdir()), ids=lambda path: path.name)
def test_a_video_shows_a_task_of_the_split_in_its_caption(agent: Path) -> None:
    shot, words = gallery.shot_of(agent.name), gallery.caption(agent)
    tasks, at, median = gallery.shown(agent)
    family = find_family(gallery.results(agent, shot.split).family)
    assert tasks[at] == TaskDistribution(family).split(shot.split, at + 1)[at]
    name = gallery.SPLITS[shot.split]
    assert (f"{name} task {at}" in words) or (f"train = {name} task {at}" in words)
    assert ("median" in words) == median
    assert gallery.results(agent, shot.split).verdict() in words


def test_the_median_task_is_that_of_the_results() -> None:
    """Of 30 gains, 15 are lower and 14 are higher."""
    agent = gallery.AGENTS / "half-cheetah-terrain-rl2"
    _, at, _ = gallery.shown(agent)
    gains = [row[-1] - row[0] for row in gallery.results(agent, "heldout").returns]
    assert sorted(gains).index(gains[at]) == 15
    assert "no gain by adaptation is shown" in gallery.caption(agent)


def test_the_task_that_is_drawn_is_that_of_the_caption(trained_run, tmp_path) -> None:
    """Its returns are to the bit those of the results for the task of median gain."""
    torch.set_num_threads(1)
    run = shutil.copytree(trained_run, tmp_path / "run")
    agent = export_agent(run, tmp_path / "point", threads=1)
    tasks, at, median = gallery.shown(agent)
    recording = gallery.play(agent)
    results = gallery.results(agent, "heldout")
    rounds = gallery.rounds(results.algorithm)
    assert median
    assert recording.tasks == tasks[at]
    assert recording.report.tasks == [results.tasks[at]]
    assert recording.report.returns == [results.returns[at][: rounds + 1]]
    assert len(recording.models) == len(recording.episodes["score", rounds]) == 1


def test_every_gif_that_comes_with_the_repository_has_an_entry() -> None:
    assert {path.stem for path in (ROOT / "videos").glob("*.gif")} <= set(gallery.SHOTS)


def test_the_captions_are_those_of_the_entries() -> None:
    """`python videos/render_gallery.py --captions` would change nothing, and none is left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert gallery.put_captions(readme) == readme
    assert readme.count(".gif)") == len(gallery.BLOCK.findall(readme)) > 0
