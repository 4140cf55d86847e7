"""`metarl train … --seeds 1 2 3 --sweep NAME=A,B`: many runs side by side, and one report on them.

Each run is a `metarl train` in a process of its own, with a folder of its own. The same command
goes on with what is not finished. Under torchrun the ranks take turns with the runs.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.base.distributed import (
    local_world_size,
    rank_of_process,
    world_size,
)
from metarl.base.errors import UserError, quoted
from metarl.base.files import file_errors, finite, read_json, write_json
from metarl.base.keys import Key
from metarl.base.plugins import folder_name
from metarl.base.text import counted, decimals, shown
from metarl.base.threads import available_cores
from metarl.commands.arguments import take_option, whole_number
from metarl.commands.training.one_run import OneRun
from metarl.runs.config import default_out
from metarl.runs.presets import say_tuned
from metarl.runs.progress import bar, say
from metarl.runs.signals import Ended, ending_by_signals, exit_code

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.runs.config import TrainConfig

MOST = 1000
"""Runs that one command may start."""


EXAMPLES = {"--seeds": "1 2 3", "--sweep": "inner_lr=0.05,0.1", "--space": "inner_lr=0.01:0.3:log"}


def take_sweep(
    argv: Sequence[str], options: Sequence[str] = ("--seeds", "--sweep")
) -> tuple[dict[str, list[str]], list[str]]:
    """Take the options that name settings and their values out of the arguments.

    Args:
        argv: the arguments.
        options: some of `EXAMPLES`.

    Returns:
        Name of the setting, with dashes -> its values; and the other arguments.
    """
    swept: dict[str, list[str]] = {}
    rest, tokens = [], list(argv)
    while tokens:
        name, given, value = tokens.pop(0).partition("=")
        if name not in options:
            rest.append(name + given + value)
            continue
        values = [value] if given else []
        word = r"[\d,]+" if name == "--seeds" else r"[^-=][^=]*=.*"
        while tokens and not given and re.fullmatch(word, tokens[0]):
            values.append(tokens.pop(0))
        for text in values or [""]:
            text = f"seed={text}" if name == "--seeds" else text
            setting, equals, words = text.partition("=")
            found = [word for word in words.split(",") if word]
            if not (setting and equals and found):
                wrong = tokens and not values and not tokens[0].startswith("--")
                got = f", and '{tokens[0]}' is none" if wrong else ""
                raise UserError(f"{name} needs values, as in {name} {EXAMPLES[name]}{got}")
            swept.setdefault(setting.replace("_", "-"), []).extend(found)
    refuse_rivals(swept, rest, "/".join(options))
    return swept, rest


def refuse_rivals(swept: Iterable[str], argv: Sequence[str], by: str) -> None:
    """Raise UserError for a setting that is to have many values, and is also given one.

    Args:
        swept: names with dashes.
        argv: the other arguments.
        by: the option that gives the many values.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    for name in swept:
        for option in (f"--{name}", f"--no-{name}"):
            if option in given:
                raise UserError(f"{option} gives one value to what {by} varies: leave one out")


def sweep(argv: Sequence[str], read: Callable[[Sequence[str]], Any]) -> int:
    """Train every combination of the swept values, and report on all of them.

    Args:
        argv: what follows ``metarl train``.
        read: turns the arguments of one run into its family, algorithm and settings.
    """
    swept, argv = take_sweep(argv)
    jobs, argv = take_option(argv, "--jobs")
    runs, out = planned(swept, argv, read)
    first = runs[0].parsed
    at_once, threads = shares(first.train, jobs)
    rank = rank_of_process()
    share = runs[rank :: world_size()]
    mine = [run for run in share if not run.finished()]
    done = len(share) - len(mine)
    whose = f"rank {rank} has {len(share)} of " if world_size() > 1 else ""
    say(
        f"{whose}{counted(len(runs), 'run')} in {out}, {at_once} at once "
        f"on {counted(threads, 'thread')} each" + (f"; {done} finished before" if done else "")
    )
    say_tuned(first.family, first.algorithm, first.preset)
    failed = train_all(mine, len(mine), at_once, threads)
    if rank:
        return 2 if failed else 0
    while world_size() > 1 and not failed and not all(run.finished() for run in runs):
        time.sleep(2.0)  # other ranks still train
    finished = [run for run in runs if run.finished()]
    if finished:
        summarise(finished, out)
    for run, code in failed:
        say(f"failed with code {code}: {run.folder.name}: {run.last_words()}")
    return 2 if failed else 0


def shares(train: TrainConfig, jobs: str | None) -> tuple[int, int]:
    """Return how many runs go at once, one a core unless it is said, and the threads of each.

    Raises UserError for a number of jobs that is none.
    """
    threads = train.threads or 1
    if jobs is None:
        return max(1, available_cores() // threads // local_world_size()), threads
    try:
        at_once = whole_number(jobs)
    except ValueError:
        at_once = 0
    if at_once < 1:
        raise UserError(f"--jobs must be a whole number of at least 1, not '{jobs}'")
    return at_once, threads


def placed(
    argv: Sequence[str], read: Callable[[Sequence[str]], Any], kind: str
) -> tuple[Any, Path, list[str]]:
    """Return the settings that many runs share, the folder they lie in, and their common words.

    Args:
        argv: of `metarl train`.
        read: see `sweep`.
        kind: makes the name of the folder if ``--out`` gives none.
    """
    out, rest = take_option(argv, "--out")
    base = read(rest)
    names = [folder_name(one) for one in (base.family, base.algorithm)]
    own = Path(default_out(*names, seed=0))
    folder = Path(out) if out else own.with_name(kind.format(own.name.removesuffix("-seed0")))
    return base, folder, rest if base.train.threads else [*rest, "--threads", "1"]


def planned(
    swept: dict[str, list[str]], argv: Sequence[str], read: Callable[[Sequence[str]], Any]
) -> tuple[list[OneRun], Path]:
    """Return the runs, whose settings are all checked, and the folder that they lie in."""
    base, folder, rest = placed(argv, read, "{}-sweep")
    values = [[(name, value) for value in found] for name, found in swept.items()]
    combinations = list(itertools.product(*values))
    if len(combinations) > MOST:
        raise UserError(f"the sweep has {len(combinations)} runs; the limit is {MOST}")
    runs = []
    for chosen in combinations:
        named = {name: value for name, value in chosen if name != "seed"}
        setting = " ".join(f"{name}={value}" for name, value in named.items())
        seed = dict(chosen).get("seed", str(base.train.seed))
        label = "-".join([*setting.replace("/", "_").split(), f"seed{seed}"])
        flags = [f"--{name}={value}" for name, value in chosen]
        words = [*rest, *flags, "--out", str(folder / label)]
        runs.append(OneRun(setting, tuple(words), read(words)))
    settings = {repr((replace(run.parsed.train, out=None), run.parsed.learner)) for run in runs}
    distinct = min(len(settings), len({run.folder for run in runs}))
    if distinct < len(runs):  # 1 and 01 are one seed, a/b and a_b one folder
        raise UserError("a value is swept twice")
    return runs, folder


def train_all(
    runs: Iterable[OneRun], total: int, at_once: int, threads: int,
    ended: Callable[[OneRun, int], str] | None = None,
) -> list[tuple[OneRun, int]]:  # fmt: skip
    """Train so many runs at once, until none is left.

    Args:
        runs: the next is asked for when there is room for it, and `ended` has been told of others.
        total: how many there will be.
        at_once: processes.
        threads: of each.
        ended: is told of a run that ended, and its code, and returns what to print of it.

    Returns:
        Those that failed, with their codes.

    Raises:
        KeyboardInterrupt: after a signal, once every run has saved its state.
    """
    waiting, failed, over = iter(runs), [], 0
    going: dict[OneRun, subprocess.Popen[bytes]] = {}
    with bar("training") as show, _passing_on(going):
        while True:
            while len(going) < at_once and (run := next(waiting, None)):
                going[run] = run.start(threads)
            if not going:
                return failed
            time.sleep(0.2)
            for run, process in list(going.items()):
                code = process.poll()
                if code is None:
                    continue
                del going[run]
                over += 1
                if code:
                    failed.append((run, code))
                words = (ended or _outcome)(run, code)
                say(f"{over} of {total}: {run.folder.name}{words}")
            if percent := int(100 * (over + sum(map(_share, going))) / total):
                show(percent, 100)


@contextlib.contextmanager
def _passing_on(going: dict[OneRun, subprocess.Popen[bytes]]) -> Iterator[None]:
    """At the end of the block, stop what still runs, which saves; a signal ends the block."""
    try:
        with ending_by_signals():
            yield
    except KeyboardInterrupt as stop:
        words = "stopped; what was trained is saved, and the same command goes on with it"
        raise Ended(words, exit_code(stop)) from None
    finally:
        for process in going.values():
            process.send_signal(signal.SIGTERM)
        for process in going.values():
            process.wait()


def _share(run: OneRun) -> float:
    """Return how much of its training a run has behind it, by its newest checkpoint."""
    steps = [p.name[5:] for p in (run.folder / "checkpoints").glob("step_*")]
    done = max((int(step) for step in steps if step.isdecimal()), default=0)
    train = run.parsed.train
    if train.env_steps is None:
        return min(1.0, done / train.iterations)
    with contextlib.suppress(OSError, UserError, KeyError, IndexError, TypeError):
        return min(1.0, read_json(run.folder / "curve.json")[-1]["env_steps"] / train.env_steps)
    return 0.0


def _outcome(run: OneRun, code: int) -> str:
    if code:
        return f" failed with code {code}"
    last = read_json(run.folder / "curve.json")[-1]
    return f"  held-out return {shown(last['before'], 1)} → {shown(last['after'], 1)}"


def summarise(runs: Sequence[OneRun], out: Path) -> None:
    """Print what the runs of each setting reached, and write it, and a page that compares them."""
    from metarl.report.page import MOST_RUNS, write_page
    from metarl.report.run_summary import read_run

    groups: dict[str, list[OneRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    rows = [_row(setting, group) for setting, group in groups.items()]
    with file_errors(out):
        write_json(out / "sweep.json", finite(rows))
    write_page([read_run(run.folder) for run in runs[:MOST_RUNS]], out / "report.html")
    digits = decimals([row["iqm"] for row in rows])
    width = max(len("setting"), *(len(row["setting"]) for row in rows)) if len(rows) > 1 else 0
    heading = f"{'setting':<{width}}  " if width else ""
    say(f"{heading}seeds      IQM   95 % interval  (held-out, last round)")
    for row in sorted(rows, key=lambda row: -row["iqm"]):
        low, high = row["ci95"]
        name = f"{row['setting']:<{width}}  " if width else ""
        say(
            f"{name}{len(row['seeds']):>5}{row['iqm']:>9.{digits}f}   "
            f"[{low:.{digits}f}, {high:.{digits}f}]"
        )
    for line in limits(min(len(row["seeds"]) for row in rows), rows):
        say(line)
    some = f", of the first {MOST_RUNS} runs" * (len(runs) > MOST_RUNS)
    say(f"wrote {out / 'sweep.json'} and {out / 'report.html'}{some}")
    say(f"next: metarl evaluate {quoted(runs[0].folder)}")


def over_seeds(reports: Sequence[Report], rng: np.random.Generator) -> dict[str, Any]:
    """Return what the seeds of one setting reached in their last round, on the same tasks.

    The interval is of a bootstrap over seeds, and over tasks within each (Agarwal et al. 2021).

    Returns:
        ``tasks`` that did not diverge, and whether they are ``few``; ``iqm`` and ``ci95``;
        ``means`` of the seeds; ``stand_still``; ``train_is_heldout``.
    """
    from metarl.evaluation.statistics import centre_over_seeds, too_few

    returns = np.array([[task[-1] for task in report.returns] for report in reports])
    first, known = reports[0], np.isfinite(returns).all(0)
    centre, low, high = centre_over_seeds(returns, first.tasks, rng)
    return {
        "tasks": int(known.sum()), "few": bool(too_few(np.array(first.tasks)[known])),
        "iqm": centre, "ci95": [low, high], "means": [report.mean[-1] for report in reports],
        "stand_still": first.stand_still, "train_is_heldout": first.train_is_heldout,
    }  # fmt: skip


def limits(seeds: int, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words what intervals over seeds and tasks do not hold.

    Args:
        seeds: the fewest behind an interval.
        cells: what `over_seeds` returned of each.
    """
    found = []
    if any(one["train_is_heldout"] for one in cells):
        found.append("train = held-out: these tasks are those of training")
    if seeds == 1:
        found.append("of one seed: what another would give is not in the interval")
    if few := [one["tasks"] for one in cells if one["few"]]:
        found.append(f"{counted(min(few), 'task')} behind an interval: too few to rely on it")
    return found


def _row(setting: str, group: Sequence[OneRun]) -> dict[str, Any]:
    """Return what the seeds of one setting reached in their last held-out evaluation."""
    from metarl.evaluation.protocol import Report

    reports = []
    for folder in (run.folder / "evaluation" for run in group):
        files, missing = folder.glob("heldout_step_*.json"), folder / "heldout_step_*.json"
        reports.append(Report.load(max(files, default=missing)))
    return {
        "setting": setting, "seeds": [run.parsed.train.seed for run in group],
        **over_seeds(reports, Key("sweep").numpy()), "runs": [run.folder.name for run in group],
    }  # fmt: skip
