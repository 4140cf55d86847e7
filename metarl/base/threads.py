"""Thread counts of the physics and of torch, and memory settings: what metarl sets in a process.

Physics (mujoco.batch) and torch take turns: while one computes, the other waits. So both may have
every core, as long as whoever waits does not spin. OpenMP's threads spin for milliseconds by
default, which cost whole runs up to four fifths of their speed. Three things are therefore set:

- `OMP_WAIT_POLICY=PASSIVE` in the environment, unless it is set, when metarl is imported before
  torch. OpenMP reads it once, when torch loads it.
- Where torch was imported first, one idle thread that holds a team of OpenMP threads. GNU OpenMP
  lets waiting threads spin 300 times shorter when a process has more of them than cores.
- While physics and policy alternate (`sampling`), torch computes on one thread: between two physics
  steps there is a forward pass of a small policy, for which waking other threads costs more than
  they save.

A meta-update makes and drops tensors of tens of megabytes hundreds of times. The C library returns
each to the system and gets it back page by page, which took a third of an update of 40 tasks;
`set_threads` tells it to keep them. `using` puts back what `set_threads` changed.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from metarl.base.errors import UserError

_SPINS = "torch" in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_threads: int | None = None
MOST = 4096
_KEEP = {-4: 0, -1: -1, -2: 64 << 20}
"""M_MMAP_MAX: none from mmap; M_TRIM_THRESHOLD: give nothing back; M_TOP_PAD: grow by 64 MiB."""
_DEFAULT = {-4: 65536, -1: 128 << 10, -2: 128 << 10}
"""The same options as glibc has them at the start."""


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hold_openmp_team() -> threading.Thread | None:
    """Start an idle thread with a team of OpenMP threads, as many as there are cores.

    It makes GNU OpenMP cut the spinning of all threads that wait, see the module's docstring, and
    changes no setting of torch.

    Returns:
        The thread, or None where there is no GNU OpenMP.
    """
    import torch

    if not sys.platform.startswith("linux"):
        return None
    held, before = threading.Event(), torch.get_num_threads()

    def hold() -> None:
        torch.set_num_threads(available_cores())
        torch.ones(1 << 20).sum()  # large enough for torch to compute it on the whole team
        torch.set_num_threads(before)
        held.set()
        threading.Event().wait()

    thread = threading.Thread(target=hold, name="metarl-openmp", daemon=True)
    thread.start()
    held.wait()
    return thread


def check_defaults(*, float32: bool = True) -> None:
    """Refuse a default device or type of torch's in which metarl's tensors would not fit together.

    Args:
        float32: whether the default type matters, as it does to networks.
    """
    import torch

    device, kind = torch.empty(0).device, torch.get_default_dtype()
    if device.type != "cpu":
        raise UserError(
            f"torch's default device is {device}, and the physics is on the CPU: call "
            f"torch.set_default_device('cpu'), and choose the learner's device with --device"
        )
    if float32 and kind != torch.float32:
        raise UserError(
            f"torch's default type is {kind}, and learners compute in float32: call "
            f"torch.set_default_dtype(torch.float32)"
        )


def set_threads(threads: int | None = None) -> int:
    """Give `threads` threads to the physics and to torch; None means every core.

    torch's own count changes the last bits of its sums, so a run records the number that this
    returns and a resumed run sets the same.

    Returns:
        The number that both now use.

    Raises:
        UserError: it is more than any machine has.
    """
    import torch

    _check(threads)
    global _threads
    _threads = available_cores() if threads is None else max(1, threads)
    torch.set_num_threads(_threads)
    keep_freed_memory()
    return _threads


@contextmanager
def using(threads: int | None = None, *, one_for_torch: bool = False) -> Iterator[int]:
    """Give threads as `set_threads` does, and put the settings of the process back at the end.

    Args:
        threads: as of `set_threads`.
        one_for_torch: keep torch to one thread, or the bits of its sums would depend on the number:
            the ranks of a run may have different numbers of cores.
    """
    import torch

    global _threads
    before, torch_before = _threads, torch.get_num_threads()
    try:
        given = set_threads(threads)
        if one_for_torch:
            torch.set_num_threads(1)
        yield given
    finally:
        _threads = before
        torch.set_num_threads(torch_before)
        if before is None:
            keep_freed_memory(keep=False)


def keep_freed_memory(*, keep: bool = True) -> bool:
    """Have the C library keep what is freed for the next tensors, in this process, or no longer.

    Memory use stays at its peak. MALLOC_MMAP_MAX_ in the environment is left as the user set it.

    Returns:
        Whether there is a setting for that: only glibc has.
    """
    if "MALLOC_MMAP_MAX_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = _KEEP if keep else _DEFAULT
    return all(mallopt(option, value) for option, value in options.items())


def physics_threads() -> int:
    """Return the number of threads that a new `Simulator` steps its worlds on."""
    return _threads or available_cores()


def worker_threads() -> int:
    """Return how many threads of one torch thread each may compute side by side."""
    import torch

    return _threads or torch.get_num_threads()


def threads_or_default(threads: int | None) -> int:
    """Return how many threads are wanted, `physics_threads` of them where it is None or 0.

    Raises:
        UserError: it is no such number.
    """
    _check(threads)
    return max(1, threads or physics_threads())


def _check(threads: int | None) -> None:
    if threads is not None and not isinstance(threads, int):
        raise UserError(f"threads must be a whole number or None, not {threads!r:.40}")
    if threads is not None and threads > MOST:
        raise UserError(f"threads must be at most {MOST}, not {threads}")


@contextmanager
def sampling() -> Iterator[None]:
    """Keep torch to one thread while physics and policy alternate; see the module's docstring."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if _SPINS:
    hold_openmp_team()
