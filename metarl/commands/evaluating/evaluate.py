"""``metarl evaluate``: a run's adaptation curve on tasks that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.text import counted
from metarl.commands.arguments import called, check_counts, parse
from metarl.commands.evaluating.on_run import OnRun, with_demonstrations
from metarl.commands.evaluating.opened import Opened, check_json, opened
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.tasks.distribution import Tasks


@dataclass(frozen=True)
class Evaluate(OnRun):
    """Draw a run's adaptation curve on tasks that it was not trained on."""

    split: Literal["heldout", "ood", "train"] = "heldout"
    """Unseen draws from the training box, tasks outside it, or frozen training draws."""
    tasks: int = 30
    """How many tasks of the split."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN")] = ()
    """Runs to compare with on the same tasks. With one of ppo on the family and one of ppo on the
    family with +told among them, the adaptation score is printed: 0 is blind, 1 is told."""
    demos: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Demonstrations of these tasks (`metarl demos`), one a round in place of its own episodes, for
    an algorithm that adapts to them."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE|-")] = None
    """Also write the report as JSON, to a file or to the standard output."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        super().__post_init__()
        check_counts(self, tasks=1)


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate a run."""
    args = parse(Evaluate, argv, prog="metarl evaluate")
    from metarl.commands.evaluating.simulators import across_simulators
    from metarl.evaluation.protocol import evaluate as evaluate_learner

    first = _opened(args, args.run, None, **args.said())
    checkpoint, learner, tasks = first.checkpoint, first.learner, first.tasks
    others = [_opened(args, run, tasks) for run in args.against]
    check_json(args.json)
    worlds = first.worlds(len(tasks) * first.each, args.threads)
    if args.json != "-":
        words = f"{tasks.counted(f'{args.split} task')}, {counted(first.each, 'world')} each"
        say(f"{called(args.run, checkpoint.path)}: {words}")
    policy, more = with_demonstrations(learner, tasks, args.demos)
    with bar("evaluating") as show:
        report = evaluate_learner(
            policy, worlds, tasks, episodes=args.episodes, seed=args.seed, split=args.split,
            progress=show,
        )  # fmt: skip
    lines = report.summary()
    told, compared = across_simulators(args, checkpoint, learner, report, first.physics)
    lines, more = [*lines, *told], more | compared
    if args.against:
        from metarl.commands.evaluating.against import comparison, evaluate_others

        reports = evaluate_others(args, others)
        compared, scores = comparison(report, reports, (args.run, *args.against))
        lines = [*lines, *compared]
        more |= {"against": [one.to_json() for one in reports], **scores}
    if args.json == "-":
        print(json.dumps(report.to_json() | more))
        return 0
    for line in lines:
        say(line)
    if args.json is not None:
        report.save(args.json, more)
        say(f"wrote {args.json}")
    return 0


def _opened(args: Evaluate, run: str, tasks: Tasks | None, **said: Any) -> Opened:
    """Load a run. Raises UserError if it cannot be played, or not on these tasks."""
    from metarl.run import worlds_per_task

    return opened(
        args, run, tasks, args.split, args.tasks,
        lambda checkpoint, _: worlds_per_task(checkpoint, args.rollouts_per_task, args.tasks),
        simulator=args.simulator, **said,
    )  # fmt: skip
