"""Composition: products of parameters on one robot, without a new class.

A family names what its robot can vary beyond its own tasks, and ``half-cheetah-vel+dynamics`` is
its goal under those parameters. Some variations fit every family: `dynamics` and `terrain` where
it has none of its own by that name, `latency`, which delays the motor commands, `sensor-bias`,
which shifts what is observed, and what happens within an episode. The names after the ``+`` are
sorted, so a product has one name, and its splits are frozen by that name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import MappingProxyType

import mujoco
import torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds, did_you_mean
from metarl.simulation.backend import Backend
from metarl.tasks.family import TaskFamily, class_name, kebab
from metarl.tasks.params import Param
from metarl.tasks.variations.dynamics import AnyMass, dynamics_of
from metarl.tasks.variations.events import Command, Push, Switch, command_of, push_of, switch_of
from metarl.tasks.variations.latency import JITTER, LATENCY, Latency, VaryingLatency
from metarl.tasks.variations.sensors import NOISE, History, Noise, SensorBias, sensor_bias
from metarl.tasks.variations.skills import SkillReward, skills_file, skills_of
from metarl.tasks.variations.terrain import OnAnyTerrain, terrain_of


@dataclass(frozen=True)
class Variation:
    """What one ``+name`` adds to a family: parameters, and a change of its methods if need be."""

    params: tuple[Param, ...] | Callable[..., tuple[Param, ...]]
    """The parameters, or a function of the family without them that returns them; of a variation
    with an argument, of that, too."""
    mixin: type[TaskFamily] | None = None
    """A TaskFamily without a model whose methods call `super()`: it comes first in the product's
    method resolution order, so that it can add to the observation. Its `build` is the exception:
    it gets the specification after the family's own `build` has added to it."""
    doc: str = ""
    """One line for the tables."""
    last: int = 0
    """Variations are applied in the order of their names; those with a higher number after that."""
    argument: Callable[[str], str] | None = None
    """What makes an argument whole and refuses a wrong one, for a variation that needs one, as
    ``+skills=FILE`` does. The product has it in `arguments`, and its full name ends with it."""
    replaces: bool = False
    """Whether its tasks take the place of the family's, of which those stay that edit the model."""


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
        reserved = [name for name in GENERIC_VARIATIONS if name not in REPLACEABLE]
        if name != kebab(name) or not name.replace("-", "").isalnum() or name in reserved:
            raise UserError(
                f"family '{label}': '{name}' cannot name a variation: use kebab-case, and not "
                f"{' or '.join(reserved)}"
            )
    generic = GENERIC_VARIATIONS if family.has_model else {}
    return {**own, **{name: generic[name] for name in generic if name not in own}}


def compose(family: type[TaskFamily], names: Sequence[str]) -> type[TaskFamily]:
    """Return the product of a family and some of its variations.

    Args:
        family: any family.
        names: keys of `variations`, in any order, ``key=argument`` for one that needs one.

    Raises:
        UserError: there is no such variation, it is named twice, two parameters clash, or an
            argument is missing, wrong or too much.
    """
    label, known, chosen = class_name(family), variations(family), []
    for text in names:
        name, given, argument = text.partition("=")
        if name not in known:
            raise UserError(
                f"family '{label}' has no variation '{name}'{did_you_mean(name, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
        whole = known[name].argument
        if given and whole is None:
            raise UserError(f"family '{label}': '+{name}' takes no argument, such as '{text}'")
        chosen.append((name, "" if whole is None else whole(argument)))
    if len({name for name, _ in chosen}) < len(names):
        raise UserError(f"family '{label}': a variation is named twice ({'+'.join(names)})")
    return _compose_cached(family, tuple(sorted(chosen, key=lambda n: (known[n[0]].last, n))))


@functools.cache
def _compose_cached(
    family: type[TaskFamily], names: tuple[tuple[str, str], ...]
) -> type[TaskFamily]:
    """The product for names with arguments, in order; the same class every time."""
    if not names:
        return family
    inner, (name, argument) = _compose_cached(family, names[:-1]), names[-1]
    variation, more = variations(family)[name], [argument] if argument else []
    params = variation.params(inner(), *more) if callable(variation.params) else variation.params
    made = _with_params(inner, name, params, variation.mixin)
    if variation.replaces:
        own = {param.name for param in family.params if not param.edits}
        made.params = tuple(param for param in made.params if param.name not in own)
    label = class_name(family)
    made.name = label + "".join(f"+{name}" for name, _ in sorted(names))
    given = {name: argument for name, argument in names if argument}
    made.arguments = {**family.arguments, **given}
    whole = "".join(
        f"+{name}" + f"={argument}" * bool(argument) for name, argument in sorted(names)
    )
    setattr(made, "source", getattr(family, "source", label) + whole)  # noqa: B010
    return made


def with_params(family: TaskFamily | type[TaskFamily], *params: Param) -> TaskFamily:
    """Return a family with further parameters, named after them.

    It is a product for use in Python. To name it on the command line, and to resume runs of it,
    put the parameters into the family's `variations`, or write a class with them.

    Raises:
        UserError: a parameter clashes with another, or has the name of a variation.
    """
    if not isinstance(family, type):
        check_kinds(family=(family, TaskFamily))
        family = type(family)
    for param in params:
        if not isinstance(param, Param):
            raise UserError(f"with_params takes Params, not {param!r:.80}")
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
    if mixin in family.__mro__:
        raise UserError(f"family '{label}' has the variation '{name}' already")
    _refuse_clashes(whole, family.params, params)
    tasks = family.split_name or label
    if mixin not in (_Told, History):
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
                    if one.meets(two) and "assign" in (one.kind, two.kind):
                        raise UserError(
                            f"family '{label}': parameters '{other.name}' and '{param.name}' both "
                            f"change {one.field}, and an `assign` undoes the other; use scale or "
                            f"shift, or name different objects"
                        )


# --- variations of any family ------------------------------------------------------------------


class _Told(TaskFamily):
    """A robot that observes its task, as an oracle does."""

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O + n): what the family observes, and then what it says of the task."""
        obs = super().observe(sim, task)
        return torch.cat([obs, self.told(sim, task).to(obs.dtype)], 1)


def observed(family: TaskFamily) -> tuple[bool, list[object]]:
    """Return whether a family observes its task after all else, as ``+told`` does, and what else.

    Two families of one robot observe the same if the second parts, the `observe` of their classes,
    are equal.
    """
    methods = [vars(cls)["observe"] for cls in type(family).__mro__ if "observe" in vars(cls)]
    told = methods[0] is _Told.observe
    return told, methods[told:]


def same_robot(one: TaskFamily, other: TaskFamily) -> bool:
    """Whether two families move the same joints by the same actuators, whatever they are paid for.

    Of families without a model of ours: whether they are the same family.
    """
    if not (one.has_model and other.has_model):
        return one.name == other.name
    moved = []
    for model in (one.compile(), other.compile()):
        joints = [(model.joint(i).name, int(model.jnt_type[i])) for i in range(model.njnt)]
        moved.append((joints, [model.actuator(i).name for i in range(model.nu)]))
    return moved[0] == moved[1]


def other_tasks(of: TaskFamily, own: TaskFamily) -> str:
    """Return in words that an agent was trained on another family than one's own, ``+told`` aside.

    "" if it was not.
    """
    other = untold(of.name) != untold(own.name)
    return f"was trained on '{of.name}', and not on '{own.name}'" if other else ""


def untold(name: str) -> str:
    """Return the name of a family without ``+told``."""
    return "+".join(word for word in name.split("+") if word != "told")


GENERIC_VARIATIONS: Mapping[str, Variation] = MappingProxyType(
    {
        "command": Variation(command_of, Command, "velocities to follow, others in an episode"),
        "dynamics": Variation(dynamics_of, AnyMass, "masses, friction, joints, motors, payload"),
        "history": Variation((), History, "what it has observed and done lately", last=1),
        "latency": Variation((LATENCY,), Latency, "motors that obey late"),
        "noise": Variation((NOISE,), Noise, "sensors with white noise"),
        "push": Variation(push_of, Push, "pushes at random times"),
        "sensor-bias": Variation(sensor_bias, SensorBias, "sensors that are off by a constant"),
        "skills": Variation(
            skills_of,
            SkillReward,
            "skills found without a reward, as tasks",
            argument=skills_file,
            replaces=True,
        ),
        "switch": Variation(switch_of, Switch, "a task that begins within the episode"),
        "terrain": Variation(terrain_of, OnAnyTerrain, "slopes, roughness, steps and gaps"),
        "varying-latency": Variation(
            (LATENCY, JITTER), VaryingLatency, "motors that obey late, now more and now less"
        ),
        "told": Variation(
            (), _Told, "the task's parameters in the observation: for an oracle", last=2
        ),
    }
)
"""The variations that every family takes, as far as its robot has what they vary."""
REPLACEABLE = ("command", "dynamics", "history", "noise", "push", "switch", "terrain")
"""Those in whose place a family may have one of its own by that name."""
