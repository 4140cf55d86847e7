"""Draw a contact sheet of every family: some of its tasks side by side, into docs/images/.

    python docs/draw_families.py                     # every registered family
    python docs/draw_families.py ant-goal ant-vel

Needs OpenGL without a display: EGL (packages libegl1, libgl1-mesa-dri) or OSMesa (libosmesa6),
whichever MUJOCO_GL names.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import matplotlib as mpl

mpl.use("agg")
import mujoco
import numpy as np
import torch
from matplotlib import pyplot as plt

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.family import list_families
from metarl.keys import Key

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 440, 300
"""Pixels of one picture."""
VIEWS = {
    "half-cheetah": (0.1, 0.45, 2.6, 90, -8),
    "walker2d": (0.0, 0.75, 3.4, 90, -8),
    "hopper": (0.0, 0.7, 3.2, 90, -8),
    "humanoid": (0.0, 0.8, 4.6, 120, -14),
    "ant": (0.0, 0.2, 4.2, 90, -32),
    "quadruped": (0.0, 0.2, 1.5, 125, -18),
    "point": (0.0, 0.0, 4.0, 90, -60),
}
"""By the first words of a name: x and z looked at (m), distance (m), azimuth and elevation (°)."""
TERRAIN_VIEWS = {
    "half-cheetah": (1.6, 0.3, 5.4, 115, -16),
    "walker2d": (1.2, 0.6, 5.2, 115, -14),
    "ant": (2.0, 0.0, 7.0, 115, -22),
    "quadruped": (0.6, 0.1, 2.8, 120, -20),
}
TARGET = np.array([0.85, 0.10, 0.15, 1.0])
"""Colour of what the reward asks for."""


def chosen_tasks(name: str) -> Tasks:
    """Return four tasks that differ as far as a picture can show."""
    distribution = TaskDistribution(find_family(name))
    values = distribution.split("heldout", 4).values.copy()
    for column, label in enumerate(distribution.names):
        param = distribution.params[0]
        if label == "ground":
            values[:, column] = [32, 33, 34, 35]
        elif label == "difficulty":
            values[:, column] = 0.7
        elif label in ("goal_velocity", "goal_angle"):
            param = next(p for p in distribution.params if p.name == label)
            values[:, column] = param.train.at((np.arange(4) + 0.5) / 4)
    if distribution.shared_split and len(distribution.names) == 1:
        values = distribution.params[0].train.at(np.linspace(0, 1, 4))[:, None]
        values = np.unique(values, axis=0)
    return Tasks(name, distribution.names, values)


def pictures(name: str, tasks: Tasks) -> list[np.ndarray]:
    """Return a picture of each task, (H, W, 3) uint8, a moment after the start."""
    worlds = TaskWorlds(find_family(name), len(tasks), 1)
    worlds.seed(Key("contact sheet"))
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    actions = 12 if name.startswith("ant") else 2
    for _ in range(actions):
        worlds.step(torch.zeros_like(worlds.simulator.ctrl))
    return [draw(worlds, i, view(name)) for i in range(len(tasks))]


def view(name: str) -> tuple[float, float, float, float, float]:
    """Return where the camera of a family stands."""
    views = TERRAIN_VIEWS if "-terrain" in name else VIEWS
    return next((v for key, v in views.items() if name.startswith(key)), (0, 0.5, 4, 90, -20))


def draw(worlds: TaskWorlds, i: int, seen: tuple[float, float, float, float, float]) -> np.ndarray:
    """Return a picture of world i."""
    model = worlds.simulator.batch.get_model(i)
    data = mujoco.MjData(model)
    data.qpos[:] = worlds.simulator.qpos[i]
    mujoco.mj_forward(model, data)
    model.vis.global_.offwidth, model.vis.global_.offheight = WIDTH, HEIGHT
    model.vis.headlight.ambient[:] = 0.35
    model.vis.headlight.diffuse[:] = 0.45
    model.vis.headlight.specular[:] = 0.1
    show_faults(worlds, i, model)
    root = data.xpos[1] if model.nbody > 1 else np.zeros(3)
    camera = mujoco.MjvCamera()
    x, z, camera.distance, camera.azimuth, camera.elevation = seen
    camera.lookat[:] = (root[0] + x, root[1], z)
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        renderer.update_scene(data, camera)
        task = {key: float(value[i]) for key, value in worlds.task.items() if value.ndim == 1}
        for kind, at, size in markers(task, root):
            add(renderer.scene, kind, at, size)
        return renderer.render()


def show_faults(worlds: TaskWorlds, i: int, model: mujoco.MjModel) -> None:
    """Paint the limbs whose motors have no torque in this world."""
    gear = worlds.simulator.model_field("actuator_gear")[i, :, 0].numpy()
    for joint in model.actuator_trnid[gear == 0, 0]:
        body = int(model.jnt_bodyid[joint])
        model.geom_matid[model.geom_bodyid == body] = -1
        model.geom_rgba[model.geom_bodyid == body] = TARGET


def markers(task: dict[str, float], root: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the goal as a ball, or the direction or velocity asked for as an arrow."""
    above = np.array([root[0], root[1], root[2] + 0.45])
    if "goal_x" in task:
        return [("ball", np.array([task["goal_x"], task["goal_y"], 0.05]), np.full(3, 0.07))]
    if "goal_radius" in task:
        angle, radius = task["goal_angle"], task["goal_radius"]
        place = radius * np.array([math.cos(angle), math.sin(angle), 0.0])
        return [("ball", place + [0, 0, 0.12], np.full(3, 0.12))]
    if "goal_angle" in task:
        along = np.array([math.cos(task["goal_angle"]), math.sin(task["goal_angle"]), 0.0])
        return [("arrow", above, 1.2 * along)]
    if "direction" in task:
        return [("arrow", above, np.array([0.8 * task["direction"], 0.0, 0.0]))]
    if "goal_velocity" in task:
        return [("arrow", above, np.array([0.1 + 0.45 * task["goal_velocity"], 0.0, 0.0]))]
    if "command_x" in task:
        return [("arrow", above - [0, 0, 0.2], np.array([task["command_x"], task["command_y"], 0]))]
    return []


def add(scene: mujoco.MjvScene, kind: str, at: np.ndarray, size: np.ndarray) -> None:
    """Add a ball of radii `size`, or an arrow from `at` along `size`, to a scene."""
    geom = scene.geoms[scene.ngeom]
    arrow = mujoco.mjtGeom.mjGEOM_ARROW
    shape = arrow if kind == "arrow" else mujoco.mjtGeom.mjGEOM_SPHERE
    mujoco.mjv_initGeom(geom, shape, size, at, np.eye(3).ravel(), TARGET.astype(np.float32))
    if kind == "arrow":
        mujoco.mjv_connector(geom, arrow, 0.03, at, at + size)
    scene.ngeom += 1


def sheet(name: str) -> Path:
    """Draw the contact sheet of a family; return its file."""
    tasks = chosen_tasks(name)
    drawn = pictures(name, tasks)
    columns = 2
    rows = math.ceil(len(drawn) / columns)
    size = (columns * WIDTH / 100, rows * (HEIGHT + 26) / 100)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=100, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for m, (axis, picture) in enumerate(zip(axes.flat, drawn, strict=False)):
        axis.imshow(picture)
        axis.set_title(label(tasks, m), fontsize=8.5, pad=4)
    figure.subplots_adjust(0.004, 0.004, 0.996, 1 - 0.22 / size[1], wspace=0.01, hspace=0.085)
    file = IMAGES / f"{name}.jpg"
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(file, pil_kwargs={"quality": 82, "optimize": True, "progressive": True})
    plt.close(figure)
    return file


def label(tasks: Tasks, m: int) -> str:
    """Return the task in words, short enough for a picture's title."""
    words = tasks.label(m).split(", ")
    return ", ".join(words) if len(words) <= 4 else ", ".join(words[:4]) + ", …"


def main(argv: list[str]) -> int:
    """Draw the sheets of the named families, or of all."""
    try:
        for name in argv or list_families():
            file = sheet(name)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ImportError, AttributeError, mujoco.FatalError) as error:
        text = " ".join(str(error).split())
        hint = "install libegl1 and libgl1-mesa-dri, or set MUJOCO_GL=osmesa"
        print(f"error: cannot draw ({text}): {hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
