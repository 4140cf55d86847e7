"""evaluate(): how well a learner adapts to tasks that it has not trained on.

One protocol for every learner. A trial has K + 1 rounds. In each round the worlds are reset, the
learner acts without exploration for a horizon, which is the score, and then it adapts, either to
what it just saw or, if it `explores_to_adapt`, to a rollout of its own that is not scored. Nothing
but the learner's state changes: no weight, normaliser or buffer.

**What is resampled.** The units of the statistics are the M tasks, each with one number a round,
its mean over worlds. The bootstrap draws M tasks with replacement and takes the same draw in every
round, so it answers "how would this curve look on other tasks of the split?", for this one learner:
worlds and training seeds are not resampled. Where the split repeats a few tasks (two directions),
there are no other tasks, so each distinct task is a stratum and is resampled within itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import UserError
from metarl.family import find_family, list_families
from metarl.keys import Key
from metarl.rollout import Rollout, collect
from metarl.tasks import TaskDistribution

if TYPE_CHECKING:
    from metarl.learner import Learner
    from metarl.tasks import Tasks
    from metarl.worlds import TaskWorlds

__all__ = ["Report", "bootstrap_interval", "evaluate", "iqm", "stand_still"]

RESAMPLES = 2000
SHARED = (
    "train and heldout are the same tasks in this family: "
    "this measures adaptation, not generalisation to new tasks"
)


# --- the protocol ------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    learner: Learner,
    worlds: TaskWorlds,
    tasks: Tasks,
    *,
    episodes: int,
    seed: int,
    split: str = "heldout",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Let a learner adapt to M tasks, and return its adaptation curve.

    Args:
        learner: is left as it is; only the states that it hands out change.
        worlds: M * E worlds; they are given the tasks and keep them.
        tasks: M tasks of the worlds' family.
        episodes: K, the number of adaptations; the curve has K + 1 points, the first before any.
        seed: of initial states, exploration and the bootstrap.
        split: what `tasks` are, for the record.
        progress: called with (rounds done, K + 1) after each round.

    Raises:
        UserError: a number is out of range, or worlds, tasks and learner do not fit each other.
    """
    _check(learner, worlds, tasks, episodes, seed)
    began, steps_before = time.monotonic(), worlds.env_steps
    per_task = worlds.num_worlds // len(tasks)
    still = stand_still(worlds, tasks, seed)
    worlds.set_tasks(tasks, per_task)
    state = learner.begin(len(tasks), per_task)
    returns, diverged = [], 0
    for k in range(episodes + 1):
        key = Key(int(seed)).fold("evaluate", k)
        data, acted = _episode(worlds, learner, state, key.fold("score"), explore=False)
        bad = _first_episode_diverged(data)
        returns.append(_task_means(data.first_episode_return(), bad, len(tasks)))
        diverged += int(bad.sum())
        if k < episodes:
            if learner.explores_to_adapt:
                data, acted = _episode(worlds, learner, state, key.fold("explore"), explore=True)
            state = learner.adapt(acted, data)
        if progress is not None:
            progress(k + 1, episodes + 1)
    values = np.stack(returns, axis=1)
    seen = per_task if learner.pools_worlds else 1
    return Report(
        family=tasks.family, algorithm=learner.name, split=split, seed=int(seed),
        rollouts_per_task=per_task, task_names=list(tasks.names), tasks=tasks.values.tolist(),
        returns=values.tolist(), experience=[k * seen for k in range(episodes + 1)],
        **_statistics(values, tasks.values, seed), stand_still=still,
        env_steps=worlds.env_steps - steps_before, seconds=time.monotonic() - began,
        notes=_notes(worlds, split, diverged, worlds.num_worlds * (episodes + 1)),
    )  # fmt: skip


def stand_still(worlds: TaskWorlds, tasks: Tasks, seed: int) -> float:
    """Return the mean return of zero actions, from the initial states of round 0.

    Args:
        worlds: M * E worlds; they are given the tasks and keep them.
        tasks: M tasks.
        seed: as in `evaluate`.
    """
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    worlds.seed(Key(int(seed)).fold("evaluate", 0, "score", "reset"))
    worlds.reset()
    action = torch.zeros(worlds.num_worlds, worlds.spec.action_size)
    total = torch.zeros(worlds.num_worlds, dtype=torch.float64)
    alive = torch.ones(worlds.num_worlds, dtype=torch.bool)
    bad = ~alive
    for _ in range(worlds.spec.horizon):
        got = worlds.step(action)
        total += torch.where(alive, got.reward, 0.0)
        bad |= alive & got.diverged
        alive &= ~(got.terminated | got.truncated | got.diverged)
    return float(_task_means(total, bad, len(tasks)).mean())


def _check(learner: Learner, worlds: TaskWorlds, tasks: Tasks, episodes: int, seed: int) -> None:
    for name, value in (("episodes", episodes), ("seed", seed)):
        if value < 0:
            raise UserError(f"{name} must be a whole number of at least 0, not {value}")
    if worlds.num_worlds % len(tasks):
        raise UserError(
            f"{worlds.num_worlds} worlds cannot be shared evenly by {len(tasks)} tasks; "
            f"use a multiple of {len(tasks)}"
        )
    if learner.spec[:2] != worlds.spec[:2]:
        raise UserError(
            f"the learner was made for observation and action sizes {tuple(learner.spec[:2])}, "
            f"but '{worlds.family.name}' has {tuple(worlds.spec[:2])}"
        )


def _episode(
    worlds: TaskWorlds, learner: Learner, state: Any, key: Key, *, explore: bool
) -> tuple[Rollout, Any]:
    """Run one horizon from fresh initial states."""
    worlds.seed(key.fold("reset"))
    worlds.reset()
    horizon = worlds.spec.horizon
    return collect(worlds, learner, state, horizon, key.fold("noise"), explore=explore)


def _first_episode_diverged(rollout: Rollout) -> Tensor:
    """Return (B,) bool: whether the physics failed in each world's first episode."""
    ended = torch.cumsum(rollout.done.int(), 0) - rollout.done.int()
    return (rollout.diverged & (ended == 0)).any(0)


def _task_means(returns: Tensor, diverged: Tensor, tasks: int) -> np.ndarray:
    """Return (M,) means over each task's worlds, of (B,) returns.

    An episode that diverged was cut short, which would flatter a learner that is paid in negative
    rewards: it is left out, unless all worlds of its task diverged.
    """
    returns = returns.double().cpu().reshape(tasks, -1)
    kept = ~diverged.cpu().reshape(tasks, -1)
    kept |= ~kept.any(1, keepdim=True)
    return ((returns * kept).sum(1) / kept.sum(1)).numpy()


def _notes(worlds: TaskWorlds, split: str, diverged: int, total: int) -> tuple[str, ...]:
    notes = [SHARED] if split != "ood" and TaskDistribution(worlds.family).shared_split else []
    if diverged:
        notes.append(f"the physics diverged in {diverged} of {total} scored episodes; not counted")
    return tuple(notes)


# --- statistics --------------------------------------------------------------------------------


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the interquartile mean along an axis: a quarter is cut off at either end.

    The number cut is rounded down, so the IQM of three values or fewer is their mean.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, 0.25, axis=axis))


def bootstrap_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    statistic: Callable[..., np.ndarray] = iqm,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Return the 95 % bootstrap interval of a statistic over tasks, for each column.

    The expanded percentile interval (Hesterberg 2015): resampling n values makes the spread too
    small by √((n − S)/n), with S strata, and ignores that the spread is itself an estimate; so the
    quantiles are not 2.5 % and 97.5 % but Φ(±√(n/(n − S)) t), with Student's t of n − S degrees.

    Args:
        values: (M, C), a row a task; all columns share the resampled tasks.
        rng: draws the resamples.
        resamples: how many.
        statistic: called with an array and `axis`.
        strata: (M,) labels; tasks are resampled within their stratum. None: all in one.

    Returns:
        (C, 2) lower and upper ends. With no more tasks than strata they coincide.
    """
    from scipy.stats import norm, t

    values = np.asarray(values, np.float64)
    n = len(values)
    labels = np.zeros(n, np.int64) if strata is None else np.asarray(strata)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    free = n - len(groups)
    if free < 1:
        return np.repeat(statistic(values, axis=0)[:, None], 2, axis=1)
    results, chunk = [], max(1, 4_000_000 // max(1, values.size))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = [group[rng.integers(0, len(group), (count, len(group)))] for group in groups]
        results.append(statistic(values[np.concatenate(drawn, axis=1)], axis=1))
    tail = norm.cdf(np.sqrt(n / free) * t.ppf(0.025, free))
    return np.quantile(np.concatenate(results), [tail, 1.0 - tail], axis=0).T


def _statistics(returns: np.ndarray, tasks: np.ndarray, seed: int) -> dict[str, list]:
    """Return the entries `iqm`, `ci95` and `mean` of a report, for (M, K+1) returns."""
    rng = Key(int(seed)).fold("bootstrap").numpy()
    interval = bootstrap_interval(returns, rng, strata=_strata(tasks))
    return {
        "iqm": iqm(returns).tolist(),
        "ci95": interval.tolist(),
        "mean": returns.mean(axis=0).tolist(),
    }


def _strata(tasks: np.ndarray) -> np.ndarray | None:
    """Return (M,) labels of the distinct tasks if each of them is there repeatedly, else None."""
    if tasks.shape[1] == 0:
        return None
    _, labels, counts = np.unique(tasks, axis=0, return_inverse=True, return_counts=True)
    return labels.reshape(-1) if counts.min() > 1 else None


# --- the report --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """An adaptation curve over M tasks; its fields are the keys of the JSON file."""

    family: str
    algorithm: str
    split: str
    """train, heldout or ood"""
    seed: int
    rollouts_per_task: int
    """E, worlds of each task"""
    task_names: list[str]
    """(P,)"""
    tasks: list[list[float]]
    """(M, P)"""
    returns: list[list[float]]
    """(M, K+1): mean over the worlds of task m in round k; round 0 is before any data"""
    experience: list[int]
    """(K+1,): episodes of a task that the learner had seen before round k"""
    iqm: list[float]
    """(K+1,): interquartile mean over tasks"""
    ci95: list[list[float]]
    """(K+1, 2): 95 % bootstrap interval of `iqm`, over tasks"""
    mean: list[float]
    """(K+1,): mean over tasks"""
    stand_still: float
    """Mean return of zero actions on the same tasks"""
    env_steps: int
    """Environment steps of this evaluation, standing still included"""
    seconds: float
    """Wall-clock time of this evaluation"""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Sentences that a reader must know; for `summary`, not in the file"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in _KEYS}

    @classmethod
    def from_json(cls, data: Any, source: str = "report") -> Report:
        """Read what `to_json` wrote; other keys, as in a results file, are passed over.

        Args:
            data: the parsed JSON.
            source: where it is from, for error messages.

        Raises:
            UserError: a key is missing, or a value has the wrong type or shape or is not finite.
        """
        try:
            values = _checked(data)
        except ValueError as error:
            raise UserError(f"{source} is not a valid report: {error}") from None
        shared = values["split"] != "ood" and _is_shared(values["family"], values["tasks"])
        return cls(**values, notes=(SHARED,) if shared else ())

    def save(self, path: Path | str) -> None:
        """Write the JSON file, whole or not at all. Raises UserError if it cannot be written."""
        from metarl.run_folder import disk_errors, write_json

        with disk_errors(Path(path)):
            write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read a report or a results file. Raises UserError if it is missing or malformed."""
        from metarl.run_folder import read_json

        try:
            data = read_json(Path(path))
        except RecursionError:
            raise UserError(f"cannot read '{path}': its JSON is nested too deeply") from None
        return cls.from_json(data, f"'{path}'")

    def difference(self) -> tuple[float, float, float]:
        """Return (mean, low, high) of the last round minus round 0, paired by task.

        The ends are the 95 % bootstrap interval of the mean difference, over tasks.
        """
        returns = np.asarray(self.returns)
        gain = returns[:, -1:] - returns[:, :1]
        ((low, high),) = bootstrap_interval(
            gain, Key(self.seed).fold("difference").numpy(), statistic=np.mean,
            strata=_strata(np.asarray(self.tasks)),
        )  # fmt: skip
        return float(gain.mean()), float(low), float(high)

    def summary(self) -> list[str]:
        """Return the adaptation curve and its reference lines as a short text table."""
        count = len(self.tasks)
        lines = [
            f"{self.family}  {self.algorithm}  {self.split}: {count} tasks x "
            f"{self.rollouts_per_task} worlds, seed {self.seed}",
            f"{'episodes seen':<16}{'IQM':>10}   {'95 % CI':<22}{'mean':>10}",
        ]
        for k, (seen, (low, high)) in enumerate(zip(self.experience, self.ci95, strict=True)):
            interval = f"[{low:.2f}, {high:.2f}]"
            lines.append(
                f"{seen:<16}{self.iqm[k]:>10.2f}   {interval:<22}{self.mean[k]:>10.2f}"
                + ("   before adaptation (task-blind)" if k == 0 else "")
            )
        lines.append(f"{'stand still':<16}{'':>10}   {'':<22}{self.stand_still:>10.2f}")
        if len(self.mean) > 1:
            gain, low, high = self.difference()
            verdict = "" if low > 0 or high < 0 else ": it holds 0, so no adaptation is shown"
            lines.append(
                f"last − episode 0: mean {gain:+.2f}, 95 % CI [{low:+.2f}, {high:+.2f}]"
                + (verdict if count > 1 else "")
            )
        if count == 1:
            lines.append("note: one task gives no interval")
        return [*lines, *(f"note: {note}" for note in self.notes)]


_KEYS = tuple(item.name for item in fields(Report) if item.name != "notes")
_LEAST = {"seed": 0, "rollouts_per_task": 1, "env_steps": 0}
_SHAPES = {
    "returns": "MK", "tasks": "MP", "ci95": "K2", "experience": "K", "iqm": "K", "mean": "K",
    "stand_still": "", "seconds": "",
}  # fmt: skip


def _checked(data: Any) -> dict[str, Any]:
    """Return the fields of a report from parsed JSON. Raises ValueError, one line."""
    if not isinstance(data, Mapping):
        raise ValueError("it must be a JSON object")
    if missing := [key for key in _KEYS if key not in data]:
        raise ValueError("it lacks " + ", ".join(f"'{key}'" for key in missing))
    for key in ("family", "algorithm", "split"):
        if not isinstance(data[key], str):
            raise ValueError(f"'{key}' must be a string")
    for key, least in _LEAST.items():
        if type(data[key]) is not int or data[key] < least:
            raise ValueError(f"'{key}' must be a whole number of at least {least}")
    names = data["task_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("'task_names' must be a list of strings")
    arrays = {key: _numbers(key, data[key], len(shape)) for key, shape in _SHAPES.items()}
    sizes = dict(zip("MKP2", (*arrays["returns"].shape, len(names), 2), strict=True))
    for key, shape in _SHAPES.items():
        expected = tuple(sizes[axis] for axis in shape)
        if arrays[key].shape != expected or 0 in expected[:1]:
            raise ValueError(f"'{key}' has shape {arrays[key].shape}, not {expected}")
    low, high = arrays["ci95"].T
    if (low > high).any():
        raise ValueError("'ci95' must be pairs of a low and a high end")
    seen = arrays["experience"]
    if (seen != np.floor(seen)).any() or seen[0] < 0 or (np.diff(seen) < 0).any():
        raise ValueError("'experience' must be whole numbers that do not fall")
    values = {key: data[key] for key in _KEYS} | {key: a.tolist() for key, a in arrays.items()}
    return values | {"experience": [int(episodes) for episodes in seen]}


def _numbers(key: str, value: Any, ndim: int) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.ndim != ndim or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        kind = ("a finite number", "a list of finite numbers", "a table of finite numbers")[ndim]
        raise ValueError(f"'{key}' must be {kind}")
    return array.astype(np.float64)


def _is_shared(family: str, tasks: list[list[float]]) -> bool:
    """Whether train and heldout are the same tasks; of a family that is not installed, a guess.

    Only registered names are looked up: a report must not make us run a file that it names.
    """
    if family in list_families():
        try:
            return TaskDistribution(find_family(family)).shared_split
        except UserError:
            return False
    return _strata(np.asarray(tasks)) is not None
