"""Make the gallery again: an adaptation video of every agent in experiments/agents/.

    python videos/render_gallery.py [--agents DIR] [--out DIR] [--only NAME …] [--size 480]
    python videos/render_gallery.py --captions

For each agent there is an mp4 of one task, and of that a GIF of at most 2 MB for pages that show no
mp4. `SHOTS` says of which split the task is, and which task of it; the caption is made of the same
entry and of the agent's results. `--captions` writes the captions into README.md, between marks,
and draws nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from metarl import TaskDistribution, Tasks, TaskWorlds
from metarl.base.errors import UserError
from metarl.base.files import read_json
from metarl.cli import guarded
from metarl.evaluation.protocol import Report
from metarl.learning import checkpoint as checkpoints
from metarl.report.run_summary import RESULT
from metarl.run import load_run, worlds_per_task
from metarl.tasks.registry import find_family
from metarl.video.encode import VideoConfig, render
from metarl.video.recording import Recording, record

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
AGENTS = ROOT / "experiments" / "agents"
BLOCK = re.compile(r"(<!-- video: (\S+) -->\n).*?(?=<!-- /video -->)", re.S)
GIF_BYTES = 2_000_000


class Shot(NamedTuple):
    """Which task of which split a video shows."""

    split: str
    """train, heldout or ood"""
    task: int | None = None
    """Its number in the split; None is the task whose gain is the median of the agent's results"""
    says: str = "{algorithm} adapts on {family}"
    """What the video shows, with which its caption begins"""


SHOTS = {
    "half-cheetah-dir-maml-trpo": Shot(
        "heldout", 0, "A half-cheetah finds out that it is to run backward"
    ),
    "half-cheetah-dir-pearl": Shot(
        "heldout", 1, "PEARL finds out in the first steps which way to run"
    ),
    "half-cheetah-dir-rl2": Shot("heldout", 0, "RL² finds out that it is to run backward"),
    "half-cheetah-terrain-rl2": Shot("heldout", says="RL² on ground that it was not trained on"),
}
"""Agent -> what to show; of others, the held-out task of median gain."""
NAMES = {"maml-trpo": "MAML-TRPO", "pearl": "PEARL", "rl2": "RL²"}
SPLITS = {"train": "training", "heldout": "held-out", "ood": "ood"}
QUALITIES = [(720, 10, 96), (720, 8, 96), (680, 7, 80), (640, 7, 80), (600, 6, 64), (540, 5, 64)]
"""Width, frames/s and colours of a GIF: the first that is small enough."""


# --- what is shown, and what is said of it -------------------------------------------------------


def shot_of(agent: str) -> Shot:
    """Return what to show of an agent."""
    return SHOTS.get(agent, Shot("heldout"))


def rounds(algorithm: str) -> int:
    """Return the adaptation rounds of a video: one inner step of MAML-TRPO, as it was trained."""
    return 1 if algorithm == "maml-trpo" else 3


def results(agent: Path, split: str) -> Report:
    """Return the agent's results on a split."""
    result = read_json(agent / RESULT)
    return Report.from_json(result if split == "heldout" else result[split], agent)


def shown(agent: Path) -> tuple[Tasks, int, bool]:
    """Return the tasks of an agent's split, which of them is shown, and whether as the median."""
    shot = shot_of(agent.name)
    family = find_family(checkpoints.load(checkpoints.newest(agent)).family)
    if shot.task is not None:
        return TaskDistribution(family).split(shot.split, shot.task + 1), shot.task, False
    report = results(agent, shot.split)
    returns = np.asarray(report.returns)
    by_gain = np.argsort(returns[:, rounds(report.algorithm)] - returns[:, 0], kind="stable")
    return (
        TaskDistribution(family).split(shot.split, len(returns)),
        int(by_gain[len(returns) // 2]),
        True,
    )


def caption(agent: Path) -> str:
    """Return what stands under a video: the task, its split, and what the results say."""
    shot, report = shot_of(agent.name), results(agent, shot_of(agent.name).split)
    tasks, at, median = shown(agent)
    name = "train = held-out" if report.train_is_heldout else SPLITS[shot.split]
    which = f"{name} task {at}"
    if median:
        which = f"{name} task {at}, whose gain is the median of {len(tasks)}"
    label = f": {tasks.label(at)}" if len(tasks.names) <= 4 else ""
    says = shot.says.format(algorithm=NAMES[report.algorithm], family=report.family)
    return f"{says} ({which}{label}). On {report.distinct_tasks} {name} tasks: {report.verdict()}."


def put_captions(text: str) -> str:
    """Return a page with the picture and the caption between each pair of marks."""

    def block(found: re.Match[str]) -> str:
        agent = AGENTS / found[2]
        says, rest = caption(agent).split(" (", 1)
        return f"{found[1]}![{says}](videos/{agent.name}.gif)\n\n*{says} ({rest}*\n"

    return BLOCK.sub(block, text)


def play(agent: Path) -> Recording:
    """Evaluate an agent as its results were made, and keep the task to show."""
    tasks, at, median = shown(agent)
    checkpoint, family, learner = load_run(str(agent), "cpu", None)
    if not median:
        tasks, at = tasks[at], 0
    worlds = TaskWorlds(family, len(tasks) * worlds_per_task(checkpoint, None, len(tasks)))
    recording = record(
        learner, worlds, tasks, episodes=rounds(checkpoint.algorithm), seed=0,
        split=shot_of(agent.name).split,
    )  # fmt: skip
    report = recording.report
    row = report.returns[at]
    one = replace(report, tasks=[report.tasks[at]], returns=[row], mean=row, iqm=row,
                  ci95=[[value, value] for value in row])  # fmt: skip
    return replace(
        recording, tasks=tasks[at], report=one, models=[recording.models[at]],
        episodes={key: [every[at]] for key, every in recording.episodes.items()},
    )  # fmt: skip


# --- the files -----------------------------------------------------------------------------------


def agents(folder: Path, only: list[str]) -> list[Path]:
    """Return the agents in a folder; one whose checkpoint cannot be read is named and left out."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or (only and path.name not in only):
            continue
        try:
            checkpoints.newest(path)
            found.append(path)
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
    parser.add_argument("--agents", type=Path, default=AGENTS, help="folder of agents")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--captions", action="store_true", help="write the captions, draw nothing")
    args = parser.parse_args(argv)
    if args.captions:
        readme = ROOT / "README.md"
        readme.write_text(put_captions(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    found = agents(args.agents, args.only)
    if not found:
        raise UserError(f"there are no agents in '{args.agents}'")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in found:
        print(f"--- {caption(path)}", flush=True)
        video = args.out / f"{path.name}.mp4"
        render(play(path), video, VideoConfig(size=args.size))
        size = make_gif(video, video.with_suffix(".gif"))
        print(f"wrote {video} and {video.with_suffix('.gif')}: {size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
