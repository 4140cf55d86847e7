"""`metarl report`: one HTML page of one or several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.errors import UserError
from metarl.base.files import check_writable, file_errors
from metarl.base.plugins import KINDS
from metarl.base.text import counted
from metarl.commands.arguments import Said, check_counts, parse
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.evaluation import protocol
    from metarl.learning.checkpoint import Checkpoint
    from metarl.report.run_summary import RunSummary


@dataclass(frozen=True)
class Protocol:
    """How a run is evaluated for a report or a model card."""

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

    def fits(self, report: protocol.Report) -> bool:
        """Whether a report was made this way."""
        asked = (self.tasks, self.episodes + 1, self.seed)
        same = asked == (len(report.tasks), len(report.experience), report.seed)
        return same and self.rollouts_per_task in (None, report.rollouts_per_task)


@dataclass(frozen=True)
class Report(Said, Protocol):
    """Write one self-contained HTML page: curves, tasks, settings, videos; several RUNs compared.

    Evaluations that are missing or of older weights are made, and kept in the run folder.
    """

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ] = ()
    """Run folders, checkpoint folders, exported agents, or the names of agents that come with
    metarl."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Where to write it; the default is report.html in the (first) run's folder, and for the name
    of an agent in the working folder."""
    evaluate: bool = True
    """Evaluate where needed; --no-evaluate shows what there is."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        if not self.runs:
            raise UserError("say which RUN to report on, such as runs/vel")
        check_counts(self, episodes=0, rollouts_per_task=1, seed=0, threads=1, tasks=1)
        if self.out is not None and Path(self.out).suffix not in (".html", ".htm"):
            raise UserError(f"--out {self.out}: the report is HTML; name it such as report.html")


def report(argv: Sequence[str]) -> int:
    """Write the page."""
    args = parse(Report, argv, prog="metarl report")
    from metarl.report.page import check_runs, write_page
    from metarl.report.run_summary import read_run

    runs = [read_run(path) for path in args.runs]
    folder = runs[0].path if Path(args.runs[0]).exists() else Path()  # an agent's name: not there
    out = Path(args.out) if args.out else folder / "report.html"
    check_runs(runs)
    check_writable(out)
    if args.evaluate:
        for run, source in zip(runs, args.runs, strict=True):
            said = args.said() | {kind: None for kind in KINDS if ":" not in getattr(run, kind)}
            add_reports(run, source, args, say, **said)
    write_page(runs, out)
    for run in runs:
        for _, text in run.notes:
            say(f"note: {run.label}: {text}")
    say(f"wrote {out} ({out.stat().st_size / 1024:.0f} KiB)")
    return 0


def add_reports(
    run: RunSummary, source: Path | str, test: Protocol, say: Callable[[str], None], **said: Any
) -> None:
    """Evaluate a run on the splits whose report is missing or was made in another way, and save it.

    What fails becomes a note.

    Args:
        run: is given the reports.
        source: the run or checkpoint folder to load.
        test: how to evaluate.
        say: called with a line before each evaluation.
        said: family, algorithm and trust_code of `load_run`.

    Raises:
        CodeError: the run names code that nobody said may be run.
    """
    from metarl.base.trust import CodeError
    from metarl.evaluation.protocol import evaluate
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution

    if not (wanted := _missing(run, test)):
        return
    try:
        checkpoint, family, learner = load_run(str(source), test.device, test.threads, **said)
        count = worlds_per_task(checkpoint, test.rollouts_per_task, test.tasks)
        physics = physics_for(checkpoint, None, test.device)
        worlds = worlds_for(family, learner, test.tasks * count, test.threads, physics)
    except CodeError:
        raise
    except UserError as error:
        return run.note(f"It could not be evaluated: {error}")
    distribution = TaskDistribution(family)
    if "ood" in wanted and not distribution.has_ood:
        wanted.remove("ood")
        run.notes = [note for note in run.notes if note[0] != "ood"]
        run.note(f"{run.family} has no tasks outside the training box, so no ood evaluation")
    for split in wanted:
        tasks = distribution.split(split, test.tasks)
        words = f"{tasks.counted(f'{split} task')}, {counted(test.episodes, 'round')}"
        say(f"{run.label}: evaluating on {words}")
        how = {"episodes": test.episodes, "seed": test.seed, "split": split}
        with bar("evaluating") as show:
            run.reports[split] = evaluate(learner, worlds, tasks, **how, progress=show)
        _mark_evaluated(run, split)
        if not checkpoint.meta.get("exported"):  # a shipped agent's folder stays as it is
            _save_report(run, split, checkpoint)


def _missing(run: RunSummary, test: Protocol) -> list[str]:
    """Return the splits without a report, or with one that was made in another way."""
    from metarl.report.run_summary import SPLITS

    old = {split for split, report in run.reports.items() if not test.fits(report)} | run.stale
    return [split for split in SPLITS if split not in run.reports or split in old]


def _mark_evaluated(run: RunSummary, split: str) -> None:
    """Drop what the notes say of an older report of a split; what cannot be read stays said."""
    run.stale.discard(split)
    run.notes = [
        (about, f"{text} It was evaluated again." if about == split else text)
        for about, text in run.notes if about != split or "cannot" in text
    ]  # fmt: skip


def _save_report(run: RunSummary, split: str, checkpoint: Checkpoint) -> None:
    """Write a report into the run folder, for the next time."""
    from metarl.base.files import write_json
    from metarl.base.versions import versions
    from metarl.report.run_summary import evaluation_path

    target = evaluation_path(run.path, split, checkpoint.step)
    about = {"step": checkpoint.step, "versions": versions()}
    try:
        with file_errors(target):
            target.parent.mkdir(exist_ok=True)
            write_json(target, run.reports[split].to_json() | about)
    except UserError as error:
        run.note(f"The evaluation was not kept: {error}")


__all__ = ["Protocol", "add_reports", "report"]
