"""The one place that opens OpenGL, for pictures that need no display.

On Linux it is EGL, which needs neither a display nor, through Mesa, a GPU, or else OSMesa;
``MUJOCO_GL`` overrules that. Videos, gymnasium's ``rgb_array`` and the documentation's pictures all
draw into an `OffscreenBuffer`. Each is drawn to in the thread that made it; many threads may have
one each, and scale, since MuJoCo and OpenGL release Python's lock.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import platform
import sys
import threading
import weakref
from typing import Any, NamedTuple

import mujoco
import numpy as np

from metarl.base.errors import UserError

_LOCK = threading.Lock()

PACKAGES = {
    "egl": (
        "libegl1, libopengl0 and libgl1-mesa-dri",
        "mesa-libEGL, libglvnd-opengl and mesa-dri-drivers",
    ),
    "osmesa": ("libosmesa6", "mesa-libOSMesa"),
}
"""What a backend needs, on Debian and Ubuntu and on Fedora."""


def backends() -> tuple[str, ...]:
    """Return the names of the OpenGL backends to try, in order.

    GLFW is never one of them on Linux and macOS: it needs a display, and the main thread.
    """
    if (wanted := _wanted()) in ("egl", "osmesa", "cgl"):
        return (wanted,)
    return {"Linux": ("egl", "osmesa"), "Darwin": ("cgl",)}.get(platform.system(), ("glfw",))


def make_context(width: int, height: int) -> Any:
    """Return an OpenGL context, and make it the current one of this thread.

    The backend that works is written to ``MUJOCO_GL``, where MuJoCo looks up whom to ask for
    OpenGL's functions; without it, MuJoCo would ask the display's library.

    Raises:
        UserError: one line that names the packages, if there is no headless OpenGL.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's own threads would contend with ours
    failed = []
    with _LOCK:
        for name in backends():
            try:
                context = _context_class(name)(width, height)
                context.make_current()
            except Exception as error:  # whatever a missing library or driver leads to
                failed.append(f"{name}: {_reason(error)}")
                continue
            os.environ["MUJOCO_GL"] = name
            return context
    needed = [PACKAGES[name] for name in backends() if name in PACKAGES]
    text = f"cannot render without a display ({'; '.join(failed)})"
    if needed:
        debian, fedora = (", or ".join(names) for names in zip(*needed, strict=True))
        text += f"; install {debian} (Fedora: {fedora})"
    raise UserError(text)


def lend() -> str:
    """Let the code of others, such as gymnasium's environments, draw in this process as we do.

    They would look for a display: gymnasium unless ``MUJOCO_GL`` says otherwise by now, and
    `mujoco.Renderer` unless it did when MuJoCo was imported. So this is for a worker process of
    theirs, and not for the user's. A display that ``MUJOCO_GL=glfw`` asks for is left to them.

    Returns:
        Why there is no headless OpenGL, in one line, or ''.
    """
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if platform.system() != "Linux" or (display and _wanted() == "glfw"):
        return ""
    try:
        make_context(8, 8).free()
    except UserError as error:
        return str(error)
    for name in ("mujoco", "mujoco.gl_context", "mujoco.rendering.classic.gl_context"):
        if name in sys.modules:
            sys.modules[name].__dict__["GLContext"] = _context_class(_wanted())
    return ""


def _wanted() -> str:
    return os.environ.get("MUJOCO_GL", "").strip().lower()


def _reason(error: Exception) -> str:
    """Say why a backend failed; PyOpenGL looks things up in a library that it has not found."""
    if isinstance(error, AttributeError):
        return "its library is missing"
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:120]


def _context_class(name: str) -> Any:
    """Import a backend. PyOpenGL takes the first platform that it is told of, and keeps it."""
    if name in ("egl", "osmesa") and os.environ.get("PYOPENGL_PLATFORM", name) != name:
        for module in [m for m in sys.modules if m == "OpenGL" or m.startswith("OpenGL.")]:
            del sys.modules[module]
        del os.environ["PYOPENGL_PLATFORM"]
    return importlib.import_module(f"mujoco.{name}").GLContext


@functools.cache
def _open_buffers() -> weakref.WeakSet[OffscreenBuffer]:
    """Every buffer that is not closed yet: the process's end closes them.

    Call it with a context at hand. MuJoCo ends EGL at exit, and its contexts complain if they
    outlive that; what is registered later runs earlier.
    """
    buffers: weakref.WeakSet[OffscreenBuffer] = weakref.WeakSet()

    def close() -> None:
        for buffer in list(buffers):
            buffer.close()

    atexit.register(close)
    return buffers


class Material(NamedTuple):
    """A texture that was added to the model's own."""

    number: int
    """Of the material, beyond those of the model"""
    texture: int
    repeat: float
    """How often it is there in two metres"""

    def put_on(self, geom: mujoco.MjvGeom) -> None:
        """Let a geom of a scene be drawn with it."""
        geom.matid = self.number
        if hasattr(geom, "texid"):  # where MuJoCo asks the geom, and not its material
            geom.texid, geom.texuniform, geom.texrepeat[:] = self.texture, 1, self.repeat


class OffscreenBuffer:
    """An image in OpenGL's memory, for scenes of one model's meshes, textures and height fields."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        """Make the context and load the model into it.

        Args:
            model: its ``vis.global_`` is set to the size.
            width: of the image, in pixels.
            height: likewise.

        Raises:
            UserError: there is no headless OpenGL.
        """
        self._gl: Any = make_context(width, height)
        _open_buffers().add(self)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        try:
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:  # a driver that is too old, for instance
            raise UserError(f"cannot render: {_reason(error)}") from None
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def add_material(self, pixels: np.ndarray, repeat: float) -> Material:
        """Load a texture that the model lacks, as a material that geoms of a scene can have.

        Args:
            pixels: (height, width, 3) uint8
            repeat: how often it is there in two metres, as MuJoCo counts on planes and fields.
        """
        context, at = self._context, self._context.ntexture
        height, width = pixels.shape[:2]
        texture = '<texture name="{}" type="2d" builtin="flat" width="{}" height="{}"/>'
        sizes = [(1, 1)] * at + [(width, height)]  # MuJoCo uploads one of a number of its own
        assets = "".join(texture.format(n, *size) for n, size in enumerate(sizes))
        model = mujoco.MjModel.from_xml_string(f"<mujoco><asset>{assets}</asset></mujoco>")
        model.tex_data[model.tex_adr[at] :] = pixels.ravel()
        # A name that no texture of the context has: OpenGL makes it when it is first bound.
        context.texture[at], context.textureType[at] = 1_000_000 + at, model.tex_type[at]
        context.ntexture = at + 1
        self._gl.make_current()
        mujoco.mjr_uploadTexture(model, context, at)
        material = len(context.mat_texuniform) - 1 - at
        roles = context.mat_texid.reshape(len(context.mat_texuniform), -1)
        roles[material] = -1
        roles[material, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = at
        context.mat_texuniform[material] = 1
        context.mat_texrepeat.reshape(-1, 2)[material] = repeat
        return Material(material, at, repeat)

    def draw(self, scene: mujoco.MjvScene, depth: np.ndarray | None = None) -> np.ndarray:
        """Return the image of a scene, (height, width, 3) uint8.

        Args:
            scene: of the model, or of one that differs in fields but not in layout.
            depth: (height, width) float32 to fill with the depth of each pixel: 1 at infinity.
        """
        self._gl.make_current()  # the thread may have drawn into another one
        image = np.empty((self._rect.height, self._rect.width, 3), np.uint8)
        mujoco.mjr_render(self._rect, scene, self._context)
        mujoco.mjr_readPixels(image, depth, self._rect, self._context)
        if depth is not None:
            depth[:] = depth[::-1].copy()
        return np.ascontiguousarray(image[::-1])  # OpenGL begins at the bottom

    def close(self) -> None:
        """Free the OpenGL resources, in the thread that made them. Closing twice does nothing."""
        if self._gl is None:
            return
        with contextlib.suppress(Exception):  # another thread has it: it goes with the process
            self._gl.make_current()
            self._context.free()
            self._gl.free()
        self._gl = None
