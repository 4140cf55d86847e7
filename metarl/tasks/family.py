"""Task families: one robot, its parameters, and what it senses and is paid for.

A family is stateless and written for a batch of worlds: its methods read the simulator's tensors,
(B, …) of its type and on its device, float64 on the CPU with MuJoCo, and return tensors of the same
B. A single file with one class is a whole family; nothing has to be registered to use it
(``metarl train my_robot.py:MyRobot …``).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import BatchedRNG
from metarl.base.plugins import check_methods
from metarl.simulation.actions import Actions, Commands, commands, with_controllers
from metarl.simulation.furnish import PD, Contact, furnish
from metarl.simulation.home import Home, HomePose, begin_at, home_of, unit_quaternions
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.events import Every, check_within
from metarl.tasks.model_source import check_compiled, model_warnings, not_built, source_of
from metarl.tasks.params import Param

if TYPE_CHECKING:
    from metarl.simulation.backend import Backend, State
    from metarl.tasks.composition import Variation
    from metarl.video.scene import Camera


METHODS = ("initial_state", "observe", "act", "reward", "terminated", "remember", "event",
           "privileged", "told")  # fmt: skip
"""What the worlds call of a family."""
MOST_STEPS = 10**6
"""Environment steps in an episode, or physics steps in one of them, at most."""


class TaskFamily:
    """A set of MDPs that share one MuJoCo model layout, observation and action space.

    Subclass it, set the class attributes, and write `reward`; the rest has defaults. `task` maps
    each parameter's name to its values, (B,) or (B, size). Actions are in [-1, 1]; unless `actions`
    says otherwise, they map linearly onto each actuator's control range.
    """

    name: str = ""
    """kebab-case; the default is made from the class name."""
    model: ClassVar[str | Path | mujoco.MjSpec] = ""
    """MJCF as a string, a path to an MJCF file, or an MjSpec. A relative path is looked up beside
    the family's file, then in the working folder."""
    params: tuple[Param, ...] = ()
    """The parameters of a task."""
    frame_skip: ClassVar[int] = 5
    """Physics steps in one environment step."""
    horizon: ClassVar[int] = 200
    """Environment steps in one episode; the time limit truncates, it does not terminate."""
    reset_noise: ClassVar[float] = 0.1
    """Scale of the default initial state's noise: qpos uniform, qvel normal."""
    home: ClassVar[HomePose] = ""
    """Where episodes begin, with `reset_noise` on the joints alone: the name of a keyframe, whose
    controls, activations and mocap poses count too, or a pose such as ``{"root": (0, 0, 0.3),
    "*_knee": -1.8}``; "": where the model is compiled. See `metarl.simulation.home`."""
    reset_speed_noise: ClassVar[float | None] = None
    """At `home`, the scale of the noise on the joints' velocities; None: `reset_noise`."""
    reset_base_noise: ClassVar[float] = 0.0
    """At `home`, the scale of the noise on the place and the velocity of the robot's base."""
    floor: ClassVar[bool] = False
    """Whether to add a floor and a light to a model that has none."""
    actuators: ClassVar[PD | tuple[PD, ...]] = ()
    """Actuators to add to the model, by `pd`."""
    contacts: ClassVar[Mapping[str, Contact]] = {}
    """Contact sensors to add, by `contact`, each with a name for `Contacts` to read."""
    probe_steps: ClassVar[int] = 200
    """Steps in which each parameter must change something before a training; 0: unchecked."""
    actions: ClassVar[Actions | None] = None
    """What actions stand for, such as ``position_targets(0.3)``; None: linearly, the control range.
    See `metarl.simulation.actions`."""
    action_size: ClassVar[int | None] = None
    """A, for a family whose `act` alone says what actions do; None: one for each actuator."""
    reward_weights: ClassVar[Mapping[str, float]] = {}
    """The weights of the terms that `reward` returns by name; those not named here have 1."""
    keep: ClassVar[tuple[str, ...]] = ()
    """Fields of MjData, besides qpos and qvel, that `reward` finds in `before.kept`, such as
    ``subtree_com``. One that MuJoCo derives from the state costs a kinematics pass a step."""
    memory: Mapping[str, tuple[int, ...]] = {}
    """What each world remembers within an episode, by name: ``{"air_time": (4,)}`` makes
    ``sim.memory["air_time"]`` (B, 4), which is 0 when an episode begins."""
    events: Mapping[str, Every] = {}
    """What happens at times of its own, such as ``{"gust": every(2.0, jitter=0.5)}``: `event`."""
    switch_at: float | str | None = None
    """When the task begins, in s, or the parameter that says so: until then the robot is nominal,
    goals included. None: with the episode."""
    history_length: ClassVar[int] = 5
    """How many past observations and actions ``+history`` appends."""
    observation_scale: float | tuple[float, ...] = 1.0
    """Typical size of the observation, or of each of its O elements: the unit of bias and noise."""
    variations: ClassVar[Mapping[str, Variation | str]] = {}
    """What else the robot can vary: ``+name`` after the family's name adds its parameters. A string
    is ``module:attribute``, imported when it is needed."""
    split_name: ClassVar[str] = ""
    """The family whose held-out tasks these are; "" is this one. ``+told`` keeps the tasks."""
    arguments: ClassVar[Mapping[str, str]] = {}
    """Of a product, the arguments of its variations by name: the FILE of ``+skills=FILE``."""
    has_model: ClassVar[bool] = True
    """Whether MuJoCo simulates it; a third-party gymnasium environment has no model of ours."""
    camera: ClassVar[Camera | None] = None
    """How a video looks at the robot; None: from a side that suits how it moves, following it."""

    def __init__(self) -> None:
        """Read the class attributes and compile the model."""
        self.name = class_name(type(self))
        self._check_params()
        self._check_probe()
        self.compiled = self._compile()
        edited: set[str] = set()
        self.params = tuple(self._resolve(param, edited) for param in self.params)
        self._check()
        _ = self.command_map

    @functools.cached_property
    def dt(self) -> float:
        """Seconds in one environment step."""
        return float(self.compiled.opt.timestep) * self.frame_skip

    def compile(self) -> mujoco.MjModel:
        """Return the compiled nominal model; do not change it."""
        return self.compiled

    @functools.cached_property
    def home_state(self) -> Home:
        """What `home` stands for in the compiled model; see `metarl.simulation.home`."""
        try:
            return home_of(self.compiled, self.home)
        except UserError as error:
            raise UserError(f"family '{self.name}', home: {error}") from None

    @functools.cached_property
    def compiled_apart(self) -> mujoco.MjModel:
        """The nominal model compiled a second time, which nothing changes: `metarl check`'s own."""
        return self._compile()

    @functools.cached_property
    def command_map(self) -> Commands:
        """What actions stand for: `actions`, for this model and dt."""
        size = self.action_size
        if size is not None and not acts(self):
            raise UserError(f"family '{self.name}': its action_size needs an act() that uses it")
        home = self.home_state.qpos if self.home else None
        return commands(self.actions, self.compiled, self.dt, self.name, size, home)

    @functools.cached_property
    def distribution(self) -> TaskDistribution:
        """The tasks of this family: training draws and the frozen splits."""
        return TaskDistribution(self)

    # --- what a family defines -----------------------------------------------------------------

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Return the compiled model; a family may add to the specification first (a terrain).

        End with ``super().build(spec)``, which compiles: what variations change in `build` comes
        between the family's own additions and the compilation.
        """
        try:
            furnish(spec, self.floor, self.actuators, self.contacts, self.home)
        except UserError as error:
            raise UserError(f"family '{self.name}': {error}") from None
        return self._compile_varied(spec)

    def _compile_varied(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Compile; a product of a family and a variation lets the variation build first."""
        return spec.compile()

    def check_tasks(self, tasks: Tasks) -> None:
        """Raise UserError for tasks that the robot cannot have, such as one set by hand."""

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Write qpos and qvel of the worlds `ids` (n,), which MuJoCo has reset to their defaults.

        The default adds `reset_noise` times U[-1, 1) to qpos and times N(0, 1) to qvel, as
        gymnasium's HalfCheetah does; quaternions are normalised. A family with a `home` begins
        there instead.
        """
        noise = self.reset_noise
        if self.home:
            speed = noise if self.reset_speed_noise is None else self.reset_speed_noise
            begin_at(self.home_state, sim, ids, rng, noise, speed, self.reset_base_noise)
            return
        qpos = sim.qpos[ids] + rng.uniform(-noise, noise, sim.qpos.shape[1])
        sim.qpos[ids] = unit_quaternions(self.compiled, qpos)
        sim.qvel[ids] += noise * rng.normal(sim.qvel.shape[1])

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return the (B, O) observation; the default is qpos and qvel.

        `task` is there for what a robot could sense (a command), not for what it must find out.
        """
        return torch.cat((sim.qpos, sim.qvel), dim=1)

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Change what drives the step to come, once `actions` has set the controls.

        For what no declaration says, such as mocap bodies or inverse kinematics: it may write ctrl,
        mocap_pos, mocap_quat, xfrc_applied and qfrc_applied of `sim`. The default does nothing.

        Args:
            sim: the worlds before the step.
            action: (B, A) of the simulator's type, after clipping to [-1, 1].
            task: parameter name -> (B,) or (B, size).
        """

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor | Mapping[str, Tensor]:
        """Return the (B,) reward of the step just taken, or its terms by name.

        Terms, (B,) each, are added in their order, each times its weight in `reward_weights`.

        Args:
            sim: the worlds after the step.
            before: qpos and qvel as they were before it, and in `kept` the fields of `keep`.
            action: (B, A) of the simulator's type, after clipping to [-1, 1].
            task: parameter name -> (B,) or (B, size).
        """
        raise NotImplementedError(f"{type(self).__name__} must define reward()")

    def remember(
        self, sim: Backend, action: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Update `sim.memory` once a step, after `reward`, `terminated` and the events.

        Args:
            sim: the worlds after the step, of which it writes the memory alone.
            action: (B, A), as of `reward`.
            task: parameter name -> (B,) or (B, size).
            rng: draws for all worlds, other ones at each step.
        """

    def event(
        self, name: str, sim: Backend, ids: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Let one of `events` happen in the worlds `ids` (n,), after `reward` and `terminated`.

        It may write `sim.memory`, and what `act` may write; `rng` draws for those worlds.
        """

    def privileged(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor | None:
        """Return (B, P) what only critics may see, and only in training; the default is nothing.

        Such as contact forces or the friction under a foot, in units in which they are about 1.
        The task's parameters need not be there: a privileged critic sees those anyway.
        """
        return None

    def told(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, n) what ``+told`` adds to the observation: all that an oracle should know.

        The default is every parameter by `Param.encode`. Override it where a number says nothing to
        a network, as that of a terrain: there the heights ahead are the task.
        """
        return torch.cat(list(self.distribution.normalized(task).values()), 1)

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: which worlds ended in failure. The default: none, ever."""
        return sim.qpos.new_zeros(len(sim.qpos), dtype=torch.bool)

    # --- words for a task; `metarl.video.scene` names the members that only videos use -----------

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return words for the parameters of one task, name -> a float or (size,), with units."""
        words = []
        for param in self.params:
            values = np.atleast_1d(task[param.name])
            for name, value in zip(param.names, values, strict=True):
                words.append(f"{name.replace('_', ' ')} {value:.3g} {param.unit}".rstrip())
        return words

    # --- checks --------------------------------------------------------------------------------

    def _compile(self) -> mujoco.MjModel:
        with model_warnings(self.name):
            try:
                model = self.build(source_of(self))
            except (ValueError, OSError, TypeError, mujoco.FatalError) as error:
                raise not_built(self.name, error) from None
        if not isinstance(model, mujoco.MjModel):
            raise UserError(
                f"family '{self.name}': build() must return the model that super().build(spec) "
                f"compiles, not {type(model).__name__}"
            )
        check_compiled(self, model)
        return with_controllers(self.actions, model, self.name)

    def _check_probe(self) -> None:
        if type(self.probe_steps) is not int or self.probe_steps < 0:
            raise UserError(
                f"family '{self.name}': probe_steps must be a whole number of at least 0, "
                f"not {self.probe_steps!r:.80}"
            )

    def _check_params(self) -> None:
        params = self.params
        if not (isinstance(params, tuple | list) and all(isinstance(p, Param) for p in params)):
            raise UserError(
                f"family '{self.name}': params must be a tuple of Param, such as (Param(…),), "
                f"not {params!r:.80}"
            )

    def _resolve(self, param: Param, edited: set[str]) -> Param:
        """Check a parameter's edits against the model, and fill in a size that it gives.

        Args:
            param: one of the family's.
            edited: fields that the parameters before it set or shift; this one's are added.
        """
        try:
            param.check_edits(self.compiled, edited)
            counts = [edit.count(self.compiled) for edit in param.edits]
            if param.size == "model":
                if not counts:
                    raise UserError("size='model' needs an edit to take the size from")
                if len(set(counts)) > 1:
                    raise UserError(f"size='model' needs edits of equal sizes, not {counts}")
                return replace(param, size=counts[0])
            if any(param.size not in (1, count) for count in counts):
                raise UserError(f"size {param.size} must be 1 or the edit's {counts[0]} elements")
        except UserError as error:
            raise UserError(f"family '{self.name}', parameter '{param.name}': {error}") from None
        return param

    def _check(self) -> None:
        where = f"family '{self.name}'"
        if self.home:
            _ = self.home_state
        names = [param.name for param in self.params]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: two parameters have the same name ({', '.join(names)})")
        for field in ("frame_skip", "horizon"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise UserError(f"{where}: {field} must be a positive integer, not {value!r:.80}")
            if value > MOST_STEPS:
                raise UserError(f"{where}: {field} must be at most {MOST_STEPS}, not {value}")
        check_within(self)
        check_methods(self, TaskFamily, [name for name in METHODS if acts(self, name)], where)


def class_name(family: type[TaskFamily]) -> str:
    """Return the name of a family: its own, or one made from the class name."""
    return family.name or kebab(family.__name__)


def kebab(name: str) -> str:
    """Return a class name or a snake_case name in kebab-case."""
    words = "".join("-" + c.lower() if c.isupper() else c for c in name)
    return words.lstrip("-").replace("_", "-")


def replace_attributes(family: TaskFamily, **attributes: Any) -> TaskFamily:
    """Return a copy of a family with other attributes, such as its horizon or a method."""
    clone = copy.copy(family)
    vars(clone).update(attributes)
    return clone


def without_termination(family: TaskFamily) -> TaskFamily:
    """Return a copy of a family whose episodes end only where the physics diverges."""

    def never(sim: Any) -> Tensor:
        return sim.qpos.new_zeros(len(sim.qpos), dtype=torch.bool)

    return replace_attributes(family, horizon=2**40, terminated=never)


def acts(family: TaskFamily, method: str = "act") -> bool:
    """Return whether a family has an `act` of its own, or another such method."""
    return getattr(getattr(family, method), "__func__", None) is not getattr(TaskFamily, method)
