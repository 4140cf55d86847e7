"""The ranks of a run as forks of this process, without the launcher that users start them by.

torchrun gives each rank its place in the environment, and so does this. But it starts each as a
new process, which imports torch for seconds: tests that are not about torchrun do without.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from helpers.process import forked


def environment_of_ranks() -> dict[str, str]:
    """Return what the ranks of a test need beside their places."""
    one = {"OMP_NUM_THREADS": "1"}
    if sys.platform.startswith("linux"):  # whatever this machine's own name leads to
        one["GLOO_SOCKET_IFNAME"] = "lo"
    return one


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def forked_ranks(size: int, main: Callable[[], object]) -> list[subprocess.Popen]:
    """Start so many ranks, which find each other, and call `main` in each."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def run(rank: int) -> None:
        import torch.distributed as dist

        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ.update(environment_of_ranks() | meeting)
        os.environ.update({name: str(value) for name, value in place.items()})
        try:
            main()
        finally:  # as the end of a process of its own does
            if dist.is_initialized():
                dist.destroy_process_group()

    return [forked(lambda rank=rank: run(rank), stderr=subprocess.STDOUT) for rank in range(size)]
