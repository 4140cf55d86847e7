"""The one place that decides how many threads the physics and torch get.

Physics (mujoco.batch) and torch take turns: while one computes, the other waits. So both may
have every core, as long as whoever waits does not spin. OpenMP's threads spin by default, which
was seen to slow whole runs five times over, hence the passive wait policy; it is read once, when
torch loads OpenMP, so `metarl` imports this module before anything else.

Waking sleeping threads has a price too. Between two physics steps there is a forward pass of a
small policy, well under a millisecond on one thread: waking the others for each of its layers costs
more than they save, so `sampling` keeps torch to one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_threads: int | None = None


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
    return _threads


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
