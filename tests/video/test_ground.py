"""The ground of a video: one floor for all, tiles of a metre, marks where they say they are."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from helpers.recording import SMALL

from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.registry import find_family
from metarl.video import ground as grounds
from metarl.video import renderer as renderers
from metarl.video.film import Film
from metarl.video.ground import Course, Mark, View, foot_of, project, write_labels
from metarl.video.scene import find_root, steady
from metarl.worlds.task_worlds import TaskWorlds

BARE = """<mujoco><worldbody><geom name="floor" type="plane" size="5 5 .1" rgba="1 0 0 1"/>
<body name="cart" pos="0 0 .3"><joint type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body>
</worldbody></mujoco>"""
ROAMS = BARE.replace("</body>", '<joint type="slide" axis="0 1 0"/></body>')
ABOVE = View(np.array([20.0, 0.0, 0.0]), 4.0, 90.0, -90.0)
"""Far from the robot, so that nothing but the floor is in view: 3.3 m of it up and down."""


def picture(model: mujoco.MjModel, view: View, marks: list[Mark], size: int = 120) -> np.ndarray:
    """Draw a model as it stands."""
    renderers.extend_ground(model)
    drawing = renderers.Renderer([model], size, size)
    nothing = np.zeros((0, 3))
    said = renderers.Marks([], np.zeros(3), np.zeros(3), nothing, 0.5, 1.0, marks, 1.0, (0, 0, 1))
    try:
        return drawing.draw(model, model.qpos0, np.zeros((model.nmocap, 7)), view, said)
    finally:
        drawing.close()


@pytest.mark.usefixtures("_gl")
def test_every_family_has_the_same_floor():
    """Pixel by pixel, whatever the model's own floor and lights are; a model may have neither."""
    models = [find_family(name).compile() for name in ("half-cheetah-vel", "quadruped-vel")]
    seen = [picture(m, ABOVE, []) for m in (mujoco.MjModel.from_xml_string(BARE), *models)]
    assert np.abs(seen[0].astype(int) - seen[1]).max() <= 2
    assert np.abs(seen[0].astype(int) - seen[2]).max() <= 2
    blue_grey = seen[0].reshape(-1, 3).mean(0)
    assert blue_grey[2] > blue_grey[1] > blue_grey[0] > 60


@pytest.mark.usefixtures("_gl")
def test_a_tile_is_a_metre_and_begins_at_whole_metres():
    """Seen from above, the tone changes where a whole metre is, and nowhere else."""
    image = picture(mujoco.MjModel.from_xml_string(BARE), ABOVE, [], 240).astype(int).sum(-1)
    row = image[130]  # not on an edge
    edges = np.flatnonzero(np.abs(np.diff(row)) > 8)
    metres = np.array([[x, -0.1, 0.0] for x in (19, 20, 21)], float)
    (x, _), _ = project(metres, ABOVE, 45.0, 240, 240)
    assert len(x) == 3
    for edge in edges:
        assert np.abs(x - edge).min() < 2.5
    for place in x:
        assert np.abs(edges - place).min() < 2.5


@pytest.mark.usefixtures("_gl")
@pytest.mark.parametrize("view", [ABOVE, View(np.array([20.5, 0.3, 0.1]), 3.0, 70.0, -20.0)])
def test_places_are_projected_to_where_they_are_drawn(view):
    """A white line's end is drawn in the pixel that `project` says."""
    model = mujoco.MjModel.from_xml_string(BARE)
    mark = Mark("20 m", np.array([[20.0, 0.0, 0.01], [20.0, 0.6, 0.01]]), start=True)
    with_line, without = (picture(model, view, marks, 240) for marks in ([mark], []))
    rows, columns = np.nonzero((np.abs(with_line.astype(int) - without) > 20).any(-1))
    (x, y), ahead = project(mark.points, view, 45.0, 240, 240)
    assert (ahead > 0).all()
    assert abs(rows.max() - y.max()) < 6
    assert abs(rows.min() - y.min()) < 6
    assert columns.min() - 6 < x.min() <= x.max() < columns.max() + 6


def test_marks_of_a_planar_robot_are_metres_from_the_start():
    model = find_family("half-cheetah-vel").compile()
    course = Course(model, find_root(model), 3.0, 1.4)
    assert course.step == 1
    marks = course.near(np.array([12.3, 0.0, 0.6]))
    assert "start" not in [mark.label for mark in marks]
    assert "12 m" in [mark.label for mark in marks]
    for mark in marks:
        assert mark.label == f"{round(mark.points[0, 0])} m"
        assert (mark.points[:, 0] == round(mark.points[0, 0])).all()
        assert (mark.points[:, 2] == 0.0).all()
    back = course.near(np.array([-0.2, 0.0, 0.6]))
    assert {"start", "1 m", "\N{MINUS SIGN}1 m"} <= {mark.label for mark in back}
    assert [mark.points[0, 0] for mark in back if mark.start] == [0.0]


def test_marks_of_a_robot_that_roams_are_rings():
    model = find_family("ant-dir").compile()
    course = Course(model, find_root(model), 5.0, 1.4)
    start, *rings = course.near(np.array([3.0, -4.0, 0.5]))
    assert (start.start, start.label) == (True, "start")
    assert [ring.label for ring in rings[:3]] == ["2 m", "4 m", "6 m"]
    for ring in rings:
        assert np.allclose(np.hypot(*ring.points[:, :2].T), float(ring.label.removesuffix(" m")))


def test_rings_fade_before_they_end():
    """Opaque around the robot, and faint where a ring would end within the picture."""
    model = find_family("ant-dir").compile()
    course = Course(model, find_root(model), 5.0, 1.4)
    start, *rings = course.near(np.array([13.0, 0.0, 0.5]))
    assert not start.start
    for ring in (start, *rings):
        assert ring.seen.shape == (len(ring.points) - 1,)
        assert ring.seen[[0, -1]].max() < 0.4
    nearest = next(ring for ring in rings if ring.label == "12 m")
    assert nearest.seen[len(nearest.seen) // 2] == 1.0
    nothing = np.zeros((0, 3))
    marks = renderers.Marks(
        [], np.zeros(3), np.zeros(3), nothing, 0.5, 1.0, [nearest], 1.0, (1, 1, 1)
    )
    assert len(renderers.drawn(marks)) == (nearest.seen > 0).sum()


@pytest.mark.usefixtures("_gl")
def test_the_start_of_a_robot_that_roams_is_a_ring_without_teeth():
    """Seen from above, it is white as far as its rim, 0.2 m and half its width from the middle."""
    model = mujoco.MjModel.from_xml_string(ROAMS)
    start = Course(model, find_root(model), 4.0, 1.0).near(np.zeros(3))[0]
    view = View(np.zeros(3), 1.0, 90.0, -90.0)
    white = picture(model, view, [start], 240).min(2) > 200
    rim = np.array([[0.2 + 0.9 * 0.035, 0.0, 0.0]])
    x, _ = project(rim, view, 45.0, 240, 240)
    angle = np.linspace(0, 2 * np.pi, 720)
    row, column = (
        np.rint(119.5 + (x[0, 0] - 120) * f(angle)).astype(int) for f in (np.sin, np.cos)
    )
    assert start.start
    assert white[row, column].all()


def test_marks_lie_on_the_terrain():
    """As high as the family says that its ground is; an edge within 3 cm counts."""
    worlds = TaskWorlds("half-cheetah-terrain", 1, 1)
    family, sim = worlds.family, worlds.simulator
    worlds.set_tasks(TaskDistribution(family).make(ground=0.0, difficulty=0.7), 1)
    worlds.reset()
    course = Course(sim.world_model(0), find_root(sim.model), 3.0, 1.4)
    marks = course.near(np.array([14.0, 0.0, 0.6]))
    x = torch.tensor([[mark.points[0, 0] for mark in marks]])
    middle = [mark.points[len(mark.points) // 2, 2] for mark in marks]
    ground = family.ground(sim, x, None)[0].numpy()
    assert np.abs(middle - ground).max() < 0.02
    assert max(middle) > 0.2
    assert {mark.points[0, 2] for mark in marks} == {0.0}  # beside the terrain


def test_a_robot_that_stands_has_no_marks():
    still = BARE.replace('axis="1 0 0"', 'axis="0 0 1"')
    model = mujoco.MjModel.from_xml_string(still)
    assert Course(model, find_root(model), 3.0, 1.4).near(np.zeros(3)) == []


def test_labels_stand_where_a_line_leaves_the_picture():
    """Above the foot, inside of the sides, and none over another; without any, nothing changes."""
    image, view = np.zeros((120, 200, 3), np.uint8), View(np.array([0.0, 0, 0.3]), 3.0, 90.0, -10.0)
    marks = [Mark(f"{x} m", np.array([[x, -5.0, 0.0], [x, 5.0, 0.0]], float)) for x in (0, 1)]
    places = [foot_of(mark, image.shape, view, 45.0, 13) for mark in marks]
    for mark, (x, y) in zip(marks, places, strict=True):
        assert 100 < y <= 120 - 0.8 * 13
        (px, _), _ = project(mark.points, view, 45.0, 200, 120)
        assert min(px) <= x <= max(px)
    assert places[1][0] > places[0][0]
    written = write_labels(image, marks, view, 45.0)
    assert (written[100:] > 200).any()
    assert not (written[:100] > 200).any()
    far = [Mark("40 m", np.array([[40.0, -5.0, 0.0], [40.0, 5.0, 0.0]]))]
    assert write_labels(image, far, view, 45.0) is image


@pytest.mark.usefixtures("_gl")
def test_no_mark_is_in_the_model(recording):
    """What a film draws leaves the simulation's model and the recorded states as they were."""
    family = recording.family
    model, states = family.compile(), recording.episodes["score", 0][0].qpos.copy()
    film = Film(recording, SMALL)
    drawing = film.renderer()
    film.frame(3, drawing)
    drawing.close()
    assert (recording.models[0].ngeom, recording.models[0].nmat) == (model.ngeom, model.nmat)
    assert np.array_equal(recording.episodes["score", 0][0].qpos, states)
    assert film.blocks[0].clips[0].course.near(np.zeros(3))


def test_the_camera_is_steady_and_does_not_lag():
    """What sways about a straight way is averaged, and the way itself followed to both ends."""
    at = np.arange(60.0)
    straight = np.stack([0.1 * at, 0 * at, 0 * at + 1], 1)
    assert np.allclose(steady(straight, 24), straight)
    sway = straight + 0.1 * np.sin(2 * np.pi * at / 6)[:, None] * np.array([0, 0, 1.0])
    assert np.abs(steady(sway, 24)[12:-12] - straight[12:-12]).max() < 0.01
    assert steady(straight[:1], 24).shape == (1, 3)


def test_the_floor_has_two_tones_of_one_size():
    pixels = grounds.floor_pixels(8)
    assert {tuple(p) for p in pixels.reshape(-1, 3).tolist()} == set(grounds.TONES)
    assert (pixels[:4, :4] == pixels[4:, 4:]).all()
    assert (pixels[0, 0] != pixels[0, 4]).any()
