"""The gallery: a GIF of each of the agents that `SHOTS` names, at most 2 MB.

    python videos/render_gallery.py
    python videos/render_gallery.py --only half-cheetah-vel-rl2
    python videos/render_gallery.py --captions

Learners that adapt as they act are shown within their first episode on a task that is new to them:
beside the policy that is blind to the task and the oracle that is told it, or on three tasks; those
that adapt between episodes before, during and after it. Of which split the tasks are, and which of
them, is in `SHOTS` or follows from the agent's results, and the caption is made of the same. What
is drawn is the evaluation of those results, played again. `--captions` writes the captions into
README.md and docs/videos.md, between marks, and draws nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from metarl import TaskDistribution, Tasks, TaskWorlds
from metarl.base.errors import UserError
from metarl.base.files import read_json
from metarl.base.text import si
from metarl.cli import guarded
from metarl.evaluation.protocol import Report
from metarl.evaluation.score import is_blind, is_oracle
from metarl.learning import checkpoint as checkpoints
from metarl.report.run_summary import RESULT
from metarl.report.text import number
from metarl.run import load_run
from metarl.tasks.registry import find_family
from metarl.video.encode import draw_frames, write
from metarl.video.film import Film, VideoConfig
from metarl.video.recording import Recording, record
from metarl.video.versus import Versus

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
AGENTS = ROOT / "experiments" / "agents"
PAGES = {ROOT / "README.md": "videos", ROOT / "docs" / "videos.md": "../videos"}
"""The pages with captions, and where the videos are, as seen from there."""
BLOCK = re.compile(r"(<!-- video: (\S+) -->\n).*?(?=<!-- /video -->)", re.S)


class Shot(NamedTuple):
    """What a video shows of an agent."""

    split: str = "heldout"
    """Of its tasks: train, heldout or ood"""
    tasks: tuple[int, ...] | None = None
    """Their numbers in the split; None: the results choose them, see `chosen`"""
    says: str = "{algorithm} on {family}"
    """With which its caption begins"""
    against: tuple[str, ...] = ()
    """Agents to show beside it: first that which it is to be better than"""
    seconds: float | None = None
    """Of an episode, at most"""


SHOTS = {
    "half-cheetah-vel-rl2": Shot(
        says="RL² finds out within its first episode how fast to run",
        against=("half-cheetah-vel-ppo", "half-cheetah-vel+told-ppo"), seconds=6.0,
    ),
    "ant-dir-rl2": Shot(
        says="RL² finds out within its first episode which way an ant is to run", seconds=6.0
    ),
    "quadruped-vel-ppo": Shot(says="A quadruped walks with payloads and grip that differ"),
    "quadruped-vel-rl2": Shot(
        says="RL² feels what it carries and stands on, and follows its commands",
        against=("quadruped-vel-ppo",), seconds=6.0,
    ),
    "quadruped-vel-rma": Shot(
        says="RMA feels what it carries and stands on, and follows its commands",
        against=("quadruped-vel-ppo",), seconds=6.0,
    ),
    "walker2d-params-rl2": Shot(
        says="RL² walks in a body that it has not been in before",
        against=("walker2d-params-ppo",), seconds=6.0,
    ),
    "half-cheetah-terrain-rl2": Shot(
        says="RL² on grounds that it was not trained on", seconds=6.0
    ),
    "ant-crippled-rl2": Shot(
        says="RL² runs in ants of which a leg may be dead or locked", seconds=6.0
    ),
    "half-cheetah-crippled-es-maml": Shot(
        split="ood", tasks=(0,), seconds=6.0,
        says="ES-MAML tries what helps with a motor dead that none of its training had",
    ),
}  # fmt: skip
"""Agent -> what to show, in this order; of others, held-out tasks that their results choose."""
NAMES = {
    "maml-trpo": "MAML-TRPO", "pearl": "PEARL", "rl2": "RL²", "ppo": "PPO", "es-maml": "ES-MAML",
    "rma": "RMA",
}  # fmt: skip
SPLITS = {"train": "training", "heldout": "held-out", "ood": "ood"}
PANEL, FPS = 280, 12.5
"""Pixels of a picture, three of which are as wide as a README, and frames/s: 8 hundredths each."""
GIF_BYTES = 2_000_000
COLOURS = (128, 96, 64, 48, 32, 24)
"""Of a GIF: the first number with which it is small enough."""


# --- what is shown, and what is said of it -------------------------------------------------------


def shot_of(agent: str) -> Shot:
    """Return what to show of an agent."""
    return SHOTS.get(agent, Shot())


def results(agent: Path, split: str) -> Report:
    """Return the agent's results on a split."""
    result = read_json(agent / RESULT)
    return Report.from_json(result if split == "heldout" else result[split], agent)


def rounds(report: Report) -> int:
    """Return the adaptation rounds of a video: none where the first episode is what is shown."""
    if report.adapts_within or is_blind(report) or is_oracle(report):
        return 0
    return min(1 if report.algorithm == "maml-trpo" else 3, len(report.experience) - 1)


def chosen(agent: Path) -> tuple[list[int], str]:
    """Return the numbers of the tasks of a video in their split, and by what they were chosen.

    Beside others, it is the task on which the lead over the first of them is the median; of what
    adapts between episodes, that of median gain; else three, the quartiles of the return of the
    first episode.
    """
    shot = shot_of(agent.name)
    if shot.tasks is not None:
        return list(shot.tasks), ""
    report = results(agent, shot.split)
    returns = np.asarray(report.returns)
    distinct = np.sort(np.unique(np.asarray(report.tasks), axis=0, return_index=True)[1])
    count, first = len(distinct), returns[distinct, 0]
    if shot.against:
        other = np.asarray(results(agent.with_name(shot.against[0]), shot.split).returns)
        order = np.argsort(first - other[distinct, 0], kind="stable")
        why = f"of {count} that of median lead over the blind policy"
        return [int(distinct[order[count // 2]])], why
    if k := rounds(report):
        order = np.argsort(returns[distinct, k] - first, kind="stable")
        return [int(distinct[order[count // 2]])], f"of {count} that of median gain"
    order = distinct[np.argsort(first, kind="stable")]
    quarters = [count // 4, count // 2, 3 * count // 4]
    return order[quarters].tolist(), f"the quartiles of {count} returns"


def tasks_of(agent: Path) -> Tasks:
    """Return all tasks of the split of an agent's video that its results are of."""
    shot = shot_of(agent.name)
    family = find_family(checkpoints.load(checkpoints.newest(agent)).family)
    count = len(results(agent, shot.split).returns)
    return TaskDistribution(family).split(shot.split, max(count, 1 + max(shot.tasks or (0,))))


def caption(agent: Path) -> str:
    """Return what stands under a video: the task, its split, and what the results say."""
    shot, report = shot_of(agent.name), results(agent, shot_of(agent.name).split)
    which, why = chosen(agent)
    split = SPLITS[shot.split]
    said = f"{split} task{'s' * (len(which) > 1)} {listed(which)}" + f", {why}" * bool(why)
    tasks = tasks_of(agent)
    if len(which) == 1 and len(tasks.names) <= 4:
        said += f": {tasks.label(which[0])}"
    family = find_family(report.family)
    if shot.seconds is not None and shot.seconds < family.horizon * family.dt:
        said += f"; the first {shot.seconds:g} s of {family.horizon * family.dt:g} s"
    says = shot.says.format(algorithm=NAMES[report.algorithm], family=report.family)
    where = f"{report.distinct_tasks} {split} task{'s' * (report.distinct_tasks != 1)}"
    where += ", on which it was trained, too" * report.train_is_heldout
    if not shot.against:
        verdict = report.verdict() if rounds(report) else returned(report)
        return f"{says} ({said}). On {where}: {verdict}."
    every = [agent, *(agent.with_name(name) for name in shot.against)]
    scores = [f"{label(a, shot.split)} {number(results(a, shot.split).mean[0])} "
              f"({si(trained(a))} steps of training)" for a in every]  # fmt: skip
    return f"{says} ({said}). Mean return of the first episode on {where}: {', '.join(scores)}."


def returned(report: Report) -> str:
    """Return what the first episode returns, and whether that is more than standing still."""
    first, still = number(report.mean[0]), number(report.stand_still)
    return f"a mean return of {first} in the first episode, and {still} of standing still"


def label(agent: Path, split: str) -> str:
    """Return what an agent is called beside others."""
    report = results(agent, split)
    return "blind" if is_blind(report) else "oracle" if is_oracle(report) else NAMES[
        report.algorithm
    ]  # fmt: skip


def trained(agent: Path) -> int:
    """Return for how many environment steps an agent was trained."""
    return int(checkpoints.load(checkpoints.newest(agent)).meta["env_steps"])


def listed(numbers: Sequence[int]) -> str:
    """Return numbers as words: 3, 7 and 12."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def put_captions(text: str, videos: str) -> str:
    """Return a page with the picture and the caption between each pair of marks."""

    def block(found: re.Match[str]) -> str:
        agent = AGENTS / found[2]
        says, rest = caption(agent).split(" (", 1)
        return f"{found[1]}![{says}]({videos}/{agent.name}.gif)\n\n*{says} ({rest}*\n"

    return BLOCK.sub(block, text)


# --- the pictures --------------------------------------------------------------------------------


def play(agent: Path, of: Path | None = None) -> Recording:
    """Evaluate an agent as its results were made, and keep the tasks to show.

    Args:
        agent: which.
        of: whose video it is; it says which tasks, and how many worlds each. None: its own.
    """
    of = of or agent
    shot, report = shot_of(of.name), results(of, shot_of(of.name).split)
    _, family, learner = load_run(str(agent), "cpu", None)
    tasks = replace(tasks_of(of), family=family.name)
    worlds = TaskWorlds(family, len(tasks) * report.rollouts_per_task)
    recording = record(learner, worlds, tasks, episodes=rounds(report), seed=report.seed,
                       split=shot.split)  # fmt: skip
    return only(recording, chosen(of)[0])


def only(recording: Recording, which: Sequence[int]) -> Recording:
    """Return a recording of some of its tasks."""

    def some(rows: Sequence[Any]) -> list[Any]:
        return [rows[m] for m in which]

    report = recording.report
    row = np.mean(some(report.returns), 0).tolist()
    one = replace(report, tasks=some(report.tasks), returns=some(report.returns), mean=row,
                  iqm=row, ci95=[[value, value] for value in row])  # fmt: skip
    return replace(
        recording, report=one, models=some(recording.models),
        tasks=replace(recording.tasks, values=recording.tasks.values[list(which)]),
        episodes={key: some(every) for key, every in recording.episodes.items()},
    )  # fmt: skip


def film_of(agent: Path) -> Film:
    """Return the film of an agent."""
    shot = shot_of(agent.name)
    config = VideoConfig(size=PANEL, fps=FPS, seconds=shot.seconds)
    if not shot.against:
        return Film(play(agent), config)
    every = [agent, *(agent.with_name(name) for name in shot.against)]
    labels = [label(one, shot.split) for one in every]
    return Versus([play(one, agent) for one in every], config, labels=labels)


def make_gif(film: Film, gif: Path, most: int = GIF_BYTES) -> tuple[int, int]:
    """Write a GIF of at most `most` bytes; return its size, and its number of colours.

    Raises UserError where even the fewest colours take more.
    """
    frames = b"".join(frame.tobytes() for frame in draw_frames(film))
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
               "-s", f"{film.width}x{film.height}", "-r", str(FPS), "-i", "-"]  # fmt: skip
    data = b""
    for colours in COLOURS:
        graph = (
            f"split[a][b];[a]palettegen=max_colors={colours}[p];"
            "[b][p]paletteuse=dither=none:diff_mode=rectangle"
        )
        made = [*command, "-filter_complex", graph, "-f", "gif", "-"]
        data = subprocess.run(made, input=frames, check=True, capture_output=True).stdout
        if len(data) <= most:
            gif.write_bytes(data)
            return len(data), colours
    raise UserError(f"{gif.name} would take {len(data) / 1e6:.1f} MB: show fewer seconds of it")


# --- the files -----------------------------------------------------------------------------------


def agents(folder: Path, only: Sequence[str]) -> list[Path]:
    """Return the agents to draw; one whose checkpoint cannot be read is named and left out."""
    found = []
    for name in only or SHOTS:
        try:
            checkpoints.newest(folder / name)
            found.append(folder / name)
        except UserError as error:
            print(f"{name}: left out: {error}")
    return found


def main(argv: list[str]) -> int:
    """Draw the gallery. Returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--agents", type=Path, default=AGENTS, help="folder of agents")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--mp4", action="store_true", help="write an mp4 beside each, too")
    parser.add_argument("--captions", action="store_true", help="write the captions, draw nothing")
    args = parser.parse_args(argv)
    if args.captions:
        for page, videos in PAGES.items():
            text = put_captions(page.read_text(encoding="utf-8"), videos)
            page.write_text(text, encoding="utf-8")
        return 0
    found = agents(args.agents, args.only)
    if not found:
        raise UserError(f"there are no agents in '{args.agents}'")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in found:
        print(f"--- {caption(path)}", flush=True)
        gif, film = args.out / f"{path.name}.gif", film_of(path)
        size, colours = make_gif(film, gif)
        print(f"wrote {gif}: {size / 1e6:.1f} MB, {colours} colours", flush=True)
        if args.mp4:
            write(film, gif.with_suffix(".mp4"))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
