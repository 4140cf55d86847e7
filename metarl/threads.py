"""The one place that decides how many threads the physics and torch get, and who keeps memory.

Physics (mujoco.batch) and torch take turns: while one computes, the other waits. So both may
have every core, as long as whoever waits does not spin. OpenMP's threads spin by default, which
was seen to slow whole runs five times over, hence the passive wait policy; it is read once, when
torch loads OpenMP, so `metarl` imports this module before anything else.

Waking sleeping threads has a price too. Between two physics steps there is a forward pass of a
small policy, well under a millisecond on one thread: waking the others for each of its layers costs
more than they save, so `sampling` keeps torch to one thread.

A meta-update makes and drops tensors of tens of megabytes hundreds of times. The C library returns
each to the system and gets it back page by page, which took a third of an update of 40 tasks;
`set_threads` tells it to keep them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_threads: int | None = None
_KEEP = {-4: 0, -1: -1, -2: 64 << 20}
"""M_MMAP_MAX: none from mmap; M_TRIM_THRESHOLD: give nothing back; M_TOP_PAD: grow by 64 MiB."""


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int | None = None) -> int:
    """Give `threads` threads to the physics and to torch; None means every core.

    torch's own count changes the last bits of its sums, so a run records the number that this
    returns and a resumed run sets the same.

    Returns:
        The number that both now use.
    """
    import torch

    global _threads
    _threads = available_cores() if threads is None else max(1, int(threads))
    torch.set_num_threads(_threads)
    keep_freed_memory()
    return _threads


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next tensors, in this process.

    Memory use stays at its peak. MALLOC_MMAP_MAX_ in the environment is left as the user set it.

    Returns:
        Whether there is a setting for that: only glibc has.
    """
    if "MALLOC_MMAP_MAX_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, value) for option, value in _KEEP.items())


def physics_threads() -> int:
    """Return the number of threads that a new `Simulator` steps its worlds on."""
    return _threads or available_cores()


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
