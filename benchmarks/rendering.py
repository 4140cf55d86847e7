"""Pictures drawn per second, and how long a video takes, without a GPU.

    python benchmarks/rendering.py [--threads 4] [--seconds 10] [--json FILE]

Draws 480×480 pictures of half-cheetah, shadows and antialiasing included, on each number of
threads in turn; then makes a whole adaptation video. Also prints the CPU time of a picture: on a
machine with other work to do, cores divided by that is what it could draw if it were idle.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from common import environment, interleave, write_json

from metarl import TaskDistribution, TaskWorlds, find_family, find_learner
from metarl.base.threads import available_cores
from metarl.video.encode import render
from metarl.video.film import Film, VideoConfig
from metarl.video.recording import record
from metarl.video.renderer import Renderer

SIZE = 480


def cpu_seconds() -> float:
    """CPU time of this process and of the encoders it has waited for."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def draw(film: Film, threads: int, seconds: float) -> tuple[float, float]:
    """Return pictures per second of all threads together, and CPU seconds per picture."""
    counts, ready = [0] * threads, threading.Barrier(threads + 1)
    clip = film.blocks[0].clips[0]
    ends = [0.0]

    def work(k: int) -> None:
        renderer = Renderer(film.recording.models, SIZE, SIZE)
        film._draw(clip, 0.0, renderer)
        ready.wait()
        ready.wait()
        while time.perf_counter() < ends[0]:
            film._draw(clip, float(counts[k] % 200), renderer)
            counts[k] += 1
        renderer.close()

    workers = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began, cpu = time.perf_counter(), cpu_seconds()
    ends[0] = began + seconds
    ready.wait()
    for worker in workers:
        worker.join()
    took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return sum(counts) / took, cpu / max(sum(counts), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    family, cls = find_family("half-cheetah-vel"), find_learner("maml-trpo")
    worlds = TaskWorlds(family, 20)
    learner = cls(worlds.spec, cls.Config())
    tasks = TaskDistribution(family).make(goal_velocity=2.0)
    recording = record(learner, worlds, tasks, episodes=3, seed=0)
    film = Film(recording, VideoConfig(size=SIZE))

    cpu: list[float] = []

    def contender(threads: int) -> float:
        rate, each = draw(film, threads, args.seconds)
        cpu.append(each)
        return rate

    rates = interleave(
        {str(n): lambda n=n: contender(n) for n in sorted({1, args.threads})}, args.rounds
    )
    for threads, got in rates.items():
        print(f"{threads} threads: {np.median(got):.1f} pictures of {SIZE}x{SIZE} a second")
    idle = args.threads / float(np.median(cpu))
    print(f"CPU time of a picture: {1e3 * np.median(cpu):.1f} ms: {idle:.0f}/s on "
          f"{args.threads} idle cores")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.perf_counter(), cpu_seconds()
        film = render(recording, Path(folder) / "video.mp4", threads=args.threads)
        seconds, used = time.perf_counter() - began, cpu_seconds() - used
    length = film.frames / film.config.fps
    print(
        f"a video of {length:.1f} s, {film.width}x{film.height}, {film.pictures} pictures a frame: "
        f"{seconds:.1f} s, {used:.1f} s of CPU time; load {os.getloadavg()[0]:.1f}"
    )
    write_json(args.json, {
        "pictures_per_second": rates, "size": SIZE, "cpu_seconds_per_picture": cpu,
        "video": {"seconds": length, "took": seconds, "cpu_seconds": used,
                  "width": film.width, "height": film.height},
        "environment": environment(args.threads),
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
