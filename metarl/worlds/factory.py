"""The worlds that a family needs: MuJoCo's batch engine, or worker processes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.simulation.backend import MakeBackend
from metarl.simulation.simulator import Simulator
from metarl.simulation.warp.choice import NATIVE, Physics
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.family import TaskFamily, without_termination
from metarl.tasks.gymnasium_family import GymnasiumFamily
from metarl.tasks.model_fields import ModelFields
from metarl.tasks.registry import find_family
from metarl.worlds.model_probe import far_tasks
from metarl.worlds.on_device.worlds import DeviceWorlds
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import VecWorlds

if TYPE_CHECKING:
    from metarl.simulation.warp.buffers import Buffers

_PROBE_STEPS, _PROBED, _MOST_TASKS = 60, 48, 64
_SAMPLED = 16
"""Training tasks that are tried beside the ends of every parameter."""


def backend_of(family: TaskFamily, physics: Physics) -> MakeBackend:
    """Return what makes the simulator of a family with a model.

    Raises:
        UserError: MuJoCo Warp is not installed, or does not run the model.
    """
    if physics.simulator == "mujoco":
        return Simulator
    from metarl.simulation.warp.simulator import WarpSimulator

    return functools.partial(
        WarpSimulator, device=physics.device, room=physics.room,
        buffers=_measured(family, physics.room, physics.device),
    )  # fmt: skip


def make_worlds(
    family: TaskFamily | str, num_worlds: int, threads: int | None = None,
    physics: Physics = NATIVE,
) -> VecWorlds:  # fmt: skip
    """Return worlds of a family, all of them running the nominal task.

    Args:
        family: a family or its name.
        num_worlds: B.
        threads: physics threads, or worker processes; None takes the process's setting.
        physics: what computes it.

    Raises:
        UserError: the family is unknown, what it returns has the wrong shapes, or the simulator
            does not run it.
    """
    family = find_family(family) if isinstance(family, str) else family
    if isinstance(family, GymnasiumFamily):
        if physics.simulator != "mujoco":
            raise UserError(
                f"family '{family.name}' is an environment of others, which steps itself: it has "
                f"no --simulator {physics.simulator}"
            )
        from metarl.worlds.gymnasium_worlds import GymnasiumWorlds

        return GymnasiumWorlds(family, num_worlds, threads)
    if physics.simulator == "mujoco" or not isinstance(family, TaskFamily):
        return TaskWorlds(family, num_worlds, threads)
    worlds = DeviceWorlds(family, num_worlds, threads, backend=backend_of(family, physics))
    worlds.physics = physics
    return worlds


@functools.lru_cache(maxsize=8)
def _measured(family: TaskFamily, room: float, device: str | None) -> Buffers:
    """Return what MuJoCo Warp must have room for: see `metarl.simulation.warp.buffers`.

    Native MuJoCo plays random actions with the parameters at their ends, which takes a moment;
    Warp counts contacts at the states that had the most.
    """
    from metarl.simulation.warp.buffers import measure
    from metarl.simulation.warp.install import refuse

    refuse(family.compile())
    free = without_termination(family)
    distribution = TaskDistribution(free)
    names = [name for param in free.params for name in param.names]
    parts = [distribution.nominal(), *(far_tasks(distribution, name) for name in names)]
    rows = np.concatenate([part.values for part in parts])[: _MOST_TASKS - _SAMPLED]
    sampled = distribution.split("train", _SAMPLED).values
    tasks = Tasks(free.name, distribution.names, np.concatenate([rows, sampled]))
    worlds = TaskWorlds(free, len(tasks), backend=Simulator)
    worlds.set_tasks(tasks, 1)
    worlds.seed(Key("metarl contacts"))
    worlds.reset()
    count, places = worlds.simulator.bind("nefc"), []
    size = _PROBE_STEPS, len(tasks), worlds.spec.action_size
    actions = torch.rand(*size, generator=Key("metarl contacts").torch()).mul_(2.4).sub_(1.2)
    for action in actions.clamp_(-1, 1):
        worlds.step(action)
        places.append((count.flatten().clone(), worlds.simulator.qpos.clone()))
    made = torch.stack([made for made, _ in places])
    most = made.max(0)
    order = most.values.argsort(descending=True, stable=True)[:_PROBED]
    qpos = torch.stack([qpos for _, qpos in places])[most.indices[order], order]
    fields = ModelFields(free).of(tasks.values[order.numpy()])
    return measure(worlds.simulator.model, qpos.numpy(), fields, room=room, device=device)


class SizedWorlds:
    """Worlds of one family, made when a number of tasks first needs them, and kept."""

    def __init__(
        self, family: TaskFamily, per_task: int, threads: int | None = None,
        physics: Physics = NATIVE,
    ) -> None:  # fmt: skip
        """Take what `make_worlds` takes, and the number of worlds of a task."""
        self.family, self.per_task, self.threads, self.physics = family, per_task, threads, physics
        self._made: dict[int, VecWorlds] = {}

    def of(self, tasks: int) -> VecWorlds:
        """Return the worlds for so many tasks."""
        if tasks not in self._made:
            count = tasks * self.per_task
            self._made[tasks] = make_worlds(self.family, count, self.threads, self.physics)
        return self._made[tasks]
