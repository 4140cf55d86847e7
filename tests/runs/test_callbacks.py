"""Callbacks of a run: what they write, and that what fails in them ends no run."""

from __future__ import annotations

import contextlib
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.recording import CONFIG
from helpers.runs import SMALL, TRAIN

from metarl.algorithms.maml_trpo import MamlTrpo
from metarl.base.errors import UserError
from metarl.callbacks import (
    Callback,
    ReportCallback,
    TensorBoardCallback,
    VideoCallback,
    default_callbacks,
)
from metarl.evaluation.protocol import Report
from metarl.runs.config import Position, TrainConfig
from metarl.runs.run_folder import RunFolder
from metarl.runs.runner import meta_train
from metarl.runs.signals import TrainingStopped
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.registry import find_family
from metarl.worlds.task_worlds import TaskWorlds

pytestmark = pytest.mark.pages

PENDULUM = Path(__file__).parents[2] / "docs" / "examples" / "my_env.py"


@pytest.fixture
def run(trained_run, tmp_path):
    """A small run as callbacks see it, after its second iteration."""
    family = find_family("point-goal")
    tasks = TaskDistribution(family).split("heldout", 2)
    folder = RunFolder(shutil.copytree(trained_run, tmp_path / "run"))
    said: list[str] = []
    with folder:
        yield SimpleNamespace(
            config=TrainConfig(rollouts_per_task=2, evaluate_episodes=1, threads=1), family=family,
            learner=MamlTrpo(TaskWorlds(family, 1, 1).spec, CONFIG), folder=folder,
            position=Position(2, 1600, 1.0), eval_tasks=tasks,
            threads=1, logger=folder.logger(upto=2, env_steps=1600), say=said.append, said=said,
            interruptible=contextlib.nullcontext,
        )  # fmt: skip


def latest(run) -> Report:
    return Report.load(run.folder.evaluation_path(2))


@pytest.mark.usefixtures("_empty_charts")
def test_the_page_reads_itself_again_until_the_end(run):
    callback, page = ReportCallback(), run.folder.path / "report.html"
    callback.on_evaluation(run, latest(run))
    assert 'http-equiv="refresh"' in page.read_text()
    callback.on_end(run)
    assert 'http-equiv="refresh"' not in page.read_text()
    assert run.said == []


def test_an_evaluation_is_a_figure_in_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert EventAccumulator(str(run.folder.path)).Reload().Tags()["images"] == []
    TensorBoardCallback().on_evaluation(run, latest(run))
    for output in run.logger.output_formats:
        output.close()
    (image,) = EventAccumulator(str(run.folder.path)).Reload().Images("heldout/adaptation")
    assert image.step == 1600


@pytest.mark.parametrize(
    ("callback", "broken"),
    [(ReportCallback(), "write_page"), (TensorBoardCallback(), "adaptation_figure")],
)
def test_what_cannot_be_drawn_is_warned_of_once(run, monkeypatch, callback, broken):
    def fail(*args, **kwargs):
        raise RuntimeError("not\ntoday")

    monkeypatch.setattr(f"metarl.report.callbacks.{broken}", fail)
    for _ in range(2):
        callback.on_evaluation(run, latest(run))
    assert len(run.said) == 1
    assert run.said[0].endswith("not today; the training goes on")


@pytest.mark.usefixtures("_gl", "_small_videos")
def test_a_video_is_made_when_it_is_due(run, monkeypatch):
    for every in (0, 3):
        VideoCallback(every).on_iteration(run, {})
    videos = run.folder.path / "videos"
    assert not videos.exists()
    VideoCallback(2).on_iteration(run, {})
    assert [path.name for path in videos.iterdir()] == ["step_00000002.gif"]


def test_a_machine_that_cannot_render_is_warned_of(run, monkeypatch):
    def no_gl(*_):
        raise UserError("cannot render without a display")

    monkeypatch.setattr("metarl.video.film.Film.renderer", no_gl)
    VideoCallback(2).on_iteration(run, {})
    assert run.said == ["warning: no video of iteration 2: cannot render without a display"]


def test_a_third_party_environment_is_not_filmed_and_ends_no_training(run):
    run.family = find_family(f"{PENDULUM}:MyPendulum")
    VideoCallback(2).on_iteration(run, {})
    (line,) = run.said
    assert line.startswith("warning: no video of iteration 2: family 'my-pendulum' is a gymnasium")


class Diary(Callback):
    """Notes what is called, and at which iteration."""

    def __init__(self):
        self.notes: list[tuple[str, int]] = []

    def on_start(self, run):
        assert (run.folder.path / "config.json").is_file()
        self.notes.append(("start", run.position.iteration))

    def on_iteration(self, run, metrics):
        assert "return_after" in metrics
        self.notes.append(("iteration", run.position.iteration))

    def on_evaluation(self, run, report):
        assert run.folder.evaluation_path(run.position.iteration).is_file()
        self.notes.append(("evaluation", run.position.iteration))

    def on_checkpoint(self, run, path):
        assert path == run.folder.checkpoints / f"step_{run.position.iteration:08d}"
        self.notes.append(("checkpoint", run.position.iteration))

    def on_end(self, run):
        self.notes.append(("end", run.position.iteration))


BEGINNING = [("start", 0), ("checkpoint", 0), ("evaluation", 0), ("function", 1), ("iteration", 1)]


@pytest.mark.parametrize(
    ("stopped_at", "rest"),
    [
        (None, [("function", 2), ("checkpoint", 2), ("iteration", 2), ("function", 3),
                ("iteration", 3), ("evaluation", 3), ("checkpoint", 3), ("end", 3)]),
        (2, [("function", 2), ("checkpoint", 2), ("end", 2)]),
    ],
    ids=["to the end", "a signal"],
)  # fmt: skip
def test_when_each_is_called(tmp_path, stopped_at, rest):
    family, diary = find_family("point-goal"), Diary()
    worlds = TaskWorlds(family, 4, 1)

    def function(iteration, learner, metrics):
        diary.notes.append(("function", iteration))
        if iteration == stopped_at:
            signal.raise_signal(signal.SIGTERM)

    config = replace(TRAIN, out=str(tmp_path / "run"), iterations=3)
    ends = contextlib.nullcontext() if stopped_at is None else pytest.raises(TrainingStopped)
    with ends:
        meta_train(
            MamlTrpo(worlds.spec, SMALL), worlds, TaskDistribution(family), config,
            [diary, function],
        )  # fmt: skip
    assert diary.notes == BEGINNING + rest
    assert not (tmp_path / "run" / "report.html").exists()  # which is a callback's


def test_the_callbacks_of_the_command_film_as_often_as_it_is_asked():
    (video,) = [c for c in default_callbacks(TrainConfig(video_every=7)) if hasattr(c, "every")]
    assert video.every == 7
