"""Playing with a trained agent in MuJoCo's viewer: sliders change its task while it acts.

The viewer has a slider for each actuator of the model that it shows. That model is the family's,
with one more actuator for each parameter of the task, which moves nothing: its slider is the
parameter's. The physics are those of `TaskWorlds`; the viewer's model is only posed.
"""

from __future__ import annotations

import copy
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.base.text import shown
from metarl.tasks.distribution import Choices, Param, Tasks
from metarl.tasks.family import TaskFamily
from metarl.tasks.model_source import beside, model_warnings, spec_of
from metarl.video.film import described, experience
from metarl.video.renderer import Marks, add_mark, brighten, drawn, extend_ground
from metarl.video.scene import find_root, markers_of, robot_size
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import collect

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.learning.learner import Learner
    from metarl.worlds.task_worlds import TaskWorlds
    from metarl.worlds.vector import Step, Transition

KEYS = {"M": "forget the task", "N": "another task", "B": "break or mend something"}
FLAGS = (mujoco.mjtVisFlag.mjVIS_COM, mujoco.mjtVisFlag.mjVIS_ISLAND,
         mujoco.mjtVisFlag.mjVIS_PERTFORCE)  # fmt: skip
"""What the viewer itself switches by these keys: it is switched back."""
ROUNDS = 3
"""Episodes that a learner explores in, of those that adapt to exploring ones, as `metarl adapt`."""
ARROW = 0.5
"""Length of an arrow for 1 m/s, by the size of the robot."""
BLUE = (0.2, 0.57, 0.91)
"""Of the arrow of the robot's own velocity; what is asked for is green."""
FASTEST = 50.0
"""m/s beyond which a robot did not move, but was put elsewhere."""
LATE = 0.2
"""Seconds that it may be late before real time is given up."""


class _Again(Exception):  # noqa: N818  (it is no error)
    """Ends an episode: another one begins."""


class _Closed(Exception):  # noqa: N818
    """The window is closed."""


# --- the model that is shown -------------------------------------------------------------------


def with_sliders(family: TaskFamily) -> mujoco.MjModel:
    """Return a family's model with an actuator that moves nothing for each parameter of a task.

    Raises:
        UserError: the model has no joint to put them on, or the family compiles it by itself.
    """
    with model_warnings(family.name):
        spec, own = last_spec(family), family.compile()
        if spec is None or not (joints := spec.joints):
            raise _no_sliders(family)
        joints[0].name = joints[0].name or "metarl_first_joint"
        taken = {actuator.name for actuator in spec.actuators}
        for param in family.params:
            for name in param.names:
                spec.add_actuator(
                    name=f"task {name}" if name in taken else name, target=joints[0].name,
                    trntype=mujoco.mjtTrn.mjTRN_JOINT, gainprm=[0.0] * 10, gear=[0.0] * 6,
                    ctrllimited=True, ctrlrange=limits(param),
                )  # fmt: skip
        model = spec.compile()
    if (model.nq, model.ngeom, model.nhfield) != (own.nq, own.ngeom, own.nhfield):
        raise _no_sliders(family)
    return model


def _no_sliders(family: TaskFamily) -> UserError:
    return UserError(
        f"family '{family.name}': its model can have no sliders: it has no joints, or its build() "
        f"does not end with super().build(spec); try metarl render"
    )


def last_spec(family: TaskFamily) -> mujoco.MjSpec | None:
    """Return the specification that is compiled to a family's model; None if it is not known.

    A build may copy the specification that it is given, and keep what it compiled by its class. So
    this builds once more as a class of its own, and looks where all builds end.
    """
    found: list[mujoco.MjSpec] = []
    ends = TaskFamily._compile_varied

    def watched(self: TaskFamily, spec: mujoco.MjSpec) -> mujoco.MjModel:
        found.append(spec)
        return ends(self, spec)

    again = copy.copy(family)
    again.__class__ = type(type(family).__name__, (type(family),), {})
    TaskFamily._compile_varied = watched
    try:
        again.build(spec_of(beside(type(family))))
    finally:
        TaskFamily._compile_varied = ends
    return found[-1] if found else None


def limits(param: Param) -> tuple[float, float]:
    """Return the ends of a parameter's slider: all that it may be in any split."""
    if isinstance(param.train, Choices):
        return min(param.choices), max(param.choices) + 1e-9
    ends = [end for where in (param.train, *param.ood) for end in (where.low, where.high)]
    return min(ends), max(ends)


def copy_look(world: mujoco.MjModel, to: mujoco.MjModel) -> None:
    """Give a model what another one of the same bodies has of its own: sizes, places, colours."""
    for name in (name for name in dir(world) if name[0] != "_"):
        theirs, mine = getattr(world, name), getattr(to, name)
        if not (isinstance(theirs, np.ndarray) and isinstance(mine, np.ndarray)):
            continue
        if (theirs.shape, theirs.dtype) == (mine.shape, mine.dtype):
            mine[:] = theirs


# --- the game ----------------------------------------------------------------------------------


@dataclass
class Player:
    """A learner that acts in a family's worlds in real time, of which the first is shown."""

    learner: Learner
    worlds: TaskWorlds
    task: Tasks
    """One"""
    seed: int
    speed: float
    say: Callable[[str], None]
    keys: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    """Letters that were pressed, from the viewer's thread."""
    seen: int = 0
    """Episodes since the memory was empty."""
    episode: int = 0

    def __post_init__(self) -> None:
        """Make the model that is shown."""
        self.family = self.worlds.family
        self.model = with_sliders(self.family)
        brighten(self.model)
        extend_ground(self.model)
        self.data = mujoco.MjData(self.model)
        self.faults = [p for p in self.family.params if any(e.case is not None for e in p.edits)]
        self._own = self.model.nu - self.task.values.shape[1]
        """Actuators of the robot."""
        self._due, self._return = time.monotonic(), 0.0
        self._state, self._drawn = self._begin(), 0
        self._place, self._speed = np.zeros(3), np.zeros(3)

    # --- what keys and sliders do --------------------------------------------------------------

    def press(self, code: int) -> None:
        """Take a key; called in the viewer's thread."""
        if 0 < code < 128 and chr(code) in KEYS:
            self.keys.put(chr(code))

    def obey(self) -> None:
        """Do what was asked for since the last step. Raises _Again where an episode begins."""
        while not self.keys.empty():
            key = self.keys.get()
            if key == "M":
                self.forget()
            elif key == "N":
                self.redraw()
            elif self.faults:
                self.break_something()
            else:
                self.say(f"nothing can break in {self.family.name}: no parameter is a fault")
        chosen = self.chosen()
        if not np.array_equal(chosen, self.task.values[0]):
            self.change(chosen)

    def forget(self) -> None:
        """Empty the memory, and begin an episode. Raises _Again."""
        self.seen = 0
        self.say("it knows nothing of the task now")
        raise _Again("forget")

    def redraw(self) -> None:
        """Draw another task from the training box; what it remembers stays. Raises _Again."""
        self._drawn += 1
        rng = Key(self.seed).fold("play", "task", self._drawn).numpy()
        self.give(self.family.distribution.sample(1, rng))
        raise _Again

    def break_something(self) -> None:
        """Give the next value to what is a fault, in the middle of an episode."""
        values = self.task.values[0].copy()
        param = self.faults[0]
        at = self.family.distribution.index(param.names[0])
        others = [value for value in param.choices if value != values[at]]
        values[at] = next((v for v in others if v > values[at]), others[0])
        self.change(values)

    def chosen(self) -> np.ndarray:
        """Return (P,) what the sliders say, discrete parameters at the nearest of their values."""
        said = self.data.ctrl[self._own :]
        shown_before = self._shown
        values, at = self.task.values[0].copy(), 0
        for param in self.family.params:
            for _ in param.names:
                if said[at] != shown_before[at]:
                    values[at] = said[at]
                    if isinstance(param.train, Choices):
                        values[at] = min(param.choices, key=lambda v, x=said[at]: abs(v - x))
                at += 1
        return values

    def change(self, values: np.ndarray) -> None:
        """Let the robot have another task from now on, wherever it is."""
        distribution = self.family.distribution
        names = self.task.names
        try:
            self.give(distribution.make(**dict(zip(names, values.tolist(), strict=True))))
        except UserError as error:
            self.say(f"not that task: {error}")
            self._show_sliders()
            return
        self.worlds.simulator.refresh(None)

    def give(self, task: Tasks) -> None:
        """Set a task in every world."""
        self.worlds.set_tasks(task, self.worlds.num_worlds)
        self.task = task
        self._markers = markers_of(self.family, named(self.family, task.values[0]))
        copy_look(self.worlds.simulator.world_model(0), self.model)
        brighten(self.model)
        extend_ground(self.model)
        self._show_sliders()
        self.say(f"task: {task.label(0)}")

    def _show_sliders(self) -> None:
        """Put the sliders where the task is."""
        self.data.ctrl[self._own :] = self.task.values[0]
        self._shown = self.data.ctrl[self._own :].copy()

    # --- acting --------------------------------------------------------------------------------

    def play(self, viewer: Any) -> None:
        """Let it act, episode after episode, until the window is closed."""
        self._flags = {flag: int(viewer.opt.flags[flag]) for flag in FLAGS}
        self.give(self.task)
        try:
            while True:
                self.play_episode(viewer)
        except _Closed:
            return

    def play_episode(self, viewer: Any) -> None:
        """Play one episode, as an evaluation does, and adapt to it."""
        key = Key(self.seed).fold("play", self.episode)
        acting = _Acting(self.learner, self._state)
        explores = self.explores
        self.worlds.seed(key)
        self.worlds.reset()
        self._due, self._return = time.monotonic(), 0.0
        self.episode += 1
        try:
            rollout, _ = collect(
                self.worlds, acting, None, self.worlds.spec.horizon, key, explore=explores,
                on_step=lambda got: self.show(viewer, got),
            )  # fmt: skip
        except _Again as why:
            self._state = self._begin() if why.args else acting.state
            return
        self._state = acting.state
        if explores or not self.learner.adapts_on_exploration:
            self._state = self.learner.adapt(self._state, rollout)
        self.seen += self.worlds.num_worlds if self.learner.adapts_per_task else 1
        words = " (exploring)" if explores else ""
        self.say(f"episode {self.episode}{words}: return {shown(self._return, 1)}")

    @property
    def explores(self) -> bool:
        """Whether the next episode is one to explore in: the first ones of some learners are."""
        each = self.worlds.num_worlds if self.learner.adapts_per_task else 1
        return self.learner.adapts_on_exploration and self.seen < ROUNDS * each

    def show(self, viewer: Any, got: Transition) -> None:
        """Show the first world after a step, at its time, and obey."""
        if not viewer.is_running():
            raise _Closed
        self._return += float(got.reward[0])
        sim, data = self.worlds.simulator, self.data
        data.qpos[:], data.qvel[:] = sim.qpos[0].cpu().numpy(), sim.qvel[0].cpu().numpy()
        data.ctrl[: self._own] = sim.ctrl[0].cpu().numpy()
        mujoco.mj_forward(self.model, data)
        with viewer.lock():
            for flag, value in self._flags.items():
                viewer.opt.flags[flag] = value
            self.mark(viewer.user_scn)
        viewer.set_texts(self.texts())
        viewer.sync()
        self._due = max(self._due + self.family.dt / self.speed, time.monotonic() - LATE)
        time.sleep(max(0.0, self._due - time.monotonic()))
        self.obey()

    def mark(self, scene: mujoco.MjvScene) -> None:
        """Draw what the task asks for, as videos do: a goal, or a velocity beside the robot's."""
        root = find_root(self.model)
        place, scene.ngeom = self.data.xpos[root.body].copy(), 0
        moved = (place - self._place) / self.family.dt
        self._place = place
        if not np.linalg.norm(moved) < FASTEST:  # another episode began
            return
        self._speed += 0.2 * (moved - self._speed)
        wide, down, up = robot_size(self.model, root)
        size = max(wide, (down + up) / 2)
        marks = Marks(
            self._markers, place, self._speed, np.zeros((0, 3)), radius=size,
            above=up + 0.35 * wide, ground=(), scale=ARROW * size, colour=BLUE,
        )  # fmt: skip
        for one in drawn(marks):
            add_mark(scene, *one)

    def texts(self) -> list[tuple[int | None, int, str, str]]:
        """Return what stands over the picture: the task and the return, and the keys."""
        task = described(self.family, named(self.family, self.task.values[0]))
        mode = "exploring" if self.explores else experience(self.seen)
        lines = [*task[:8], mode, f"return {self._return:.1f}"]
        text = "\n".join(lines).replace("\N{MINUS SIGN}", "-")  # which the viewer's font lacks
        keys = [k for k in KEYS if k != "B" or self.faults]
        what = [KEYS[k] for k in keys]
        return [
            (None, int(mujoco.mjtGridPos.mjGRID_TOPLEFT), text, ""),
            (None, int(mujoco.mjtGridPos.mjGRID_BOTTOMLEFT), "\n".join(["Control", *keys]),
             "\n".join(["sliders of the task", *what])),
        ]  # fmt: skip

    def _begin(self) -> Any:
        """The state that knows nothing."""
        return self.learner.begin_seeded(1, self.worlds.num_worlds, self.seed)


class _Acting(Policy):
    """A learner whose state can be read while an episode is played."""

    def __init__(self, learner: Learner, state: Any) -> None:
        self.learner, self.state, self.device = learner, state, learner.device

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        action, self.state = self.learner.act(step, self.state, explore=explore, noise=noise)
        return action, None

    def act_and_record(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any, dict[str, Tensor]]:
        action, self.state, more = self.learner.act_and_record(
            step, self.state, explore=explore, noise=noise
        )
        return action, None, more


def named(family: TaskFamily, values: np.ndarray) -> dict[str, Any]:
    """Return a task's parameters by name: a float each, or (size,) float64."""
    row, out = iter(values.tolist()), {}
    for param in family.params:
        some = [next(row) for _ in param.names]
        out[param.name] = some[0] if len(some) == 1 else np.array(some)
    return out


__all__ = ["KEYS", "Player", "copy_look", "limits", "named", "with_sliders"]
