"""Pictures of a world as it is, for gymnasium's ``rgb_array``; `metarl.video` makes films."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from metarl.video.opengl import OffscreenBuffer
from metarl.video.scene import tracking_camera

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.task_worlds import TaskWorlds

MOST_GEOMS = 10_000
"""In a scene, as in MuJoCo's own renderer."""


class OffscreenRenderer:
    """Follows the robot of any one of the worlds, and takes pictures of it.

    The view is that of the model's camera named ``track``, where there is one, else the one that
    videos begin with. Each picture shows the world's own model: its task's sizes, ground and so on.
    """

    def __init__(self, worlds: TaskWorlds, width: int = 480, height: int = 480) -> None:
        """Make room for the pictures.

        Args:
            worlds: whose worlds to look at.
            width: of a picture, in pixels.
            height: likewise.

        Raises:
            UserError: there is no OpenGL to render with.
        """
        self.worlds = worlds
        model = copy.copy(worlds.family.compile())  # a deep copy, in MuJoCo
        self._buffer = OffscreenBuffer(model, width, height)
        self._scene = mujoco.MjvScene(model, MOST_GEOMS)
        self._view = _view(worlds.family)
        self._closed = weakref.finalize(self, self._buffer.close)
        self._closed.atexit = False  # the buffer sees to that itself

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world as it is, (height, width, 3) uint8."""
        sim = self.worlds.simulator
        model = sim.world_model(world)
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, sim.world_state(world), mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        mujoco.mjv_updateScene(
            model, data, mujoco.MjvOption(), None, self._view,
            mujoco.mjtCatBit.mjCAT_ALL, self._scene,
        )  # fmt: skip
        return self._buffer.draw(self._scene)

    def close(self) -> None:
        """Free the OpenGL context. Closing twice does nothing."""
        self._closed()


def _view(family: TaskFamily) -> mujoco.MjvCamera:
    """Return the model's own camera ``track``, or one that follows the robot as in videos."""
    model = family.compile()
    own = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if own < 0:
        return tracking_camera(model, family.camera)
    view = mujoco.MjvCamera()
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, own
    return view
