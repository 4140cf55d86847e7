"""Backend: what worlds need of a simulator, whatever computes the physics, and on what device.

`metarl.simulation.simulator.Simulator` is that of native MuJoCo, in float64 on the CPU. Families
and worlds keep to the members below, and to `device` and `dtype` for tensors of their own. Task
tables and models are numpy's and on the host, and `set_fields` brings what a task changes to the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean

MOST_CONSTANTS = 500
"""Of a family's that are kept on the device; a family has a handful."""


class State(NamedTuple):
    """A copy of the state, taken before a step."""

    qpos: Tensor
    """(B, nq)"""
    qvel: Tensor
    """(B, nv)"""
    kept: Mapping[str, Tensor] = MappingProxyType({})
    """The fields that the family's `keep` names, (B, …)."""


def write_where(which: Tensor, values: Tensor, into: Tensor) -> None:
    """Write (B, …) values in the worlds of a mask, (B,) bool, without asking which they are."""
    mask = which.view(-1, *[1] * (into.ndim - 1))
    into.copy_(torch.where(mask, values, into))


class Backend(Protocol):
    """B worlds of one model, each with its own state and, where asked, its own model fields.

    Every tensor is on `device`, and the real ones are of `dtype`. `ids` are (n,) int64 on that
    device; None is all worlds.
    """

    model: mujoco.MjModel
    """The nominal model."""
    num_worlds: int
    """B"""
    device: torch.device
    dtype: torch.dtype
    qpos: Tensor
    """(B, nq), live: what is written here is the state that the next step starts from."""
    qvel: Tensor
    """(B, nv), live."""
    ctrl: Tensor
    """(B, nu), live."""
    time: Tensor
    """(B, 1), live, in seconds."""
    memory: dict[str, Tensor] = {}  # noqa: RUF012  (never written to)
    """What the worlds remember, (B, …) by name, as the family's `memory` declares it."""
    calm: Tensor
    """(B,) bool, all False: `step` may return this very tensor where the host knows that no world
    diverged."""
    on_device: bool = False
    """Whether `reset` takes a (B,) bool mask, too, so that worlds can begin anew without a word
    from the host; and `states` says what may be written."""

    def states(self) -> list[Tensor]:
        """Return the live (B, …) tensors of the state that anybody has asked for."""
        return []

    def settle(self) -> None:
        """Raise UserError for what the host learns late; the caller has waited for the device."""

    @property
    def sensordata(self) -> Tensor:
        """The (B, nsensordata) sensor values, current after every step."""
        ...

    def sensor(self, name: str) -> Tensor:
        """Return a live view of one sensor's values, or of a group's, current after every step.

        Args:
            name: of a sensor; or what sensors of one kind that follow each other in the model begin
                with before a slash, as those of a family's `contacts` do.

        Returns:
            (B, d); of a group of n sensors (B, n, d).

        Raises:
            UserError: the model has no such sensor.
        """
        views = vars(self).setdefault("_sensor_views", {})
        if name not in views:
            where, shape = sensor_place(self.model, name)
            views[name] = self.sensordata[:, where].unflatten(1, shape)
        return views[name]

    def constant(self, value: Tensor | np.ndarray | Sequence[float] | float) -> Tensor:
        """Return numbers of a family's on the device, real ones of `dtype`: they go there once.

        Args:
            value: the same object at each call, as an attribute is; it is not changed.
        """
        known = vars(self).setdefault("_constants", {})
        if len(known) >= MOST_CONSTANTS:  # a property makes another object at each call
            known.clear()
        if id(value) not in known:
            tensor = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value))
            real = tensor.is_floating_point()
            known[id(value)] = value, tensor.to(self.device, self.dtype if real else tensor.dtype)
        return known[id(value)][1]

    def bind(self, field: str) -> Tensor:
        """Return a live (B, …) tensor over a field of MjData, current after steps and `refresh`.

        Raises:
            UserError: the simulator has no such field.
        """
        ...

    def snapshot(self, keep: Sequence[str] = ()) -> State:
        """Return a copy of qpos, qvel and the fields of MjData in `keep`."""
        ...

    def set_fields(self, fields: Mapping[str, np.ndarray], ids: Tensor | None = None) -> None:
        """Give model fields per-world values, (n, …); fields set before and not named go back.

        Raises:
            UserError: what MuJoCo derives from the fields cannot be brought up to date.
        """
        ...

    def exchange_fields(self, which: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Give model fields other values in some worlds.

        A back end that is `on_device` does it without a wait; this asks which worlds they are.

        Args:
            which: (B,) bool, the worlds.
            fields: (B, …) values in float64, on the device, of all fields that were last set.
        """
        ids = which.nonzero()[:, 0]
        if len(ids):
            self.set_fields({name: part[ids].cpu().numpy() for name, part in fields.items()}, ids)

    varied: frozenset[str] = frozenset()
    """The fields that `vary` has changed since all of them were last set."""

    def vary(self, field: str, values: Tensor) -> None:
        """Give a model field, of which nothing is derived, other values (B, …) from this step on.

        Such as the delay of actuators. They last until `set_fields` or another call.
        """
        ...

    def model_field(self, field: str) -> Tensor:
        """Return the (B, …) values that a model field has in each world: to read, not to write."""
        ...

    def reset(self, ids: Tensor | None) -> None:
        """Reset worlds to the model's defaults; write their state, then call `refresh`.

        Args:
            ids: (n,) int64, or (B,) bool where the back end is `on_device`.
        """
        ...

    def refresh(self, ids: Tensor | None) -> None:
        """Bring derived fields up to date with a state that was just written."""
        ...

    def step(self, frame_skip: int) -> Tensor:
        """Advance every world by `frame_skip` physics steps; the caller does not write the result.

        Returns:
            (B,) bool, the worlds that diverged. The others do not depend on them.
        """
        ...

    def most_blamed(self) -> tuple[int | None, str]:
        """Return a world that diverged for the reason that most did, and the reason in words."""
        ...

    def world_model(self, world: int) -> mujoco.MjModel:
        """Return a copy of one world's model, with the fields that it has of its own."""
        ...

    def world_state(self, world: int) -> np.ndarray:
        """Return one world's state vector on the host, what mjSTATE_INTEGRATION stands for."""
        ...


def sensor_place(model: mujoco.MjModel, name: str) -> tuple[slice, tuple[int, ...]]:
    """Return where in sensordata the values of a sensor or of a group are, and their shape.

    Raises:
        UserError: there is none of that name, or the group's differ in size or are apart.
    """
    names = [model.sensor(i).name for i in range(model.nsensor)]
    which = [names.index(name)] if name in names else []
    which = which or [i for i, one in enumerate(names) if one.startswith(f"{name}/")]
    if not which:
        known = [*filter(None, names), *{one.partition("/")[0] for one in names if "/" in one}]
        raise UserError(
            f"the model has no sensor '{name}'{did_you_mean(name, known)}; "
            f"it has {', '.join(known) or 'none with a name'}"
        )
    sizes = {int(size) for size in model.sensor_dim[which]}
    if len(sizes) > 1 or which != list(range(which[0], which[-1] + 1)):
        raise UserError(f"the sensors '{name}/…' are no group: they differ in size, or are apart")
    start, size = int(model.sensor_adr[which[0]]), sizes.pop()
    shape = (size,) if name in names else (len(which), size)
    return slice(start, start + len(which) * size), shape


MakeBackend = Callable[[mujoco.MjModel, int, int | None], Backend]
"""Makes a back end of a nominal model, for B worlds, on so many threads (None: the setting)."""
