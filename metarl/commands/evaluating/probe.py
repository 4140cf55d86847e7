"""The command probe: does a trained run adapt, and to what."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.errors import UserError
from metarl.base.text import ALL_DIVERGED, counted, shown
from metarl.commands.arguments import called, parse
from metarl.commands.evaluating.on_run import OnRun
from metarl.commands.evaluating.opened import check_json, keep
from metarl.runs.config import MAX_WORLDS
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.evaluation.probe import Probe
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import TaskDistribution, Tasks
    from metarl.worlds.vector import VecWorlds


@dataclass(frozen=True)
class ProbeRun(OnRun):
    """Show whether a run adapts, and to what: state cleared and swapped, rewards hidden.

    What is found is kept in the run's probe/ for `metarl report`.
    """

    split: Literal["heldout", "ood", "train"] = "heldout"
    """Which tasks; see `metarl evaluate`."""
    tasks: int = 40
    """How many tasks of the split."""
    sweep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Parameters of the task to go through, the others nominal, with the return before and after
    adapting; "all" is each of them."""
    points: int = 9
    """Values of a parameter that --sweep goes through."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE|-")] = None
    """Also write what was found as JSON, to a file or to the standard output."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        super().__post_init__()
        for name in ("tasks", "points"):
            if not 2 <= getattr(self, name) <= MAX_WORLDS:
                raise UserError(
                    f"{name} must be a whole number from 2 to {MAX_WORLDS}, "
                    f"not {getattr(self, name)}"
                )


def probe(argv: Sequence[str]) -> int:
    """Probe a run."""
    args = parse(ProbeRun, argv, prog="metarl probe")
    from metarl.base.files import finite
    from metarl.evaluation.probe import probe as probe_policy
    from metarl.report.run_summary import probe_path, read_run
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    count = worlds_per_task(checkpoint, args.rollouts_per_task, args.tasks)
    distribution = TaskDistribution(family)
    tasks, swept = distribution.split(args.split, args.tasks), to_sweep(args, distribution)
    check_json(args.json)
    physics = physics_for(checkpoint, args.simulator, args.device)
    worlds = worlds_for(family, learner, len(tasks) * count, args.threads, physics)
    if args.json != "-":
        words = f"{tasks.counted(f'{args.split} task')}, {counted(args.episodes, 'round')}"
        say(f"{called(args.run, checkpoint.path)}: {words}, {counted(count, 'world')} each")
    with bar("probing") as show:
        found = probe_policy(
            learner, worlds, tasks, episodes=args.episodes, seed=args.seed, progress=show
        )
    sweeps = swept_returns(
        args, learner, distribution, swept,
        lambda tasks: worlds_for(family, learner, tasks * count, args.threads, physics),
    )  # fmt: skip
    names = {"family": family.name, "algorithm": learner.name, "split": args.split}
    how = {"step": checkpoint.step, "seed": args.seed, "episodes": args.episodes}
    drawn = {"names": list(tasks.names), "tasks": tasks.values.tolist()}
    about = finite({**names, **how, **drawn, **to_json(found), "sweeps": sweeps})
    if args.json == "-":
        print(json.dumps(about))
        return 0
    for line in (*lines(found, tasks), *sweep_lines(sweeps)):
        say(line)
    own = None
    if not checkpoint.meta.get("exported"):  # a shipped agent's folder stays as it is
        own = probe_path(read_run(args.run).path, args.split)
    keep(about, args.json, own)
    return 0


def to_sweep(args: ProbeRun, distribution: TaskDistribution) -> dict[str, Tasks]:
    """Return the tasks along each parameter that was asked for. Raises UserError."""
    from metarl.evaluation.sweep import swept_tasks

    names = distribution.names if args.sweep == ("all",) else args.sweep
    return {name: swept_tasks(distribution, name, args.points) for name in names}


def swept_returns(
    args: ProbeRun, learner: Learner, distribution: TaskDistribution, swept: Mapping[str, Tasks],
    worlds_of: Callable[[int], VecWorlds],
) -> dict[str, Any]:  # fmt: skip
    """Return the sweeps as a JSON object, by parameter, given what makes worlds for M tasks."""
    from metarl.evaluation.sweep import sweep

    found: dict[str, Any] = {}
    if not swept:
        return found
    with bar("sweeping") as show:
        for name, tasks in swept.items():
            one = sweep(
                learner, worlds_of(len(tasks)), distribution, name, tasks, episodes=args.episodes,
                seed=args.seed,
            )  # fmt: skip
            found[name] = one._asdict()
            show(len(found), len(swept))
    return found


def sweep_lines(sweeps: Mapping[str, Any]) -> list[str]:
    """Return the sweeps as a table."""
    if not sweeps:
        return []
    table = [f"{'parameter':<24}{'value':>12}{'first episode':>16}{'last':>10}   others nominal"]
    for name, one in sweeps.items():
        for value, trained, first, last in zip(*one.values(), strict=True):
            outside = "" if trained else "   outside the training range"
            table.append(
                f"{name:<24}{value:>12.4g}{shown(first, 1):>16}{shown(last, 1):>10}{outside}"
            )
    return table


def to_json(found: Probe) -> dict[str, Any]:
    """Return the probe as a JSON object."""
    effects = {name: effect._asdict() for name, effect in found.effects.items()}
    return {**found._asdict(), "effects": effects}


def lines(found: Probe, tasks: Tasks) -> list[str]:
    """Return what was found in words, given the tasks that it was found on."""
    import numpy as np

    from metarl.evaluation.probe import INTERVENTIONS, effect_words

    table = [f"{'':<15}{'mean return':>12}{'change (IQM)':>14}   95 % interval"]
    for name, effect in found.effects.items():
        mean = float(np.nanmean(effect.returns)) if np.isfinite(effect.returns).any() else np.nan
        centre, low, high = effect.change
        row = f"{name:<15}{shown(mean, 1):>12}"
        if name != "as it is":
            known = f"{centre:>+14.1f}   [{low:+.1f}, {high:+.1f}]"
            row += known if np.isfinite(centre) else f"{ALL_DIVERGED:>14}"
        table.append(row)
    whole = found.effects["as it is"].returns
    for name, effect in found.effects.items():
        if name != "as it is":
            words = effect_words(effect.returns, whole, effect.change, tasks.values)
            table.append(f"{name} ({INTERVENTIONS[name]}): {words}")
    read = ", ".join(f"{name} {r2:.2f}" for name, r2 in found.readable.items())
    table.append(
        f"task parameters read linearly from the state, R² on other tasks: {read}"
        if read
        else "the state holds nothing by task, or the tasks are too few to read parameters from it"
    )
    steps = found.identified
    table.append(
        f"90 % of the way to the final reward: {counted(steps, 'step')} into the first episode"
        if steps is not None
        else "the first episode does not come to 90 % of the final reward"
    )
    return table
