"""The command demos: record what an agent does in some tasks, for others to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.errors import UserError
from metarl.base.text import counted, shown
from metarl.commands.arguments import Said, called, check_counts, parse
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.learning.demonstrations import Demonstrations
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily


@dataclass(frozen=True)
class Demos(Said):
    """Record episodes of an agent in some tasks, as demonstrations for others to imitate.

    The agent acts without noise. Of one that observes the task (FAMILY+told) the file holds what
    FAMILY observes.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Who demonstrates: a run folder, a checkpoint folder, or the name of an agent that comes with
    metarl."""
    out: str | None = None
    """The file; default: FAMILY-SPLIT-demos.safetensors, in the working folder."""
    split: Literal["train", "heldout", "ood"] = "train"
    """Which tasks: frozen training draws, unseen draws from the training box, or ones outside."""
    tasks: int = 40
    """How many tasks of the split."""
    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """Instead of a split: one task, whose parameters that are not set are nominal."""
    episodes: int = 10
    """Demonstrations of each task."""
    rounds: int = 0
    """Rounds in which the agent adapts to the task before it demonstrates it."""
    seed: int = 0
    """Of initial states and exploration."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent computes."""
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        check_counts(self, tasks=1, episodes=1, rounds=0, seed=0, threads=1)
        if self.out is not None and (not self.out.strip() or "\0" in self.out):
            raise UserError("out must be the name of a file")


def demos(argv: Sequence[str]) -> int:
    """Record demonstrations."""
    args = parse(Demos, argv, prog="metarl demos")
    from pathlib import Path

    from metarl.base.files import check_writable
    from metarl.learning.demonstrator import record
    from metarl.run import load_run, worlds_for
    from metarl.runs.config import MAX_WORLDS
    from metarl.tasks.composition import untold

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    tasks, split = _tasks(args, family)
    count = len(tasks) * args.episodes
    if count > MAX_WORLDS:
        raise UserError(f"tasks x episodes is {count} worlds; the limit is {MAX_WORLDS}")
    plain = untold(family.name).rpartition(":")[2]
    path = Path(args.out or f"{plain}-{split}-demos.safetensors")
    check_writable(path)
    worlds = worlds_for(family, learner, count, args.threads)
    words = f"{tasks.counted(f'{split} task')}, {counted(args.episodes, 'episode')} each"
    say(f"{called(args.run, checkpoint.path)}: recording {words}")
    about: dict[str, Any] = {
        "step": checkpoint.step, "weights": sorted(_weights(checkpoint.path).values()),
    }  # fmt: skip
    with bar("recording") as show:
        found = record(
            learner, worlds, tasks, seed=args.seed, rounds=args.rounds, split=split, about=about,
            progress=show,
        )  # fmt: skip
    found.save(path)
    for line in _earned(found):
        say(line)
    say(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, of {found.tasks.family}")
    return 0


def _earned(found: Demonstrations) -> list[str]:
    """Return in words what the demonstrations earn; one that diverged is in no mean."""
    from metarl.worlds.rollout import mean_of_finished

    steps, lost = found.length, found.diverged
    returns = mean_of_finished(found.returns.masked_fill(lost, float("nan")))
    known = returns[~returns.isnan()]
    ends = (float(known.min()), float(known.max())) if len(known) else (float("nan"),) * 2
    lines = [
        f"return {shown(float(mean_of_finished(returns)), 2)} (tasks from {shown(ends[0], 2)} to "
        f"{shown(ends[1], 2)}), {counted(int(steps.sum()), 'step')}"
    ]
    if short := int((steps < found.action.shape[2]).sum()):
        count = int(lost.sum())
        why = f", {count} of them as the physics diverged, which no mean holds" if count else ""
        lines.append(
            f"note: {short} of {counted(steps.numel(), 'episode')} ended before the horizon{why}"
        )
    return lines


def _tasks(args: Demos, family: TaskFamily) -> tuple[Tasks, str]:
    """Return the tasks to demonstrate, and which split they are of."""
    from metarl.commands.evaluating.on_run import parse_task
    from metarl.learning.demonstrations import CHOSEN
    from metarl.tasks.distribution import TaskDistribution

    if args.set:
        return parse_task(family, args.set), CHOSEN
    return TaskDistribution(family).split(args.split, args.tasks), args.split


def _weights(path: Any) -> dict[str, str]:
    """Return the sha256 of the agent's weights."""
    from metarl.learning import checkpoint as checkpoints

    return checkpoints.verify(path)["sha256"]
