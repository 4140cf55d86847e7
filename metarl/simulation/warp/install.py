"""The optional packages of the extra `gpu-sim`, and models that they cannot run, in one line."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
import torch

from metarl.base.errors import UserError

HINT = "pip install 'metarl-toolkit[gpu-sim]'"


def require_warp() -> None:
    """Raise UserError if a package is missing; neither is imported, which takes a second."""
    for module in ("warp", "mujoco_warp"):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"the simulator 'warp' needs MuJoCo Warp: {HINT}")


@functools.cache
def load() -> tuple[Any, Any]:
    """Return the modules warp and mujoco_warp, which say nothing of themselves as they start.

    Raises:
        UserError: one of them is missing, or does not start.
    """
    require_warp()
    import warp

    # else a banner, a line for each kernel that is loaded, and a warning that there is no GPU
    warp.config.log_level = warp.LOG_ERROR
    warp.init()
    try:
        import mujoco_warp
    except (ImportError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"the simulator 'warp' does not start: {text}; {HINT}") from None
    missing = [
        name for name in ("put_model", "make_data", "set_const", "reset_data", "SetConstGroup",
                          "OverflowType", "DeterminismType")
        if not hasattr(mujoco_warp, name)
    ]  # fmt: skip
    if missing:
        raise UserError(
            f"the simulator 'warp' needs a newer MuJoCo Warp than {mujoco_warp.__version__}, "
            f"which has no {missing[0]}: pip install --upgrade 'metarl-toolkit[gpu-sim]'"
        )
    return warp, mujoco_warp


@contextlib.contextmanager
def on(place: str) -> Iterator[None]:
    """Let Warp work on a device, and on a GPU in the order of torch's own work there.

    Both then use torch's current stream, so that each sees what the other wrote before.
    """
    wp = load()[0]
    with wp.ScopedDevice(place) as device:
        if not device.is_cuda:
            yield
            return
        with wp.ScopedStream(_stream_of_torch(device), sync_enter=False):
            yield


def _stream_of_torch(device: Any) -> Any:
    """Warp's name for torch's current stream on a GPU; made once for each."""
    wp = load()[0]
    stream = torch.cuda.current_stream(wp.device_to_torch(device))
    key = device.alias, stream.cuda_stream
    if key not in _STREAMS:
        _STREAMS[key] = wp.stream_from_torch(stream)
    return _STREAMS[key]


_STREAMS: dict[tuple[str, int], Any] = {}


def default_device() -> str:
    """Return where worlds go if nobody says: "cuda" if there is a GPU, or else "cpu"."""
    wp: ModuleType = load()[0]
    return "cuda" if wp.is_cuda_available() else "cpu"


def refuse(model: mujoco.MjModel) -> None:
    """Raise UserError for what would be left out in silence; `put_model` refuses the rest."""
    enabled = model.opt.enableflags
    what = {
        "plugins": model.nplugin > 0,
        "sensors with a delay or an interval": bool(
            np.any(model.sensor_delay) or np.any(model.sensor_interval[:, 0])
        ),
        "sleeping bodies": bool(enabled & int(mujoco.mjtEnableBit.mjENBL_SLEEP)),
        "soft bodies (flex)": model.nflex > 0,
    }
    found = [name for name, there in what.items() if there]
    if found:
        raise UserError(
            f"the simulator 'warp' does not run models with {' or '.join(found)}: use the "
            "simulator 'mujoco'"
        )
