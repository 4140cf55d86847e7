"""Task families: one robot, its parameters, and what it senses and is paid for.

A family is stateless and written for a batch of worlds: its methods read the simulator's tensors,
(B, …) float64 on the CPU, and return tensors of the same B. A single file with one class is a
whole family; nothing has to be registered to use it (``metarl train my_robot.py:MyRobot …``).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.errors import UserError, did_you_mean
from metarl.keys import WorldDraws
from metarl.scene import Camera, Marker, Reading, find_root, usual_markers, usual_readings
from metarl.tasks import Param

if TYPE_CHECKING:
    from metarl.simulator import Simulator, State


class TaskFamily:
    """A set of MDPs that share one MuJoCo model layout, observation and action space.

    Subclass it, set the class attributes, and write `reward`; the rest has defaults. `task` maps
    each parameter's name to its values, (B,) or (B, size). Actions are in [-1, 1] and map linearly
    onto each actuator's control range.
    """

    name: str = ""
    """kebab-case; the default is made from the class name."""
    model: ClassVar[str | Path | mujoco.MjSpec] = ""
    """MJCF as a string, a path to an MJCF file, or an MjSpec."""
    params: tuple[Param, ...] = ()
    """The parameters of a task."""
    frame_skip: ClassVar[int] = 5
    """Physics steps in one environment step."""
    horizon: ClassVar[int] = 200
    """Environment steps in one episode; the time limit truncates, it does not terminate."""
    reset_noise: ClassVar[float] = 0.1
    """Scale of the default initial state's noise: qpos uniform, qvel normal."""

    camera: ClassVar[Camera | None] = None
    """How a video looks at the robot; None: from a side that suits how it moves, following it."""

    def __init__(self) -> None:
        """Read the class attributes and compile the model."""
        self.name = self.name or _kebab(type(self).__name__)
        self.compiled = self._compile()
        self.params = tuple(self._resolve(param) for param in self.params)
        self._check()

    @functools.cached_property
    def dt(self) -> float:
        """Seconds in one environment step."""
        return float(self.compiled.opt.timestep) * self.frame_skip

    def compile(self) -> mujoco.MjModel:
        """Return the compiled nominal model; do not change it."""
        return self.compiled

    # --- what a family defines -----------------------------------------------------------------

    def initial_state(self, sim: Simulator, ids: Tensor, rng: WorldDraws) -> None:
        """Write qpos and qvel of the worlds `ids` (n,), which MuJoCo has reset to their defaults.

        The default adds `reset_noise` times U[-1, 1) to qpos and times N(0, 1) to qvel, as
        gymnasium's HalfCheetah does; quaternions are normalised.
        """
        noise = self.reset_noise
        qpos = sim.qpos[ids] + rng.uniform(-noise, noise, sim.qpos.shape[1])
        sim.qpos[ids] = _unit_quaternions(self.compiled, qpos)
        sim.qvel[ids] += noise * rng.normal(sim.qvel.shape[1])

    def observe(self, sim: Simulator, task: Mapping[str, Tensor]) -> Tensor:
        """Return the (B, O) observation; the default is qpos and qvel.

        `task` is there for what a robot could sense (a command), not for what it must find out.
        """
        return torch.cat((sim.qpos, sim.qvel), dim=1)

    def reward(
        self, sim: Simulator, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the (B,) reward of the step just taken.

        Args:
            sim: the worlds after the step.
            before: qpos and qvel as they were before it.
            action: (B, A) float64, after clipping to [-1, 1].
            task: parameter name -> (B,) or (B, size).
        """
        raise NotImplementedError(f"{type(self).__name__} must define reward()")

    def terminated(self, sim: Simulator) -> Tensor:
        """Return (B,) bool: which worlds ended in failure. The default: none, ever."""
        return torch.zeros(len(sim.qpos), dtype=torch.bool)

    # --- what a video shows of a task; the defaults know the usual parameters, see metarl.scene ---

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return words for the parameters of one task, name -> a float or (size,), with units."""
        words = []
        for param in self.params:
            values = np.atleast_1d(task[param.name])
            for name, value in zip(param.names, values, strict=True):
                words.append(f"{name.replace('_', ' ')} {value:.3g} {param.unit}".rstrip())
        return words

    def markers(self, task: Mapping[str, Any]) -> list[Marker]:
        """Return what to draw in the scene for one task: a goal, a velocity, a direction."""
        return usual_markers(task)

    def readings(
        self, path: np.ndarray, velocity: np.ndarray, task: Mapping[str, Any]
    ) -> list[Reading]:
        """Return what to show as gauges, from the root's path (m) and velocity (m/s), (T+1, 3)."""
        root = find_root(self.compiled, self.camera.body if self.camera else None)
        return usual_readings(self.markers(task), path, velocity, root)

    # --- checks --------------------------------------------------------------------------------

    def _compile(self) -> mujoco.MjModel:
        with _model_warnings(self.name):
            try:
                model = _spec(self.model).compile()
            except (ValueError, OSError, TypeError, mujoco.FatalError) as error:
                text = " ".join(str(error).split())
                raise UserError(
                    f"family '{self.name}': its MJCF does not compile: {text}"
                ) from None
        for field in ("opt.timestep", "opt.gravity", "body_mass", "body_inertia", "qpos0"):
            owner = model.opt if field.startswith("opt.") else model
            if not np.isfinite(getattr(owner, field.removeprefix("opt."))).all():
                raise UserError(f"family '{self.name}': the model's {field} is not finite")
        if model.opt.timestep <= 0:
            raise UserError(f"family '{self.name}': the model's opt.timestep must be positive")
        if model.nu == 0:
            raise UserError(f"family '{self.name}': the model has no actuators, so no actions")
        return model

    def _resolve(self, param: Param) -> Param:
        """Check a parameter's edits against the model, and fill in a size that it gives."""
        try:
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
        names = [param.name for param in self.params]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: two parameters have the same name ({', '.join(names)})")
        for field in ("frame_skip", "horizon"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{where}: {field} must be a positive integer, not {value!r}")


def find_family(name: str) -> TaskFamily:
    """Return the family registered as `name`, or the one of ``file.py:Class``.

    Raises:
        UserError: no such family or file, or it is not a TaskFamily.
    """
    cls = find_plugin(name, "metarl.families", TaskFamily, "family")
    return cls()


def list_families() -> list[str]:
    """Return the names of the registered families."""
    return sorted(plugins("metarl.families"))


def find_plugin(name: str, group: str, base: type, kind: str) -> type[Any]:
    """Return a class from an entry-point group or from ``file.py:Class``."""
    if ".py:" in name or name.endswith(".py"):
        cls = _from_file(name, kind)
    else:
        known = plugins(group)
        if name not in known:
            raise UserError(
                f"unknown {kind} '{name}'{did_you_mean(name, known)}; "
                f"known: {', '.join(sorted(known))}, or file.py:Class"
            )
        try:
            cls = known[name].load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"{kind} '{name}' cannot be imported: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{kind} '{name}' is not a subclass of metarl.{base.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{kind} '{name}' does not define {missing}")
    cls.source = name
    return cls


def reference(thing: object) -> str:
    """Return the name by which `find_plugin` finds the class of a family or learner again."""
    return absolute(str(getattr(type(thing), "source", "") or getattr(thing, "name", "")))


def plugin_file(name: str) -> Path | None:
    """Return the file of ``file.py:Class``, and None for a registered name."""
    path, mark, _ = name.rpartition(".py:")
    return Path(path + ".py") if mark else None


def absolute(name: str) -> str:
    """Return ``file.py:Class`` with the file's full path, and a registered name as it is."""
    file = plugin_file(name)
    return name if file is None else f"{file.resolve()}:{name.rpartition(':')[2]}"


@functools.cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def _from_file(name: str, kind: str) -> Any:
    path, _, attribute = name.rpartition(".py:")
    file = Path(path + ".py")
    if name.endswith((".py", ".py:")):
        raise UserError(f"{kind} '{name}': say which class, as in {name.rstrip(':')}:MyClass")
    if not file.is_file():
        raise UserError(f"{kind} '{name}': there is no file {file}")
    module = _import(file.resolve(), kind)
    if not hasattr(module, attribute):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{file} has no class '{attribute}'{did_you_mean(attribute, classes)}")
    return getattr(module, attribute)


@functools.cache
def _import(file: Path, kind: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"metarl_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's file raises becomes one line
        text = " ".join(str(error).split())
        raise UserError(f"{kind} file {file}: {type(error).__name__}: {text}") from error
    return module


def _spec(model: str | Path | mujoco.MjSpec) -> mujoco.MjSpec:
    if isinstance(model, mujoco.MjSpec):
        return model
    if isinstance(model, str) and model.lstrip().startswith("<"):
        return mujoco.MjSpec.from_string(model)
    if not str(model):
        raise UserError("it has no model: set `model` to MJCF, a path or an MjSpec")
    if not Path(model).is_file():
        raise UserError(f"there is no model file {model}")
    return mujoco.MjSpec.from_file(str(model))


@contextmanager
def _model_warnings(family: str) -> Iterator[None]:
    """Keep deprecations of a model file from the user, who cannot act on them."""
    previous = mujoco.get_mju_user_warning()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mujoco.set_mju_user_warning(lambda _: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)
    for warning in caught:
        if "deprecated" not in str(warning.message):
            warnings.warn(f"family '{family}': {warning.message}", stacklevel=4)


def _unit_quaternions(model: mujoco.MjModel, qpos: Tensor) -> Tensor:
    """Normalise the quaternions of free and ball joints."""
    offset = {int(mujoco.mjtJoint.mjJNT_FREE): 3, int(mujoco.mjtJoint.mjJNT_BALL): 0}
    for kind, start in zip(model.jnt_type, model.jnt_qposadr, strict=True):
        if int(kind) in offset:
            begin = int(start) + offset[int(kind)]
            part = slice(begin, begin + 4)
            qpos[:, part] = torch.nn.functional.normalize(qpos[:, part], dim=1)
    return qpos


def _kebab(name: str) -> str:
    return "".join("-" + c.lower() if c.isupper() else c for c in name).lstrip("-")
