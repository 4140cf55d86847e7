"""`metarl report`: one HTML page of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.commands.arguments import Said, check_counts, parse
from metarl.errors import UserError
from metarl.plugins import KINDS
from metarl.progress import say
from metarl.train_config import MAX_WORLDS


@dataclass(frozen=True)
class Report(Said):
    """Write one self-contained HTML page: curves, tasks, settings, videos; several RUNs compared.

    Evaluations that are missing or of older weights are made, and kept in the run folder.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, checkpoint folders, exported agents, or the names of agents that come with
    metarl."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Where to write it; the default is report.html in the (first) run's folder, and for the name
    of an agent in the working folder."""
    evaluate: bool = True
    """Evaluate where needed; --no-evaluate shows what there is."""
    tasks: int = 30
    """How many tasks of each split."""
    episodes: int = 3
    """Adaptation rounds K."""
    rollouts_per_task: int | None = None
    """Worlds of each task; the default is what the run was trained with."""
    seed: int = 0
    """Of initial states and exploration."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes."""
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        if not self.runs:
            raise UserError("say which RUN to report on, such as runs/vel")
        check_counts(self, episodes=0, rollouts_per_task=1, seed=0, threads=1, tasks=1)
        if self.tasks > MAX_WORLDS:
            raise UserError(f"tasks must be at most {MAX_WORLDS}, not {self.tasks}")
        if self.out is not None and Path(self.out).suffix not in (".html", ".htm"):
            raise UserError(f"--out {self.out}: the report is HTML; name it such as report.html")


def report(argv: Sequence[str]) -> int:
    """Write the page."""
    args = parse(Report, argv, prog="metarl report")
    from metarl.report.page import write_page
    from metarl.report.run_summary import Protocol, add_reports, read_run

    test = Protocol(
        args.tasks, args.episodes, args.seed, args.rollouts_per_task, args.device, args.threads
    )
    runs = [read_run(path) for path in args.runs]
    if args.evaluate and len({run.family for run in runs}) == 1:
        for run, source in zip(runs, args.runs, strict=True):
            said = args.said() | {kind: None for kind in KINDS if ":" not in getattr(run, kind)}
            add_reports(run, source, test, say, **said)
    folder = runs[0].path if Path(args.runs[0]).exists() else Path()  # an agent's name: not there
    out = Path(args.out) if args.out else folder / "report.html"
    write_page(runs, out)
    for run in runs:
        for _, text in run.notes:
            say(f"note: {run.label}: {text}")
    say(f"wrote {out} ({out.stat().st_size / 1024:.0f} KiB)")
    return 0


__all__ = ["report"]
