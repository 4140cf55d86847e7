"""Videos: what is drawn is what was evaluated, and the files are what they should be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from metarl import checkpoint as checkpoints
from metarl import renderer as renderers
from metarl.adapted import adapt_to
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.cli import main
from metarl.errors import UserError
from metarl.evaluation import evaluate
from metarl.family import find_family
from metarl.film import Film, VideoConfig, between, experience
from metarl.launch import start
from metarl.learner import find_learner
from metarl.overlay import fitted, font, signed, spread
from metarl.recording import Recording, RecordingWorlds, record
from metarl.scene import (
    Marker,
    body_path,
    find_root,
    plan_shots,
    smooth,
    usual_markers,
    usual_readings,
    velocity_of,
)
from metarl.tasks import TaskDistribution
from metarl.train_config import TrainConfig
from metarl.video import check_out, draw_frames, render
from metarl.worlds import TaskWorlds

ROOT = Path(__file__).resolve().parents[1]
CONFIG = MamlTrpoConfig(hidden=(8,), cg_iterations=2, inner_lr=0.1)
SMALL = VideoConfig(size=160, fps=4, speed=1.0)

LIFT = """
from metarl import Choices, Interval, Param, TaskFamily, assign, scale
import torch

class Lift(TaskFamily):
    '''A ball that is lifted, over one of two grounds; too high is the end.'''
    model = '''<mujoco>
      <asset>
        <hfield name="low" nrow="2" ncol="2" size="2 2 1 .1" elevation="0 0 0 1"/>
        <hfield name="hill" nrow="2" ncol="2" size="2 2 1 .1" elevation="1 1 1 0"/>
      </asset>
      <worldbody>
        <geom name="ground" type="hfield" hfield="low" pos="0 3 -1" rgba="0 1 0 1"
              contype="0" conaffinity="0"/>
        <body name="ball" pos="0 0 1"><joint name="z" type="slide" axis="0 0 1" damping="1"/>
          <joint name="x" type="slide" axis="1 0 0"/>
          <geom name="ball" size=".2" mass="1" rgba="1 0 0 1"/></body>
      </worldbody>
      <actuator><motor joint="z" gear="40" ctrllimited="true" ctrlrange="0 1"/></actuator>
    </mujoco>'''
    horizon = 40
    params = (Param("radius", Interval(0.5, 2.0), edit=scale("geom_size", "ball")),
              Param("ground", Choices((0.0, 1.0)), edit=assign("geom_dataid", "ground")))

    def reward(self, sim, before, action, task):
        return sim.qpos[:, 0]

    def terminated(self, sim):
        return sim.qpos[:, 0] > 0.3
"""


@pytest.fixture(scope="session")
def _gl():
    """Skip where there is no headless OpenGL at all."""
    try:
        renderers.make_context(8, 8).free()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded(find_family("point-goal"))


@pytest.fixture(scope="module")
def lift(tmp_path_factory):
    path = tmp_path_factory.mktemp("lift") / "lift.py"
    path.write_text(LIFT)
    return find_family(f"{path}:Lift")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("video") / "run"
    return str(start("point-goal", "maml-trpo", replace(TRAIN, out=str(out)), CONFIG))


TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_tasks=2, threads=1,
    device="cpu", progress=False,
)  # fmt: skip


def recorded(family, tasks=None, worlds_per_task=3, episodes=2) -> Recording:
    tasks = TaskDistribution(family).split("heldout", 2) if tasks is None else tasks
    worlds = RecordingWorlds(family, len(tasks) * worlds_per_task, 1)
    return record(MamlTrpo(worlds.spec, CONFIG), worlds, tasks, episodes=episodes, seed=5)


def one_line(capsys, argv, *words) -> None:
    assert main([str(word) for word in argv]) == 2
    got = capsys.readouterr().err
    assert len(got.splitlines()) == 1, got
    for word in words:
        assert word in got, got


# --- nothing changes by being watched ----------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["maml-trpo", f"{ROOT}/docs/examples/my_learner.py"])
def test_returns_are_those_of_evaluate(algorithm):
    family = find_family("point-goal")
    tasks = TaskDistribution(family).split("heldout", 2)
    cls = find_learner(algorithm + (":ConstantAction" if algorithm.endswith(".py") else ""))
    plain, watched = TaskWorlds(family, 6, 1), RecordingWorlds(family, 6, 1)
    learner = cls(plain.spec, cls.Config())
    expected = evaluate(learner, plain, tasks, episodes=2, seed=3)
    got = record(learner, watched, tasks, episodes=2, seed=3)
    assert got.report.returns == expected.returns
    assert got.report.experience == expected.experience
    assert got.explores == learner.explores_to_adapt


def test_with_one_world_the_running_return_ends_at_the_reported_one():
    got = recorded(find_family("point-goal"), worlds_per_task=1)
    for k in range(3):
        for m, episode in enumerate(got.episodes["score", k]):
            assert episode.running[-1] == got.report.returns[m][k]


def test_the_first_world_is_drawn(recording):
    """Its returns are those of the first world in `adapt_to`, which `metarl adapt` prints."""
    family = recording.family
    one = recorded(family, recording.tasks[:1])
    worlds = TaskWorlds(family, 3, 1)
    learner = MamlTrpo(worlds.spec, CONFIG)
    for k, got in enumerate(adapt_to(learner, worlds, one.tasks, episodes=2, seed=5)):
        assert one.episodes["score", k][0].running[-1] == got.returns[0]


def test_states_and_rewards_belong_together(recording):
    """−‖xy − g‖ of the state after each step is the reward of that step, the last one included."""
    goals = recording.tasks.values
    for row in recording.episodes.values():
        for goal, episode in zip(goals, row, strict=True):
            assert episode.qpos.shape == (21, 2)
            distance = np.linalg.norm(episode.qpos[1:] - goal, axis=1)
            assert np.allclose(-distance, episode.reward, rtol=1e-6)


def test_an_episode_that_fails_ends_there(lift):
    got = recorded(lift, worlds_per_task=2)
    for episode in got.episodes["explore", 0]:
        assert episode.ended == "terminated"
        assert len(episode.qpos) == len(episode.reward) + 1 < 41
        assert episode.qpos[-1, 0] > 0.3 >= episode.qpos[-2, 0]


def test_a_state_that_is_not_finite_is_not_drawn(recording):
    from metarl.recording import _episode, _Segment
    from metarl.worlds import Transition

    no, yes = torch.tensor([False]), torch.tensor([True])
    nan = torch.full((1, 2), torch.nan, dtype=torch.float64)
    segment = _Segment(qpos=[torch.ones(1, 2, dtype=torch.float64), nan], mocap=[nan, nan])
    segment.steps = [Transition(nan, torch.zeros(1), no, no, nan, yes)]
    episode = _episode(segment, 0)
    assert episode.ended == "diverged"
    assert episode.qpos.tolist() == [[1.0, 1.0], [1.0, 1.0]]


# --- what a video says of a task ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kind", "vector"),
    [
        ({"goal_velocity": 1.5}, "velocity", (1.5, 0, 0)),
        ({"direction": -1.0}, "direction", (-1, 0, 0)),
        ({"goal_angle": np.pi / 2}, "direction", (0, 1, 0)),
        ({"goal_angle": np.pi, "goal_radius": 2.0}, "goal", (-2, 0, 0)),
        ({"goal_x": 0.5, "goal_y": -1.0}, "goal", (0.5, -1, 0)),
    ],
)
def test_usual_parameters_have_markers(task, kind, vector):
    (marker,) = usual_markers(task)
    assert marker.kind == kind
    assert np.allclose(marker.vector, vector)


def test_no_marker_for_dynamics():
    assert usual_markers({"mass": 2.0}) == []


def test_velocity_of_steady_motion():
    """0.1 m in each step of 0.05 s is 2 m/s, at both ends, too."""
    path = np.arange(30)[:, None] * np.array([0.1, 0.0, 0.0])
    assert np.allclose(velocity_of(path, 0.05), [2.0, 0.0, 0.0])


def test_smooth_is_a_centred_mean():
    assert np.allclose(smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3), [1.5, 3.0, 3.0, 3.0])


def test_readings_by_hand():
    model = find_family("half-cheetah-vel").compile()
    root = find_root(model)
    assert model.body(root.body).name == "torso"
    assert (root.x, root.y, root.z) == (True, False, True)
    path, velocity = np.array([[3.0, 4.0, 0.5]]), np.array([[1.0, 2.0, 0.0]])

    def read(*marker):
        (reading,) = usual_readings([Marker(*marker)], path, velocity, root)
        return reading.values[0], reading.target

    assert read("velocity", (1.5, 0.0, 0.0)) == (1.0, 1.5)
    assert read("goal", (0.0, 0.0, 0.0)) == (5.0, 0.0)
    assert read("direction", (0.0, 1.0, 0.0)) == (2.0, None)
    assert read("direction", (-1.0, 0.0, 0.0)) == (1.0, None)


@pytest.mark.parametrize("name", ["point-goal", "half-cheetah-vel"])
def test_the_robot_and_the_goal_are_in_view(name):
    """At every step the camera sees the root, and the goal if there is one in space."""
    got = recorded(find_family(name), worlds_per_task=1, episodes=1)
    model, markers = got.models[0], got.family.markers(got.task(0))
    episodes = [row[0] for row in got.episodes.values()]
    paths = [body_path(model, e.qpos, find_root(model).body) for e in episodes]
    tall = np.tan(np.radians(float(model.vis.global_.fovy)) / 2)
    for path, shot in zip(paths, plan_shots(got.family, model, paths, markers, 1.4), strict=True):
        places = [path] + [np.array([m.vector]) for m in markers if m.kind == "goal"]
        for place in places:
            right, up, ahead = in_camera(np.broadcast_to(place, path.shape), shot)
            assert (np.abs(up) < tall * ahead).all()
            assert (np.abs(right) < 1.4 * tall * ahead).all()


def in_camera(place, shot):
    """Return how far right, up and ahead of the camera places are, (T, 3) each in m."""
    az, el = np.radians(shot.azimuth), np.radians(shot.elevation)
    ahead = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    right = np.array([np.sin(az), -np.cos(az), 0.0])
    offset = place - (shot.lookat - shot.distance * ahead)
    return offset @ right, offset @ np.cross(right, ahead), offset @ ahead


def test_quaternions_turn_half_way():
    """Half of a quarter turn about z is an eighth: the quaternion (cos 22.5°, 0, 0, sin 22.5°)."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    c, s = np.cos(np.pi / 4), np.sin(np.pi / 4)
    got = between(model, np.array([0, 0, 0, 1.0, 0, 0, 0]), np.array([2.0, 0, 0, c, 0, 0, s]), 0.5)
    assert np.allclose(got, [1, 0, 0, np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)])


def test_labels_are_spread():
    assert spread([10.0, 11.0, 50.0], 10.0, 100.0) == [10.0, 20.0, 50.0]
    assert spread([98.0, 99.0], 10.0, 100.0) == [85.0, 95.0]


def test_words_that_do_not_fit_are_counted():
    face = font(16)
    words = [f"parameter {k} 1.23 kg" for k in range(65)]
    text = fitted(words, face, 600)
    assert text.startswith("parameter 0")
    assert text.endswith(" more")
    assert face.getlength(text) <= 600
    assert fitted(words[:1], face, 600) == words[0]


def test_numbers_and_experience_in_words():
    assert signed(-3.14) == "\N{MINUS SIGN}3.1"
    assert [experience(n) for n in (0, 1, 20)] == [
        "no data yet", "after 1 episode", "after 20 episodes"]  # fmt: skip


def test_a_camera_on_no_body_is_an_error(recording, monkeypatch):
    from metarl.scene import Camera

    monkeypatch.setattr(type(recording.family), "camera", Camera(body="robto"))
    with pytest.raises(UserError, match=r"point-goal.*'robto'.*did you mean 'robot'"):
        Film(recording, SMALL)


def test_a_hook_that_fails_is_one_line(recording, monkeypatch):
    def broken(self, task):
        return task["nothing"]

    monkeypatch.setattr(type(recording.family), "markers", broken)
    with pytest.raises(UserError, match=r"family 'point-goal', markers\(\): KeyError: 'nothing'"):
        Film(recording, SMALL)


# --- pictures ----------------------------------------------------------------------------------


def pictures(film: Film, number: int) -> list[np.ndarray]:
    """The pictures of one frame, without what is written around them."""
    renderer = film.renderer()
    try:
        clips = [clip for block in film.blocks for clip in block.clips]
        return [film._draw(clip, film.step(number), renderer).copy() for clip in clips]
    finally:
        renderer.close()


@pytest.mark.usefixtures("_gl")
def test_before_and_after_differ(recording):
    film = Film(recording, SMALL)
    before, _, after, *_ = pictures(film, 7)
    assert (np.abs(before.astype(int) - after) > 30).any(-1).sum() > 20


@pytest.mark.usefixtures("_gl")
def test_frames_do_not_depend_on_the_threads(recording):
    film = Film(recording, SMALL)
    one, three = list(draw_frames(film, 1)), list(draw_frames(film, 3))
    assert len(one) == len(three) == film.frames
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    assert one[0].shape == (film.height, film.width, 3)
    assert not np.array_equal(one[0], one[6])


@pytest.mark.usefixtures("_gl")
def test_each_world_is_drawn_with_its_own_model(lift):
    """A ball of four times the radius covers 16 times the pixels; one ground is all hill."""
    make = TaskDistribution(lift).make
    small, large, hill = (
        recorded(lift, make(radius=r, ground=g), worlds_per_task=1, episodes=0)
        for r, g in ((0.5, 0.0), (2.0, 0.0), (0.5, 1.0))
    )
    shot = renderers.View(np.array([0.0, 0.0, 1.0]), 4.0, 90.0, -20.0)
    marks = Film(small, SMALL).blocks[0].clips[0].marks._replace(ticks=False)
    seen = []
    for got in (small, large, hill):
        drawing = renderers.Renderer(got.models, 120, 120)
        image = drawing.draw(got.models[0], np.zeros(2), np.zeros((0, 7)), shot, marks)
        ground = (image[..., 1] > 1.5 * image[..., 0]) & (image[..., 1] > 1.5 * image[..., 2])
        seen.append((ball_pixels(image), int(ground.sum())))
        drawing.close()
    assert 10 < seen[1][0] / seen[0][0] < 22
    assert seen[2][1] > 1.3 * seen[0][1]


def ball_pixels(image: np.ndarray) -> int:
    """Pixels of the ball, red with some of the grey of 'before'."""
    return int((image[..., 0].astype(int) - image[..., 1] > 15).sum())


def test_the_floor_does_not_end_and_keeps_its_pattern():
    """It is drawn 80 m wide with 60 tiles by gymnasium: 1000 m want 750."""
    model = find_family("half-cheetah-vel").compile()
    floor = model.geom("floor").id
    material = model.geom_matid[floor]
    assert (model.geom_size[floor, 0], model.mat_texrepeat[material, 0]) == (40.0, 60.0)
    renderers.extend_ground(model)
    assert (model.geom_size[floor, 0], model.mat_texrepeat[material, 0]) == (500.0, 750.0)
    renderers.extend_ground(model)
    assert (model.geom_size[floor, 0], model.mat_texrepeat[material, 0]) == (500.0, 750.0)


@pytest.mark.usefixtures("_gl")
def test_unused_height_fields_are_not_loaded(lift):
    got = recorded(lift, TaskDistribution(lift).make(ground=1.0), worlds_per_task=1, episodes=0)
    model = got.models[0]
    copy = renderers._light_copy([model])
    assert copy.geom_dataid[model.geom("ground").id] == 1
    assert (model.hfield_nrow == 2).all()


# --- files -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_layout(count):
    """One task: three square panels; more: smaller ones, in a grid; sizes are even."""
    family = find_family("point-goal")
    tasks = TaskDistribution(family).split("heldout", count)
    film = Film(recorded(family, tasks, worlds_per_task=1), VideoConfig(size=480))
    assert film.pictures == 3 * count
    assert film.width % 2 == film.height % 2 == 0
    assert film.panel == (480 if count == 1 else 288)
    columns = {1: 1, 2: 1, 4: 2, 9: 3}[count]
    assert film.width >= columns * 3 * film.panel


@pytest.mark.parametrize(("episodes", "explores", "phases"), [
    (0, True, ["before"]),
    (1, True, ["before", "during", "after"]),
    (1, False, ["before", "after"]),
    (2, False, ["before", "during", "after"]),
])  # fmt: skip
def test_phases(episodes, explores, phases):
    cls = (
        MamlTrpo if explores else find_learner(f"{ROOT}/docs/examples/my_learner.py:ConstantAction")
    )
    worlds = RecordingWorlds("point-goal", 1, 1)
    learner = cls(worlds.spec, cls.Config())
    if learner.explores_to_adapt != explores:
        learner.explores_to_adapt = explores
    tasks = TaskDistribution(worlds.family).nominal()
    film = Film(record(learner, worlds, tasks, episodes=episodes, seed=0), SMALL)
    assert [clip.overlay.panel.phase for clip in film.blocks[0].clips] == phases


def test_short_episodes_are_slowed_down(recording):
    """20 steps of 0.1 s take 5 s, at 0.4 of their speed."""
    film = Film(recording, VideoConfig(size=160, fps=10))
    assert film.speed == pytest.approx(0.4)
    assert film.frames == 50 + 1 + 10
    assert film.step(0) == 0
    assert film.step(1) == pytest.approx(0.4)
    assert film.step(film.frames - 1) == 20


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


# --- without a display -------------------------------------------------------------------------


def test_no_headless_opengl_names_the_packages(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}\nhere")

    monkeypatch.setattr(renderers, "_CHOSEN", [])
    monkeypatch.setattr(renderers, "_context_class", missing)
    monkeypatch.setattr(renderers, "backends", lambda: ("egl", "osmesa"))
    with pytest.raises(UserError) as caught:
        renderers.make_context(8, 8)
    assert "\n" not in str(caught.value)
    for word in ("no egl here", "no osmesa here", "libegl1", "libosmesa6"):
        assert word in str(caught.value)


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

    monkeypatch.setattr(renderers, "_CHOSEN", [])
    monkeypatch.setattr(renderers, "_context_class", choose)
    monkeypatch.setattr(renderers.platform, "system", lambda: "Linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert isinstance(renderers.make_context(8, 8), Context)
    assert isinstance(renderers.make_context(8, 8), Context)
    assert tried == ["egl", "osmesa", "osmesa"]


def test_mujoco_gl_is_obeyed(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert renderers.backends() == ("osmesa",)


def test_glfw_is_not_used(monkeypatch):
    """It hangs in threads, and there may be no display: EGL draws off screen anyway."""
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(renderers.platform, "system", lambda: "Linux")
    assert renderers.backends() == ("egl", "osmesa")


def test_live_needs_a_display(run, capsys, monkeypatch):
    monkeypatch.setattr("metarl.render_command.platform.system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    one_line(capsys, ["render", run, "--live"], "display", "DISPLAY")


def test_live_plays_before_and_after(run, capsys, monkeypatch):
    """The viewer is shown the recorded states of both rounds, until it is closed."""
    import mujoco.viewer

    shown = []

    class Viewer:
        cam = mujoco.MjvCamera()

        def __init__(self, model, data, **_):
            self.data = data

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def is_running(self):
            return len(shown) < 42

        def sync(self):
            shown.append(self.data.qpos.copy())

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(mujoco.viewer, "launch_passive", Viewer)
    assert (
        main(["render", run, "--live", "--episodes", "1", "--speed", "100", "--threads", "1"]) == 0
    )
    assert len(shown) == 42
    assert re.findall(r"^round (\d)", capsys.readouterr().out, re.M) == ["0", "1"]


# --- the command -------------------------------------------------------------------------------


@pytest.mark.usefixtures("_gl")
def test_render_command(run, tmp_path, capsys):
    """The printed returns are those that `metarl evaluate` reports of the same tasks and seed."""
    out = tmp_path / "v.mp4"
    flags = ["--tasks", "2", "--episodes", "1", "--seed", "4", "--threads", "1"]
    video = ["--out", str(out), "--size", "160", "--fps", "2", "--speed", "1"]
    assert main(["render", run, *flags, *video]) == 0
    said = capsys.readouterr().out
    assert out.is_file()
    assert f"wrote {out}" in said
    assert main(["evaluate", run, *flags, "--json", str(tmp_path / "e.json")]) == 0
    from metarl.evaluation import Report

    returns = Report.load(tmp_path / "e.json").returns
    lines = [line for line in said.splitlines() if "return " in line]
    assert len(lines) == 2
    for line, row in zip(lines, returns, strict=True):
        assert line.endswith("return " + " → ".join(f"{r:.1f}" for r in row))


@pytest.mark.usefixtures("_gl")
def test_render_one_task_without_a_display(run):
    """In a process of its own, with nothing set; the video goes into the run's folder."""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    words = "--set goal_x=0.5 --episodes 0 --size 160 --fps 1 --speed 1 --threads 1"
    done = subprocess.run(
        [sys.executable, "-m", "metarl.cli", "render", run, *words.split()],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (Path(run) / "videos" / "goal_x=0.5.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "a.avi"], ["a.avi", ".mp4 or .gif"]),
        (["--tasks", "0"], ["tasks", "from 1 to 16"]),
        (["--tasks", "17"], ["tasks", "17"]),
        (["--set", "goal_x=1", "--tasks", "2"], ["--set", "--tasks"]),
        (["--set", "gaol_x=1"], ["gaol_x", "did you mean 'goal_x'"]),
        (["--size", "10"], ["size", "160"]),
        (["--fps", "0"], ["fps"]),
        (["--speed", "nan"], ["speed"]),
        (["--live", "--out", "a.mp4"], ["--live", "--out"]),
        (["--splt", "ood"], ["--splt", "did you mean '--split'"]),
    ],
)
def test_bad_input_is_one_line(run, flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(capsys, ["render", run, *flags], *words)
    assert list(tmp_path.iterdir()) == []


# --- during training ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_gl")
def test_training_makes_videos_and_is_not_changed(run, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("metarl.film.SHORTEST", 1.0)
    config = replace(TRAIN, out=str(tmp_path / "run"), video_every=2)
    out = start("point-goal", "maml-trpo", config, CONFIG)
    names = sorted(path.name for path in (out / "videos").iterdir())
    assert names == ["step_00000002.gif"]
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    images = events.Images("heldout/video")
    assert len(images) == 1
    assert images[0].encoded_image_string.startswith(b"GIF89a")
    same = [(checkpoints.newest(Path(p)) / "weights.safetensors").read_bytes() for p in (run, out)]
    assert same[0] == same[1]


def test_training_goes_on_where_nothing_can_be_drawn(tmp_path, monkeypatch, capsys):
    def no_gl(*_):
        raise UserError("cannot render without a display")

    monkeypatch.setattr(Film, "renderer", no_gl)
    config = replace(TRAIN, out=str(tmp_path / "run"), video_every=2, progress=True)
    start("point-goal", "maml-trpo", config, CONFIG)
    assert "warning: no video of iteration 2: cannot render" in capsys.readouterr().out
