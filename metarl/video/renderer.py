"""What a picture of a video shows of one world: the scene, the light, and the markers in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from metarl.video.ground import LINE, PIECE, START, TILE, Mark, View, floor_pixels, lay_floor
from metarl.video.opengl import OffscreenBuffer
from metarl.video.scene import Marker, Root, find_root, robot_geoms, robot_size

SHADOW_SIZE, SAMPLES = 1024, 4
"""Resolution of shadows (MuJoCo's 4096 takes a CPU twice the time), and samples in a pixel."""
SHADED, LEAST_SHADED = 12.0, 4.0
"""How far around a robot shadows are, in its reaches, and in m at least: beyond are specks."""
SUN = (0.30, 0.25, -0.92)
"""Where directional lights shine: from behind the camera's left, so that shadows can be seen."""
TARGET = (0.20, 0.80, 0.35)
"""Colour of what the task asks for: the goal, and the arrow of a velocity or direction."""
DEAD = (0.90, 0.10, 0.12)
"""Colour of limbs whose motors give no torque."""
SKY = ((0.62, 0.70, 0.80), (0.90, 0.93, 0.96))
"""Colours of the background, top and bottom."""


class Marks(NamedTuple):
    """What is drawn in the scene beside the model, at one moment."""

    markers: Sequence[Marker]
    position: np.ndarray
    """(3,) of the robot's root, m"""
    velocity: np.ndarray
    """(3,) of the robot's root, m/s"""
    trail: np.ndarray
    """(n, 3) on the ground, where the root has been; empty: no trail"""
    radius: float
    """Of the robot, or larger where the camera is far: the measure of everything drawn, m"""
    above: float
    """How high over the root the arrows are, m"""
    ground: Sequence[Mark]
    """Lines on the ground: the start, and each so many metres from it"""
    scale: float
    """Length of an arrow, in m, for 1 m/s"""
    colour: tuple[float, float, float]
    """Of this robot's arrow, trail and tint"""


class Renderer:
    """Draws worlds of one model layout into images of one size. Use it in one thread only."""

    def __init__(self, models: Sequence[mujoco.MjModel], width: int, height: int) -> None:
        """Make the context, for worlds whose models differ in fields but not in layout.

        Raises:
            UserError: there is no headless OpenGL.
        """
        model = _light_copy(models)
        model.vis.quality.shadowsize = min(SHADOW_SIZE, model.vis.quality.shadowsize)
        model.vis.quality.offsamples = min(SAMPLES, model.vis.quality.offsamples)
        shade(model)
        self._buffer = OffscreenBuffer(model, width, height)
        self._scene = mujoco.MjvScene(model, 2000 + 2 * model.ngeom)
        for off in (mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX):
            self._scene.flags[int(off)] = False
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._data = mujoco.MjData(model)
        self._depth = np.empty((height, width), np.float32)
        self._floor = self._buffer.add_material(floor_pixels(), 1 / TILE)
        self._mine = robot_geoms(model)

    def close(self) -> None:
        """Free the OpenGL resources, in the thread that made them."""
        self._buffer.close()

    def draw(
        self, model: mujoco.MjModel, qpos: np.ndarray, mocap: np.ndarray, view: View, marks: Marks
    ) -> np.ndarray:
        """Return the image of one state, (height, width, 3) uint8.

        Args:
            model: of the world.
            qpos: (nq,)
            mocap: (nmocap, 7)
            view: the camera.
            marks: what else to draw.
        """
        data, scene = self._data, self._scene
        data.qpos[:] = qpos
        if model.nmocap:
            data.mocap_pos[:], data.mocap_quat[:] = mocap[:, :3], mocap[:, 3:]
        mujoco.mj_kinematics(model, data)
        for stage in (mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_tendon):
            stage(model, data)
        camera = self._camera
        camera.lookat[:] = view.lookat
        camera.distance, camera.azimuth, camera.elevation = view[1:]
        mujoco.mjv_updateScene(
            model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        lay_floor(scene, model, self._floor)
        light(scene, view)
        self._tint(marks.colour, dead_limbs(model))
        for mark in drawn(marks):
            add_mark(scene, *mark)
        return with_sky(self._buffer.draw(scene, self._depth), self._depth)

    def _tint(
        self, colour: tuple[float, float, float], dead: np.ndarray, much: float = 0.7
    ) -> None:
        """Give the robot some of its episode's colour, and limbs without a motor their own."""
        geom_type = int(mujoco.mjtObj.mjOBJ_GEOM)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == geom_type and geom.objid >= 0 and self._mine[geom.objid]:
                geom.matid = -1  # a texture would darken the colour
                paint = np.array(DEAD if dead[geom.objid] else colour)
                geom.rgba[:3] = (1 - much) * geom.rgba[:3] + much * paint


def shade(model: mujoco.MjModel) -> None:
    """Let shadows be as far around the robot as a picture shows; call it before the context."""
    reach = max(SHADED * robot_size(model, find_root(model))[0], LEAST_SHADED)
    model.vis.map.shadowclip = reach / max(float(model.stat.extent), 1e-6)


def light(scene: mujoco.MjvScene, view: View) -> None:
    """Light every family alike: by one sun, which shines on where the robot is, and the camera's.

    What is far from a light of MuJoCo has no shadow.
    """
    scene.nlight = 2
    for one, is_sun in zip(scene.lights[:2], (False, True), strict=True):
        one.type = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        one.headlight, one.texid = not is_sun, -1
        one.dir[:] = SUN if is_sun else view.ahead()
        one.pos[:] = view.lookat - view.distance * one.dir
        one.ambient[:], one.diffuse[:] = (0.0, 0.55) if is_sun else (0.38, 0.42)
        one.specular[:] = 0.1
        one.castshadow = is_sun and view.elevation > -75  # from above, shadows tell nothing


def dead_limbs(model: mujoco.MjModel) -> np.ndarray:
    """Return (ngeom,) bool: the geoms of bodies whose joints' motors give no torque, as faults."""
    at_joints = model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_JOINT)
    dead = at_joints & (model.actuator_gear == 0).all(1)
    bodies = model.jnt_bodyid[model.actuator_trnid[dead, 0]]
    return np.isin(model.geom_bodyid, bodies)


def add_mark(scene: mujoco.MjvScene, kind: int, size: Any, start: Any, end: Any, rgba: Any) -> None:
    """Add a sphere or cylinder at `start`, or a connector from `start` to `end`, to a scene.

    A box is a connector that lies flat, longer by what closes the corners of a ring of them.
    """
    if scene.ngeom >= scene.maxgeom:
        return
    geom = scene.geoms[scene.ngeom]
    upright = np.eye(3).ravel()
    mujoco.mjv_initGeom(geom, kind, np.array(size), np.array(start), upright, _rgba(rgba))
    if kind == int(mujoco.mjtGeom.mjGEOM_BOX):
        along = np.subtract(end, start)
        half = np.linalg.norm(along) / 2
        along /= 2 * half
        half += math.tan(PIECE / 2) * size[0]
        ahead = along.tolist()
        aside = _cross((0.0, 0.0, 1.0), ahead) / max(np.hypot(along[0], along[1]), 1e-9)
        geom.pos[:], geom.size[:] = np.add(start, end) / 2, (half, size[0], size[1])
        geom.mat[:] = np.array((along, aside, _cross(ahead, aside.tolist()))).T
    elif end is not None:
        mujoco.mjv_connector(geom, kind, size[0], np.array(start), np.array(end))
    geom.category = int(mujoco.mjtCatBit.mjCAT_DECOR)
    scene.ngeom += 1


def _cross(one: Sequence[float], two: Sequence[float]) -> np.ndarray:
    """Return the cross product, (3,): np.cross takes longer than it takes to draw the picture."""
    (a, b, c), (x, y, z) = one, two
    return np.array((b * z - c * y, c * x - a * z, a * y - b * x))


def drawn(marks: Marks) -> list[tuple[Any, ...]]:
    """Return (geom type, size, start, end, rgba) of everything that is to be added."""
    kinds, r = mujoco.mjtGeom, marks.radius
    arrow, out = int(kinds.mjGEOM_ARROW), []
    for one, two in itertools.pairwise(marks.trail):
        out.append((int(kinds.mjGEOM_BOX), (0.06 * r, 0.014 * r, 0.0), one, two,
                    (*marks.colour, 1.0)))  # fmt: skip
    for _, points, start, seen in marks.ground:
        wide = 0.04 if not start else 0.07 if len(points) > 2 else 0.12
        size, (*rgb, _) = (wide * r, 0.01 * r, 0.0), START if start else LINE
        seen = np.ones(len(points) - 1) if seen is None else seen
        for (one, two), alpha in zip(itertools.pairwise(points), seen.tolist(), strict=True):
            if alpha > 0.0:
                out.append((int(kinds.mjGEOM_BOX), size, one, two, (*rgb, alpha)))
    above = marks.position + np.array([0.0, 0.0, marks.above])
    for kind, vector in marks.markers:
        goal = np.asarray(vector, np.float64)
        thick = (0.06 * r, 0.0, 0.0)
        if kind == "goal":
            disc, pole = (0.8 * r, 0.02 * r, 0.0), np.array([0.0, 0.0, 1.2 * r])
            out.append((int(kinds.mjGEOM_CYLINDER), disc, goal, None, (*TARGET, 0.6)))
            out.append((int(kinds.mjGEOM_CAPSULE), thick, goal, goal + pole, (*TARGET, 0.9)))
            top = (0.22 * r, 0.22 * r, 0.22 * r)
            out.append((int(kinds.mjGEOM_SPHERE), top, goal + pole, None, (*TARGET, 1.0)))
            continue
        asked = (r if kind == "direction" else marks.scale) * goal
        lower = above - np.array([0.0, 0.0, 0.2 * r])
        speed = np.array([*marks.velocity[:2], 0.0])
        out.append((arrow, thick, above, above + asked, (*TARGET, 1.0)))
        out.append((arrow, thick, lower, lower + marks.scale * speed, (*marks.colour, 1.0)))
    shortest = {arrow: 0.15 * r}  # less than its own head would be a speck
    return [
        mark for mark in out
        if mark[3] is None or np.linalg.norm(mark[3] - mark[2]) > shortest.get(mark[0], 0.02 * r)
    ]  # fmt: skip


def _rgba(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32)


def trail_of(path: np.ndarray, upto: float, root: Root, segments: int = 60) -> np.ndarray:
    """Return (n, 3) of a path up to a step, for robots that move in the plane of the ground."""
    if not (root.x and root.y):
        return np.zeros((0, 3))
    step = max(1, len(path) // segments)
    return path[: int(upto) + 1 : step]


def brighten(model: mujoco.MjModel) -> None:
    """Let a model without lights of its own be lit from the camera."""
    if not model.nlight:
        model.vis.headlight.ambient[:] = 0.35
        model.vis.headlight.diffuse[:] = 0.60


def extend_ground(model: mujoco.MjModel) -> None:
    """Draw planes a kilometre wide, with the pattern that they have.

    To the physics they are endless, and a fast robot would run out of the floor that is drawn.
    """
    for plane in np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)):
        size, material = model.geom_size[plane, :2], int(model.geom_matid[plane])
        if (size > 0).all():
            if material >= 0 and not model.mat_texuniform[material]:
                model.mat_texrepeat[material] *= 500.0 / size
            model.geom_size[plane, :2] = 500.0


def _light_copy(models: Sequence[mujoco.MjModel]) -> mujoco.MjModel:
    """Return a copy of the first model, for a context of OpenGL.

    Height fields that no world shows are made tiny: a bank of them would take gigabytes there.
    """
    model = mujoco.MjModel.__copy__(models[0])
    if model.nhfield:
        field = int(mujoco.mjtGeom.mjGEOM_HFIELD)
        shown = {int(d) for m in models for d in m.geom_dataid[m.geom_type == field]}
        for unused in set(range(model.nhfield)) - shown:
            model.hfield_nrow[unused] = model.hfield_ncol[unused] = 2
    return model


def with_sky(image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Fill what lies at infinity with a plain gradient."""
    top, bottom = (np.array(c) * 255 for c in SKY)
    part = np.linspace(0.0, 1.0, len(image))[:, None]
    sky = (top + (bottom - top) * part).astype(np.uint8)[:, None]
    return np.where((depth >= 1.0)[..., None], sky, image)
