"""`metarl overfitting FAMILY ALGORITHM`: what is reached by number of training tasks, and where.

The runs are those of a sweep over the number of training tasks, so the same command goes on with
what is left. Each is then tested on its training tasks, on held-out ones, and near and far outside
the training box.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metarl.base.distributed import world_size
from metarl.base.errors import UserError, quoted
from metarl.base.files import file_errors, finite, read_json, write_json
from metarl.base.keys import Key
from metarl.base.plugins import folder_name
from metarl.base.text import counted, decimals, shown
from metarl.commands.arguments import check_counts, field_names, parse, take_option, whole_number
from metarl.commands.training.one_run import OneRun
from metarl.commands.training.sweep import (
    limits,
    over_seeds,
    planned,
    refuse_rivals,
    shares,
    take_sweep,
    train_all,
)
from metarl.commands.training.train import read_train
from metarl.runs.presets import say_tuned
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.learning.demonstrations import Demonstrations
    from metarl.worlds.policy import Policy

PROG = "metarl overfitting"
FORMAT = 1


@dataclass(frozen=True)
class Overfitting:
    """Train by number of training tasks, and test on those, on held-out, near and far ood tasks.

    All settings of `metarl train FAMILY ALGORITHM` may follow. Every run has the same number of
    iterations and rollouts; only how many different tasks these come from differs. The same command
    goes on with what is left, and does not train or test anything twice.
    """

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """A registered name (`metarl families`), or file.py:Class."""
    algorithm: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGORITHM")]
    """Likewise (`metarl algorithms`)."""
    num_tasks: tuple[str, ...] = ("8", "32", "128", "inf")
    """Numbers of training tasks; inf draws new ones in each iteration."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds, for each of these numbers."""
    jobs: int | None = None
    """Runs at once; default: one a core."""
    out: str | None = None
    """Folder of the runs, of overfitting.json and of report.html; default:
    runs/FAMILY-ALGORITHM-overfitting."""
    test_tasks: int = 30
    """Tasks of each set in the test, at most."""
    test_episodes: int = 2
    """Adaptation rounds in the test."""
    test_seed: int = 0
    """Of initial states and exploration in the test."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        check_counts(self, test_tasks=1, test_episodes=0, test_seed=0, jobs=1)


def overfitting(argv: Sequence[str]) -> int:
    """Train, test, and report."""
    if {"-h", "--help"} & set(argv):
        parse(Overfitting, argv, prog=PROG)
    args, rest = _taken(argv)
    if world_size() > 1:
        raise UserError(
            f"{PROG} shares its runs among the cores of one machine: leave out torchrun"
        )
    runs, folder, numbers = _planned(args, rest)
    left = [run for run in runs if not run.finished()]
    train = runs[0].parsed.train
    at_once, threads = shares(train, None if args.jobs is None else str(args.jobs))
    done = f"; {len(runs) - len(left)} finished before" if len(left) < len(runs) else ""
    say(f"{counted(len(runs), 'run')} in {folder}, {at_once} at once{done}")
    say_tuned(runs[0].parsed.family, runs[0].parsed.algorithm, runs[0].parsed.preset)
    failed = train_all(left, len(left), at_once, threads)
    for run, code in failed:
        say(f"failed with code {code}: {run.folder.name}: {run.last_words()}")
    finished = [run for run in runs if run.finished()]
    if finished:
        _report(args, finished, numbers, folder)
    return 2 if failed else 0


def _taken(argv: Sequence[str]) -> tuple[Overfitting, list[str]]:
    """Return this command's own arguments, and those of `metarl train`, FAMILY ALGORITHM first."""
    seeds, rest = take_sweep(argv, ("--seeds",))
    own, tokens, numbers = [], list(rest), []
    rest = []
    while tokens:
        name, attached, value = tokens.pop(0).partition("=")
        if name.replace("_", "-") != "--num-tasks":
            rest.append(name + attached + value)
            continue
        numbers += [word for word in value.split(",") if word]
        while tokens and not attached and not tokens[0].startswith("-"):
            numbers += [word for word in tokens.pop(0).split(",") if word]
        if not numbers:
            raise UserError("--num-tasks needs values, as in --num-tasks 8 32 128 inf")
    for name in ("--jobs", "--out", "--test-tasks", "--test-episodes", "--test-seed"):
        value, rest = take_option(rest, name)
        own += [] if value is None else [name, value]
    words = [word for word in rest[:2] if not word.startswith("-")]
    own += ["--num-tasks", *numbers] if numbers else []
    own += ["--seeds", *seeds["seed"]] if seeds else []
    return parse(Overfitting, [*words, *own], prog=PROG), rest


def _planned(
    args: Overfitting, rest: Sequence[str]
) -> tuple[list[OneRun], Path, dict[Path, int | None]]:
    """Return the runs, their folder, and the number of training tasks of each."""
    numbers = [_number(word) for word in args.num_tasks]
    base = read_train(rest)
    # A learner that keeps data of each of its tasks has their number as a setting of its own.
    own = "train_tasks" in field_names(type(base.learner))
    if own and None in numbers:
        raise UserError(
            f"--num-tasks inf: {base.algorithm} keeps data of each training task, so their number "
            f"is finite"
        )
    if own and hasattr(base.learner, "demos"):
        _refuse_more_than_demonstrated(base.learner, numbers)
    elif not own:
        _refuse_other_numbers(base, args.num_tasks, numbers)
    name = "train-tasks" if own else "num-train-tasks"
    refuse_rivals((name,), rest, "--num-tasks")
    swept = {name: [str(number) for number in numbers], "seed": list(args.seeds)}
    names = (folder_name(one) for one in (base.family, base.algorithm))
    default = Path(f"runs/{'-'.join(names)}-overfitting")
    runs, folder = planned(swept, [*rest, "--out", args.out or str(default)], read_train)
    by_run = {}
    for run in runs:
        word = run.setting.partition("=")[2]
        by_run[run.folder] = None if word == "None" else int(word)
    return runs, folder, by_run


def _refuse_more_than_demonstrated(learner: Any, numbers: Sequence[int | None]) -> None:
    """Raise UserError for more tasks than a learner's file demonstrates."""
    from metarl.learning.demonstrations import Demonstrations

    if learner.demos is not None:
        Demonstrations.load(learner.demos).first(max(number or 1 for number in numbers))


def _refuse_other_numbers(base: Any, words: Sequence[str], numbers: Sequence[int | None]) -> None:
    """Raise UserError for numbers of tasks that a learner cannot have: it has data of so many."""
    from metarl.learning.learner import Learner
    from metarl.learning.registry import find_learner
    from metarl.tasks.registry import find_family
    from metarl.worlds.factory import make_worlds

    cls = find_learner(base.algorithm)
    if cls.num_train_tasks is Learner.num_train_tasks:
        return
    spec = make_worlds(find_family(base.family), 1, 1).spec
    has = cls(spec, base.learner).num_train_tasks
    wrong = [word for word, number in zip(words, numbers, strict=True) if number != has]
    if has is not None and wrong:
        raise UserError(
            f"--num-tasks {' '.join(wrong)}: {base.algorithm} trains on the "
            f"{counted(has, 'task')} that it has data of: give --num-tasks {has}"
        )


def _number(word: str) -> int | None:
    """Return a number of training tasks, or None for inf. Raises UserError."""
    try:
        number = None if word == "inf" else whole_number(word)
    except ValueError:
        number = 0
    if number is not None and number < 1:
        raise UserError(f"--num-tasks: '{word}' is neither a whole number of at least 1 nor inf")
    return number


def _report(
    args: Overfitting, runs: Sequence[OneRun], numbers: dict[Path, int | None], folder: Path
) -> None:
    """Test what has not been tested; print and write the table and the page."""
    from metarl.report.page import write_page
    from metarl.report.run_summary import read_run
    from metarl.report.sections.overfitting import FILE

    tested: dict[int | None, list[tuple[int, dict[str, Report]]]] = {}
    with bar("testing") as show:
        for done, run in enumerate(runs):
            show(done, len(runs))
            number = numbers[run.folder]
            found = run.parsed.train.seed, _test(args, run, number)
            tested.setdefault(number, []).append(found)
    rows = [_row(number, found) for number, found in tested.items()]
    test = {"tasks": args.test_tasks, "episodes": args.test_episodes, "seed": args.test_seed}
    names = {"family": runs[0].parsed.family, "algorithm": runs[0].parsed.algorithm}
    with file_errors(folder):
        write_json(folder / FILE, finite({"format": FORMAT, **names, "test": test, "rows": rows}))
    one_each = {numbers[run.folder]: run for run in reversed(runs)}
    shown_runs = [read_run(one_each[number].folder) for number in list(tested)[:8]]
    page = write_page(shown_runs, folder / "report.html")
    for line in table(rows):
        say(line)
    say(f"wrote {folder / FILE} and {page}")
    say(f"next: metarl report {' '.join(quoted(run.path) for run in shown_runs)}")


def _test(args: Overfitting, run: OneRun, number: int | None) -> dict[str, Report]:
    """Return a run's reports on the sets of tasks: those that are written, if they are of it."""
    from metarl.evaluation.protocol import Report, evaluate
    from metarl.evaluation.shift import task_sets
    from metarl.learning import checkpoint as checkpoints
    from metarl.learning.imitation import Shown
    from metarl.run import load_run, worlds_for
    from metarl.tasks.distribution import TaskDistribution

    train, path = run.parsed.train, run.folder / "evaluation" / "overfitting.json"
    given = {"family": run.parsed.family, "algorithm": run.parsed.algorithm}
    said = {name: value for name, value in given.items() if ":" in value}
    weights = checkpoints.verify(checkpoints.newest(run.folder))["sha256"]
    demonstrated = _demonstrated(run)
    how = {"format": FORMAT, "weights": weights, "tasks": args.test_tasks,
           "episodes": args.test_episodes, "seed": args.test_seed,
           "demonstrations": {name: one.digest for name, one in demonstrated.items()}}  # fmt: skip
    if path.is_file():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # else: anew
            kept = dict(read_json(path))
            if kept["how"] == how:
                return {name: Report.from_json(one, path) for name, one in kept["sets"].items()}
    _, family, learner = load_run(str(run.folder), train.device, train.threads, **said)
    found = {}
    for name, tasks in task_sets(TaskDistribution(family), args.test_tasks, number).items():
        policy: Policy = learner
        if learner.adapts_to_demonstrations:
            if name not in demonstrated:
                continue
            tasks = tasks[: len(demonstrated[name].tasks)]
            policy = Shown(learner, demonstrated[name], tasks)
        count = len(tasks) * train.rollouts_per_task
        worlds = worlds_for(family, learner, count, train.threads)
        found[name] = evaluate(
            policy, worlds, tasks, episodes=args.test_episodes, seed=args.test_seed, split=name
        )
    with file_errors(path):
        write_json(path, {"how": how, "sets": {name: r.to_json() for name, r in found.items()}})
    return found


def _demonstrated(run: OneRun) -> dict[str, Demonstrations]:
    """Return the set of tasks -> the demonstrations of them, if there are any."""
    from metarl.learning.demonstrations import Demonstrations

    files = {"train": "demos", "heldout": "heldout_demos"}
    of = {name: getattr(run.parsed.learner, setting, None) for name, setting in files.items()}
    return {name: Demonstrations.load(file) for name, file in of.items() if file}


def _row(number: int | None, found: Sequence[tuple[int, dict[str, Report]]]) -> dict[str, Any]:
    """Return what the seeds of one number of training tasks reached on each set of tasks."""
    sets = {}
    for name in found[0][1]:
        reports = [by_set[name] for _, by_set in found]
        cell = over_seeds(reports, Key("overfitting", name).numpy())
        before, after = [report.mean[0] for report in reports], cell.pop("means")
        sets[name] = cell | {"mean_before": before, "mean": after}
    return {"num_tasks": number, "seeds": [seed for seed, _ in found], "sets": sets}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the interquartile means as lines: a row a number of training tasks."""
    names = list(dict.fromkeys(name for row in rows for name in row["sets"]))
    digits = decimals([one["iqm"] for row in rows for one in row["sets"].values()])
    lines = [f"{'training tasks':>14} {'seeds':>6}" + "".join(f"{name:>24}" for name in names)]
    for row in rows:
        number = "inf" if row["num_tasks"] is None else row["num_tasks"]
        cells = ""
        for name in names:
            one = row["sets"].get(name)
            words = ""
            if one is not None:
                low, high = (shown(end, digits) for end in one["ci95"])
                words = f"{shown(one['iqm'], digits)} [{low}, {high}]"
            cells += f"{words:>24}"
        lines.append(f"{number:>14} {len(row['seeds']):>6}{cells}")
    lines.append("interquartile means over tasks and seeds after adaptation, 95 % intervals")
    cells = [one for row in rows for one in row["sets"].values()]
    return lines + limits(min(len(row["seeds"]) for row in rows), cells)
