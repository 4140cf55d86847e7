"""Settings for every test: quiet threads, reproducible examples, and what many tests share.

How tests stay cheap. A process that imports torch costs two seconds: `helpers.process.forked` has
all that this one imported, and `after_torch` nothing but torch. A chart costs a tenth of a second:
a page that is only read needs none. Time goes with steps: a family's `horizon` can be patched, and
a few short episodes show more than the first part of a long one. What every family or learner goes
through is paid some forty times over. Each worker of pytest-xdist makes the fixtures of a module
or a session for itself: what takes long and is used once belongs in one test.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
from pathlib import Path

# Before torch is imported: waiting threads must not spin against the physics threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What a training remembers of its plug-ins is not the user's own here.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="metarl-state-")

import pytest
from hypothesis import settings

# Signals that are ignored here, as in the background of a script, would be by what tests start.
for _number, _plain in (
    (signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)
):  # fmt: skip
    if signal.getsignal(_number) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # in a thread of a worker
            signal.signal(_number, _plain)

# No deadline: the first example pays for compiling a model. No random example: a failure repeats.
settings.register_profile("metarl", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("metarl")

# What is collected stays to the end: to look through it for garbage, again and again, is in vain.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but seldom, and not among what was imported and collected."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def _torch_as_found():
    """Give every test one torch thread and leave torch's global settings as they were."""
    import torch  # not above: the process that shares out the tests needs none

    torch.set_num_threads(1)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture(scope="session", autouse=True)
def _no_pages():
    """Leave the page and the figures out of training, unless a test is about them (`pages`).

    They take a second at each evaluation, and most of the time of a small run.
    """
    import metarl.run

    original = metarl.run._default_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metarl.run, "_default_callbacks", _only_videos)
        yield original


@pytest.fixture(autouse=True)
def _pages(request, monkeypatch, _no_pages):
    """Have a test about pages train as users do."""
    if "pages" in request.keywords:
        monkeypatch.setattr("metarl.run._default_callbacks", _no_pages)


def _only_videos(train):
    from metarl.video.callback import VideoCallback

    return [VideoCallback(train.video_every)] if train.video_every else []


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """A run of two iterations on point-goal, evaluated at 0, 1 and 2, for fixtures that copy it."""
    import torch
    from helpers.runs import train_small

    torch.set_num_threads(1)
    return train_small(tmp_path_factory.mktemp("trained") / "small")


@pytest.fixture(scope="session", autouse=True)
def _terrains_stay():
    """Keep the compiled models of all terrains, 60 MB: many tests take the families in turn."""
    from metarl.tasks.variations import terrain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terrain, "_KEPT", 24)
        yield


@pytest.fixture
def trained_run(small_run):
    """The same run, which a test may read, and may not change: others read it, too."""
    before = _files(small_run)
    yield small_run
    assert _files(small_run) == before, "copy the run to change it"


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def _empty_charts():
    """Write charts without pictures; see helpers/html.py."""
    from helpers.html import empty_charts

    with empty_charts():
        yield


@pytest.fixture
def _small_videos(monkeypatch):
    """Have the videos of a training last two seconds, with few and small pictures."""
    from dataclasses import replace

    from metarl.video.film import VideoConfig

    monkeypatch.setattr("metarl.video.film.SHORTEST", 1.0)
    monkeypatch.setattr(
        "metarl.video.callback.VideoConfig",
        lambda **how: replace(VideoConfig(**how), size=160, fps=4),
    )


@pytest.fixture(scope="session")
def after_torch():
    """Run code in a process that has imported torch and nothing of ours; see helpers/process.py."""
    from helpers.process import processes_after_torch

    with processes_after_torch() as run:
        yield run


@pytest.fixture(scope="session")
def recording():
    """An adaptation of two tasks of point-goal, in two rounds."""
    from helpers.recording import recorded

    from metarl.tasks.registry import find_family

    return recorded(find_family("point-goal"))


@pytest.fixture(scope="session")
def lift(tmp_path_factory):
    """A family of a file of its own, with ends, sizes and grounds."""
    from helpers.recording import LIFT

    from metarl.tasks.registry import find_family

    path = tmp_path_factory.mktemp("lift") / "lift.py"
    path.write_text(LIFT)
    return find_family(f"{path}:Lift")


@pytest.fixture(scope="session")
def _gl() -> None:
    """Skip where there is no headless OpenGL at all."""
    from metarl.base.errors import UserError
    from metarl.video.opengl import make_context

    try:
        make_context(8, 8).free()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The tiny run of `small_runs.train`, which nothing interrupted; copy it to change it."""
    import torch
    from helpers.runs import train

    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("whole") / "run")


FAMILY = """
from metarl import Choices, Param, TaskFamily
import torch

class Slider(TaskFamily):
    model = '''<mujoco><worldbody><body><joint name="x" type="slide" damping="1"/>
      <geom size=".1" mass="1"/></body></worldbody>
      <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>'''
    horizon = 5
    params = (Param("direction", Choices((-1.0, 1.0))),)

    def reward(self, sim, before, action, task):
        return sim.qvel[:, 0] * task["direction"]
"""


@pytest.fixture
def plugin(tmp_path) -> str:
    """A stranger's family, in a file."""
    (tmp_path / "slider.py").write_text(FAMILY)
    return f"{tmp_path / 'slider.py'}:Slider"


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """The commands that a sweep starts; they run in forks of this process, which has torch."""
    import subprocess
    from types import SimpleNamespace

    import torch
    from helpers.process import forked

    from metarl.cli import main

    seen = []

    def start(command, **more):
        seen.append(command[:4])
        environment = more.pop("env")

        def run():
            os.environ.clear()
            os.environ.update(environment)
            torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
            return main(command[3:])

        return forked(run, **more)

    fake = SimpleNamespace(Popen=start, STDOUT=subprocess.STDOUT, PIPE=subprocess.PIPE)
    monkeypatch.setattr("metarl.commands.training.one_run.subprocess", fake)
    return seen
