"""Two hosts with networks of their own train one run, and reach the bits of one process.

    sudo python benchmarks/two_hosts.py [--iterations 4]

The hosts are network namespaces of this machine, joined by a virtual cable; they need Linux, root
and iproute2, and are removed at the end. What differs from two machines: they share CPUs and disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
NETWORK, PORT = "10.213.77", 29517


def network(*, up: bool) -> None:
    """Make the two hosts and the cable between them, or remove them."""
    for host in "12":
        if not up:
            subprocess.run(["ip", "netns", "delete", f"metarl{host}"], check=False)
            continue
        subprocess.run(["ip", "netns", "add", f"metarl{host}"], check=True)
    if not up:
        return
    _ip("link", "add", "m1", "netns", "metarl1", "type", "veth", "peer", "m2", "netns", "metarl2")
    for host in "12":
        inside = ("-n", f"metarl{host}")
        _ip(*inside, "addr", "add", f"{NETWORK}.{host}/24", "dev", f"m{host}")
        for link in ("lo", f"m{host}"):
            _ip(*inside, "link", "set", link, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def launch(host: str, line: list[str]) -> subprocess.Popen[str]:
    """Start torchrun with one rank on a host."""
    here = (
        "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "two-hosts", "--rdzv-backend",
        "c10d", "--rdzv-endpoint", f"{NETWORK}.1:{PORT}", "--local-addr", f"{NETWORK}.{host}",
        "--rdzv-conf", f"is_host={int(host == '1')}",
    )  # fmt: skip
    return subprocess.Popen(
        ["ip", "netns", "exec", f"metarl{host}", *TORCHRUN, *here, *line],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"m{host}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def digest(run: Path) -> str:
    """Return the SHA-256 of a run's last weights."""
    newest = max(run.glob("checkpoints/step_*"))
    return hashlib.sha256((newest / "weights.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Train on two hosts and in one process, and compare the weights."""
    parser = argparse.ArgumentParser(description="two hosts, one run")
    parser.add_argument("--iterations", type=int, default=4)
    iterations = str(parser.parse_args().iterations)
    if not sys.platform.startswith("linux") or os.geteuid():
        sys.exit("error: network namespaces need Linux and root")
    with tempfile.TemporaryDirectory() as folder:
        line = [
            "-m", "metarl", "train", "half-cheetah-vel", "rl2", "--preset", "none",
            "--tasks-per-iteration", "8", "--rollouts-per-task", "1", "--iterations", iterations,
            "--task-shards", "2", "--out",
        ]  # fmt: skip
        two, one = Path(folder) / "two", Path(folder) / "one"
        try:
            network(up=True)
            hosts = [launch(host, [*line, str(two)]) for host in "12"]
            outputs = [process.communicate(timeout=600)[0] for process in hosts]
        finally:
            network(up=False)
        if any(process.returncode for process in hosts):
            sys.exit("\n".join(outputs))
        command = [sys.executable, *line, str(one), "--threads", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        same = digest(one) == digest(two)
        print(f"{iterations} iterations on two hosts and in one process: ", end="")
        print(f"{'the same' if same else 'different'} weights ({digest(two)[:16]})")
        sys.exit(not same)


if __name__ == "__main__":
    main()
