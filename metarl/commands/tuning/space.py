"""What `metarl tune` searches: ranges and choices, as words of the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metarl.base.errors import UserError
from metarl.commands.flags import flags_of
from metarl.runs.config import TrainConfig

if TYPE_CHECKING:
    from optuna.trial import Trial

FIXED = (
    "seed", "iterations", "env-steps", "evaluate-every", "evaluate-tasks", "evaluate-episodes",
    "out", "threads", "device", "progress", "preset", "config", "resume",
)  # fmt: skip
"""Settings that trials have in common, since they would not be comparable otherwise."""
FORM = "LOW:HIGH, LOW:HIGH:log, LOW:HIGH:int or A,B,C"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    whole: bool

    def __str__(self) -> str:
        marks = [mark for mark, on in (("log", self.log), ("int", self.whole)) if on]
        return ":".join([*self.ends(), *marks])

    def suggest(self, trial: Trial, name: str) -> str:
        """Let the sampler of a trial choose a number. Returns it as a word, four digits of it."""
        if self.whole:
            return str(trial.suggest_int(name, int(self.low), int(self.high), log=self.log))
        value = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.4g}")
        return f"{min(max(value, self.low), self.high):.12g}"

    def ends(self) -> list[str]:
        """Return the words of both ends."""
        return [f"{end:.0f}" if self.whole else f"{end:.12g}" for end in (self.low, self.high)]


@dataclass(frozen=True)
class Choice:
    """Some words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.words)

    def suggest(self, trial: Trial, name: str) -> str:
        """Let the sampler of a trial choose a word."""
        return str(trial.suggest_categorical(name, self.words))

    def ends(self) -> list[str]:
        """Return all the words."""
        return list(self.words)


Space = dict[str, Range | Choice]
"""Name of a setting, with dashes -> what is searched of it."""


def read_space(
    found: Mapping[str, Sequence[str]], base: Any, read: Callable[[Sequence[str]], Any]
) -> Space:
    """Return the space that the words of ``--space`` describe.

    Args:
        found: name -> its words, as `take_sweep` returns them.
        base: the settings without the space.
        read: reads the settings with further words, and raises UserError if it cannot.
    """
    if not found:
        raise UserError(
            f"say what to search, as in --space inner_lr=0.01:0.3:log; a value is {FORM}"
        )
    kinds = {
        flag.option[2:]: flag.word
        for of in (TrainConfig, type(base.learner))
        for flag in flags_of(of)
    }
    space: Space = {}
    for name, words in found.items():
        if name in FIXED:
            raise UserError(f"--space: {name} is the same in all trials; give it as --{name}")
        space[name] = _one(name, words, whole=kinds.get(name) is int)
    ends = {name: values.ends() for name, values in space.items()}
    for k in range(max(map(len, ends.values()))):
        read([f"--{name}={words[min(k, len(words) - 1)]}" for name, words in ends.items()])
    return space


def _one(name: str, words: Sequence[str], *, whole: bool) -> Range | Choice:
    if len(words) == 1 and ":" in words[0]:
        return _range(name, words[0], whole=whole)
    if len(set(words)) < 2 or len(set(words)) < len(words):
        raise UserError(f"--space {name} needs different values to choose from: {FORM}")
    return Choice(tuple(words))


def _range(name: str, text: str, *, whole: bool) -> Range:
    low, high, *marks = text.split(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = math.nan, math.nan
    if (
        set(marks) - {"log", "int"}
        or len(set(marks)) < len(marks)
        or not all(map(math.isfinite, ends))
    ):
        raise UserError(f"--space {name} must be {FORM}, not '{text}'")
    if ends[0] >= ends[1]:
        raise UserError(f"--space {name}: the range {low}:{high} is empty")
    if "log" in marks and ends[0] <= 0:
        raise UserError(f"--space {name}: a logarithmic range begins above 0, not at {low}")
    whole = whole or "int" in marks
    if whole and not all(end.is_integer() and abs(end) < 2**53 for end in ends):
        raise UserError(f"--space {name}: the ends of {low}:{high} must be whole numbers")
    return Range(*ends, "log" in marks, whole)
