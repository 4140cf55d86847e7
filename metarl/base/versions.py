"""Versions of the software and the machine, in words and numbers; and which version ends a name."""

from __future__ import annotations

import functools
import os
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.base.errors import UserError

if TYPE_CHECKING:
    import torch

ENDS = "0.4.0"
"""The version that no longer knows what was deprecated in 0.2.0: see docs/deprecations.md."""
PACKAGES = ("metarl-toolkit", "torch", "mujoco", "gymnasium", "numpy")


def deprecated(
    old: str, new: str, kind: type[Warning] = DeprecationWarning, *, stacklevel: int = 2
) -> None:
    """Warn that a name is another one now, and which version ends it.

    Args:
        old: the name that was used.
        new: what to use instead.
        kind: DeprecationWarning for what stands in code, which Python shows to those who test it;
            FutureWarning for a flag, which is shown to everybody.
        stacklevel: as of `warnings.warn`; 2 is the caller's caller.
    """
    warnings.warn(
        f"{old} is {new} now; the old name goes in {ENDS}", kind, stacklevel=stacklevel + 1
    )


def versions(*extra: str) -> dict[str, str]:
    """Return the versions that a trajectory or a weight may depend on, and of `extra` packages."""
    found = {package: _version(package) for package in (*PACKAGES, *extra)}
    return {"python": platform.python_version()} | found


@functools.cache
def _version(package: str) -> str:
    """Return what is installed: every checkpoint says it, and to read it takes milliseconds."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


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


def claim(what: str, need: int, device: torch.device, lower: str) -> None:
    """Say what memory a replay takes. Raises UserError if the device has less than that.

    Args:
        what: it holds.
        need: bytes.
        device: where it lies.
        lower: which settings make it smaller.
    """
    free = free_memory(device)
    if free is not None and need > free:
        raise UserError(
            f"the replay needs {gib(need)}, but {device} has {gib(free)} free: lower {lower}"
        )
    print(f"replay: {what}, {gib(need)} on {device}", file=sys.stderr, flush=True)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a device has free, or None if it does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError):
            return None


def gib(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / 2**30:.3g} GiB"
