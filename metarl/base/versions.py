"""What a result was made with: versions of the software, and the hardware in words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("metarl-toolkit", "torch", "mujoco", "gymnasium", "numpy")


def versions(*extra: str) -> dict[str, str]:
    """Return the versions that a trajectory or a weight may depend on, and of `extra` packages."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *extra):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, str | int | None]:
    """Return the processor, the number of cores that this process may use, and the GPU if any."""
    import torch

    from metarl.base.threads import available_cores

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "cores": available_cores(), "gpu": gpu}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if os.name == "posix" and info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
