"""OpenGL without a display: which, what if there is none, and that pictures do not depend on it."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.refusals import refused

from metarl import TaskWorlds
from metarl.adapters.offscreen_renderer import OffscreenRenderer
from metarl.video import opengl

PICTURE = """
import os, sys
import numpy as np
from metarl import TaskWorlds
from metarl.adapters.offscreen_renderer import OffscreenRenderer
np.save(sys.argv[1], OffscreenRenderer(TaskWorlds("half-cheetah-vel", 1, 1), 64, 48).frame())
print(os.environ["MUJOCO_GL"])
"""

LEFT_OPEN = """
import gymnasium
import metarl
env = gymnasium.make("metarl/PointGoal-v0", render_mode="rgb_array", width=64, height=48)
env.reset(seed=0)
print(env.render().shape)
"""


def test_no_headless_opengl_names_the_packages(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}\nhere")

    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(opengl, "_context_class", missing)
    monkeypatch.setattr(opengl, "backends", lambda: ("egl", "osmesa"))
    packages = "install libegl1, libopengl0 and libgl1-mesa-dri, or libosmesa6"
    with refused("egl: no egl here; osmesa: no osmesa here", packages):
        opengl.make_context(8, 8)


def test_osmesa_is_the_fallback(monkeypatch):
    tried = []

    class Context:
        def __init__(self, width, height):
            pass

        def make_current(self):
            pass

    def choose(name):
        tried.append(name)
        if name == "egl":
            raise ImportError("no EGL device")
        return Context

    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(opengl, "_context_class", choose)
    monkeypatch.setattr(opengl.platform, "system", lambda: "Linux")
    assert isinstance(opengl.make_context(8, 8), Context)
    assert isinstance(opengl.make_context(8, 8), Context)
    assert tried == ["egl", "osmesa", "osmesa"]
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize(
    ("wanted", "tried"),
    [("", ("egl", "osmesa")), ("osmesa", ("osmesa",)), ("EGL", ("egl",)),
     ("glfw", ("egl", "osmesa"))],
)  # fmt: skip
def test_mujoco_gl_is_obeyed_but_for_glfw(wanted, tried, monkeypatch):
    """GLFW hangs in threads, and there may be no display: EGL draws off screen anyway."""
    monkeypatch.setenv("MUJOCO_GL", wanted)
    monkeypatch.setattr(opengl.platform, "system", lambda: "Linux")
    assert opengl.backends() == tried


def picture(path, **environment: str) -> tuple[np.ndarray, str]:
    """Return a picture taken in a process of its own, and the name of what drew it."""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", PICTURE, str(path)], capture_output=True, text=True, timeout=300,
        env=kept | environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return np.load(path), done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(ctypes.util.find_library("OSMesa") is None, reason="no libosmesa6 here")
@pytest.mark.usefixtures("_gl")
def test_osmesa_draws_the_same_when_egl_finds_no_driver(tmp_path):
    """Up to rounding: it may be another version of Mesa, or EGL may be a GPU's."""
    usual, _ = picture(tmp_path / "usual.npy")
    other, name = picture(tmp_path / "other.npy", __EGL_VENDOR_LIBRARY_DIRS=str(tmp_path / "none"))
    assert name == "osmesa"
    assert usual.std() > 5
    assert (np.abs(usual.astype(int) - other) > 8).mean() < 0.02


@pytest.mark.usefixtures("_gl")
def test_two_cameras_of_one_thread_do_not_disturb_each_other():
    """Each draws into its own buffer, also after another one was made, used and closed."""
    cheetah = OffscreenRenderer(TaskWorlds("half-cheetah-vel", 1, 1), 64, 48)
    first = cheetah.frame()
    point = OffscreenRenderer(TaskWorlds("point-goal", 1, 1), 32, 32)
    seen = point.frame()
    assert seen.shape == (32, 32, 3)
    assert np.array_equal(cheetah.frame(), first)
    cheetah.close()
    cheetah.close()
    assert np.array_equal(point.frame(), seen)
    point.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_gl")
def test_an_environment_that_is_not_closed_ends_in_silence():
    """MuJoCo ends EGL at exit, and contexts that are left by then complain of it."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(48, 64, 3)\n", "")
