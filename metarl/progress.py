"""What long work shows while it goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from metarl.errors import printable, quoted, shortened
from metarl.output import Output

if TYPE_CHECKING:
    from metarl.train_config import Position

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
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            console = Console(file=cast("TextIO", self._out))
            self._bar = Progress(*columns, console=console, refresh_per_second=4)
            self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> TrainingProgress:
        """Show the bar, if there is one."""
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
        text = f"iteration {iteration}  {si(steps_per_second)} env steps/s  {left} left{returns}"
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
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
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
    console = Console(highlight=False)
    with console.status("") as status:
        yield (
            lambda line: console.print(line, markup=False, soft_wrap=True),
            lambda what: status.update(escape(f"{what} …")),
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


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def si(value: float) -> str:
    """Return a number with three digits and k, M or G: 132500 -> '132k'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def counted(number: int | str, noun: str) -> str:
    """Return a number of things: '1 world', '20 worlds'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


ALL_DIVERGED = "all diverged"


def shown(value: float | None, digits: int) -> str:
    """Return a return with so many decimals; `ALL_DIVERGED` if it is NaN, or null in JSON."""
    return ALL_DIVERGED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def decimals(values: Sequence[float | None]) -> int:
    """Return the decimals that show the largest of some returns to three digits, at least one."""
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(known, default=0.0)
    if not 0 < largest < math.inf:
        return 1
    return min(6, max(1, 2 - math.floor(math.log10(largest))))
