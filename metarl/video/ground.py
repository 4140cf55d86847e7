"""The ground of every video: one floor, a start line, and marks of distance with numbers.

All of it is added to the scene that is drawn. The model, and so the physics, knows nothing of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from metarl.video.opengl import Material
from metarl.video.overlay import DARK, WHITE, font
from metarl.video.scene import Root

TILE = 1.0
"""Length of a tile of the floor's checker, in m."""
TONES = (96, 109, 124), (108, 122, 137)
"""Colours of its tiles."""
UNEVEN = (1.0, 0.90, 0.74)
"""What the tiles of a terrain are tinted with: the uneven can be told from the flat."""
STEPS = (1, 2, 5, 10, 20, 50, 100)
"""Metres between two marks: the first with at most `MOST` of them in the width of a picture."""
MOST = 4
PIECE = 0.17
"""Radians of a ring that are drawn straight."""
FADES = 0.6
"""The part of their reach from which on rings fade, so that none ends within the picture."""
LINE, START = (0.86, 0.89, 0.92, 1.0), (1.0, 1.0, 1.0, 1.0)
"""Colours of the marks and of the start."""


# --- a camera ----------------------------------------------------------------------------------


class View(NamedTuple):
    """A camera at one moment."""

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float

    def ahead(self) -> np.ndarray:
        """Return (3,) the direction in which it looks."""
        az, el = math.radians(self.azimuth), math.radians(self.elevation)
        return np.array([math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el)])


def project(
    points: np.ndarray, view: View, fovy: float, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where a camera sees places: pixels (2, n), right and down, and how far ahead (n,), m.

    Args:
        points: (n, 3), m.
        view: the camera.
        fovy: its vertical field of view, in degrees.
        width: of the picture, in pixels.
        height: likewise.
    """
    az, forward = math.radians(view.azimuth), view.ahead()
    right = np.array([math.sin(az), -math.cos(az), 0.0])
    offset = points - (view.lookat - view.distance * forward)
    ahead = offset @ forward
    scale = height / 2 / math.tan(math.radians(fovy) / 2) / np.maximum(ahead, 1e-9)
    x, y = (
        width / 2 + scale * (offset @ right),
        height / 2 - scale * (offset @ np.cross(right, forward)),
    )
    return np.stack([x, y]), ahead


# --- the floor ---------------------------------------------------------------------------------


@functools.cache
def floor_pixels(size: int = 128) -> np.ndarray:
    """Return (size, size, 3) uint8, a picture of 2 by 2 tiles."""
    half = np.arange(size) // (size // 2)
    return np.array(TONES, np.uint8)[half[:, None] ^ half]


def lay_floor(scene: mujoco.MjvScene, model: mujoco.MjModel, material: Material) -> None:
    """Give the planes and height fields of the world in a scene the material of the floor.

    Args:
        scene: as MuJoCo made it of the model.
        model: of a world.
        material: of `floor_pixels`.
    """
    field = int(mujoco.mjtGeom.mjGEOM_HFIELD)
    grounds = np.isin(model.geom_type, [int(mujoco.mjtGeom.mjGEOM_PLANE), field])
    kind = int(mujoco.mjtObj.mjOBJ_GEOM)
    for geom in scene.geoms[: scene.ngeom]:
        if geom.objtype == kind and geom.objid >= 0 and grounds[geom.objid] and geom.rgba[3]:
            material.put_on(geom)
            tint = UNEVEN if geom.type == field else (1.0, 1.0, 1.0)
            geom.rgba[:3], geom.rgba[3] = tint, 1.0
            geom.specular = geom.shininess = geom.reflectance = geom.emission = 0.0


# --- marks -------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A line on the ground."""

    label: str
    points: np.ndarray
    """(n, 3) in m"""
    start: bool = False
    """Whether it is where the robot starts"""
    seen: np.ndarray | None = None
    """(n-1,) from 0 to 1, how opaque each piece of it is; None: all of it is opaque"""


class Course:
    """The marks of a world: lines across the way of a planar robot, else rings around the start."""

    def __init__(self, model: mujoco.MjModel, root: Root, distance: float, aspect: float) -> None:
        """Measure the ground.

        Args:
            model: of the world.
            root: of the robot; one that cannot travel along x has no marks.
            distance: from the camera, in m.
            aspect: width of the picture by its height.
        """
        self._model, self._data = model, mujoco.MjData(model)
        mujoco.mj_kinematics(model, self._data)
        self._root, self.start = root, self._data.xpos[root.body].copy()
        kinds, still = model.geom_type, model.body_weldid[model.geom_bodyid] == 0
        self._planes = np.flatnonzero(still & (kinds == int(mujoco.mjtGeom.mjGEOM_PLANE)))
        self._fields = np.flatnonzero(still & (kinds == int(mujoco.mjtGeom.mjGEOM_HFIELD)))
        wide = 2 * distance * aspect * math.tan(math.radians(float(model.vis.global_.fovy)) / 2)
        self.reach = 1.5 * wide
        """How far from the robot marks are drawn, in m."""
        self.step = next((s for s in STEPS if wide / s <= MOST), STEPS[-1])
        self._across: dict[int, np.ndarray] = {}
        self.has_marks = root.x and bool(len(self._planes) or len(self._fields))

    def height(self, x: float, y: float) -> float:
        """Return the height of the ground at a place, in m."""
        heights = [float(self._data.geom_xpos[plane, 2]) for plane in self._planes]
        above, down = np.array([x, y, 1e3]), np.array([0.0, 0.0, -1.0])
        for field in self._fields:
            away = mujoco.mj_rayHfield(self._model, self._data, int(field), above, down)
            heights += [1e3 - away] if away >= 0 else []
        return max(heights, default=0.0)

    def under(self, path: np.ndarray) -> np.ndarray:
        """Return (n, 3) the places on the ground under a path (n, 3)."""
        if not self.has_marks:
            return path
        return np.array([[x, y, self.height(x, y)] for x, y, _ in path.tolist()])

    def near(self, position: np.ndarray) -> list[Mark]:
        """Return the marks around a robot.

        Args:
            position: (3,) of its root, m.
        """
        if not self.has_marks:
            return []
        return self._rings(position) if self._root.y else self._lines(position)

    def _lines(self, position: np.ndarray) -> list[Mark]:
        """Lines across x, each `step` from the start."""
        from_start = float(position[0] - self.start[0])
        low, high = (from_start + side * self.reach for side in (-1, 1))
        marks = []
        for n in range(math.ceil(low / self.step), math.floor(high / self.step) + 1):
            if n not in self._across:
                self._across[n] = self._line(float(self.start[0]) + n * self.step)
            marks.append(Mark(_label(n * self.step), self._across[n], n == 0))
        return marks

    def _line(self, x: float) -> np.ndarray:
        """Return (n, 3) points across the way, on the ground."""
        y = self.start[1] + self.reach * np.linspace(-1.0, 1.0, 31 if len(self._fields) else 2)
        return np.array([[x, place, self._along(x, place)] for place in y.tolist()])

    def _along(self, x: float, y: float, half: float = 0.03) -> float:
        """Return the height of the ground, or of an edge within a few centimetres, in m."""
        around = (-half, 0.0, half) if len(self._fields) else (0.0,)
        return max(self.height(x + dx, y) for dx in around)

    def _rings(self, position: np.ndarray) -> list[Mark]:
        """Arcs around the start, as much of them as is near the robot."""
        away = position[:2] - self.start[:2]
        far, bearing = float(np.hypot(*away)), math.atan2(away[1], away[0])
        reach = self.reach / 1.5  # rings are of many pieces, each of which takes its time
        marks = []
        for n in range(math.ceil(max(far - reach, 0.0) / self.step),
                       math.floor((far + reach) / self.step) + 1):  # fmt: skip
            radius = n * self.step or 0.2 * self.step
            cosine = (radius**2 + far**2 - reach**2) / max(2 * radius * far, 1e-9)
            half = math.acos(min(max(cosine, -1.0), 1.0))  # of the arc that is within reach
            angles = bearing + np.linspace(-half, half, 2 + math.ceil(2 * half / PIECE))
            xy = self.start[:2] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            z = [self._along(x, y) for x, y in xy.tolist()]
            far_off = np.hypot(*(0.5 * (xy[1:] + xy[:-1]) - position[:2]).T) / reach
            seen = np.clip((1.0 - far_off) / (1.0 - FADES), 0.0, 1.0)
            points = np.column_stack([xy, z])
            marks.append(Mark(_label(n * self.step), points, n == 0, seen))
        return marks


def _label(metres: int) -> str:
    """Return what stands at a mark."""
    return f"{metres} m".replace("-", "\N{MINUS SIGN}") if metres else "start"


def write_labels(
    image: np.ndarray, marks: Sequence[Mark], view: View, fovy: float, size: int = 13
) -> np.ndarray:
    """Return a picture with the marks' labels, each where its line leaves the picture's foot.

    Args:
        image: (height, width, 3) uint8
        marks: in the scene.
        view: the camera.
        fovy: its vertical field of view, in degrees.
        size: of the letters, in pixels.
    """
    places = [(mark, at) for mark in marks if (at := foot_of(mark, image.shape, view, fovy, size))]
    if not places:
        return image
    sheet, face, taken = Image.fromarray(image), font(size, bold=True), []
    pen = ImageDraw.Draw(sheet)
    for mark, (x, y) in sorted(places, key=lambda place: not place[0].start):
        half = 0.5 * face.getlength(mark.label) + 3
        if x - half < 0 or x + half > image.shape[1]:
            continue
        if any(abs(x - other) < half + room and abs(y - row) < 1.2 * size
               for other, row, room in taken):  # fmt: skip
            continue
        taken.append((x, y, half))
        pen.text((x, y), mark.label, font=face, fill=WHITE, anchor="mm", stroke_width=2,
                 stroke_fill=DARK)  # fmt: skip
    return np.asarray(sheet)


def foot_of(
    mark: Mark, shape: Sequence[int], view: View, fovy: float, size: int
) -> tuple[float, float] | None:
    """Return the pixel (x, y) where a mark is lowest in a picture, but for a margin; or None."""
    (height, width), inner = shape[:2], np.linspace(0.0, len(mark.points) - 1, 160)
    whole = np.arange(len(mark.points))
    points = np.stack([np.interp(inner, whole, axis) for axis in mark.points.T], 1)
    (x, y), ahead = project(points, view, fovy, width, height)
    above = (ahead > 0.05) & (y <= height - 0.8 * size)
    if not above.any():
        return None
    lowest = np.flatnonzero(above & (y > y[above].max() - 2.0))  # a ring has two such places
    nearest = lowest[np.argmin(np.abs(x[lowest] - width / 2))]
    if not (0 <= x[nearest] < width and y[nearest] >= 0):
        return None  # it leaves the picture at a side
    return float(x[nearest]), float(y[nearest])
