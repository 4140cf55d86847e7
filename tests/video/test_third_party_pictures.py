"""Films of third-party environments: what is drawn, and without a display."""

from __future__ import annotations

import os
from pathlib import Path

import mujoco
import numpy as np
import pytest
from helpers.refusals import refused
from helpers.third_party import Goal, family

from metarl import TaskDistribution, find_learner
from metarl.learning.adaptation import adaptation_rounds
from metarl.video import opengl
from metarl.video.encode import VideoConfig
from metarl.video.gymnasium import DrawingWorlds, PictureFilm, drawing
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")


class Counted(Goal):
    """Draws where it is and what its task is, and notes in a file that it drew."""

    notes: Path

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        with self.notes.open("a") as notes:
            notes.write("x")
        return np.full((64, 96, 3), (min(400 * abs(self.x), 255), 9, 99 + 99 * self.goal), np.uint8)


@pytest.mark.parametrize("episodes", [0, 2])
def test_only_what_a_film_shows_is_drawn(episodes: int, tmp_path) -> None:
    """Which is what the first world of each task draws in the first round and in the last."""
    notes = tmp_path / "notes"
    made = family(type("Noted", (Counted,), {"notes": notes}))
    tasks, seen = TaskDistribution(made).split("heldout", 2), {}
    worlds = make_worlds(drawing(made), 6, 2)
    worlds.set_tasks(tasks, 3)
    cls = find_learner("maml-trpo")  # it explores between the rounds
    learner = cls(worlds.spec, cls.Config())

    def watch(phase, k):
        kept = seen[phase, k] = [worlds.render()]
        return lambda got: kept.append(worlds.render())

    list(adaptation_rounds(learner, worlds, 2, episodes, 3, watch))
    some = worlds.render([5, 0, 3])
    assert all(map(np.array_equal, some, (worlds.render()[i] for i in (5, 0, 3))))
    worlds.close()
    notes.unlink()
    film = PictureFilm(
        learner, made, tasks, VideoConfig(size=160), worlds_per_task=3, episodes=episodes, seed=3
    )
    for m, row in enumerate(film._cells):
        for k, cell in zip((0, episodes), row, strict=True):
            assert len(cell) == 20
            for picture, drawn in zip(cell, seen["score", k], strict=False):
                assert (np.asarray(picture) == drawn[3 * m][0, 0]).all()
    shown = 20 * 2 * (2 if episodes else 1)
    assert notes.stat().st_size == 1 + shown  # one to see whether it draws


# --- OpenGL ------------------------------------------------------------------------------------

BALL = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"


class Ball(Goal):
    """Draws with MuJoCo's own renderer."""

    def __init__(self, render_mode=None):
        self.model, self.renderer = mujoco.MjModel.from_xml_string(BALL), None

    def render(self):
        data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, data)
        self.renderer = self.renderer or mujoco.Renderer(self.model, 48, 64)
        self.renderer.update_scene(data)
        return self.renderer.render()


DRAW = """if True:
    import os, sys, warnings
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM"):
        os.environ.pop(name, None)
    os.environ.update({variables})
    sys.path[:0] = {paths}
    warnings.simplefilter("ignore")
    import numpy as np
    from helpers.third_party import family
    from test_third_party_pictures import Ball
    from metarl.video.gymnasium import DrawingWorlds
    ball = family(Ball)
    pendulum = dict(env="InvertedPendulum-v5", set_task=lambda self, env, task: None)
    for made in (ball, type("Pendulum", (type(ball),), pendulum)()):
        worlds = DrawingWorlds(made, 2, 64)
        worlds.film()
        assert np.asarray(worlds.pictures[0][0]).std() > 5
        worlds.close()
    assert os.environ.get("MUJOCO_GL") == {variables}.get("MUJOCO_GL")"""


@pytest.mark.usefixtures("_gl")
@pytest.mark.parametrize(
    "variables", [{}, {"DISPLAY": ":99"}, {"MUJOCO_GL": "glfw"}],
    ids=["nothing is set", "nothing is behind the display", "no display for GLFW"],
)  # fmt: skip
def test_environments_on_mujoco_draw_without_a_display(variables, after_torch) -> None:
    """Gymnasium's own and those on MuJoCo's renderer; in the worker alone is anything changed."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent)]
    assert after_torch(DRAW.format(variables=variables, paths=paths)) == ""


@pytest.mark.parametrize(("error", "ours"), [("no OpenGL here", True), ("nothing here", False)])
def test_what_opengl_lacks_is_said_where_it_matters(error: str, ours: bool, monkeypatch) -> None:
    def missing(name):
        raise ImportError(f"no {name}")

    def render(self):
        raise RuntimeError(error)

    monkeypatch.setattr(opengl, "_context_class", missing)
    monkeypatch.setattr(opengl.platform, "system", lambda: "Linux")
    monkeypatch.setenv("MUJOCO_GL", "")
    with refused(f"RuntimeError: {error}") as caught:
        DrawingWorlds(family(type("Fails", (Counted,), {"render": render})), 1, 64)
    assert ("install libegl1" in str(caught.value)) == ours


def test_glfw_on_a_display_is_left_to_the_environment(monkeypatch) -> None:
    monkeypatch.setattr(opengl, "make_context", lambda width, height: pytest.fail("opened"))
    monkeypatch.setattr(opengl.platform, "system", lambda: "Linux")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("DISPLAY", ":0")
    assert opengl.lend() == ""
    assert os.environ["MUJOCO_GL"] == "glfw"
