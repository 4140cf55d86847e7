"""`metarl tune FAMILY ALGORITHM --space NAME=LOW:HIGH`: searches settings, and says the best."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.distributed import world_size
from metarl.base.errors import UserError, did_you_mean, quoted
from metarl.base.files import file_errors, read_json, write_bytes
from metarl.base.text import counted, decimals
from metarl.commands.arguments import check_counts, parse, take_option
from metarl.commands.training.one_run import OneRun
from metarl.commands.training.sweep import MOST, placed, shares, take_sweep, train_all
from metarl.commands.training.train import read_train
from metarl.commands.tuning.space import Space, read_space
from metarl.commands.tuning.trial import handle, need_optuna, open_study, run_trial, score
from metarl.run import MAY_CHANGE
from metarl.runs.presets import say_tuned
from metarl.runs.progress import say
from metarl.runs.run_folder import lock
from metarl.runs.signals import EXIT_CODES

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 10
"""Trials in the table that is printed."""
ENOUGH = 10
"""Finished trials from which the importance of settings is estimated."""
OWN = ("--trials", "--jobs", "--objective")
"""Options with a value that `metarl train` does not have."""
TRIAL = "--run-trial"
"""What the process of a trial is started with."""


@dataclass(frozen=True)
class Tune:
    """Search settings of a run and of its algorithm, by Optuna.

    Each trial is a training; as many go side by side as there are cores. All settings of `metarl
    train` may be given, and hold for every trial. The same command goes on with a search that was
    stopped, and with a larger --trials makes more.
    """

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """As for `metarl train`."""
    algorithm: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGORITHM")]
    """Likewise."""
    space: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=RANGE")
    ] = ()
    """What to search: LOW:HIGH, LOW:HIGH:log, LOW:HIGH:int or A,B,C; may be given several times."""
    trials: int = 20
    """Trials in all, those of before included."""
    jobs: int | None = None
    """Trials side by side; default: one a core."""
    objective: Literal["first", "last", "mean"] = "last"
    """What is to be large: the held-out return of the first round, which is before adaptation, of
    the last, or the mean of all, when the run ends."""
    prune: bool = True
    """Stop a trial whose best held-out return so far is below the median of the others'."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError."""
        check_counts(self, trials=1, jobs=1)
        if self.trials > MOST:
            raise UserError(f"trials must be at most {MOST}, not {self.trials}")


@dataclass(frozen=True)
class OneTrial(OneRun):
    """A trial: a run that reports to the study."""

    number: int
    """Of the trial, from 0"""
    study: tuple[str, str, str]
    """Its file, the objective, and 1 for pruning or 0"""

    def command(self) -> list[str]:
        """Return the words that run it, or go on with it."""
        file, objective, prune = self.study
        return ["tune", TRIAL, file, str(self.number), objective, prune, *self.argv]


def tune(argv: list[str]) -> int:
    """Search settings; see `Tune`."""
    if TRIAL in argv:
        return run_trial(argv[1:] if argv[0] == TRIAL else [], read_train)
    if {"-h", "--help"} & set(argv):
        parse(Tune, ["--help"], prog="metarl tune")
    need_optuna()
    found, rest = take_sweep(argv, ("--space",))
    own = [word for word in rest if word in ("--no-prune", "--prune")]
    rest = [word for word in rest if word not in own]
    for name in OWN:
        value, rest = take_option(rest, name)
        own += [] if value is None else [f"{name}={value}"]
    how = parse(Tune, ["FAMILY", "ALGORITHM", *own], prog="metarl tune")
    if world_size() > 1:
        raise UserError("metarl tune shares the cores by itself: start it without torchrun")
    base, out, words = placed(rest, _read, "tune-{}")
    space = read_space(found, base, lambda more: read_train([*words, *more]))
    with lock(out):
        search = Search(how, space, base, out, words)
        search.run()
        return search.report(take_option(rest, "--out")[1])


def _read(words: Sequence[str]) -> Any:
    """Read what `metarl train` reads; an option that it does not have may be one of ours."""
    try:
        return read_train(words)
    except UserError as error:
        wrong = re.match(r"unknown option '(--[^']*)'; see", str(error))
        near = did_you_mean(wrong[1], OWN) if wrong else ""
        raise UserError(f"unknown option '{wrong[1]}'{near}") if wrong and near else error from None


class Search:
    """A study in a folder, and its trials."""

    def __init__(self, how: Tune, space: Space, base: Any, out: Path, words: list[str]) -> None:
        """Open the study, or begin it.

        Args:
            how: the command's own options.
            space: what is searched.
            base: the settings without it.
            out: the folder.
            words: of `metarl train`, that all trials have in common.

        Raises:
            UserError: the folder holds another search.
        """
        self.how, self.space, self.base, self.out, self.words = how, space, base, out, words
        self.optuna = need_optuna()
        self.study: Study = open_study(out / "study.db", prune=how.prune)
        self._refuse_another()

    def _refuse_another(self) -> None:
        """Note in the study what is searched, or compare it with what is noted there."""
        train = {k: v for k, v in asdict(self.base.train).items() if k not in MAY_CHANGE}
        goals = {"iterations": self.base.train.iterations, "env_steps": self.base.train.env_steps}
        now = {
            "family": self.base.family, "algorithm": self.base.algorithm,
            "objective": self.how.objective,
            "space": {name: str(values) for name, values in self.space.items()},
            **train, **goals, **asdict(self.base.learner),
        }  # fmt: skip
        now = json.loads(json.dumps(now))
        had = self.study.user_attrs.setdefault("of", now) if self.study.trials else now
        for name in sorted({*now, *had}, key=lambda name: list({**now, **had}).index(name)):
            if had.get(name) != now.get(name):
                raise UserError(
                    f"'{self.out}' holds another search, with {name} {_plain(had.get(name))} and "
                    f"not {_plain(now.get(name))}: choose another --out"
                )
        self.study.set_user_attr("of", now)

    def run(self) -> None:
        """Make the trials that are missing."""
        half = self._in_state("RUNNING")
        made = len(self.study.trials) - len(half)
        at_once, threads = shares(self.base.train, str(self.how.jobs) if self.how.jobs else None)
        left = max(0, self.how.trials - made)
        say(
            f"{counted(self.how.trials, 'trial')} in {self.out}, {at_once} at once on "
            f"{counted(threads, 'thread')} each"
            + (f"; {made} made before, and {len(half)} half-done" if made + len(half) else "")
        )
        say_tuned(self.base.family, self.base.algorithm, self.base.preset)
        train_all(self._trials(half), max(left, len(half)), at_once, threads, self._ended)

    def _trials(self, half: Sequence[FrozenTrial]) -> Iterator[OneTrial]:
        """Yield those that were stopped half-way, and then new ones, each when it is to begin."""
        for trial in half:
            yield self._one(trial.number)
        while len(self.study.trials) < self.how.trials:
            yield self._one(self.study.ask().number)

    def _one(self, number: int) -> OneTrial:
        """Return a trial with the settings that it has, or that the sampler gives it now."""
        trial = handle(self.study, number, self.base.train.seed)
        flags = [f"--{name}={values.suggest(trial, name)}" for name, values in self.space.items()]
        trial.set_user_attr("flags", flags)
        words = (*self.words, *flags, "--out", str(self.out / f"trial-{number:04d}"))
        study = (str(self.out / "study.db"), self.how.objective, "1" if self.how.prune else "0")
        return OneTrial(" ".join(flags), words, read_train(words), number, study)

    def _ended(self, run: OneRun, code: int) -> str:
        """Tell the study of a trial that has ended. Returns what to print of it."""
        assert isinstance(run, OneTrial)
        states, value = self.optuna.trial.TrialState, math.nan
        attributes = self.study.trials[run.number].user_attrs
        if code in EXIT_CODES.values():
            return " was stopped; the same command goes on with it"
        if "pruned" in attributes:
            self.study.tell(run.number, state=states.PRUNED)
            return f"  pruned at {attributes['pruned']}  {run.setting}"
        if not code:
            value = score(read_json(run.folder / "curve.json")[-1], self.how.objective)
        if math.isfinite(value):
            self.study.tell(run.number, value)
            return f"  held-out return {value:.{decimals([value])}f}  {run.setting}"
        why = run.last_words() if code else "its held-out return is not finite"
        trial = handle(self.study, run.number, self.base.train.seed)
        trial.set_user_attr("why", why)
        self.study.tell(run.number, state=states.FAIL)
        return f" failed: {why}"

    def _in_state(self, name: str) -> list[FrozenTrial]:
        return self.study.get_trials(states=(self.optuna.trial.TrialState[name],))

    # --- what comes out ------------------------------------------------------------------------

    def report(self, words: Sequence[str]) -> int:
        """Print and write the trials, and the best as a command. Returns the exit code.

        Args:
            words: of `metarl train`, that the command begins with.
        """
        done = sorted(self._in_state("COMPLETE"), key=lambda trial: -_value(trial))
        counts = {name: len(self._in_state(name)) for name in ("COMPLETE", "PRUNED", "FAIL")}
        say(", ".join(f"{count} {name.lower()}" for name, count in counts.items()))
        self._write()
        if not done:
            say(f"no trial was trained to its end, so there is no best; see {self.out}")
            return 2
        span = _value(done[0]) - _value(done[-1])
        digits = max(decimals([_value(done[0])]), decimals([span]))
        say(f"trial     return  (held-out, {_ROUND[self.how.objective]})")
        for trial in done[:SHOWN]:
            say(f"{trial.number:>5}{_value(trial):>11.{digits}f}  {' '.join(_flags(trial))}")
        if len(done) >= ENOUGH and len(self.space) > 1 and len({t.value for t in done}) > 1:
            self._say_importance()
        say(f"wrote {self.out / 'trials.csv'} and {self.out / 'study.db'}")
        say(f"best: metarl train {shlex.join([*words, *_flags(done[0])])}")
        say(f"next: metarl evaluate {quoted(self.out / f'trial-{done[0].number:04d}')}")
        return 0

    def _say_importance(self) -> None:
        """Print how much of the differences among good trials each setting makes (PED-ANOVA)."""
        found = self.optuna.importance.get_param_importances(
            self.study, evaluator=self.optuna.importance.PedAnovaImportanceEvaluator()
        )
        say("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in found.items()))

    def _write(self) -> None:
        """Write trials.csv."""
        text, names = io.StringIO(), list(self.space)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["trial", "state", "return", *names, "why"])
        for trial in self.study.trials:
            flags = dict(flag[2:].split("=", 1) for flag in _flags(trial))
            why = trial.user_attrs.get("why") or trial.user_attrs.get("pruned", "")
            row = [trial.number, trial.state.name.lower(), trial.value]
            table.writerow([*row, *(flags.get(name) for name in names), why])
        with file_errors(self.out):
            write_bytes(self.out / "trials.csv", text.getvalue().encode())


_ROUND = {"first": "first round", "last": "last round", "mean": "mean of the rounds"}


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _flags(trial: FrozenTrial) -> list[str]:
    return trial.user_attrs.get("flags", [])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return str(value)
