"""``metarl render RUN --against RUN…``: several policies on the same task, in step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metarl.base.errors import UserError
from metarl.base.files import check_writable
from metarl.base.text import shown
from metarl.commands.evaluating.on_run import parse_task
from metarl.commands.evaluating.opened import Opened, same_tasks
from metarl.commands.viewing.output import default_out, draw
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.commands.viewing.render import Render
    from metarl.video.film import VideoConfig
    from metarl.video.recording import Recording


def render_against(args: Render, config: VideoConfig) -> int:
    """Play every run on the task, and write the video."""
    from metarl.video.opengl import make_context
    from metarl.video.versus import Reel, Versus

    opened = [_opened(args, run) for run in (args.run, *args.against)]
    first = opened[0]
    for one in opened[1:]:
        if not same_tasks(one.tasks, first.tasks):
            raise UserError(
                f"'{one.run}' was trained on {one.family.name} and '{first.run}' on "
                f"{first.family.name}: they have not the same tasks"
            )
    name = "-".join(args.set) or args.split
    out = Path(args.out or default_out(first.checkpoint, f"{name}-against", ()))
    check_writable(out)
    make_context(8, 8).free()  # what is missing is better said before the work than after it
    recordings = [play(args, one) for one in opened]
    films = [Versus(recordings, config, k, args.labels) for k in range(args.rounds + 1)]
    for run, one in zip((args.run, *args.against), recordings, strict=True):
        returns = " → ".join(shown(value, 1) for value in one.report.returns[0])
        say(f"{run}: return {returns}")
    draw(Reel(films), out, args.threads)
    return 0


def _opened(args: Render, run: str) -> Opened:
    """Load a run and the task. Raises UserError if it cannot act, or has not that task."""
    from metarl.run import load_run, physics_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution

    said = args.said() if run == args.run else {}
    checkpoint, family, learner = load_run(run, args.device, args.threads, **said)
    if not family.has_model:
        raise UserError(f"--against: '{family.name}' is no MuJoCo model of ours")
    tasks = (
        parse_task(family, args.set) if args.set else TaskDistribution(family).split(args.split, 1)
    )
    count = worlds_per_task(checkpoint, args.rollouts_per_task, 1)
    physics = physics_for(checkpoint, args.simulator, args.device)
    found = Opened(run, checkpoint, family, learner, tasks, count, physics)
    found.worlds(1, args.threads)  # or the family has changed
    return found


def play(args: Render, one: Opened) -> Recording:
    """Evaluate a run on the task, and keep its states."""
    from metarl.video.recording import record
    from metarl.worlds.task_worlds import TaskWorlds

    worlds = one.worlds(one.each, args.threads)
    assert isinstance(worlds, TaskWorlds)
    with bar(f"playing {one.run}") as show:
        return record(
            one.learner, worlds, one.tasks, episodes=args.rounds, seed=args.seed,
            split="the task" if args.set else args.split, progress=show,
        )  # fmt: skip


__all__ = ["play", "render_against"]
