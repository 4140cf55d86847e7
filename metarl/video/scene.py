"""What a video shows of a task beside the robot: the camera, markers in the scene, readings.

A family may define three optional members: the attribute `camera`, and the methods
``markers(task)`` and ``readings(path, velocity, task)``; see `markers_of` and `readings_of`. By
default the camera follows the robot from a side that suits how it moves, and the markers are those
of the parameters that goals usually have, by name and unit: ``goal_velocity`` (m/s, along x),
``direction`` (no unit, −1 or 1 along x), ``goal_angle`` (rad, a heading; with ``goal_radius``, in
m, a place) and ``goal_x``, ``goal_y`` and, if there is one, ``goal_z`` (m, a place).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import mujoco
import numpy as np

from metarl.base.errors import UserError, did_you_mean
from metarl.simulation.names import names_of

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily

SMOOTH = 0.4
"""Seconds over which the velocity on show is averaged."""
STEADY = 1.2
"""Seconds over which the camera's path is averaged: gaits, and falls, do not shake it."""
MARGIN = 1.2
"""How much more than what must be in view the camera sees."""
ARROWS = 0.5
"""Height left free for arrows over a robot, by the robot's reach to its sides."""
FARTHEST = 6.0
"""Half the width of a scene, in m, beyond which the camera follows instead of showing all of it."""


class Camera(NamedTuple):
    """From where to look; what is None is found from the model and the motion."""

    body: str | None = None
    """The body to follow; None: the one at the robot's root."""
    distance: float | None = None
    """From the camera to what it looks at, in m."""
    azimuth: float | None = None
    """Degrees; 90 looks along +y, with x to the right."""
    elevation: float | None = None
    """Degrees; negative looks down, −90 is from above."""
    lookat: tuple[float, float, float] | None = None
    """A place to keep looking at, in m; None: follow the body."""


class Marker(NamedTuple):
    """Something of the task to draw in the scene."""

    kind: Literal["goal", "velocity", "direction"]
    """A place; a velocity to have; a heading. The last two are arrows at the robot."""
    vector: tuple[float, float, float]
    """In m, in m/s, or a unit vector."""


class Reading(NamedTuple):
    """A quantity to show as a gauge."""

    label: str
    unit: str
    values: np.ndarray
    """(T+1,), one before each step and one after the last."""
    target: float | None = None
    """What it should be, if the task says so."""


class Root(NamedTuple):
    """The robot's root and how it can move."""

    body: int
    x: bool
    """Whether it can move along x, and so on."""
    y: bool
    z: bool


def find_root(model: mujoco.MjModel, name: str | None = None) -> Root:
    """Return the body that stands for the robot: `name`, or the root of the first joint's tree."""
    if not model.njnt:
        return Root(0, False, False, False)
    body = int(model.jnt_bodyid[0]) if name is None else _body(model, name)
    top = int(model.body_rootid[body])
    free = [0.0, 0.0, 0.0]
    for joint in range(model.njnt):
        if int(model.jnt_bodyid[joint]) not in (top, body):
            continue
        kind = int(model.jnt_type[joint])
        if kind == int(mujoco.mjtJoint.mjJNT_FREE):
            free = [1.0, 1.0, 1.0]
        elif kind == int(mujoco.mjtJoint.mjJNT_SLIDE):
            free = [max(f, abs(a)) for f, a in zip(free, model.jnt_axis[joint], strict=True)]
    return Root(body, *(f > 0.1 for f in free))


def _body(model: mujoco.MjModel, name: str) -> int:
    found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if found < 0:
        known = names_of(model, mujoco.mjtObj.mjOBJ_BODY)
        raise UserError(
            f"its camera follows body '{name}', which the model lacks{did_you_mean(name, known)}; "
            f"it has {', '.join(known)}"
        )
    return found


def robot_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Return (ngeom,) bool: the geoms of bodies that can move, which are the robot's."""
    moves = np.zeros(model.nbody, bool)
    moves[model.body_rootid[model.jnt_bodyid]] = True
    moves[0] = False
    return moves[model.body_rootid[model.geom_bodyid]]


def robot_size(model: mujoco.MjModel, root: Root) -> tuple[float, float, float]:
    """Return how far, in m, the robot as it starts reaches from its root: sideways, down and up.

    Args:
        model: of a world.
        root: of the robot.
    """
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mine = robot_geoms(model) & (model.geom_rbound > 0) & (model.geom_rgba[:, 3] > 0)
    if not mine.any():
        return 0.5, 0.5, 0.5
    turn = data.geom_xmat[mine].reshape(-1, 3, 3)
    centre = data.geom_xpos[mine] + np.einsum("gij,gj->gi", turn, model.geom_aabb[mine, :3])
    half = np.einsum("gij,gj->gi", np.abs(turn), model.geom_aabb[mine, 3:])
    centre -= data.xpos[root.body]
    sideways = float((np.abs(centre) + half)[:, :2].max())
    return sideways, float((half - centre)[:, 2].max()), float((half + centre)[:, 2].max())


def body_path(model: mujoco.MjModel, qpos: np.ndarray, body: int) -> np.ndarray:
    """Return (T, 3) the body's position in m, for qpos (T, nq)."""
    data, path = mujoco.MjData(model), np.zeros((len(qpos), 3))
    for t, state in enumerate(qpos):
        data.qpos[:] = state
        mujoco.mj_kinematics(model, data)
        path[t] = data.xpos[body]
    return path


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the centred moving average over about `width` rows; fewer near the ends."""
    half = width // 2
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    count = (high - low).reshape(-1, *(1,) * (values.ndim - 1))
    return (total[high] - total[low]) / count


def steady(path: np.ndarray, width: int) -> np.ndarray:
    """Return a path averaged as by `smooth`, that goes on at both ends as it went before them."""
    half = min(width // 2, len(path) - 1)
    before = 2 * path[:1] - path[half:0:-1]
    after = 2 * path[-1:] - path[-2 : -half - 2 : -1]
    longer = np.concatenate([before, path, after]) if half else path
    return smooth(longer, 2 * half + 1)[half : half + len(path)]


def velocity_of(path: np.ndarray, dt: float) -> np.ndarray:
    """Return (T+1, 3) the velocity in m/s along a path (T+1, 3), averaged over `SMOOTH` s."""
    if len(path) < 2:
        return np.zeros_like(path)
    steps = np.diff(path, axis=0) / dt
    return smooth(np.concatenate([steps[:1], steps]), max(1, round(SMOOTH / dt)))


# --- what the usual parameters mean ------------------------------------------------------------


_UNITS = {
    "goal_velocity": "m/s", "direction": "", "goal_angle": "rad", "goal_radius": "m",
    "goal_x": "m", "goal_y": "m", "goal_z": "m",
}  # fmt: skip
"""The unit in which a parameter of that name has a marker."""


def usual_markers(task: Mapping[str, Any], units: Mapping[str, str]) -> list[Marker]:
    """Return the markers of the parameters that the module's docstring names.

    Args:
        task: name -> a number or (size,).
        units: name -> the parameter's unit. One of another unit means something else.
    """
    known = {
        name: float(value)
        for name, value in task.items()
        if np.ndim(value) == 0 and _UNITS.get(name) == units[name]
    }
    if "goal_velocity" in known:
        return [Marker("velocity", (known["goal_velocity"], 0.0, 0.0))]
    if abs(known.get("direction", 0.0)) == 1.0:
        return [Marker("direction", (known["direction"], 0.0, 0.0))]
    if "goal_angle" in known:
        angle = known["goal_angle"]
        heading = (math.cos(angle), math.sin(angle), 0.0)
        if "goal_radius" not in task:
            return [Marker("direction", heading)]
        if "goal_radius" not in known:
            return []
        radius = known["goal_radius"]
        return [Marker("goal", (radius * heading[0], radius * heading[1], 0.0))]
    flat = "goal_z" not in task
    if "goal_x" in known and "goal_y" in known and (flat or "goal_z" in known):
        return [Marker("goal", (known["goal_x"], known["goal_y"], known.get("goal_z", 0.0)))]
    return []


def usual_readings(
    markers: Sequence[Marker], path: np.ndarray, velocity: np.ndarray, root: Root
) -> list[Reading]:
    """Return what tells how well a robot does what its markers ask for.

    Args:
        markers: of the task.
        path: (T+1, 3) the root's position, m.
        velocity: (T+1, 3) the root's velocity, m/s.
        root: how it can move; one that cannot travel along x has no readings.
    """
    if not root.x:
        return []
    for kind, vector in markers:
        goal = np.asarray(vector)
        if kind == "goal":
            over = path - goal  # a goal at height 0 is a place on the ground
            away = np.linalg.norm(over if goal[2] else over[:, :2], axis=1)
            return [Reading("distance to the goal", "m", away, 0.0)]
        along = velocity @ (goal / max(float(np.linalg.norm(goal)), 1e-9))
        if kind == "direction":
            straight = not goal[1]
            return [Reading("velocity" if straight else "velocity along the goal", "m/s",
                            velocity[:, 0] if straight else along)]  # fmt: skip
        return [Reading("velocity", "m/s", velocity[:, 0], float(goal[0]))]
    return [Reading("velocity", "m/s", velocity[:, 0])]


def markers_of(family: TaskFamily, task: Mapping[str, Any]) -> list[Marker]:
    """Return what to draw for one task: what the family's `markers` returns, or the usual ones."""
    if hasattr(family, "markers"):
        return family.markers(task)  # pyright: ignore[reportAttributeAccessIssue]
    return usual_markers(task, {param.name: param.unit for param in family.params})


def readings_of(
    family: TaskFamily, path: np.ndarray, velocity: np.ndarray, task: Mapping[str, Any]
) -> list[Reading]:
    """Return what to show as gauges, from the family's `readings`, or else from its markers.

    Args:
        family: of the task.
        path: (T+1, 3) the position of the robot's root, m.
        velocity: (T+1, 3) its velocity, m/s.
        task: parameter name -> a float or (size,).
    """
    if hasattr(family, "readings"):
        return family.readings(path, velocity, task)  # pyright: ignore[reportAttributeAccessIssue]
    root = find_root(family.compile(), family.camera.body if family.camera else None)
    return usual_readings(markers_of(family, task), path, velocity, root)


# --- cameras -----------------------------------------------------------------------------------


class Shot(NamedTuple):
    """Where the camera is during an episode."""

    lookat: np.ndarray
    """(T+1, 3), m"""
    distance: float
    azimuth: float
    elevation: float


class _Framing(NamedTuple):
    """What has to be in view of a robot, and from where that is seen."""

    root: Root
    wide: float
    """How far the robot reaches to its sides, m"""
    raised: float
    """How far above its root the camera looks, m"""
    distance: float
    elevation: float


def _framing(model: mujoco.MjModel, camera: Camera, aspect: float) -> _Framing:
    """Return the default view of a robot.

    It is from the side for one that moves in a vertical plane, from above for one that slides on
    the ground, and else from the side and above; from as far as it takes to see all of the robot.
    """
    root = find_root(model, camera.body)
    wide, down, up = robot_size(model, root)
    up += ARROWS * wide
    tall = _half_height(model)
    distance = wide + MARGIN * max(wide / (tall * aspect), (down + up) / 2 / tall)
    elevation = -10.0 if root.x and not root.y else -35.0 if root.z else -90.0 if root.y else -20.0
    return _Framing(root, wide, (up - down) / 2, distance, elevation)


def _half_height(model: mujoco.MjModel) -> float:
    """Return half the height of what the camera sees at a distance of 1."""
    return math.tan(math.radians(float(model.vis.global_.fovy)) / 2)


def tracking_camera(model: mujoco.MjModel, camera: Camera | None = None) -> mujoco.MjvCamera:
    """Return a camera that follows the robot from where a video would look at it.

    Args:
        model: of a world.
        camera: what the family asks for.
    """
    camera = camera or Camera()
    framing, view = _framing(model, camera, 1.0), mujoco.MjvCamera()
    view.distance = camera.distance or framing.distance
    view.azimuth = 90.0 if camera.azimuth is None else camera.azimuth
    view.elevation = framing.elevation if camera.elevation is None else camera.elevation
    if camera.lookat is None:
        view.type, view.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, framing.root.body
    else:
        view.lookat[:] = camera.lookat
    return view


def plan_shots(
    family: TaskFamily, model: mujoco.MjModel, paths: Sequence[np.ndarray],
    markers: Sequence[Marker], aspect: float,
) -> list[Shot]:  # fmt: skip
    """Return a shot of each episode of a task, all from the same side and distance.

    Where the task has a goal in space, the camera stands still and sees all of the paths and the
    goal, unless that is too much; otherwise it follows the robot.

    Args:
        family: whose `camera` says what it wants to say.
        model: of the task's world.
        paths: of the tracked body in each episode, (T+1, 3) m.
        markers: of the task.
        aspect: width of the picture by its height.
    """
    camera = family.camera or Camera()
    _, wide, raised, distance, elevation = _framing(model, camera, aspect)
    tall = _half_height(model)
    goals = [marker.vector for marker in markers if marker.kind == "goal"]
    lookat = None if camera.lookat is None else np.array(camera.lookat)
    if goals and lookat is None:
        places = np.concatenate([*paths, np.array(goals)])[:, :2]
        low, top = places.min(0), places.max(0)
        half = (top - low) / 2 + 1.5 * wide
        if half.max() <= FARTHEST:
            lookat = np.array([*(low + top) / 2, float(paths[0][0, 2]) / 2])
            distance = max(distance, MARGIN * max(half[0] / (tall * aspect), half[1] / tall))
            elevation = min(elevation, -60.0)
    shots = []
    for path in paths:
        follow = steady(path, max(1, round(STEADY / family.dt)))
        follow[:, 2] += raised
        shots.append(
            Shot(
                follow if lookat is None else np.broadcast_to(lookat, follow.shape),
                camera.distance or distance,
                90.0 if camera.azimuth is None else camera.azimuth,
                elevation if camera.elevation is None else camera.elevation,
            )
        )
    return shots
