"""Rendering without a display goes through EGL, chosen before mujoco is imported."""

from __future__ import annotations

import ctypes
import os
import sys


def prefer_egl() -> None:
    """Set MUJOCO_GL=egl if there is no display, nobody chose otherwise, and EGL is there."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform != "linux" or any(os.environ.get(name) for name in displays):
        return
    if "mujoco" in sys.modules or os.environ.get("MUJOCO_GL"):
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return  # rendering will say what is missing; the rest works without
    os.environ["MUJOCO_GL"] = "egl"


prefer_egl()
