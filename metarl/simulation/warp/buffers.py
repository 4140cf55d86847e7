"""How many contacts and constraints MuJoCo Warp has room for, measured and with some to spare.

Its buffers have a fixed size, and what does not fit is dropped in silence. The default is a guess;
`measure` counts at states that a robot was in, and `WarpSimulator` stops where there was no room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import mujoco
import numpy as np
import torch

from metarl.simulation.warp.install import default_device, load, on
from metarl.simulation.warp.model import WorldModels, runnable

ROOM = 1.5
"""How many times what was measured there is room for, if nobody says."""
_LEAST_CONTACTS, _LEAST_ROWS = 8, 24
_GROWTH, _MOST = 4, 1 << 14


class Buffers(NamedTuple):
    """What there is room for."""

    contacts: int
    """A world, on average over all worlds: pairs of geoms that are near each other."""
    rows: int
    """In every world: constraints, of which a contact with friction has four."""


def measure(
    model: mujoco.MjModel, qpos: np.ndarray, fields: Mapping[str, np.ndarray], *,
    room: float = ROOM, device: str | None = None,
) -> Buffers:  # fmt: skip
    """Return what there must be room for, from the contacts at states of a robot.

    Args:
        model: the nominal model.
        qpos: (K, nq) states, those with the most contacts among them.
        fields: name -> (K, …), the model fields of each.
        room: how many times the most of any state.
        device: of Warp.
    """
    wp, mjw = load()
    count, contacts, rows = len(qpos), 64, 256
    with on(device or default_device()):
        worlds = WorldModels(model, count)
        worlds.set(fields, None)
        while True:
            d = mjw.make_data(runnable(model), nworld=count, nconmax=contacts, njmax=rows)
            target = wp.to_torch(d.qpos)
            target.copy_(torch.from_numpy(qpos))
            worlds.derive(d)
            mjw.fwd_position(worlds.mjw_model, d)
            near = max(int(d.ncollision.numpy()[0]), int(d.nacon.numpy()[0]))
            made = int(d.nefc.numpy().max(initial=0))
            if (near <= count * contacts and made <= rows) or contacts >= _MOST:
                break
            contacts, rows = contacts * _GROWTH, rows * _GROWTH
        which = d.contact.worldid.numpy()[: min(int(d.nacon.numpy()[0]), count * contacts)]
        most = int(np.bincount(which, minlength=count).max()) if len(which) else 0
    most = max(most, math.ceil(near / count))
    return Buffers(
        max(_LEAST_CONTACTS, math.ceil(room * most)), max(_LEAST_ROWS, math.ceil(room * made))
    )
