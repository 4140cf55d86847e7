"""What a frame shows: the robot, the task, the words, and where they are."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from helpers.recording import SMALL, recorded
from helpers.refusals import refused

from metarl.algorithms.maml_trpo import MamlTrpo
from metarl.base.errors import UserError
from metarl.learning.registry import find_learner
from metarl.tasks.composition import compose
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.registry import find_family
from metarl.video import renderer as renderers
from metarl.video.film import Film, VideoConfig, experience
from metarl.video.overlay import first_that_fits, fitted, font, signed, spread
from metarl.video.recording import between, record
from metarl.video.scene import (
    Marker,
    body_path,
    find_root,
    markers_of,
    plan_shots,
    smooth,
    usual_markers,
    usual_readings,
    velocity_of,
)
from metarl.worlds.task_worlds import TaskWorlds

ROOT = Path(__file__).resolve().parents[2]


# --- what a video says of a task ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"goal_velocity": (1.5, "m/s")}, ("velocity", (1.5, 0, 0))),
        ({"goal_velocity": (1.5, "rad/s")}, None),
        ({"goal_velocity": (np.ones(2), "m/s")}, None),
        ({"direction": (-1.0, "")}, ("direction", (-1, 0, 0))),
        ({"direction": (-1.0, "rad")}, None),
        ({"direction": (0.3, "")}, None),
        ({"goal_angle": (np.pi / 2, "rad")}, ("direction", (0, 1, 0))),
        ({"goal_angle": (90.0, "deg")}, None),
        ({"goal_angle": (np.pi, "rad"), "goal_radius": (2.0, "m")}, ("goal", (-2, 0, 0))),
        ({"goal_angle": (np.pi, "rad"), "goal_radius": (2.0, "")}, None),
        ({"goal_x": (0.5, "m"), "goal_y": (-1.0, "m")}, ("goal", (0.5, -1, 0))),
        ({"goal_x": (0.5, "m"), "goal_y": (-1.0, "")}, None),
        (
            {"goal_x": (0.5, "m"), "goal_y": (-1.0, "m"), "goal_z": (0.7, "m")},
            ("goal", (0.5, -1, 0.7)),
        ),
        ({"goal_x": (0.5, "m"), "goal_y": (-1.0, "m"), "goal_z": (0.7, "rad")}, None),
        ({"mass": (2.0, "kg")}, None),
    ],
)
def test_parameters_of_a_usual_name_and_unit_have_markers(task, expected):
    values, units = ({k: pair[i] for k, pair in task.items()} for i in (0, 1))
    got = usual_markers(values, units)
    assert [marker.kind for marker in got] == ([expected[0]] if expected else [])
    for marker in got:
        assert np.allclose(marker.vector, expected[1])


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
    assert read("goal", (3.0, 4.0, 0.75)) == (0.25, 0.0)
    assert read("direction", (0.0, 1.0, 0.0)) == (2.0, None)
    assert read("direction", (-1.0, 0.0, 0.0)) == (1.0, None)


@pytest.mark.parametrize("name", ["point-goal", "half-cheetah-vel"])
def test_the_robot_and_the_goal_are_in_view(name):
    """At every step the camera sees the root, and the goal if there is one in space."""
    got = recorded(find_family(name), worlds_per_task=1, episodes=1)
    model, markers = got.models[0], markers_of(got.family, got.task(0))
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


def test_the_longest_text_that_fits_is_taken():
    face = font(16)
    texts = ("distance to the goal  0.25 m", "distance  0.25 m", "0.25 m")
    room = face.getlength(texts[1])
    assert first_that_fits(texts, face, room) == texts[1]
    assert first_that_fits(texts, face, room - 1) == texts[2]
    assert first_that_fits(texts, face, 3) == ""


def test_numbers_and_experience_in_words():
    assert signed(-3.14) == "\N{MINUS SIGN}3.1"
    assert signed(-0.004, 2) == "0.00"
    assert [experience(n) for n in (0, 1, 20)] == [
        "no data yet", "after 1 episode", "after 20 episodes"]  # fmt: skip


def test_a_camera_on_no_body_is_an_error(recording, monkeypatch):
    from metarl.video.scene import Camera

    monkeypatch.setattr(type(recording.family), "camera", Camera(body="robto"))
    with pytest.raises(UserError, match=r"point-goal.*'robto'.*did you mean 'robot'"):
        Film(recording, SMALL)


def test_a_hook_that_fails_is_one_line(recording, monkeypatch):
    def broken(self, task):
        return task["nothing"]

    monkeypatch.setattr(type(recording.family), "markers", broken, raising=False)
    with pytest.raises(UserError, match=r"family 'point-goal', markers\(\): KeyError: 'nothing'"):
        Film(recording, SMALL)


@pytest.mark.parametrize(
    ("member", "answer", "kind"),
    [("describe", "two words", "str"), ("markers", [1], "Marker"),
     ("readings", np.zeros((3, 3)), "Reading")],
)  # fmt: skip
def test_a_hook_that_answers_something_else_is_one_line(
    recording, monkeypatch, member, answer, kind
):
    monkeypatch.setattr(type(recording.family), member, lambda *_: answer, raising=False)
    expected = rf"family 'point-goal', {member}\(\): must return a list of {kind}, not "
    with refused(match=expected):
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
def test_each_world_is_drawn_with_its_own_model(lift):
    """A ball of four times the radius covers 16 times the pixels; one ground is all hill."""
    make = TaskDistribution(lift).make
    small, large, hill = (
        recorded(lift, make(radius=r, ground=g), worlds_per_task=1, episodes=0)
        for r, g in ((0.5, 0.0), (2.0, 0.0), (0.5, 1.0))
    )
    shot = renderers.View(np.array([0.0, 0.0, 1.0]), 4.0, 90.0, -20.0)
    marks = Film(small, SMALL).blocks[0].clips[0].marks._replace(ground=(), colour=(0.6, 0.6, 0.6))
    seen = []
    for got in (small, large, hill):
        drawing = renderers.Renderer(got.models, 120, 120)
        image = drawing.draw(got.models[0], np.zeros(2), np.zeros((0, 7)), shot, marks)
        red, green, blue = image.astype(int).transpose(2, 0, 1)
        ground = (abs(red - green) < 15) & (blue < red + 10)  # the sky is blue, and the ball red
        seen.append((ball_pixels(image), int(ground.sum())))
        drawing.close()
    assert 10 < seen[1][0] / seen[0][0] < 22
    assert seen[2][1] > 1.3 * seen[0][1]


def test_after_a_switch_the_model_of_the_task_is_drawn(lift):
    """Nominal until 0.2 s of an episode, then a ball of twice the radius; each episode anew."""
    family = compose(type(lift), ["switch"])()
    task = family.distribution.make(radius=2.0, ground=0.0, switch_at=0.2)
    got = recorded(family, task, worlds_per_task=1, episodes=1)
    nominal, switched = family.compile().geom("ball").size[0], got.models[0].geom("ball").size[0]
    assert switched == 2 * nominal
    for k in (0, 1):
        episode = got.episodes["score", k][0]
        sizes = [episode.model(t, got.models[0]).geom("ball").size[0] for t in range(41)]
        assert sizes == [nominal] * 20 + [switched] * 21
    film = Film(got, SMALL)
    drawing, clip = film.renderer(), film.blocks[0].clips[0]
    small, large = (ball_pixels(film._draw(clip, step, drawing)) for step in (19.0, 20.0))
    drawing.close()
    assert 2 < large / small < 6


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


@pytest.mark.parametrize("size", [160, 240, 480])
def test_the_labels_of_the_curves_are_not_clipped(size):
    """The outermost pixels of the strip are background, whatever the size of the video."""
    family = find_family("point-goal")
    one = recorded(family, TaskDistribution(family).make(goal_x=-1.0), worlds_per_task=1)
    strip = Film(one, VideoConfig(size=size)).blocks[0].strip
    picture = np.asarray(strip(3.0)).astype(int)
    background = picture[0, 0]
    for edge in (picture[:, -1], picture[:, 0]):
        assert (np.abs(edge - background) < 12).all()


# --- layout ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("count", [3, 5])
def test_tasks_with_one_picture_each_stand_in_a_row(count):
    """Up to four, of full size; more of them make a grid."""
    family = find_family("point-goal")
    tasks = TaskDistribution(family).split("heldout", count)
    film = Film(recorded(family, tasks, worlds_per_task=1, episodes=0), VideoConfig(size=200))
    assert film.columns == {3: 3, 5: 2}[count]
    assert film.panel == {3: 200, 5: 160}[count]
    if count == 3:
        assert film.width == 3 * 200 + 2 * film.gap
        assert film.height == film.head + 200


def test_limbs_without_a_motor_are_known():
    """Of leg 2 of the ant, two links; of a sound ant, none."""
    family = find_family("ant-crippled")
    worlds = TaskWorlds(family, 2, 1)
    tasks = TaskDistribution(family).make
    for fault, bodies in ((2.0, {"aux_2", ""}), (0.0, set())):
        worlds.set_tasks(tasks(fault=fault), 2)
        model = worlds.simulator.world_model(0)
        dead = renderers.dead_limbs(model)
        assert {model.body(model.geom_bodyid[g]).name for g in np.flatnonzero(dead)} == bodies
        assert dead.sum() == len(bodies)


@pytest.mark.parametrize(("episodes", "explores", "phases"), [
    (0, True, ["alone"]),
    (1, True, ["before", "during", "after"]),
    (1, False, ["before", "after"]),
    (2, False, ["before", "during", "after"]),
])  # fmt: skip
def test_phases(episodes, explores, phases):
    cls = (
        MamlTrpo if explores else find_learner(f"{ROOT}/docs/examples/my_learner.py:ConstantAction")
    )
    worlds = TaskWorlds("point-goal", 1, 1)
    learner = cls(worlds.spec, cls.Config())
    if learner.adapts_on_exploration != explores:
        learner.adapts_on_exploration = explores
    tasks = TaskDistribution(worlds.family).nominal()
    film = Film(record(learner, worlds, tasks, episodes=episodes, seed=0), SMALL)
    panels = [clip.overlay.panel for clip in film.blocks[0].clips]
    assert [panel.phase for panel in panels] == phases
    first = "before" if explores else "first episode"  # in which such a learner adapts
    assert [panel.name for panel in panels] == [first, *phases[1:]]


def test_short_episodes_are_slowed_down(recording):
    """20 steps of 0.1 s take 5 s, at 0.4 of their speed."""
    film = Film(recording, VideoConfig(size=160, fps=10))
    assert film.speed == pytest.approx(0.4)
    assert film.frames == 50 + 1 + 10
    assert film.step(0) == 0
    assert film.step(1) == pytest.approx(0.4)
    assert film.step(film.frames - 1) == 20
