"""Records an evaluation: the states of one world of each task, as `metarl.evaluate` plays them.

Nothing is simulated again for a video: the rounds are those of the evaluation, to the bit, and so
are the returns. What is kept is enough to draw them afterwards: positions, rewards, and the model
of each recorded world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.versions import deprecated
from metarl.evaluation.protocol import Report, evaluate
from metarl.worlds.rollout import OnStep
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import Transition

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily


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
    terms: dict[str, np.ndarray] = field(default_factory=dict)
    """(T,) each, the weighted terms of the reward, where it has some"""
    models: list[tuple[int, mujoco.MjModel]] = field(default_factory=list)
    """The world's model from a step on, where it does not keep that of the recording: one that
    begins nominal, and that of its task from the switch on"""

    def model(self, step: int, model: mujoco.MjModel) -> mujoco.MjModel:
        """Return the model at a step; `model` is that of the recording."""
        return next((m for begin, m in reversed(self.models) if begin <= step), model)

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
    """[M], the watched worlds' own models, of their tasks"""
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
    """What the watched worlds did since a reset: T+1 states and T steps."""

    qpos: list[Tensor] = field(default_factory=list)
    """Each (M, nq)"""
    mocap: list[Tensor] = field(default_factory=list)
    """Each (M, nmocap, 7)"""
    steps: list[Transition] = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)
    """Of each step, (M,) each"""
    models: list[list[tuple[int, mujoco.MjModel]]] = field(default_factory=list)
    """[M], see `Episode.models`"""


class _Recorder:
    """Keeps the states of the first world of each task while an evaluation plays."""

    def __init__(self, worlds: TaskWorlds, tasks: int) -> None:
        self.worlds = worlds
        self.watched = torch.arange(tasks) * (worlds.num_worlds // tasks)
        self.segments: dict[tuple[str, int], _Segment] = {}
        self._last: tuple[Tensor, Tensor] | None = None
        self._tasks: Tensor | None = None
        worlds.on_episode_end = self._keep_last

    def __call__(self, phase: str, k: int) -> OnStep:
        """Begin a segment in the state that the worlds are in; see `adaptation.Watch`."""
        segment = self.segments[phase, k] = _Segment()
        self._last = None  # of an episode that nobody recorded
        self._add(segment, self._positions())
        segment.models = [[] for _ in self.watched]
        self._tasks = None
        self._note_models(segment)

        def on_step(got: Transition) -> None:
            self._add(segment, self._last or self._positions())
            self._last = None
            segment.steps.append(Transition(*(part[self.watched].cpu() for part in got)))
            terms = self.worlds.reward_terms.items()
            segment.terms.append({name: term[self.watched].cpu() for name, term in terms})
            self._note_models(segment)

        return on_step

    def _keep_last(self) -> None:
        self._last = self._positions()

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Return (M, nq) and (M, nmocap, 7) of the watched worlds."""
        sim, w = self.worlds.simulator, self.watched
        qpos = sim.qpos[w].cpu().double()
        if not sim.model.nmocap:
            return qpos, torch.zeros(len(w), 0, 7, dtype=torch.float64)
        parts = [sim.bind(name)[w].cpu().double() for name in ("mocap_pos", "mocap_quat")]
        return qpos, torch.cat([p.reshape(len(w), sim.model.nmocap, -1) for p in parts], 2)

    def _note_models(self, segment: _Segment) -> None:
        """Keep the models of worlds whose task is another one than a step before."""
        if not self.worlds.switches:
            return
        tasks = self.worlds.task_vector()[self.watched].cpu()
        new = range(len(tasks))
        if self._tasks is not None:
            new = (tasks != self._tasks).any(1).nonzero()[:, 0].tolist()
        for m in new:
            model = self.worlds.simulator.world_model(int(self.watched[m]))
            segment.models[m].append((len(segment.steps), model))
        self._tasks = tasks

    def _add(self, segment: _Segment, positions: tuple[Tensor, Tensor]) -> None:
        segment.qpos.append(positions[0])
        segment.mocap.append(positions[1])


def record(
    learner: Learner, worlds: TaskWorlds, tasks: Tasks, *, episodes: int, seed: int,
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
    recorder = _Recorder(worlds, len(tasks))
    try:
        report = evaluate(
            learner, worlds, tasks, episodes=episodes, seed=seed, split=split, progress=progress,
            watch=recorder,
        )  # fmt: skip
    finally:
        del worlds.on_episode_end
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))  # a world may not have switched yet
    models = [worlds.simulator.world_model(int(world)) for world in recorder.watched]
    kept = {
        name: [_episode(segment, m) for m in range(len(tasks))]
        for name, segment in recorder.segments.items()
    }
    return Recording(worlds.family, tasks, report, models, kept, learner.adapts_on_exploration)


def _episode(segment: _Segment, m: int) -> Episode:
    """Return the first episode of task m in a segment."""
    ended, steps = "time limit", len(segment.steps)
    for t, got in enumerate(segment.steps):
        flags = {
            "terminated": got.terminated,
            "diverged": got.diverged,
            "time limit": got.truncated,
        }
        if reasons := [reason for reason, flag in flags.items() if bool(flag[m])]:
            ended, steps = reasons[0], t + 1
            break
    reward = np.array([float(got.reward[m]) for got in segment.steps[:steps]], np.float32)
    qpos = torch.stack([row[m] for row in segment.qpos[: steps + 1]]).numpy()
    mocap = torch.stack([row[m] for row in segment.mocap[: steps + 1]]).numpy()
    for t in np.flatnonzero(~np.isfinite(qpos).all(1)):
        qpos[t] = qpos[t - 1]  # a state that is not finite cannot be drawn: hold the last one
    names = segment.terms[0] if segment.terms else ()
    terms = {n: np.array([float(s[n][m]) for s in segment.terms[:steps]]) for n in names}
    noted = segment.models[m] if segment.models else []
    models = [one for one in noted if one[0] < max(steps, 1)]  # later ones are of a restart
    return Episode(qpos, mocap, reward, ended, terms, models)


def between(model: mujoco.MjModel, low: np.ndarray, high: np.ndarray, part: float) -> np.ndarray:
    """Return the position a part of the way from one to the next; quaternions turn."""
    if part == 0:
        return low
    way, out = np.zeros(model.nv), low.copy()
    mujoco.mj_differentiatePos(model, way, 1.0, low, high)
    mujoco.mj_integratePos(model, out, way, part)
    return out


def __getattr__(name: str) -> Any:
    """Return `TaskWorlds` by the name that it had here: `record` takes any worlds of a family."""
    if name == "RecordingWorlds":
        deprecated(f"{__name__}.{name}", "metarl.TaskWorlds")
        return TaskWorlds
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
