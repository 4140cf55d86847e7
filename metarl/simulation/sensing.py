"""What a robot senses of what it touches and of where its parts are, in every world at once.

A family makes these once, of its compiled model, and asks them at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mujoco
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.simulation.backend import Backend
from metarl.simulation.ground import Ground, terrain_of
from metarl.simulation.names import find

_OBJECTS = {
    "geom": mujoco.mjtObj.mjOBJ_GEOM, "body": mujoco.mjtObj.mjOBJ_BODY,
    "site": mujoco.mjtObj.mjOBJ_SITE,
}  # fmt: skip
_PLACES = {"geom": "geom_xpos", "body": "xpos", "site": "site_xpos"}


class Contacts:
    """The contacts that a family's `contacts` name: do they touch, and with what force."""

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        """Find the sensors of ``contacts = {name: contact(…)}``.

        Raises:
            UserError: the model has none by that name.
        """
        names = [model.sensor(i).name for i in range(model.nsensor)]
        which = [i for i, one in enumerate(names) if one.startswith(f"{name}/")]
        if not which:
            known = {one.partition("/")[0] for one in names if "/" in one}
            raise UserError(
                f"the model has no contacts '{name}'{did_you_mean(name, known)}; "
                f"it has {', '.join(sorted(known)) or 'none: write contacts = {…: contact(…)}'}"
            )
        self.name = name
        self.first = len({int(model.sensor_objid[i]) for i in which})
        """n, how many objects there are whose contacts these are."""

    def touching(self, sim: Backend) -> Tensor:
        """Return (B, n) bool: which of the objects touch any of the others."""
        return self._values(sim)[..., 0].sum(2) > 0

    def force(self, sim: Backend) -> Tensor:
        """Return (B, n, 3) the force on each object from the others, N in the world's frame."""
        return -self._values(sim)[..., 1:].sum(2)

    def _values(self, sim: Backend) -> Tensor:
        """(B, n, m, 4): how many contacts, and the force of the first on the second."""
        return sim.sensor(self.name).unflatten(1, (self.first, -1))


class Places:
    """Where some parts of the robot are, such as its feet."""

    def __init__(
        self, model: mujoco.MjModel, names: str | Sequence[str], *,
        kind: Literal["geom", "body", "site"] = "geom", ground: Ground | None = None,
    ) -> None:  # fmt: skip
        """Find the parts.

        Args:
            model: compiled.
            names: by name or pattern.
            kind: what they are.
            ground: what heights count from; None is the terrain of OnTerrain and ``+terrain`` where
                the model has one, and else z = 0.

        Raises:
            UserError: a name or pattern matches nothing.
        """
        if kind not in _OBJECTS:
            raise UserError(f"Places: kind must be one of {', '.join(_OBJECTS)}, not {kind!r:.40}")
        self._field, self.ground = _PLACES[kind], ground or terrain_of(model)
        self._ids = torch.tensor(find(model, _OBJECTS[kind], names))

    def __call__(self, sim: Backend) -> Tensor:
        """Return (B, n, 3) the places of their middles in the world, m."""
        if self._ids.device != sim.device:
            self._ids = self._ids.to(sim.device)
        return sim.bind(self._field).index_select(1, self._ids)

    def heights(self, sim: Backend) -> Tensor:
        """Return (B, n) how far their middles are above the ground, m."""
        x, y, z = self(sim).unbind(2)
        return z if self.ground is None else z - self.ground(sim, x, y)
