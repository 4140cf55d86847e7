"""evaluate(): the meta-test protocol, one function for every learner, and the report.

Round k of a trial is one episode of every world with deterministic actions, in the state that the
learner has after k rounds of adaptation; round 0 is before any data. What the learner adapts to is
either that very episode (RL², PEARL) or, if it must explore, a separate one with noise (MAML).
Nothing of the learner changes but the state, which is thrown away at the end.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from metarl.base.errors import UserError, check_progress
from metarl.base.files import as_path, file_errors, finite, read_json, write_json
from metarl.base.keys import Key
from metarl.base.text import ALL_DIVERGED, counted, decimals, shown
from metarl.evaluation import statistics
from metarl.evaluation.divergence import WARN_ABOVE
from metarl.evaluation.measures import (
    _stand_still,
    measured_in_words,
    measures,
    stand_still,
)
from metarl.evaluation.report_fields import checked
from metarl.evaluation.statistics import gain_interval, iqm_interval, mean_of_tasks, too_few
from metarl.learning.adaptation import Watch, adaptation_rounds, check_episodes
from metarl.tasks.distribution import TaskDistribution
from metarl.worlds.policy import Policy, as_policy
from metarl.worlds.rollout import mean_of_finished
from metarl.worlds.vector import VecWorlds, check_worlds

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily

__all__ = ["Played", "Report", "evaluate", "play", "report_of", "stand_still"]
HARDLY = 0.05
"""A lead over standing still that is surely below this share of what that scores is hardly one."""


WITHIN = (
    "note: what it gains within its first episode is in every round: `metarl probe` shows it, and "
    "`metarl evaluate --against` measures it"
)


@dataclass(frozen=True)
class Report:
    """An adaptation curve on M tasks, K rounds. The fields are the keys of the JSON."""

    family: str
    algorithm: str
    split: str
    seed: int
    rollouts_per_task: int
    task_names: list[str]
    """[P]"""
    tasks: list[list[float]]
    """(M, P) nested lists"""
    returns: list[list[float]]
    """(M, K+1) nested lists, the mean over the worlds of task m in round k that did not diverge;
    NaN, which is null in JSON, where all of them did. Such a task is left out of iqm, ci95, mean
    and stand_still in every round, so that these compare the same tasks, and of the gain."""
    experience: list[int]
    """[K+1], episodes of a task that the learner had seen before round k; a horizon of a world is
    one, whatever failures began anew within it"""
    iqm: list[float]
    """[K+1], interquartile mean over tasks; see `statistics.iqm_interval`. Like ci95, mean
    and stand_still it is NaN (null) where every world of every task diverged"""
    ci95: list[list[float]]
    """(K+1, 2) nested lists, bootstrap interval of the interquartile mean"""
    mean: list[float]
    """[K+1], mean over tasks"""
    stand_still: float
    """Mean return of zero actions on the same tasks"""
    env_steps: int
    """Environment steps that the evaluation took"""
    seconds: float
    diverged: int = 0
    """Scored episodes that the physics did not see to their end: left out of the returns"""
    exploring: int = 0
    """Rounds, from the first, whose episodes explore and use nothing of the task that was seen"""
    adapts_within: bool = False
    """Whether it adapts to what is scored: round 0 is its first episode, not before adaptation"""
    train_is_heldout: bool = False
    """Whether these held-out tasks are the training tasks, since every parameter is a choice"""
    stand_still_by_task: list[float] = field(default_factory=list)
    """[M], whose mean is `stand_still` where no task is left out; NaN (null) where every world of a
    task diverged; empty in files of versions that did not write it"""
    diagnostics: dict[str, Any] = field(default_factory=dict)
    """What the learner says of its state: name -> (K+1, M, …) nested lists, means over worlds; and
    what was measured besides returns, ``measured/NAME``: see `metarl.evaluation.measures`"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `metarl evaluate --json`.

        It has `diagnostics`, `exploring` and `cvar05` (see `worst_tail`) only if there are some.
        """
        data = cast(dict[str, Any], finite(asdict(self))) | {"distinct_tasks": self.distinct_tasks}
        data["cvar05"] = finite(statistics.worst_tail(self.returns))
        return {
            k: v for k, v in data.items() if v or k not in ("diagnostics", "exploring", "cvar05")
        }

    def save(self, path: Path | str, more: Mapping[str, Any] | None = None) -> None:
        """Write the JSON, and `more` in it, whole or not at all; folders are made.

        Raises UserError if that fails.
        """
        with file_errors(path := as_path(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self.to_json() | dict(more or {}))

    @classmethod
    def from_json(cls, data: object, where: object = "report") -> Report:
        """Read a report; keys beyond the fields are ignored. Raises UserError naming `where`."""
        if not isinstance(data, dict):
            raise UserError(f"'{where}' is not an evaluation report: no JSON object")
        needed = [f.name for f in fields(cls) if {f.default, f.default_factory} == {MISSING}]
        missing = [name for name in needed if name not in data]
        if missing:
            raise UserError(f"'{where}' is not an evaluation report: it lacks {', '.join(missing)}")
        values: dict[str, Any] = {"diverged": 0, "exploring": 0, "train_is_heldout": None}
        values |= {field.name: data[field.name] for field in fields(cls) if field.name in data}
        try:
            return cls(**values | checked(values))
        except ValueError as error:
            raise UserError(f"'{where}' is not an evaluation report: {error}") from None

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read a report from a file. Raises UserError if it is missing or malformed."""
        return cls.from_json(read_json(as_path(path)), path)

    @property
    def distinct_tasks(self) -> int:
        """How many different tasks there are: two directions are two, however often they occur."""
        return len({tuple(task) for task in self.tasks})

    def worlds_each(self) -> str:
        """Return in how many worlds each distinct task ran in a round: '20 worlds'."""
        occurs = Counter(map(tuple, self.tasks)).values()
        low, high = (most * self.rollouts_per_task for most in (min(occurs), max(occurs)))
        return counted(low, "world") if low == high else f"{low} to {high} worlds"

    def mark(self) -> str:
        """Return what must stand behind the number of distinct tasks; nothing if they are plain.

        Such as " (train = held-out, 15 worlds each)".
        """
        parts = ["train = held-out"] if self.train_is_heldout else []
        parts += [f"{self.worlds_each()} each"] if self.distinct_tasks < len(self.tasks) else []
        return f" ({', '.join(parts)})" if parts else ""

    def difference(self) -> tuple[float, float, float]:
        """Return the interquartile mean of (last round − round 0), and its 95 % interval.

        A task of which every world diverged in either is left out; NaN if that leaves none.
        """
        returns = np.asarray(self.returns)
        return gain_interval(returns[:, -1] - returns[:, 0], self.tasks, self.seed)

    def lead(self) -> tuple[float, float, float]:
        """Return the interquartile mean of (last round − standing still), and its 95 % interval."""
        still = np.asarray(self.stand_still_by_task or self.stand_still)
        return gain_interval(np.asarray(self.returns)[:, -1] - still, self.tasks, self.seed)

    def verdict(self) -> str:
        """Return in words what the intervals show of adapting, and against standing still."""
        if too_few(self.tasks):
            return "too few tasks for a verdict"
        compared = np.isfinite(np.asarray(self.returns)[:, [0, -1]]).all(1)
        compared &= np.isfinite(self.stand_still_by_task or self.stand_still)
        if not compared.any():
            return "every episode diverged, so there is nothing to compare"
        if too_few(np.asarray(self.tasks)[compared]):
            return "too few tasks for a verdict that did not diverge"
        words = []
        if len(self.experience) > 1:
            _, low, high = self.difference()
            words = ["adaptation gains" if low > 0 else "adaptation harms" if high < 0
                     else "no gain by adaptation is shown"]  # fmt: skip
        _, low, high = self.lead()
        words.append(
            "worse than standing still" if high < 0
            else "not shown to be better than standing still" if low <= 0
            else "hardly better than standing still" if high < HARDLY * abs(self.stand_still)
            else "better than standing still"
        )  # fmt: skip
        if self.diverged > WARN_ABOVE * self._episodes():
            words.append(f"{self.diverged} of {self._episodes()} episodes diverged")
        return "; ".join(words)

    def _episodes(self) -> int:
        return len(self.tasks) * self.rollouts_per_task * len(self.experience)

    def divergence(self) -> str:
        """Return how many scored episodes diverged, and in how many tasks all of a round's did."""
        whole = int(np.isnan(np.asarray(self.returns)).any(1).sum())
        scored = counted(self._episodes(), "scored episode")
        text = f"the physics diverged in {self.diverged} of {scored}, which no mean holds"
        tasks = f"; of {whole} of {counted(len(self.tasks), 'task')} a round has no return at all"
        return text + (tasks if whole else "")

    def summary(self) -> list[str]:
        """Return the adaptation curve as lines of a table, with its reference lines."""
        same = " (train = held-out)" if self.train_is_heldout else ""
        lines = [
            f"{self.family}  {self.algorithm}  {self.split}: "
            f"{counted(self.distinct_tasks, 'task')}{same}, {self.worlds_each()} each, "
            f"seed {self.seed}",
            f"{'episodes seen':>15}{'mean':>10}{'IQM':>10}   95 % interval of the IQM",
        ]
        digits = decimals([*self.mean, self.stand_still])
        table = zip(self.experience, self.mean, self.iqm, self.ci95, strict=True)
        for k, (seen, mean, iqm, (low, high)) in enumerate(table):
            lines.append(
                f"{seen:>15}{mean:>10.{digits}f}{iqm:>10.{digits}f}"
                f"   [{low:.{digits}f}, {high:.{digits}f}]{'   exploring' * (k < self.exploring)}"
                if math.isfinite(mean)
                else f"{seen:>15}  {ALL_DIVERGED}"
            )
        lines.append(f"{'stand still':>15} {shown(self.stand_still, digits):>9}")
        compared = {"lead over standing still": self.lead}
        if len(self.experience) > 1:
            compared = {"gain over episode 0": self.difference, **compared}
        for words, difference in compared.items():
            centre, low, high = difference()
            interval = f"(IQM; 95 % interval {low:+.{digits}f} to {high:+.{digits}f})"
            known = f"{centre:+.{digits}f} {interval}"
            lines.append(f"{words}: {known if math.isfinite(centre) else ALL_DIVERGED}")
        lines += measured_in_words(self.diagnostics, range(len(self.experience)))
        lines.append(f"verdict: {(said := self.verdict())}")
        if self.adapts_within and self.algorithm != "ppo" and "no gain" in said:
            lines.append(WITHIN)
        if tail := statistics.worst_tail(self.returns):
            lines.append(f"worst 5 % of tasks: {' → '.join(shown(x, digits) for x in tail)}")
        if self.diverged:
            lines.append(f"note: {self.divergence()}")
        if too_few(self.tasks):
            lines.append("note: too few tasks for 95 % intervals: these hold the truth less often")
        if self.train_is_heldout:
            lines.append("note: tasks are choices, so the held-out tasks are the training tasks")
        return lines


@torch.no_grad()
def evaluate(
    policy: Policy | Callable[[Tensor], Tensor],
    worlds: VecWorlds,
    tasks: Tasks,
    *,
    episodes: int,
    seed: int,
    split: str = "heldout",
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> Report:
    """Let a policy adapt to tasks, and score it before and after each round.

    Args:
        policy: a learner, which is not changed, or another policy, or a function from (B, O)
            observations to (B, A) actions.
        worlds: a multiple of len(tasks) worlds; E = num_worlds / M of them a task.
        tasks: M tasks.
        episodes: K, adaptation rounds; 0 scores the prior alone.
        seed: of initial states and exploration.
        split: what to call the tasks in the report.
        progress: called with (rounds done, rounds in all).
        watch: sees each step; see `metarl.learning.adaptation.adaptation_rounds`.

    Returns:
        The report, whose curve has K + 1 points.
    """
    played = [play(policy, worlds, tasks, episodes=episodes, seed=seed, progress=progress,
                   watch=watch)]  # fmt: skip
    return report_of(played, policy, worlds.family, tasks, split=split, seed=seed)


class Played(NamedTuple):
    """What an evaluation measured in a part of its tasks."""

    returns: np.ndarray
    """(m, K+1) float64, means over the worlds of a task"""
    still: np.ndarray
    """(m, E) float64, the return of zero actions in every world; NaN where it diverged"""
    diverged: int
    """Scored episodes that diverged"""
    diagnostics: dict[str, Any]
    """Name -> (K+1, m, …) nested lists"""
    env_steps: int
    seconds: float


@torch.no_grad()
def play(
    policy: Policy | Callable[[Tensor], Tensor], worlds: VecWorlds, tasks: Tasks, *, episodes: int,
    seed: int, progress: Callable[[int, int], None] | None = None, watch: Watch | None = None,
) -> Played:  # fmt: skip
    """Measure what `evaluate` reports, in tasks that may be a slice of the evaluation's."""
    _check_fit(policy, worlds, tasks, episodes)
    started, steps = time.perf_counter(), worlds.env_steps
    still = _stand_still(worlds, tasks, seed).numpy()
    rounds = _rounds(as_policy(policy), worlds, len(tasks), episodes, seed, progress, watch)
    seconds = time.perf_counter() - started
    return Played(rounds[0], still, *rounds[1:], worlds.env_steps - steps, seconds)


def report_of(
    played: Sequence[Played], policy: Policy | Callable[[Tensor], Tensor], family: TaskFamily,
    tasks: Tasks, *, split: str, seed: int,
) -> Report:  # fmt: skip
    """Return the report on an evaluation whose tasks were played in parts.

    Args:
        played: the parts, in the order of the tasks.
        policy: what was evaluated.
        family: whose tasks they are.
        tasks: all of them.
        split: see `evaluate`.
        seed: likewise.
    """
    policy = as_policy(policy)
    returns, still = (np.concatenate(same) for same in list(zip(*played, strict=True))[:2])
    per_task, rounds = still.shape[1], returns.shape[1]
    finished = np.isfinite(returns).all(1)
    # the same tasks in every round, or a round would gain by losing its worst
    whole = np.flatnonzero(finished | (not finished.any()))
    centre, interval = iqm_interval(
        returns[whole], tasks.values[whole], Key("bootstrap", seed).numpy()
    )
    said = {
        name: [[row for part in played for row in part.diagnostics[name][k]] for k in range(rounds)]
        for name in played[0].diagnostics
    }
    return Report(
        family=tasks.family, algorithm=policy.name, split=split, seed=seed,
        rollouts_per_task=per_task, task_names=list(tasks.names), tasks=tasks.values.tolist(),
        returns=returns.tolist(),
        experience=[k * (per_task if policy.adapts_per_task else 1) for k in range(rounds)],
        iqm=centre.tolist(), ci95=interval.tolist(), mean=mean_of_tasks(returns[whole]).tolist(),
        stand_still=float(mean_of_finished(torch.from_numpy(still[whole].flatten()))),
        env_steps=sum(p.env_steps for p in played),
        seconds=round(sum(part.seconds for part in played), 3),
        diverged=sum(p.diverged for p in played), exploring=min(policy.exploring_rounds, rounds),
        adapts_within=not (policy.adapts_on_exploration or policy.adapts_to_demonstrations),
        train_is_heldout=split == "heldout" and TaskDistribution(family).shared_split,
        stand_still_by_task=mean_of_finished(torch.from_numpy(still)).tolist(), diagnostics=said,
    )  # fmt: skip


def _check_fit(policy: object, worlds: VecWorlds, tasks: Tasks, episodes: int) -> None:
    """Raise UserError for arguments of `evaluate` that do not fit together."""
    check_worlds(worlds)
    worlds.family.distribution.check(tasks)
    spec = getattr(policy, "spec", worlds.spec)
    if isinstance(policy, Policy) and tuple(spec)[:4] != worlds.spec.acting:
        raise UserError(f"the policy is for {spec}, and '{worlds.family.name}' has {worlds.spec}")
    check_episodes(episodes)
    if worlds.num_worlds % len(tasks):
        raise UserError(f"{worlds.num_worlds} worlds cannot be shared by {len(tasks)} tasks evenly")


def _rounds(
    policy: Policy, worlds: VecWorlds, count: int, episodes: int, seed: int,
    progress: Callable[[int, int], None] | None, watch: Watch | None,
) -> tuple[np.ndarray, int, dict[str, Any]]:  # fmt: skip
    """Score and adapt in turns, in worlds that have their `count` tasks; see `Played`."""
    check_progress(progress)
    by_task = (count, worlds.num_worlds // count)
    returns, diverged = [], 0
    said: dict[str, list[Any]] = {}
    played = adaptation_rounds(policy, worlds, count, episodes, seed, watch)
    for k, (state, scored) in enumerate(played):
        for name, values in policy.diagnostics(state).items():
            said.setdefault(name, []).append(values.unflatten(0, by_task).mean(1).tolist())
        diverged += int(scored.first_episode_diverged().sum())
        for name, values in measures(scored, worlds.family).items():
            said.setdefault(name, []).append(values.tolist())
        returns.append(scored.return_by_task().cpu())
        if progress is not None:
            progress(k + 1, episodes + 1)
    return torch.stack(returns, 1).numpy().astype(np.float64), diverged, said
