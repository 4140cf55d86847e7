"""``metarl adapt``: one task, round by round, and the policy that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.base.text import counted, shown
from metarl.commands.arguments import called, parse
from metarl.commands.evaluating.on_run import OnRun, parse_task, with_demonstrations
from metarl.runs.progress import say


@dataclass(frozen=True)
class Adapt(OnRun):
    """Adapt a trained policy to one task, print each round, and save the adapted policy."""

    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """One of the task's parameters; those not set are nominal."""
    demos: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Demonstrations of the task, for an algorithm that adapts to them; see `metarl evaluate`."""
    out: str | None = None
    """Folder for the adapted policy: adapted.safetensors and adapted.json."""


def adapt(argv: Sequence[str]) -> int:
    """Adapt to one task."""
    args = parse(Adapt, argv, prog="metarl adapt")
    from metarl.learning.adaptation import adapt_to, best_round, check_place, save_adapted
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    task = parse_task(family, args.set)
    if args.out is not None:
        check_place(Path(args.out))
    count = worlds_per_task(checkpoint, args.rollouts_per_task, 1)
    physics = physics_for(checkpoint, args.simulator, args.device)
    worlds = worlds_for(family, learner, count, args.threads, physics)
    which = task.label(0) or f"the one task of {family.name}"
    say(f"{called(args.run, checkpoint.path)}: adapting to {which}")
    for param in family.params:
        for name in param.names:
            if (value := task.column(name)[0]) not in param.train:
                say(f"note: {name}={value:.4g} is outside the training range {param.train}")
    rounds, (policy, _) = [], with_demonstrations(learner, task, args.demos)
    for one in adapt_to(policy, worlds, task, episodes=args.episodes, seed=args.seed):
        rounds.append(one if policy is learner else one._replace(state=one.state.inner))
        known = one.returns[~one.returns.isnan()]
        spread = ""
        if len(known) > 1:
            spread = f"   (worlds from {known.min():.2f} to {known.max():.2f})"
        ill = f"   the physics diverged in {counted(one.diverged, 'world')}" if one.diverged else ""
        seen = f"{counted(one.experience, 'episode'):<13}"
        mark = "   exploring" * one.exploring
        say(f"after {seen} return {shown(one.mean, 2):>10}{spread}{mark}{ill}")
    if args.out is not None:
        path = save_adapted(Path(args.out), checkpoint, learner, task, rounds)
        best = rounds[best_round(rounds)]
        if best is not rounds[-1] and best.mean == best.mean:
            say(
                f"note: later rounds are worse: the policy after "
                f"{counted(best.experience, 'episode')} is the one that is saved"
            )
        say(f"wrote {path}: return {shown(best.mean, 2)}")
    return 0
