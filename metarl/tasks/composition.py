"""Composition: products of parameters on one robot, without a new class.

A family names what its robot can vary beyond its own tasks, and ``half-cheetah-vel+dynamics`` is
its goal under those parameters. Two variations fit every family: `latency` delays the motor
commands, `sensor-bias` shifts what is observed. The names after the ``+`` are sorted, so a product
has one name, and its splits are frozen by that name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import TYPE_CHECKING

import mujoco
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean, user_code
from metarl.simulation.backend import Backend
from metarl.simulation.edits import shift
from metarl.simulation.simulator import Simulator
from metarl.tasks.family import TaskFamily, class_name, kebab
from metarl.tasks.params import Interval, Param

if TYPE_CHECKING:
    from metarl.tasks.distribution import Tasks


@dataclass(frozen=True)
class Variation:
    """What one ``+name`` adds to a family: parameters, and a change of its methods if need be."""

    params: tuple[Param, ...] | Callable[[TaskFamily], tuple[Param, ...]]
    """The parameters, or a function of the family without them that returns them."""
    mixin: type[TaskFamily] | None = None
    """A TaskFamily without a model whose methods call `super()`: it comes first in the product's
    method resolution order, so that it can add to the observation. Its `build` is the exception:
    it gets the specification after the family's own `build` has added to it."""
    doc: str = ""
    """One line for the tables."""


def variations(family: type[TaskFamily]) -> dict[str, Variation]:
    """Return every variation that a family takes: its own, then those that any family takes."""
    label, own = class_name(family), {}
    if not isinstance(family.variations, Mapping):
        raise UserError(
            f"family '{label}': variations must be a dictionary of names and Variations, not "
            f"{family.variations!r:.80}"
        )
    for name, variation in family.variations.items():
        if isinstance(variation, str):
            try:
                variation = EntryPoint(name, variation, "").load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"family '{label}': variation '{name}' cannot be imported: {error}"
                ) from None
        own[name] = variation
        if not isinstance(variation, Variation):
            raise UserError(
                f"family '{label}': variation '{name}' must be a Variation, not {variation!r:.80}"
            )
        if name != kebab(name) or not name.replace("-", "").isalnum() or name in GENERIC_VARIATIONS:
            raise UserError(
                f"family '{label}': '{name}' cannot name a variation: use kebab-case, and not "
                f"{' or '.join(GENERIC_VARIATIONS)}"
            )
    return {**own, **(GENERIC_VARIATIONS if family.has_model else {})}


def compose(family: type[TaskFamily], names: Sequence[str]) -> type[TaskFamily]:
    """Return the product of a family and some of its variations.

    Args:
        family: any family.
        names: keys of `variations`, in any order.

    Raises:
        UserError: there is no such variation, it is named twice, or two parameters clash.
    """
    label, known = class_name(family), variations(family)
    for name in names:
        if name not in known:
            raise UserError(
                f"family '{label}' has no variation '{name}'{did_you_mean(name, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"family '{label}': a variation is named twice ({'+'.join(names)})")
    return _compose_cached(family, tuple(sorted(names)))


@functools.cache
def _compose_cached(family: type[TaskFamily], names: tuple[str, ...]) -> type[TaskFamily]:
    """The product for sorted names; the same class every time."""
    if not names:
        return family
    inner, name = _compose_cached(family, names[:-1]), names[-1]
    variation = variations(family)[name]
    params = variation.params(inner()) if callable(variation.params) else variation.params
    return _with_params(inner, name, params, variation.mixin)


def with_params(family: TaskFamily | type[TaskFamily], *params: Param) -> TaskFamily:
    """Return a family with further parameters, named after them.

    It is a product for use in Python. To name it on the command line, and to resume runs of it,
    put the parameters into the family's `variations`, or write a class with them.

    Raises:
        UserError: a parameter clashes with another, or has the name of a variation.
    """
    family = family if isinstance(family, type) else type(family)
    for param in params:
        if not isinstance(param, Param):
            raise UserError(f"family '{class_name(family)}': with_params takes Params, not {param}")
        if kebab(param.name) in variations(family):
            raise UserError(
                f"family '{class_name(family)}': '{kebab(param.name)}' is one of its variations: "
                f"use find_family('{class_name(family)}+{kebab(param.name)}'), or rename the Param"
            )
    for param in sorted(params, key=lambda param: param.name):
        family = _with_params(family, kebab(param.name), (param,), None)
    return family()


def _with_params(
    family: type[TaskFamily],
    name: str,
    params: tuple[Param, ...],
    mixin: type[TaskFamily] | None,
) -> type[TaskFamily]:
    """A subclass of `family` with `params` after its own."""
    label = class_name(family)
    whole = f"{label}+{name}"
    _refuse_clashes(whole, family.params, params)
    tasks = family.split_name or label
    if mixin is not _Told:
        tasks = f"{tasks}+{name}"
    members: dict[str, object] = {
        "__module__": family.__module__,
        "__doc__": family.__doc__,
        "name": whole,
        "source": f"{getattr(family, 'source', label)}+{name}",
        "params": (*family.params, *params),
        "split_name": tasks if tasks != whole else "",
    }
    if mixin is None:
        bases: tuple[type, ...] = (family,)
    elif mixin.build is TaskFamily.build:
        bases = (mixin, family)
    else:
        bases = (mixin, _builds_last(family, mixin, members, name), family)
    return type(f"{family.__name__}+{name}", bases, members)


def _builds_last(
    family: type[TaskFamily], mixin: type[TaskFamily], members: dict[str, object], name: str
) -> type:
    """Let the `build` of `mixin` change what that of `family` has added, before it is compiled.

    The product's `build` is the family's. Where that ends, in TaskFamily.build, the mixin's
    begins, and `super().build(spec)` in the mixin goes on to the base class that is returned
    here, which compiles.
    """
    reached: set[type] = set()

    def build(self: TaskFamily, spec: mujoco.MjSpec) -> mujoco.MjModel:
        model = family.build(self, spec)
        if type(self) not in reached:  # a family may keep a compiled model from then on
            raise UserError(
                f"family '{self.name}': its build() must end with super().build(spec) in place of "
                f"spec.compile(), or '+{name}' cannot change the model"
            )
        return model

    def compile_varied(self: TaskFamily, spec: mujoco.MjSpec) -> mujoco.MjModel:
        reached.add(type(self))
        return mixin.build(self, spec)

    def compile_inner(self: TaskFamily, spec: mujoco.MjSpec) -> mujoco.MjModel:
        return family._compile_varied(self, spec)

    members.update(build=build, _compile_varied=compile_varied)
    return type("Compiled", (), {"build": compile_inner})


def _refuse_clashes(label: str, old: Sequence[Param], new: Sequence[Param]) -> None:
    """Raise UserError where two parameters share a name, or one would undo the other's edit."""
    for param in new:
        for other in old:
            if param.name == other.name:
                raise UserError(
                    f"family '{label}': it has a parameter '{param.name}' already, with range "
                    f"{other.train}; leave the variation out, or rename one of them"
                )
            for one in param.edits:
                for two in other.edits:
                    shared = not one.names or not two.names or set(one.names) & set(two.names)
                    places = {one.index, two.index}
                    same = one.field == two.field and shared and (None in places or len(places) < 2)
                    if same and "assign" in (one.kind, two.kind):
                        raise UserError(
                            f"family '{label}': parameters '{other.name}' and '{param.name}' both "
                            f"change {one.field}, and an `assign` undoes the other; use scale or "
                            f"shift, or name different objects"
                        )


# --- variations of any family ------------------------------------------------------------------

LATENCY = Param(
    "latency", Interval(0.0, 0.04), ood=(Interval(0.04, 0.06),), edit=shift("actuator_delay"),
    unit="s", doc="from a command to the motors' obeying it",
)  # fmt: skip
LONGEST_LATENCY = 0.1
"""Seconds of commands that a world remembers: a task may ask for this much and no more."""


class _Latency(TaskFamily):
    """Motors that obey late, by MuJoCo's own actuator delay.

    At every physics step they follow the newest command that is at least `latency` old, and 0
    before the first.
    """

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Give every motor a memory of its commands; the nominal delay stays as it was."""
        for actuator in spec.actuators:
            longest = actuator.delay + LONGEST_LATENCY
            samples = math.ceil(longest / spec.option.timestep) + 2
            actuator.nsample = max(actuator.nsample, samples)
        return super().build(spec)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuse a latency that the motors' memory cannot hold."""
        super().check_tasks(tasks)
        for value in tasks.column("latency"):
            if not 0.0 <= value <= LONGEST_LATENCY:
                raise UserError(
                    f"family '{self.name}': latency must be from 0 to {LONGEST_LATENCY} s, "
                    f"not {value:g}"
                )


class _SensorBias(TaskFamily):
    """Sensors that are off by a constant, which the learner is not told."""

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O) what the family observes, plus the bias in units of `observation_scale`."""
        obs = super().observe(sim, task)
        bias = task["sensor_bias"]
        scale = torch.as_tensor(self.observation_scale, dtype=bias.dtype, device=bias.device)
        if scale.ndim and scale.shape != obs.shape[1:]:
            raise UserError(
                f"family '{self.name}': observation_scale has {len(scale)} numbers, and the "
                f"observation {obs.shape[1]}"
            )
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise UserError(f"family '{self.name}': observation_scale must be positive numbers")
        return obs + bias.reshape(obs.shape) * scale


def _sensor_bias(family: TaskFamily) -> tuple[Param, ...]:
    """One draw for each element of the family's observation."""
    sim, distribution = Simulator(family.compile(), 1, 1), family.distribution
    task = distribution.tensors(distribution.nominal().values, sim.device, sim.dtype)
    with user_code(f"family '{family.name}': observe()", family):
        size = family.observe(sim, task).shape[1]
    return (
        Param("sensor_bias", Interval(-0.1, 0.1), ood=(Interval(-0.2, -0.1), Interval(0.1, 0.2)),
              size=size, doc="constant error of each sensor, in units of its typical scale"),
    )  # fmt: skip


class _Told(TaskFamily):
    """A robot that observes its task, as an oracle does."""

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O + n): what the family observes, and then what it says of the task."""
        obs = super().observe(sim, task)
        return torch.cat([obs, self.told(sim, task).to(obs.dtype)], 1)


GENERIC_VARIATIONS: Mapping[str, Variation] = MappingProxyType(
    {
        "latency": Variation((LATENCY,), _Latency, "motors that obey late"),
        "sensor-bias": Variation(_sensor_bias, _SensorBias, "sensors that are off by a constant"),
        "told": Variation((), _Told, "the task's parameters in the observation: for an oracle"),
    }
)
"""The variations that every family takes."""
