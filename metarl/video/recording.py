"""Recording: `metarl.evaluate` itself, watched, with the states of one world of each task kept.

Nothing is played again for a video: the rounds are those of the evaluation, to the bit, and so are
the returns. What is kept is enough to draw them afterwards: positions, rewards, and each watched
world's own model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.evaluation import Report, evaluate
from metarl.keys import Key
from metarl.vector import Transition
from metarl.worlds import TaskWorlds

if TYPE_CHECKING:
    from metarl.family import TaskFamily
    from metarl.learner import Learner
    from metarl.tasks import Tasks

WATCHED = ("score", "explore")
"""The episodes of an evaluation that are kept, by the word in their key."""


@dataclass
class Episode:
    """One episode of one world: as far as it went, at most the horizon."""

    qpos: np.ndarray
    """(T+1, nq), before each step and after the last"""
    mocap: np.ndarray
    """(T+1, nmocap, 7), positions and quaternions of mocap bodies"""
    reward: np.ndarray
    """(T,) float32, as the learner was paid"""
    ended: str
    """What ended it: 'time limit', 'terminated' or 'diverged'"""

    @property
    def running(self) -> np.ndarray:
        """(T+1,) float64: the return after each number of steps."""
        return np.concatenate([[0.0], np.cumsum(self.reward.astype(np.float64))])


@dataclass
class Recording:
    """An adaptation of M tasks, one world of each watched."""

    family: TaskFamily
    tasks: Tasks
    report: Report
    """What the evaluation says: its returns are those of `metarl evaluate`."""
    models: list[mujoco.MjModel]
    """[M], the watched worlds' own models"""
    episodes: dict[tuple[str, int], list[Episode]]
    """('score' | 'explore', round) -> [M]"""
    explores: bool
    """Whether the learner adapts to exploring episodes of their own"""

    def task(self, m: int) -> dict[str, Any]:
        """Return the parameters of task m: name -> a float, or (size,) float64."""
        values, out = iter(self.tasks.values[m].tolist()), {}
        for param in self.family.params:
            row = [next(values) for _ in param.names]
            out[param.name] = row[0] if len(row) == 1 else np.array(row)
        return out


@dataclass
class _Segment:
    """One `seed` … `reset` … `step` … of all worlds."""

    qpos: list[Tensor] = field(default_factory=list)
    mocap: list[Tensor] = field(default_factory=list)
    steps: list[Transition] = field(default_factory=list)


class RecordingWorlds(TaskWorlds):
    """Task worlds that keep what happens in the first world of each task."""

    def __init__(
        self, family: TaskFamily | str, num_worlds: int, threads: int | None = None
    ) -> None:
        self.segments: dict[tuple[str, int], _Segment] = {}
        self._segment: _Segment | None = None
        self._ended: tuple[Tensor, Tensor] | None = None
        super().__init__(family, num_worlds, threads)

    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task; watch the first world of each."""
        super().set_tasks(tasks, worlds_per_task)
        self.watched = torch.arange(len(tasks)) * worlds_per_task
        self.segments.clear()
        self._segment = None

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew, and a segment if the key is of one to keep."""
        super().seed(key)
        self._segment = None
        if len(key.words) >= 2 and key.words[-2] in WATCHED:
            self._segment = _Segment()
            self.segments[str(key.words[-2]), int(key.words[-1])] = self._segment

    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial, and note the state that it begins in."""
        obs = super().reset(ids)
        if self._segment is not None:
            self._keep(*self._positions())
        return obs

    def step(self, action: Tensor) -> Transition:
        """Advance every world, and note the state after it, before any reset."""
        self._ended = None
        got = super().step(action)
        if self._segment is not None:
            self._keep(*(self._ended or self._positions()))
            w = self.watched
            self._segment.steps.append(Transition(*(part[w].clone() for part in got)))
        return got

    def _restart(self, done: Tensor, next_obs: Tensor) -> Tensor:
        if self._segment is not None:
            self._ended = self._positions()
        return super()._restart(done, next_obs)

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Return (M, nq) and (M, nmocap, 7) of the watched worlds."""
        sim, w = self.simulator, self.watched
        if not sim.model.nmocap:
            return sim.qpos[w], torch.zeros(len(w), 0, 7, dtype=torch.float64)
        parts = [sim.bind(name)[w] for name in ("mocap_pos", "mocap_quat")]
        size = sim.model.nmocap
        return sim.qpos[w], torch.cat([p.reshape(len(w), size, -1) for p in parts], 2)

    def _keep(self, qpos: Tensor, mocap: Tensor) -> None:
        assert self._segment is not None
        self._segment.qpos.append(qpos)
        self._segment.mocap.append(mocap)


def record(
    learner: Learner, worlds: RecordingWorlds, tasks: Tasks, *, episodes: int, seed: int,
    split: str = "heldout", progress: Callable[[int, int], None] | None = None,
) -> Recording:  # fmt: skip
    """Evaluate a learner and keep what its first world of each task did.

    Args:
        learner: as in `metarl.evaluate`, whose arguments these are.
        worlds: a multiple of len(tasks) worlds.
        tasks: M tasks.
        episodes: K rounds of adaptation.
        seed: of initial states and exploration.
        split: what to call the tasks.
        progress: called with (rounds done, rounds in all).
    """
    report = evaluate(
        learner, worlds, tasks, episodes=episodes, seed=seed, split=split, progress=progress
    )
    models = [worlds.simulator.world_model(int(world)) for world in worlds.watched]
    kept = {
        name: [_episode(segment, m) for m in range(len(tasks))]
        for name, segment in worlds.segments.items()
    }
    return Recording(worlds.family, tasks, report, models, kept, learner.explores_to_adapt)


def _episode(segment: _Segment, m: int) -> Episode:
    """Return the first episode of task m in a segment."""
    qpos = torch.stack([row[m] for row in segment.qpos]).numpy()
    mocap = torch.stack([row[m] for row in segment.mocap]).numpy()
    ended, steps = "time limit", len(segment.steps)
    for t, got in enumerate(segment.steps):
        for name in ("terminated", "diverged", "truncated"):
            if bool(getattr(got, name)[m]):
                ended, steps = "time limit" if name == "truncated" else name, t + 1
                break
        else:
            continue
        break
    reward = np.array([float(got.reward[m]) for got in segment.steps[:steps]], np.float32)
    qpos, mocap = qpos[: steps + 1], mocap[: steps + 1]
    bad = ~np.isfinite(qpos).all(1)
    for t in np.flatnonzero(bad):  # a state that is not finite cannot be drawn: hold the last one
        qpos[t] = qpos[t - 1]
    return Episode(qpos, mocap, reward, ended)
