"""`metarl skills`: find what a robot can do without a reward, as tasks for ``+skills=FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from metarl.base.errors import UserError, quoted
from metarl.base.files import as_path, check_writable
from metarl.commands.arguments import check_counts, parse
from metarl.learning.registry import find_learner, list_learners
from metarl.run import load_run, train_or_resume
from metarl.runs.config import TrainConfig
from metarl.runs.progress import say


@dataclass(frozen=True)
class FindSkills:
    """Find skills of a family's robot, and write them as tasks: FAMILY+skills=FILE.

    A policy is trained to show skills that a discriminator can tell apart; no reward of the family
    is used. An interrupted command goes on when it is given again.
    """

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """A registered name (`metarl families`), or file.py:Class; any of its products."""
    count: int = 10
    """Skills to find."""
    inputs: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N")] = None
    """Which numbers of the observation tell skills apart, counted from 0; default: all. Without
    those of the position, skills are ways to move, and not places."""
    env_steps: int = 500_000
    """Environment steps of training."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "skills.safetensors"
    """Where to write them."""
    run: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the training run, with its curves and its policy; default: runs/…"""
    seed: int = 0
    """Of everything random."""
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError."""
        check_counts(self, count=2, env_steps=1, seed=0, threads=1)
        if not self.out.strip():
            raise UserError("--out must be the name of a file")


def skills(argv: Sequence[str]) -> int:
    """Train whichever learner finds skills, and write what it found."""
    args = parse(FindSkills, argv, prog="metarl skills")
    check_writable(as_path(args.out))
    algorithm = next(name for name in list_learners() if find_learner(name).finds_skills)
    config = find_learner(algorithm).Config(skills=args.count, skill_inputs=args.inputs)
    train = replace(
        TrainConfig(), env_steps=args.env_steps, seed=args.seed, threads=args.threads, out=args.run,
        rollouts_per_task=args.count,
    )  # fmt: skip
    run = train_or_resume(args.family, algorithm, train, config, say=say)
    _, _, learner = load_run(str(run), "cpu", args.threads)
    found = replace(learner.skill_set(), family=args.family)
    found.save(args.out)
    say(
        f"wrote {args.out}: {found.count} skills; to meta-train on them: "
        f"metarl train {quoted(f'{args.family}+skills={args.out}')} rl2"
    )
    return 0
