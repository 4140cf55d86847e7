"""``metarl render RUN --against RUN…``: several policies on the same task, in step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metarl.base.errors import UserError
from metarl.base.text import shown
from metarl.commands.evaluating.on_run import parse_task
from metarl.commands.viewing.output import default_out, draw
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.commands.viewing.render import Render
    from metarl.learning.checkpoint import Checkpoint
    from metarl.video.film import VideoConfig
    from metarl.video.recording import Recording


def render_against(args: Render, config: VideoConfig) -> int:
    """Play every run on the task, and write the video."""
    from metarl.video.opengl import make_context
    from metarl.video.versus import Reel, Versus

    make_context(8, 8).free()  # what is missing is better said before the work than after it
    played = [play(args, run) for run in (args.run, *args.against)]
    recordings, name = [one for one, _ in played], "-".join(args.set) or args.split
    films = [Versus(recordings, config, k, args.labels) for k in range(args.rounds + 1)]
    for run, one in zip((args.run, *args.against), recordings, strict=True):
        returns = " → ".join(shown(value, 1) for value in one.report.returns[0])
        say(f"{run}: return {returns}")
    out = args.out or default_out(played[0][1], f"{name}-against", ())
    draw(Reel(films), Path(out), args.threads)
    return 0


def play(args: Render, run: str) -> tuple[Recording, Checkpoint]:
    """Evaluate a run on the task, and keep its states. Raises UserError if it has not that task."""
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution
    from metarl.video.recording import record
    from metarl.worlds.task_worlds import TaskWorlds

    said = args.said() if run == args.run else {}
    checkpoint, family, learner = load_run(run, args.device, args.threads, **said)
    if not family.has_model:
        raise UserError(f"--against: '{family.name}' is no MuJoCo model of ours")
    tasks = (
        parse_task(family, args.set) if args.set else TaskDistribution(family).split(args.split, 1)
    )
    count = worlds_per_task(checkpoint, args.rollouts_per_task, 1)
    worlds = worlds_for(family, learner, count, args.threads,
                        physics_for(checkpoint, args.simulator, args.device))  # fmt: skip
    assert isinstance(worlds, TaskWorlds)
    with bar(f"playing {run}") as show:
        recording = record(
            learner, worlds, tasks, episodes=args.rounds, seed=args.seed,
            split="the task" if args.set else args.split, progress=show,
        )  # fmt: skip
    return recording, checkpoint


__all__ = ["play", "render_against"]
