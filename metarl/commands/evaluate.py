"""The commands that read: algorithms, evaluate, adapt and check."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.errors import UserError
from metarl.base.plugins import first_line
from metarl.base.text import counted, shown
from metarl.commands.arguments import Said, check_counts, parse
from metarl.runs.progress import bar, say, under_way
from metarl.simulation.warp.choice import SimulatorName

if TYPE_CHECKING:  # torch is imported when there is something to compute, not for --help
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.policy import Policy


@dataclass(frozen=True)
class Algorithms:
    """List the registered algorithms and their settings."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class OnRun(Said):
    """What the commands that open a trained run share."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder (its newest checkpoint is used), a checkpoint folder, or the name of an agent
    that comes with metarl, such as half-cheetah-vel-pearl."""
    episodes: int = 3
    """Adaptation rounds K; the curve has K + 1 points, the first one before any data."""
    rollouts_per_task: int | None = None
    """Worlds of each task; the default is what the run was trained with."""
    seed: int = 0
    """Of initial states and exploration."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes, and the simulator warp."""
    simulator: SimulatorName | None = None
    """What computes the physics: mujoco or warp; the default is what the run was trained on."""
    threads: int | None = None
    """CPU threads; the default is every core."""
    setting: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """One of the learner's settings, in place of the one that it was trained with, such as
    adapt_every=0, with which PEARL adapts between episodes alone, as its authors have it."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        check_counts(self, episodes=0, rollouts_per_task=1, seed=0, threads=1)

    def said(self) -> dict[str, Any]:
        """Return what was said, as arguments of `metarl.run.load_run`."""
        settings: dict[str, Any] = {}
        for name, text in named_values(self.setting, "--setting", "adapt_every=0"):
            with contextlib.suppress(ValueError):  # what is no JSON is a string
                text = json.loads(text)
            settings[name] = text
        return super().said() | {"settings": settings}


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


@dataclass(frozen=True)
class Check:
    """Run the conformance suite on a task family, a line per check; exit code 1 if one fails."""

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """A registered name, a product such as half-cheetah-vel+dynamics, or file.py:Class."""
    simulator: SimulatorName = "mujoco"
    """With warp: whether the family runs on MuJoCo Warp as it does on native MuJoCo."""


# --- algorithms and check -----------------------------------------------------------------------


def algorithms(argv: Sequence[str]) -> int:
    """List the algorithms."""
    args = parse(Algorithms, argv, prog="metarl algorithms")
    from metarl.learning.registry import find_learner, list_learners

    rows = []
    for name in list_learners():
        cls = find_learner(name)
        rows.append({"name": name, "doc": first_line(cls), "settings": asdict(cls.Config())})
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        for line in (f"{row['name']}   {row['doc']}", f"  {settings}", ""):
            say(line)
    say("`metarl train FAMILY ALGORITHM --help` explains an algorithm's settings.")
    return 0


def check(argv: Sequence[str]) -> int:
    """Run the conformance suite on a family."""
    args = parse(Check, argv, prog="metarl check")
    from metarl.check.suite import check_family
    from metarl.tasks.registry import family_class

    # The class, not an instance: a model that does not compile is the first check's to report.
    family = family_class(args.family)
    suite = {}
    if not family.has_model:
        from metarl.check import gymnasium_suite

        suite = {"checks": gymnasium_suite.CHECKS, "gates": gymnasium_suite.GATES}
    if args.simulator == "warp":
        from metarl.check import warp_suite
        from metarl.simulation.warp.install import require_warp

        require_warp()
        if not family.has_model:
            raise UserError(f"'{args.family}' steps itself: it has no --simulator warp")
        suite = {"checks": warp_suite.CHECKS, "gates": warp_suite.GATES}
    with under_way() as (report, begin):
        return 1 if check_family(family, report, **suite, begin=begin) else 0


# --- evaluate and adapt ------------------------------------------------------------------------


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate a run."""
    args = parse(Evaluate, argv, prog="metarl evaluate")
    from metarl.commands.simulators import across_simulators
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
        say(f"{checkpoint.path}: {words}")
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
        from metarl.commands.against import comparison, evaluate_others

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


def adapt(argv: Sequence[str]) -> int:
    """Adapt to one task."""
    args = parse(Adapt, argv, prog="metarl adapt")
    from metarl.learning.adaptation import adapt_to, best_round, save_adapted
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    task = parse_task(family, args.set)
    count = worlds_per_task(checkpoint, args.rollouts_per_task, 1)
    physics = physics_for(checkpoint, args.simulator, args.device)
    worlds = worlds_for(family, learner, count, args.threads, physics)
    say(f"{checkpoint.path}: adapting to {task.label(0) or 'the one task of ' + family.name}")
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


def with_demonstrations(
    learner: Learner, tasks: Tasks, file: str | None
) -> tuple[Policy, dict[str, Any]]:
    """Return a learner that is shown the demonstrations of a file, if one is named; and about it.

    Raises UserError if the learner does not adapt to demonstrations, or the tasks have none.
    """
    if file is None:
        return learner, {}
    from metarl.learning.demonstrations import Demonstrations
    from metarl.learning.imitation import Shown

    found = Demonstrations.load(file)
    about = {"agent": found.about.get("agent"), "sha256": found.digest, "each": found.per_task}
    return Shown(learner, found, tasks), {"demonstrations": about}


def parse_task(family: TaskFamily, settings: Sequence[str]) -> Tasks:
    """Turn ``name=value`` words into one task. Raises UserError naming the first bad one."""
    from metarl.tasks.distribution import TaskDistribution

    values: dict[str, float] = {}
    for name, text in named_values(settings, "--set", "mass=1.5"):
        try:
            values[name] = float(text)
        except ValueError:
            raise UserError(f"--set {name}={text}: '{text}' is not a number") from None
    return TaskDistribution(family).make(**values)


def named_values(words: Sequence[str], option: str, example: str) -> list[tuple[str, str]]:
    """Return the names and the values of ``name=value`` words. Raises UserError on a bad one."""
    found: dict[str, str] = {}
    for word in words:
        name, mark, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not mark or not name:
            raise UserError(f"{option} {word}: write it as NAME=VALUE, such as {option} {example}")
        if name in found:
            raise UserError(f"{option} {word}: '{name}' is set twice")
        found[name] = text
    return list(found.items())


__all__ = ["adapt", "algorithms", "check", "evaluate"]
