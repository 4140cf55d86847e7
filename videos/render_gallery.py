"""Make the gallery again: an adaptation video of every agent in experiments/agents/.

    python videos/render_gallery.py [--agents DIR] [--out DIR] [--only NAME …] [--size 480]

For each agent there is an mp4 of one task, and of that a GIF of at most 2 MB for pages that show no
mp4. The tasks, seeds and sizes stand here, so the gallery is the same whenever it is made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from metarl import checkpoint as checkpoints
from metarl.cli import guarded
from metarl.cli import main as metarl
from metarl.errors import UserError

HERE = Path(__file__).resolve().parent
AGENTS = HERE.parent / "experiments" / "agents"
GIF_BYTES = 2_000_000
TASKS = {
    "half-cheetah-vel": ["--set", "goal_velocity=2.8"],
    "half-cheetah-dir": ["--set", "direction=-1"],
    "half-cheetah-dynamics": ["--split", "ood", "--tasks", "1"],
    "ant-vel": ["--set", "goal_velocity=2"],
    "ant-dir": ["--set", "goal_angle=2.4"],
    "ant-goal": ["--set", "goal_radius=2", "--set", "goal_angle=2.4"],
    "ant-fwd-back": ["--set", "direction=-1"],
    "humanoid-dir": ["--set", "goal_angle=2.4"],
    "half-cheetah-terrain": ["--set", "ground=2", "--set", "difficulty=0.6"],
    "ant-terrain": ["--set", "ground=2", "--set", "difficulty=0.6"],
    "point-goal": ["--set", "goal_x=0.6", "--set", "goal_y=-0.7"],
    "half-cheetah-dir-pearl": ["--set", "direction=1"],  # its first guess is the wrong one
}
"""Family or agent -> the task to show; of others, the first held-out one."""
ROUNDS = {"maml-trpo": ["--episodes", "1"]}
"""Algorithm -> adaptation rounds: the one inner step that MAML-TRPO's agents were trained for."""
QUALITIES = [(720, 10, 96), (720, 8, 96), (680, 7, 80), (640, 7, 80), (600, 6, 64), (540, 5, 64)]
"""Width, frames/s and colours of a GIF: the first that is small enough."""


def agents(folder: Path, only: list[str]) -> list[tuple[str, Path]]:
    """Return (name, checkpoint) of the agents in a folder: checkpoints or run folders."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or (only and path.name not in only):
            continue
        try:
            found.append((path.name, checkpoints.newest(path)))
        except UserError as error:
            print(f"{path.name}: left out: {error}")
    return found


def make_gif(video: Path, gif: Path, most: int = GIF_BYTES) -> int:
    """Write a GIF of a video, of at most `most` bytes; return its size."""
    for width, fps, colours in QUALITIES:
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "draft.gif"
            graph = (
                f"fps={fps},scale={width}:-2:flags=lanczos,split[a][b];"
                f"[a]palettegen=max_colors={colours}[p];"
                "[b][p]paletteuse=dither=none:diff_mode=rectangle"
            )
            command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", str(video)]
            subprocess.run([*command, "-filter_complex", graph, str(draft)], check=True)
            data = draft.read_bytes()
        if len(data) <= most:
            break
    gif.write_bytes(data)
    return len(data)


def main(argv: list[str]) -> int:
    """Render all agents. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=Path, default=AGENTS, help="folder of runs or checkpoints")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--size", type=int, default=480)
    args = parser.parse_args(argv)
    found = agents(args.agents, args.only)
    if not found:
        raise UserError(f"there are no agents in '{args.agents}'")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, path in found:
        checkpoint = checkpoints.load(path)
        video = args.out / f"{name}.mp4"
        print(f"--- {name}", flush=True)
        task = TASKS.get(name) or TASKS.get(checkpoint.family, ["--tasks", "1"])
        rounds = ROUNDS.get(checkpoint.algorithm, [])
        flags = ["--out", str(video), "--size", str(args.size), *rounds]
        code = metarl(["render", str(path), *task, *flags])
        if code:
            return code
        size = make_gif(video, args.out / f"{name}.gif")
        print(f"wrote {video.with_suffix('.gif')}: {size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
