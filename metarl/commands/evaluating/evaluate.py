"""``metarl evaluate``: a run's adaptation curve on tasks that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from metarl.base.text import counted
from metarl.commands.arguments import called, check_counts, parse
from metarl.commands.evaluating.on_run import OnRun, with_demonstrations
from metarl.runs.progress import bar, say


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
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    count = worlds_per_task(checkpoint, args.rollouts_per_task, args.tasks)
    tasks = TaskDistribution(family).split(args.split, args.tasks)
    physics = physics_for(checkpoint, args.simulator, args.device)
    worlds = worlds_for(family, learner, len(tasks) * count, args.threads, physics)
    if args.json != "-":
        words = f"{tasks.counted(f'{args.split} task')}, {counted(count, 'world')} each"
        say(f"{called(args.run, checkpoint.path)}: {words}")
    policy, more = with_demonstrations(learner, tasks, args.demos)
    with bar("evaluating") as show:
        report = evaluate_learner(
            policy, worlds, tasks, episodes=args.episodes, seed=args.seed, split=args.split,
            progress=show,
        )  # fmt: skip
    lines = report.summary()
    told, compared = across_simulators(args, checkpoint, learner, report, physics)
    lines, more = [*lines, *told], more | compared
    if args.against:
        from metarl.commands.evaluating.against import comparison, evaluate_others

        others = evaluate_others(args, report)
        compared, scores = comparison(report, others)
        lines = [*lines, *compared]
        more |= {"against": [o.to_json() for o in others], **scores}
    if args.json == "-":
        print(json.dumps(report.to_json() | more))
        return 0
    for line in lines:
        say(line)
    if args.json is not None:
        report.save(args.json, more)
        say(f"wrote {args.json}")
    return 0
