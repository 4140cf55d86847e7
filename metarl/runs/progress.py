"""What long work shows while it goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from metarl.base.errors import printable, quoted, shortened
from metarl.base.output import Output
from metarl.base.text import clock, counted, decimals, shown, si

if TYPE_CHECKING:
    from rich.progress import Progress

    from metarl.callbacks import Run
    from metarl.evaluation.protocol import Report
    from metarl.runs.config import Position

SECONDS_BETWEEN_LINES = 5.0
"""Of `bar`, where there is no terminal."""


class TrainingProgress:
    """Shows iterations, env steps/s, time left and the latest return before → after adaptation.

    On a terminal this is one line that moves; in a file or a pipe it is a line every `print_every`
    iterations, flushed, so that a log can be followed.
    """

    def __init__(self, *, total: int, done: int, print_every: int, show: bool) -> None:
        """Start at `done` of `total` (both iterations, or both env steps)."""
        self._total, self._start = total, done
        self._began = time.monotonic()
        self._print_every = print_every
        self._show = show
        self._bar: Progress | None = None
        self._out = Output(sys.stdout)
        if show and self._out.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            console = Console(file=cast("TextIO", self._out))
            self._bar = Progress(*columns, console=console, refresh_per_second=4)
            self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> TrainingProgress:
        """Start the clock, and show the bar if there is one."""
        self.restart_clock()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.stop()

    def restart_clock(self) -> None:
        """Reckon the time left from here: what came before will not come with each iteration."""
        self._began = time.monotonic()

    def update(
        self, iteration: int, done: int, steps_per_second: float, metrics: dict[str, float]
    ) -> None:
        """Show the iteration just finished."""
        if not self._show:
            return
        left = clock((self._total - done) * self._pace(done))
        before, after = metrics.get("return_before"), metrics.get("return_after")
        returns = (
            ""
            if before is None or after is None
            else f"  return {shown(before, 1)} → {shown(after, 1)}"
        )
        sent = metrics.get("megabytes_sent")
        traffic = "" if sent is None else f"  {sent:.2g} MB sent"
        speed = f"{si(steps_per_second)} env steps/s"
        text = f"iteration {iteration}  {speed}  {left} left{returns}{traffic}"
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self._total), description=text)
        elif iteration % self._print_every == 0 or iteration == 1 or done >= self._total:
            self.say(text)

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._show:
            return
        line = printable(line)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._out, flush=True)

    def _pace(self, done: int) -> float:
        """Seconds per unit so far, evaluations and checkpoints included."""
        return (time.monotonic() - self._began) / max(done - self._start, 1e-9)


def say(line: object) -> None:
    """Print a line of the output; words of others in it do nothing to a terminal."""
    print(shortened(line), flush=True)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, in all) that moves a bar; without a terminal, it prints lines.

    Both go to the standard error, since the standard output may be a report's JSON. A line is
    printed at most every `SECONDS_BETWEEN_LINES`, so that what is quick says nothing.
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TaskProgressColumn(),
               rich.TimeRemainingColumn())  # fmt: skip
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    began = said = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and done < total:
            said = now
            left = clock((now - began) * (total - done) / done)
            print(f"{what}: {done} of {total}, {left} left", file=sys.stderr, flush=True)

    return show


@contextmanager
def under_way() -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Give a function that prints a line, and one that shows what is under way until then.

    Without a terminal, only the lines are printed.
    """
    if not Output(sys.stdout).isatty():
        yield lambda line: print(line, flush=True), lambda what: None
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    with console.status("") as status:
        yield (
            lambda line: console.print(line, markup=False, soft_wrap=True),
            lambda what: status.update(escape(f"{what} …")),
        )


def opening_line(run: Run, resumed_at: int | None) -> str:
    """Return the first line of a run: what is trained, with what, and where.

    Args:
        run: that begins.
        resumed_at: the iteration from which it goes on; None for a new run.
    """
    config, ranks = run.config, run.learner.ranks
    worlds = config.tasks_per_iteration * config.rollouts_per_task
    shared = f"  {ranks.shards} task shards" * (ranks.shards > 1)
    shared += f"  {ranks.size} ranks of" * (ranks.size > 1)
    warp = "" if config.simulator == "mujoco" else f"  physics by {config.simulator}"
    return (
        f"{run.family.name}  {run.learner.name}  seed {config.seed}  "
        f"{counted(worlds, 'world')}{shared}  {counted(run.threads, 'thread')}  "
        f"{run.learner.device}{warp}  → {run.folder.path}"
        + ("" if resumed_at is None else f", from iteration {resumed_at}")
    )


def evaluation_line(env_steps: int, report: Report) -> str:
    """Return the line on a held-out evaluation during training.

    Args:
        env_steps: of training so far.
        report: of the evaluation.
    """
    result = report.to_json()
    before, after, still = result["mean"][0], result["mean"][-1], result["stand_still"]
    return (
        f"held-out tasks at {si(env_steps)} env steps: return {shown(before, 1)} → "
        f"{shown(after, 1)} (stand still {shown(still, 1)})"
        + (f"; {report.divergence()}" if report.diverged else "")
    )


def closing_lines(
    run: Path, position: Position, tasks: str, setting: str, notes: Iterable[str]
) -> Iterator[str]:
    """Yield where a finished run is, its last adaptation curve, and what to try next.

    Args:
        run: its folder.
        position: how far it came.
        tasks: how many it was evaluated on, in words.
        setting: NAME=VALUE of a task to adapt to, or ''.
        notes: what else is to be said of it.
    """
    last, name = position.curve[-1], quoted(run)
    digits = decimals([*last["mean"], last["stand_still"]])
    yield (
        f"wrote {run}: {counted(position.iteration, 'iteration')}, "
        f"{si(position.env_steps)} env steps, {clock(position.seconds)}"
    )
    yield f"{tasks} (stand still {shown(last['stand_still'], digits)}):"
    yield "  episodes of experience " + "".join(f"{seen:>10}" for seen in last["experience"])
    mean = "".join(f" {shown(value, digits):>9}" for value in last["mean"])
    yield f"  mean return            {mean}"
    if verdict := last.get("verdict"):
        yield f"verdict: {verdict}"
    yield from notes
    yield "next:"
    for words in ("report", "evaluate", "adapt"):
        chosen = f" --set {quoted(setting)}" if setting and words == "adapt" else ""
        yield f"  metarl {words} {name}{chosen}"
