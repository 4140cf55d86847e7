"""A trial of `metarl tune`, in its process: a training that reports its curve to Optuna."""

from __future__ import annotations

import contextlib
import math
import signal
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.commands.training.one_run import accompany
from metarl.runs.callback import Callback, Run
from metarl.runs.config import TrainConfig, goal
from metarl.runs.signals import TrainingStopped

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from metarl.evaluation.protocol import Report

OBJECTIVES = ("first", "last", "mean")
"""Rounds whose held-out return is to be large."""
PARTS = 10
"""The held-out curve is read off after each tenth of a run."""
STARTUP = 4
"""Trials that are finished before one is pruned."""
PATIENCE = 2
"""Tenths of a run before it is pruned."""


def need_optuna() -> ModuleType:
    """Return Optuna, made quiet. Raises UserError naming the extra if it is not there."""
    try:
        import optuna
    except ImportError:
        raise UserError("metarl tune needs Optuna: pip install 'metarl-toolkit[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(file: Path, *, prune: bool) -> Study:
    """Open the study in a SQLite file, or begin it. Raises UserError if it is no such file."""
    optuna = need_optuna()
    try:
        with contextlib.closing(sqlite3.connect(file)) as found:
            tables = {name for (name,) in found.execute("select name from sqlite_master")}
    except sqlite3.Error as error:
        raise UserError(f"cannot use '{file}' as a study: {error}") from None
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise UserError(f"cannot use '{file}' as a study: it is another program's database")
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{file.absolute()}", engine_kwargs={"connect_args": {"timeout": 100}}
    )
    median = optuna.pruners.MedianPruner(STARTUP, PATIENCE)
    return optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", load_if_exists=True,
        pruner=median if prune else optuna.pruners.NopPruner(),
    )  # fmt: skip


def handle(study: Study, number: int, seed: int) -> Trial:
    """Return a trial of a study to suggest and report to.

    Its sampler draws by the seed and the number alone, so that a search which was interrupted goes
    on as if it had not been.
    """
    optuna = need_optuna()
    draws = int(Key(seed, "tune", number).numpy().integers(2**31))
    study.sampler = optuna.samplers.TPESampler(seed=draws, constant_liar=True)
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def score(entry: Mapping[str, Any], objective: str) -> float:
    """Return what an evaluation of a curve is worth; NaN if a round of it all diverged.

    Args:
        entry: has the mean return of each round; the first is that before adaptation.
        objective: first or last round, or the mean of all.
    """
    rounds = [math.nan if value is None else float(value) for value in entry["mean"]]
    return {"first": rounds[0], "last": rounds[-1], "mean": sum(rounds) / len(rounds)}[objective]


def read_off(
    curve: Sequence[Mapping[str, Any]], config: TrainConfig, objective: str
) -> dict[int, float]:
    """Return part -> the score of the newest evaluation at its end, for the `PARTS` that are over.

    So trials compare although they evaluate at other moments, as those of more tasks an iteration
    do when the length is given in env steps.
    """
    unit = "iteration" if config.env_steps is None else "env_steps"
    over = PARTS * max(entry[unit] for entry in curve) // goal(config)
    return {
        part: score(
            [entry for entry in curve if PARTS * entry[unit] <= part * goal(config)][-1], objective
        )
        for part in range(1, min(over, PARTS) + 1)
    }


class Reporting(Callback):
    """Reports the held-out curve of a run to its trial, and stops it if the pruner says so."""

    def __init__(self, trial: Trial, objective: str) -> None:
        """Take the trial, and the `objective` of `score`."""
        self.trial, self.objective, self.pruned = trial, objective, False
        self.known = dict(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_evaluation(self, run: Run, report: Report) -> None:
        """Report what is new of the curve, that of before a resume included."""
        new = read_off(run.position.curve, run.config, self.objective)
        for part in sorted(set(new) - set(self.known)):
            self.trial.report(new[part], part)
            self.known[part] = new[part]
        ended = run.position.done(run.config) >= goal(run.config)
        if new and not ended and self.trial.should_prune():
            self.pruned = True
            self.trial.set_user_attr("pruned", f"{100 * max(new) // PARTS} %")
            signal.raise_signal(signal.SIGTERM)  # which saves the run and ends it


def run_trial(argv: Sequence[str], read: Callable[[Sequence[str]], Any]) -> int:
    """Train one trial, or go on with it. Returns 0, also if it was pruned.

    Args:
        argv: the study's file, the trial's number, the objective, 1 for pruning or 0, and the words
            of `metarl train`.
        read: turns these into family, algorithm and settings.
    """
    file, number, objective, prune, words = _given(argv)
    got = read(words)
    accompany(Path(got.train.out))
    study = open_study(Path(file), prune=prune == "1")
    if number not in (one.number for one in study.trials if one.state.name == "RUNNING"):
        raise UserError(f"the study '{file}' has no trial {number} that has begun and not ended")
    callback = Reporting(handle(study, number, got.train.seed), objective)
    from metarl.run import train_or_resume

    try:
        train_or_resume(got.family, got.algorithm, got.train, got.learner, callbacks=(callback,))
    except TrainingStopped:
        if not callback.pruned:
            raise
    return 0


def _given(argv: Sequence[str]) -> tuple[str, int, str, str, Sequence[str]]:
    """Return the words that a search starts a trial with. Raises UserError if they are others."""
    file, number, objective, prune, *words = [*argv, "", "", "", ""][: max(4, len(argv))]
    known = number.isdecimal() and len(number) < 10 and Path(file).is_file()
    if not known or objective not in OBJECTIVES or prune not in ("0", "1"):
        raise UserError(
            "--run-trial is what `metarl tune` starts the processes of its trials with: leave it "
            "out, or run a trial by itself with `metarl train`"
        )
    return file, int(number), objective, prune, words
