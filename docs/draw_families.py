"""Draw a contact sheet of every family: some of its tasks side by side, into docs/images/.

    python docs/draw_families.py    # every registered family; one with a scan looks as without
    python docs/draw_families.py ant-goal ant-vel

Needs OpenGL, but no display: see docs/videos.md.
"""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import mujoco
import numpy as np
import torch
from matplotlib import pyplot as plt

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.base.keys import Key
from metarl.tasks.family import without_termination
from metarl.tasks.registry import list_families
from metarl.video.ground import TILE, View, floor_pixels, lay_floor
from metarl.video.opengl import OffscreenBuffer
from metarl.video.renderer import extend_ground, light, shade, with_sky

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 440, 300
"""Pixels of one picture."""
VIEWS = {
    "half-cheetah": (0.1, 0.45, 2.6, 90, -8),
    "walker2d": (0.0, 0.75, 3.4, 90, -8),
    "hopper": (0.0, 0.7, 3.2, 90, -8),
    "humanoid": (0.0, 0.8, 4.6, 120, -14),
    "ant-goal": (0.0, 0.0, 8.0, 90, -50),
    "ant": (0.0, 0.2, 4.2, 90, -32),
    "quadruped": (0.0, 0.2, 1.5, 125, -18),
    "point": (0.0, 0.0, 4.0, 90, -60),
}
"""By the first words of a name: x and z looked at (m), distance (m), azimuth and elevation (°)."""
TERRAIN_VIEWS = {
    "half-cheetah": (1.6, 0.3, 5.4, 115, -16),
    "walker2d": (1.2, 0.6, 5.2, 115, -14),
    "ant": (1.2, 0.2, 6.5, 115, -20),
    "quadruped": (0.35, 0.15, 2.5, 115, -18),
}
AHEAD = {"ant": 3.0, "quadruped": 1.9}
"""Where on its terrain a robot is shown, in m ahead of the start."""
MOVED = {"half-cheetah": 0.5, "ant": 0.5, "hopper": 0.4, "walker2d": 0.3}
"""Seconds of the same actions, after which bodies that look alike stand apart."""
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
    worlds = TaskWorlds(without_termination(find_family(name)), len(tasks), 1)
    worlds.seed(Key("contact sheet"))
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    if "-terrain" in name:
        advance(worlds, next((x for key, x in AHEAD.items() if name.startswith(key)), 0.0))
    if name.endswith(("-dynamics", "-params", "-literature", "cheetah-crippled")):
        move(worlds, next(t for key, t in MOVED.items() if name.startswith(key)))
        return [draw(worlds, i, view(name)) for i in range(len(tasks))]
    for _ in range(12 if name.startswith(("ant", "quadruped")) else 5):
        worlds.step(torch.zeros_like(worlds.simulator.ctrl))
    return [draw(worlds, i, view(name)) for i in range(len(tasks))]


def move(worlds: TaskWorlds, seconds: float) -> None:
    """Start all robots from one state and give them the same swinging actions."""
    sim, dt = worlds.simulator, worlds.family.dt
    sim.qpos[:], sim.qvel[:] = sim.qpos[0].clone(), sim.qvel[0].clone()
    joints = torch.arange(sim.ctrl.shape[1])
    for k in range(round(seconds / dt)):
        worlds.step(torch.sin(8.0 * k * dt + 1.3 * joints).expand_as(sim.ctrl))


def advance(worlds: TaskWorlds, ahead: float) -> None:
    """Move the robots onto their terrain, above the ground that is highest around them."""
    sim, around = worlds.simulator, torch.linspace(-0.6, 0.6, 13, dtype=torch.float64)
    sim.qpos[:, 0] += ahead
    x = sim.qpos[:, :1] + around
    planar = worlds.family.terrain.planar
    highest = worlds.family.ground(sim, x, None if planar else torch.zeros_like(x)).max(1).values
    sim.qpos[:, 1 if planar else 2] += highest


def view(name: str) -> tuple[float, float, float, float, float]:
    """Return where the camera of a family stands."""
    views = TERRAIN_VIEWS if "-terrain" in name else VIEWS
    return next((v for key, v in views.items() if name.startswith(key)), (0, 0.5, 4, 90, -20))


def draw(worlds: TaskWorlds, i: int, seen: tuple[float, float, float, float, float]) -> np.ndarray:
    """Return a picture of world i."""
    model = worlds.simulator.world_model(i)
    extend_ground(model)
    shade(model)
    show_faults(worlds, i, model)
    data = mujoco.MjData(model)
    data.qpos[:] = worlds.simulator.qpos[i]
    mujoco.mj_forward(model, data)
    root = data.xpos[1] if model.nbody > 1 else np.zeros(3)
    camera = mujoco.MjvCamera()
    x, z, camera.distance, camera.azimuth, camera.elevation = seen
    camera.lookat[:] = (root[0] + x, root[1], z)
    buffer, scene = OffscreenBuffer(model, WIDTH, HEIGHT), mujoco.MjvScene(model, 10_000)
    scene.flags[int(mujoco.mjtRndFlag.mjRND_SKYBOX)] = False
    scene.flags[int(mujoco.mjtRndFlag.mjRND_REFLECTION)] = False
    everything = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, everything, scene)
    lay_floor(scene, model, buffer.add_material(floor_pixels(), 1 / TILE))
    light(scene, View(camera.lookat.copy(), *seen[2:]))
    task = {key: float(value[i]) for key, value in worlds.task.items() if value.ndim == 1}
    for kind, at, size in markers(task, root):
        add(scene, kind, at, size)
    depth = np.empty((HEIGHT, WIDTH), np.float32)
    image = with_sky(buffer.draw(scene, depth), depth)
    buffer.close()
    return image


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
        place = np.array([radius * math.cos(angle), radius * math.sin(angle), 0.12])
        return [("ball", place, np.full(3, 0.12))]
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
    size = (columns * WIDTH / 100, rows * (HEIGHT + 30) / 100)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=100, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for m, (axis, picture) in enumerate(zip(axes.flat, drawn, strict=False)):
        axis.imshow(picture)
        axis.set_title(label(tasks, m), fontsize=7, pad=3)
    figure.subplots_adjust(0.004, 0.004, 0.996, 1 - 0.27 / size[1], wspace=0.01, hspace=0.1)
    file = IMAGES / f"{name}.jpg"
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(file, pil_kwargs={"quality": 82, "optimize": True, "progressive": True})
    plt.close(figure)
    return file


def label(tasks: Tasks, m: int) -> str:
    """Return the task in the family's words, short enough for a picture's title."""
    family = find_family(tasks.family)
    values, column = {}, 0
    for param in family.params:
        size = len(param.names)
        values[param.name] = np.squeeze(tasks.values[m, column : column + size])
        column += size
    words = family.describe(values)
    words = words if len(words) <= 8 else [*words[:7], "…"]
    return textwrap.fill(", ".join(words), 80)


def main(argv: list[str]) -> int:
    """Draw the sheets of the named families, or of all."""
    try:
        for name in argv or [n for n in list_families() if not n.endswith("-scan")]:
            file = sheet(name)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
