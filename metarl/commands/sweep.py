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
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl.base.distributed import (
    environment_of_one,
    local_world_size,
    rank_of_process,
    world_size,
)
from metarl.base.errors import UserError, quoted
from metarl.base.files import file_errors, finite, read_json, write_json
from metarl.base.keys import Key
from metarl.base.text import counted, decimals, shown
from metarl.base.threads import available_cores
from metarl.commands.arguments import take_option, whole_number
from metarl.runs.config import default_out
from metarl.runs.presets import say_tuned
from metarl.runs.progress import bar, say

MOST = 1000
"""Runs that one command may start."""


@dataclass(frozen=True)
class OneRun:
    """One run of a sweep."""

    setting: str
    """NAME=VALUE of what is swept, or ''"""
    argv: tuple[str, ...]
    """What `metarl train` is given"""
    parsed: Any
    """FAMILY, ALGORITHM, and the settings, as `metarl train` reads them"""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.parsed.train.out)

    def finished(self) -> bool:
        """Whether it has been trained to its end."""
        from metarl.learning import checkpoint as checkpoints
        from metarl.runs.config import finished

        if not self.resumable():
            return False
        given = {"family": self.parsed.family, "algorithm": self.parsed.algorithm}
        files = {name: value for name, value in given.items() if ":" in value}
        newest = checkpoints.load(checkpoints.newest(self.folder), **files)
        return finished(newest, self.parsed.train)

    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        from metarl.runs.run_folder import has_trained

        return has_trained(self.folder)

    def start(self, threads: int) -> subprocess.Popen[bytes]:
        """Train, or go on, in a process of its own that prints to RUN/train.log."""
        again = ("--resume", str(self.folder)) if self.resumable() else ()
        with file_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            log = open(self.folder / "train.log", "ab")  # noqa: SIM115  (the process has it)
        environment = environment_of_one()
        one_thread = {"OMP_NUM_THREADS": str(threads)}
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "metarl", "train", *self.argv, *again],
                stdout=log, stderr=subprocess.STDOUT, env=environment | one_thread,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip


def take_sweep(argv: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Take ``--seeds`` and ``--sweep`` out of the arguments.

    Returns:
        Name of the setting, with dashes -> its values; and the other arguments.
    """
    swept: dict[str, list[str]] = {}
    rest, tokens = [], list(argv)
    while tokens:
        name, given, value = tokens.pop(0).partition("=")
        if name not in ("--seeds", "--sweep"):
            rest.append(name + given + value)
            continue
        values = [value] if given else []
        word = r"[^-=][^=]*=.*" if name == "--sweep" else r"[\d,]+"
        while tokens and not given and re.fullmatch(word, tokens[0]):
            values.append(tokens.pop(0))
        for text in values or [""]:
            text = text if name == "--sweep" else f"seed={text}"
            setting, equals, words = text.partition("=")
            found = [word for word in words.split(",") if word]
            if not (setting and equals and found):
                example = "--seeds 1 2 3" if name == "--seeds" else "--sweep inner_lr=0.05,0.1"
                raise UserError(f"{name} needs values, as in {example}")
            swept.setdefault(setting.replace("_", "-"), []).extend(found)
    return swept, rest


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
    threads = first.train.threads or 1
    at_once = max(
        1, whole_number(jobs) if jobs else available_cores() // threads // local_world_size()
    )
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
    failed = train_all(mine, at_once, threads)
    if rank:
        return 2 if failed else 0
    while world_size() > 1 and not failed and not all(run.finished() for run in runs):
        time.sleep(2.0)  # other ranks still train
    finished = [run for run in runs if run.finished()]
    if finished:
        summarise(finished, out)
    for run, code in failed:
        line = (run.folder / "train.log").read_text(errors="replace").strip().rpartition("\n")[2]
        say(f"failed with code {code}: {run.folder.name}: {line}")
    return 2 if failed else 0


def planned(
    swept: dict[str, list[str]], argv: Sequence[str], read: Callable[[Sequence[str]], Any]
) -> tuple[list[OneRun], Path]:
    """Return the runs, whose settings are all checked, and the folder that they lie in."""
    out, rest = take_option(argv, "--out")
    base = read(rest)
    folder = Path(out or default_out(base.family.rpartition(":")[2], base.algorithm, 0))
    folder = folder if out else folder.with_name(folder.name.replace("-seed0", "-sweep"))
    threads = () if base.train.threads else ("--threads", "1")
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
        flags = [word for name, value in chosen for word in (f"--{name}", value)]
        words = [*rest, *flags, *threads, "--out", str(folder / label)]
        runs.append(OneRun(setting, tuple(words), read(words)))
    if len({run.folder for run in runs}) < len(runs):
        raise UserError("a value is swept twice")
    return runs, folder


def train_all(runs: Sequence[OneRun], at_once: int, threads: int) -> list[tuple[OneRun, int]]:
    """Train so many runs at once, until none is left. Returns those that failed, with their codes.

    Raises KeyboardInterrupt after a signal, once every run has saved its state.
    """
    waiting, failed, over = list(runs), [], 0
    going: dict[OneRun, subprocess.Popen[bytes]] = {}
    with bar("training") as show, _passing_on(going):
        while waiting or going:
            while waiting and len(going) < at_once:
                run = waiting.pop(0)
                going[run] = run.start(threads)
            time.sleep(0.2)
            for run, process in list(going.items()):
                code = process.poll()
                if code is None:
                    continue
                del going[run]
                over += 1
                if code:
                    failed.append((run, code))
                say(f"{over} of {len(runs)}: {run.folder.name}{_last_words(run, code)}")
            if percent := int(100 * (over + sum(map(_share, going))) / len(runs)):
                show(percent, 100)
    return failed


@contextlib.contextmanager
def _passing_on(going: dict[OneRun, subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does; at its end, stop what still runs, which saves."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; what was trained is saved, and the same command goes on with it"
        ) from None
    finally:
        for process in going.values():
            process.send_signal(signal.SIGTERM)
        for process in going.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


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


def _last_words(run: OneRun, code: int) -> str:
    if code:
        return f" failed with code {code}"
    last = read_json(run.folder / "curve.json")[-1]
    return f"  held-out return {shown(last['before'], 1)} → {shown(last['after'], 1)}"


def summarise(runs: Sequence[OneRun], out: Path) -> None:
    """Print what the runs of each setting reached, and write it, and a page that compares them."""
    from metarl.report.page import write_page
    from metarl.report.run_summary import read_run

    groups: dict[str, list[OneRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    rows = [_row(setting, group) for setting, group in groups.items()]
    with file_errors(out):
        write_json(out / "sweep.json", finite(rows))
    write_page([read_run(run.folder) for run in runs], out / "report.html")
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
    say(f"wrote {out / 'sweep.json'} and {out / 'report.html'}")
    say(f"next: metarl evaluate {quoted(runs[0].folder)}")


def _row(setting: str, group: Sequence[OneRun]) -> dict[str, Any]:
    """Return what the seeds of one setting reached in their last held-out evaluation.

    The interval is of a bootstrap over seeds, and over tasks within each (Agarwal et al. 2021).
    """
    from metarl.learning.evaluation import Report
    from metarl.learning.statistics import interval_over_seeds

    reports = [
        Report.load(max((run.folder / "evaluation").glob("heldout_step_*.json"))) for run in group
    ]
    returns = np.array([[task[-1] for task in report.returns] for report in reports])
    centre, low, high = interval_over_seeds(returns, Key("sweep").numpy())
    return {
        "setting": setting, "seeds": [run.parsed.train.seed for run in group],
        "iqm": centre, "ci95": [low, high],
        "means": [report.mean[-1] for report in reports],
        "stand_still": reports[0].stand_still, "runs": [run.folder.name for run in group],
    }  # fmt: skip
