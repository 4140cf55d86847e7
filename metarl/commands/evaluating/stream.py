"""The command stream: how a trained run fares where tasks change without notice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from metarl.base.errors import UserError
from metarl.base.text import ALL_DIVERGED, counted, shown
from metarl.commands.arguments import called, check_counts, parse
from metarl.commands.evaluating.on_run import OnRun
from metarl.commands.evaluating.opened import Opened, check_json, keep, opened
from metarl.runs.config import MAX_WORLDS
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.evaluation.stream import Stream
    from metarl.learning.checkpoint import Checkpoint
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks

FEWEST_STEPS = 20
"""Steps after a switch, at least, that a recovery is read from."""


@dataclass(frozen=True)
class StreamRun(OnRun):
    """Let a run act and adapt in an endless sequence of tasks that change without notice.

    What is found is kept in the run's stream/ for `metarl report`.
    """

    episodes: int = 10
    """Episodes that each stream goes on for; tasks change within them, too."""
    streams: int = 20
    """Sequences of tasks, each with moments of its own at which the task changes."""
    every: float | None = None
    """Mean steps between two changes; the default is an episode."""
    split: Literal["heldout", "ood", "train"] = "heldout"
    """Where the tasks come from; see `metarl evaluate`."""
    tasks: int = 30
    """How many tasks of the split."""
    drift: bool = False
    """Let parameters move evenly from one task to the next, in place of jumps."""
    forget: int | None = None
    """Episodes after which the run begins anew, knowing nothing; the default is never."""
    window: int | None = None
    """Steps of which a return is shown; the default is an episode."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN")] = ()
    """Runs that meet the same tasks at the same steps. Regret is counted from one of ppo on the
    family with +told, the oracle, or without one from the run that earns most."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE|-")] = None
    """Also write what was found as JSON, to a file or to the standard output."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        super().__post_init__()
        check_counts(self, episodes=1, streams=1, tasks=2, forget=1, window=1)
        if self.streams > MAX_WORLDS:
            raise UserError(f"streams must be at most {MAX_WORLDS}, not {self.streams}")
        if self.every is not None and not 1 <= self.every < 2**31:
            raise UserError(f"every must be a number of steps from 1 to 2^31, not {self.every:g}")


def stream(argv: Sequence[str]) -> int:
    """Stream a run."""
    args = parse(StreamRun, argv, prog="metarl stream")
    from metarl.base.files import finite
    from metarl.report.run_summary import read_run, stream_path

    first = _opened(args, args.run, None, **args.said())
    runs = [first, *(_opened(args, run, first.tasks) for run in args.against)]
    check_json(args.json)
    played = [_play(args, one) for one in runs]
    about = finite(_described(args, played))
    assert isinstance(about, dict)
    if args.json == "-":
        print(json.dumps(about))
        return 0
    for line in lines(about):
        say(line)
    own = None
    if not first.checkpoint.meta.get("exported"):  # a shipped agent's folder stays as it is
        own = stream_path(read_run(args.run).path, args.split)
    keep(about, args.json, own)
    return 0


class _Played(NamedTuple):
    """A run that was streamed."""

    run: str
    family: str
    algorithm: str
    worlds_each: int
    checkpoint: Checkpoint
    tasks: Tasks
    found: Stream


def _opened(args: StreamRun, run: str, tasks: Tasks | None, **said: Any) -> Opened:
    """Load a run. Those whose worlds are trials of their own get one a stream, if not told.

    Raises UserError if it cannot be streamed, or its tasks are others.
    """
    from metarl.evaluation.stream import refuse
    from metarl.run import worlds_per_task

    def each(checkpoint: Checkpoint, learner: Learner) -> int:
        wanted = args.rollouts_per_task or (None if learner.adapts_per_task else 1)
        return worlds_per_task(checkpoint, wanted, args.streams)

    simulator = args.simulator or "mujoco"  # whatever a run was trained on: it runs in any
    found = opened(args, run, tasks, args.split, args.tasks, each, simulator=simulator, **said)
    refuse(found.worlds(1, args.threads), 1)
    return found


def _play(args: StreamRun, one: Opened) -> _Played:
    """Stream one run."""
    from metarl.evaluation.stream import stream as stream_policy

    worlds = one.worlds(args.streams * one.each, args.threads)
    horizon = worlds.spec.horizon
    if args.json != "-":
        words = f"{counted(args.streams, 'stream')} of {counted(one.each, 'world')}"
        count = counted(args.episodes * horizon, "step")
        drawn = one.tasks.counted(f"{args.split} task")
        say(f"{called(one.run, one.checkpoint.path)}: {words}, {count}, {drawn}")
    with bar(f"streaming {one.run}") as show:
        found = stream_policy(
            one.learner, worlds, one.tasks, streams=args.streams, rounds=args.episodes,
            every=args.every or horizon, seed=args.seed, drift=args.drift, forget=args.forget,
            progress=show,
        )  # fmt: skip
    name, of = Path(one.run).name, (one.family.name, one.learner.name)
    return _Played(name, *of, one.each, one.checkpoint, one.tasks, found)


# --- what was found -----------------------------------------------------------------------------


def _described(args: StreamRun, played: Sequence[_Played]) -> dict[str, Any]:
    """Return what was found as JSON."""
    from metarl.evaluation.score import is_oracle
    from metarl.evaluation.stream import best_of

    streams, first = [one.found for one in played], played[0]
    told = next((one.found for one in played if is_oracle(one)), None)
    best = told or (streams[best_of(streams)] if len(streams) > 1 else None)
    horizon = first.found.horizon
    every, window = args.every or horizon, args.window or horizon
    window = min(window, len(first.found.rewards))
    lags = max(1, min(horizon, max(FEWEST_STEPS, int(every) // 2)))
    line = first.found.timeline
    return {
        "family": first.family, "split": args.split, "step": first.checkpoint.step,
        "seed": args.seed, "episodes": args.episodes, "horizon": horizon, "every": every,
        "drift": args.drift, "forget": args.forget, "streams": args.streams, "window": window,
        "lags": lags, "names": list(first.tasks.names), "tasks": line.values.tolist(),
        "switches": [
            [[int(t), int(line.task[t, m])] for t in (0, *np.flatnonzero(line.switched[:, m]))]
            for m in range(args.streams)
        ],
        "reference": None if best is None else "oracle" if told else "best",
        "runs": [
            {
                "run": one.run, "family": one.family, "algorithm": one.algorithm,
                "worlds_each": one.worlds_each, "reference": one.found is best,
                **one.found.to_json(window, lags, best, args.seed, told),
                **({"recovery": None} if args.drift else {}),  # nothing changes at once
            }
            for one in played
        ],
    }  # fmt: skip


def lines(about: dict[str, Any]) -> list[str]:
    """Return what was found in words."""
    from metarl.report.text import stream_divergence

    words = "drift and " * about["drift"] + "change"
    switches = sum(len(own) - 1 for own in about["switches"])
    total = f"{counted(switches, 'change')} of task in {counted(about['streams'], 'stream')}"
    table = [f"tasks {words} every {about['every']:g} steps on average: {total}"]
    width = max(len(f"{run['algorithm']} on {run['family']}") for run in about["runs"])
    ends = f"return in {about['window']} steps: first, mean, last"
    table.append(f"{'':<{width}}  {ends:>42}{'regret in the end (IQM, 95 %)':>36}")
    for run in about["runs"]:
        mean = np.array(run["windows"]["mean"], float)  # null is NaN
        middle = float(np.nanmean(mean)) if np.isfinite(mean).any() else np.nan
        row = f"{run['algorithm']} on {run['family']}"
        shown_ends = "".join(f"{shown(x, 1):>14}" for x in (mean[0], middle, mean[-1]))
        row = f"{row:<{width}}{shown_ends:>42}"
        if run["reference"]:
            row += f"{about['reference']:>36}"
        elif run["regret"] is not None:
            (low, high), centre = run["regret"]["ci95"][-1], run["regret"]["iqm"][-1]
            words = f"{shown(centre, 1)} [{shown(low, 1)}, {shown(high, 1)}]"
            row += f"{ALL_DIVERGED if centre is None else words:>36}"
        table.append(row)
    if not about["drift"]:
        table += [_recovery_line(run, about["lags"]) for run in about["runs"]]
    table += [f"warning: {words}" for words in stream_divergence(about)]
    if about["reference"] is None:
        table.append("no regret: give runs to compare with in --against, such as an oracle")
    return table


def _recovery_line(run: dict[str, Any], lags: int) -> str:
    """Return in words how a run recovers from changes."""
    found, who = run["recovery"], f"{run['algorithm']} on {run['family']}"
    if found is None:
        return f"{who}: no change of task with {counted(lags, 'quiet step')} to either side"
    drop = f"{who}: {counted(found['switches'], 'change')} cost up to {found['drop']:.2f} a step"
    if found["steps"] is None:
        return f"{drop}, and no way back is seen within {counted(lags, 'step')}"
    interval = "" if found["low"] is None else f" [{found['low']}, {found['high']}]"
    return (
        f"{drop}; 90 % of the way back is made after {counted(found['steps'], 'step')}{interval}, "
        f"{found['lasting']:.2f} a step stays lost"
    )
