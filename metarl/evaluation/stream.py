"""An endless sequence of tasks that change without notice, within episodes too, and regret there.

A policy acts in M streams, each of E worlds that share its tasks. At random moments a stream's task
becomes another one; nothing that a policy may see says so. It goes on in rounds of one episode: a
policy with a memory carries it over rounds and switches alike, and after each round every policy
adapts to what it saw, as in an evaluation without an end (`Policy.adapt`). Which task runs when is
a function of the seed and the stream alone, so that several policies meet the same sequences.

A round in which a world's physics fails is left out of all that is said of the stream, as a
diverged episode is of an evaluation. The mean is of the other worlds, and without any there is a
gap: gaps are counted, and windows with one, and regret from one on, are of the other streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.base.errors import UserError, check_progress
from metarl.base.keys import Key
from metarl.evaluation.statistics import iqm_interval
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.events import never_nominal
from metarl.tasks.params import Choices
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import VecWorlds

DRIFT_STEPS = 10
"""Steps after which a drifting task moves on."""
SMOOTH = 10
"""Steps over which rewards are averaged to tell when a policy has recovered."""
RECOVERED = 0.9
"""Of the way from the worst after a switch to the level that it ends at."""
RESAMPLES = 500
"""Of the streams, behind the interval of a recovery."""


class Timeline(NamedTuple):
    """Which tasks run, and when, in M streams of T steps."""

    values: np.ndarray
    """(N, P) float64, the distinct tasks"""
    task: np.ndarray
    """(T, M) int64, the row of the task that runs"""
    next_task: np.ndarray
    """(T, M) int64, the row of the one that comes next"""
    share: np.ndarray
    """(T, M) float64 in [0, 1), how much of the time from the last switch to the next is over"""

    @property
    def switched(self) -> np.ndarray:
        """(T, M) bool: the steps at which another task begins; not the first."""
        first = np.zeros_like(self.task[:1], bool)
        return np.concatenate((first, self.task[1:] != self.task[:-1]))

    def at(self, t: int, drifts: np.ndarray | None) -> np.ndarray:
        """Return the (M, P) tasks of step t.

        Args:
            t: from 0.
            drifts: (P,) bool, the columns that move evenly to the next task, or None: all jump.
        """
        now = self.values[self.task[t]]
        if drifts is None:
            return now
        t -= t % DRIFT_STEPS
        start, end = self.values[self.task[t]], self.values[self.next_task[t]]
        return np.where(drifts, start + self.share[t, :, None] * (end - start), now)


def timeline(tasks: Tasks, streams: int, steps: int, every: float, key: Key) -> Timeline:
    """Draw when the tasks of streams switch, and to which.

    The time between two switches is geometric: at each step a switch is as likely as at any other,
    whatever came before. A longer timeline begins as a shorter one does.

    Args:
        tasks: to choose among, at least two different ones; each next one is as likely as any
            other, except the one that runs.
        streams: M.
        steps: T.
        every: mean number of steps between switches, at least 1.
        key: of the draws; those of a stream by its number.
    """
    _, rows = np.unique(tasks.values, axis=0, return_index=True)
    values = tasks.values[np.sort(rows)]
    if len(values) < 2:
        raise UserError(f"a stream needs two different tasks or more: '{tasks.family}' gives 1")
    task, coming = np.empty((2, steps, streams), np.int64)
    share = np.empty((steps, streams))
    for m in range(streams):
        rng = key.fold("stream", m).numpy()
        now, at = int(rng.integers(len(values))), 0
        while at < steps:
            gap, new = int(rng.geometric(1 / every)), int(rng.integers(len(values) - 1))
            new += new >= now
            part = slice(at, at + gap)
            task[part, m], coming[part, m] = now, new
            share[part, m] = (np.arange(gap) / gap)[: steps - at]
            now, at = new, at + gap
    return Timeline(values, task, coming, share)


class Recovery(NamedTuple):
    """How the reward falls when the task switches, and comes back, on average over switches."""

    switches: int
    """How many were followed for long enough"""
    drop: float
    """Reward in a step that is lost at the worst, of what it is before the switch"""
    lasting: float
    """The same after the time that is looked at: what does not come back"""
    steps: int | None
    """From the switch until 90 % of the way from the worst to the last level; None: no way up"""
    low: int | None
    """Lower end of the 95 % interval of `steps` over streams; None where it has no meaning"""
    high: int | None
    """Its upper end"""


@dataclass(frozen=True)
class Stream:
    """How a policy fared in M streams of T steps."""

    timeline: Timeline
    rewards: np.ndarray
    """(T, M) float64, the mean over the worlds of a stream whose physics did not fail in the round;
    NaN throughout a round in which that of all of them did"""
    horizon: int
    """Steps of a round"""
    diverged: int
    """Steps at which the physics failed, summed over worlds"""
    left_out: int = 0
    """Rounds of a world in which it did"""

    @cached_property
    def by_phase(self) -> np.ndarray:
        """(T, 1) what the policy earns on average at the same step of an episode."""
        rounds = self.rewards.reshape(-1, self.horizon, self.rewards.shape[1])
        return np.tile(_mean(rounds, (0, 2)), len(rounds))[:, None]

    def windows(self, size: int) -> np.ndarray:
        """Return the (K, M) returns of successive windows, NaN for those with a gap.

        Steps that do not fill a window are left out.
        """
        count = len(self.rewards) // size
        return self.rewards[: count * size].reshape(count, size, -1).sum(1)

    def regret(self, best: Stream) -> np.ndarray:
        """Return the (T, M) cumulative regret: what the best earned more, up to and with a step.

        NaN from the first gap of either on.
        """
        return np.cumsum(best.rewards - self.rewards, 0)

    def to_json(
        self, window: int, lags: int, best: Stream | None, seed: int, oracle: Stream | None = None
    ) -> dict[str, Any]:
        """Return what there is to say of it, as JSON.

        Args:
            window: steps of which returns are summed.
            lags: steps after a switch that a recovery is read from.
            best: whom regret is counted from, if anyone.
            seed: of the bootstraps.
            oracle: who is told the task, if anyone; a recovery is counted from its rewards, but
                not from those of a run that has to recover itself.
        """
        returns = self.windows(window)
        recovery = self.recovery(lags, None if oracle is self else oracle, seed)
        regret = None
        if best is not None:
            ends = np.arange(window, len(self.rewards) + 1, window) - 1
            regret = _curve(self.regret(best)[ends], seed)
        return {
            "diverged": self.diverged, "left_out": self.left_out,
            "gaps": int(np.isnan(self.rewards).any(0).sum()),
            "windows": _curve(returns, seed), "regret": regret,
            "recovery": None if recovery is None else recovery._asdict(),
        }  # fmt: skip

    def recovery(self, lags: int, oracle: Stream | None = None, seed: int = 0) -> Recovery | None:
        """Return how it recovers from switches; None if none is followed by as many steps.

        What an episode earns by itself, such as less while it gains speed, is taken off: the
        reward is counted from that of the oracle at the same step, or else from `by_phase`.

        Args:
            lags: steps to either side of a switch that are looked at; see `aligned`.
            oracle: who met the same tasks and is told them.
            seed: of the bootstrap.
        """
        reference = self.by_phase if oracle is None else oracle.rewards
        found = aligned(self.rewards - reference, self.timeline.switched, lags)
        if not any(map(len, found)):
            return None
        curves = np.concatenate(found)
        one = recovered(curves.mean(0), lags)
        rng, steps = Key("recovery", seed).numpy(), []
        for _ in range(RESAMPLES):
            drawn = [found[m] for m in rng.integers(len(found), size=len(found))]
            some = np.concatenate(drawn)
            steps.append(recovered(some.mean(0), lags)[2] if len(some) else None)
        known = [n for n in steps if n is not None]
        whole = one[2] is not None and len(known) >= 0.9 * RESAMPLES and len(found) > 1
        low, high = np.percentile(known, [2.5, 97.5]).round() if whole else (None, None)
        interval = (None, None) if low is None or high is None else (int(low), int(high))
        return Recovery(len(curves), *one, *interval)


def aligned(rewards: np.ndarray, switched: np.ndarray, lags: int) -> list[np.ndarray]:
    """Return M arrays (n, 2 lags): the rewards around each switch that none is near to.

    A row has the `lags` steps before the switch, and as many from it; one with a gap is left out.

    Args:
        rewards: (T, M).
        switched: (T, M) bool.
        lags: steps to either side, in which no other switch may be.
    """
    found = []
    for own, at in zip(rewards.T, switched.T, strict=True):
        times = np.flatnonzero(at)
        edges = np.concatenate(([0], times, [len(own)]))
        alone = (times - edges[:-2] >= lags) & (edges[2:] - times >= lags)
        rows = [own[t - lags : t + lags] for t in times[alone]]
        rows = [row for row in rows if np.isfinite(row).all()]
        found.append(np.array(rows) if rows else np.zeros((0, 2 * lags)))
    return found


def recovered(curve: np.ndarray, lags: int) -> tuple[float, float, int | None]:
    """Return how far a curve falls, what it has lost at its end, and the steps until it is back.

    Args:
        curve: (2 lags,) the mean reward around a switch in the middle.
        lags: to either side.
    """
    window = max(1, min(SMOOTH, lags // 4))
    before = curve[:lags].mean()
    smooth = np.convolve(curve[lags:], np.ones(window) / window, "valid")
    worst = int(smooth.argmin())
    level = float(curve[lags + 3 * lags // 4 :].mean())
    drop, lasting = float(before - smooth[worst]), float(before - level)
    way = level - smooth[worst]
    back = np.flatnonzero(smooth[worst:] - smooth[worst] >= (RECOVERED - 1e-9) * way)
    steps = worst + int(back[0]) + window if way > 0 and len(back) else None
    return drop, lasting, steps


def _curve(values: np.ndarray, seed: int) -> dict[str, list[Any]]:
    """Return mean, interquartile mean and its interval over streams of each row of (K, M).

    Streams that are NaN in a row are left out, and it gives NaN if all are.
    """
    streams = np.arange(values.shape[1])[:, None]
    iqm, interval = iqm_interval(values.T, streams, Key("stream", seed).numpy())
    return {"mean": _mean(values, 1).tolist(), "iqm": iqm.tolist(), "ci95": interval.tolist()}


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return the mean of what is not NaN; NaN where all is. Without any, the bits of `mean`."""
    if not np.isnan(values).any():
        return values.mean(axis)
    count = (~np.isnan(values)).sum(axis)
    return np.where(count, np.nansum(values, axis) / np.maximum(count, 1), np.nan)


@torch.no_grad()
def stream(
    policy: Policy, worlds: VecWorlds, tasks: Tasks, *, streams: int, rounds: int, every: float,
    seed: int, drift: bool = False, forget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Stream:  # fmt: skip
    """Let a policy act and adapt while its tasks change.

    Parameters that move the ground under a robot change where its next episode begins.

    Args:
        policy: a learner, whose weights stay as they are: only its state learns. One that adapts on
            exploration explores all the time, and is paid for what it does then.
        worlds: E for each stream.
        tasks: what to choose among; see `timeline`.
        streams: M.
        rounds: K episodes, T = K times the horizon.
        every: mean steps between switches.
        seed: of tasks, initial states and exploration.
        drift: let parameters move evenly from one task to the next, in place of jumps; those that
            are choices jump still.
        forget: rounds after which a policy begins anew, knowing nothing; None: never.
        progress: called with (rounds done, rounds in all).

    Raises:
        UserError: the family cannot change its tasks within an episode, or there is one task.
    """
    check_progress(progress)
    refuse(worlds, streams)
    assert isinstance(worlds, TaskWorlds)
    key, horizon = Key(seed, "stream"), worlds.spec.horizon
    line = timeline(tasks, streams, rounds * horizon, every, key)
    each, (drifts, held) = worlds.num_worlds // streams, _kinds(worlds, drift)
    state, rewards, diverged, left_out = None, [], 0, 0
    for k in range(rounds):
        change = _Change(worlds, tasks, line, k * horizon, each, drifts, held)
        if state is None or (forget and k % forget == 0):
            state = policy.begin_seeded(streams, each, key.fold("policy", k).seed(), 0)
        data, state = _round(policy, worlds, state, change, key.fold("round", k))
        failed = data.diverged.any(0)
        earned = data.reward.double().masked_fill(failed, torch.nan).cpu()
        rewards.append(mean_of_finished(earned.reshape(horizon, streams, each)).numpy())
        diverged, left_out = diverged + int(data.diverged.sum()), left_out + int(failed.sum())
        if progress is not None:
            progress(k + 1, rounds)
    return Stream(line, np.concatenate(rewards), horizon, diverged, left_out)


def _round(
    policy: Policy, worlds: TaskWorlds, state: Any, change: _Change, name: Key
) -> tuple[Rollout, Any]:
    """Return an episode in which tasks change, and the state adapted to it."""
    change.begin()
    worlds.seed(name)
    worlds.reset()
    steps, explore = worlds.spec.horizon, policy.adapts_on_exploration
    with worlds.pairing():
        data, after = collect(
            worlds, policy, state, steps, name, explore=explore, on_step=lambda _: change.step()
        )
    worlds.settle()
    data = data._replace(tasks=worlds.num_worlds // change.each)
    return data, policy.adapt(after, data)


class _Change:
    """Gives worlds the tasks of a round's steps, as they come."""

    def __init__(
        self, worlds: TaskWorlds, tasks: Tasks, line: Timeline, start: int, each: int,
        drifts: np.ndarray | None, held: np.ndarray,
    ) -> None:  # fmt: skip
        self.worlds, self.line, self.each = worlds, line, each
        self.names, self.t = (tasks.family, tasks.names), start
        self.end = start + worlds.spec.horizon
        self.drifts, self.held = drifts, held
        self.now = line.at(start, drifts)

    def begin(self) -> None:
        """Give every world its task of the first step."""
        self.worlds.set_tasks(Tasks(*self.names, self.now.repeat(self.each, 0)), 1)

    def step(self) -> None:
        """Give those whose task is another in the next step that one, but for what is held."""
        self.t += 1
        if self.t == self.end:
            return
        new = np.where(self.held, self.now, self.line.at(self.t, self.drifts))
        changed = np.flatnonzero((new != self.now).any(1))
        if len(changed):
            ids = (changed[:, None] * self.each + np.arange(self.each)).ravel()
            values = new[changed].repeat(self.each, 0)
            where = torch.from_numpy(ids).to(self.worlds.device)
            self.worlds.change_tasks(where, Tasks(*self.names, values))
        self.now = new


def refuse(worlds: VecWorlds, streams: int) -> None:
    """Raise UserError for worlds whose tasks cannot change while they run."""
    name = worlds.family.name
    if not isinstance(worlds, TaskWorlds):
        raise UserError(
            f"'{name}' cannot change its task within an episode: it has no MuJoCo model"
        )
    if worlds.family.switch_at is not None:
        raise UserError(f"'{name}' switches its tasks itself: stream the family without +switch")
    if worlds.num_worlds % streams:
        raise UserError(f"{streams} streams do not divide {worlds.num_worlds} worlds")


def _kinds(worlds: TaskWorlds, drift: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """Return which columns drift (P,), or None, and which change between episodes alone (P,)."""
    distribution = TaskDistribution(worlds.family)
    choice = [isinstance(p.train, Choices) for p in distribution.params for _ in p.names]
    drifts = ~np.array(choice, bool) if drift else None
    if drift and not drifts.any():  # type: ignore[union-attr]
        raise UserError(f"every parameter of '{worlds.family.name}' is a choice: none can drift")
    return drifts, never_nominal(worlds.family)


def best_of(found: Sequence[Stream]) -> int:
    """Return which of several streams earned most, where none has a gap; the first of equals."""
    known = np.isfinite([one.rewards for one in found]).all(0)
    return int(np.argmax([np.where(known, one.rewards, 0.0).sum() for one in found]))
