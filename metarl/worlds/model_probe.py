"""Whether each parameter of a family moves anything: far tasks, one seed, the same actions.

Of families with a MuJoCo model; `task_probe` asks the same of third-party environments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, warn
from metarl.base.keys import Key
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.family import TaskFamily, replace_attributes, without_termination
from metarl.tasks.params import Choices, Param
from metarl.worlds.task_worlds import TaskWorlds

_KEY = Key("metarl parameters")
_WORLDS = 2


def refuse_inert(family: TaskFamily) -> None:
    """Look for parameters that change nothing, before a training relies on them.

    One that only the reward or an observation could read is warned of where others do change
    something: it may matter later in an episode than the probe looks. What else is wrong with the
    family is for the training to say. Draws nothing from the generators of the process.

    Raises:
        UserError: an edit moves nothing, or no parameter changes anything.
    """
    if not family.has_model or not family.probe_steps:
        return
    drawn = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        found = list(_inert(family, family.probe_steps))
    except UserError:
        found = []
    finally:
        torch.set_rng_state(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        random.setstate(drawn[2])
    every = len(found) == sum(param.name != family.switch_at for param in family.params)
    for param, why in found:
        line = f"family '{family.name}': {why}"
        if every or param.edits:
            raise UserError(line)
        warn(line)


def inert_parameter(family: TaskFamily, steps: int) -> str:
    """Return which parameter changes neither trajectory, observation nor reward, or ''.

    Of a vector with an edit, such as the friction of all geoms, some elements may be idle.

    Args:
        family: whose parameters.
        steps: environment steps, at most; a comparison ends at the first difference.
    """
    return next((why for _, why in _inert(family, steps)), "")


def _inert(family: TaskFamily, steps: int) -> Iterator[tuple[Param, str]]:
    distribution, compared = TaskDistribution(family), _Compared(family, steps)
    for param in family.params:
        if param.name == family.switch_at:
            continue
        inert: list[str] = []
        for name in param.names:
            tasks = far_tasks(distribution, name)
            if not any(compared.moves(tasks[k]) for k in range(len(tasks))):
                inert.append(f"{name}={tasks.column(name)[0]:.4g}")
            elif param.edits:
                break
        if len(inert) == len(param.names) or (inert and not param.edits):
            why = (
                "its edit moves nothing, choose a field that the robot's physics uses"
                if param.edits
                else f"it has no edit, so reward() must read task['{param.name}']"
            )
            yield (
                param,
                f"{inert[0]} gives the run of {distribution.nominal().label(0)}: {why}; where "
                f"random actions rarely meet the difference, raise `probe_steps` = {steps}",
            )


def idle_ends(family: TaskFamily, steps: int) -> list[str]:
    """Return a line for each end of a parameter's range that gives the run of the nominal task.

    So does a friction below the ground's, of which MuJoCo takes the larger: half of such a range is
    one and the same task. Of parameters of one number, whose other end does change something.

    Args:
        family: of which every parameter changes something.
        steps: see `inert_parameter`.
    """
    distribution, compared = TaskDistribution(family), _Compared(family, steps)
    found, nominal = [], distribution.nominal()
    for param in family.params:
        if len(param.names) != 1 or isinstance(param.train, Choices) or not param.edits:
            continue
        name = param.names[0]
        tasks, own = far_tasks(distribution, name), float(nominal.column(name)[0])
        ends = [(end, tasks[k]) for k, end in enumerate(tasks.column(name).tolist()) if end != own]
        idle = [end for end, task in ends if not compared.moves(task)]
        if len(idle) < len(ends):
            found += [
                f"{name}={end:.4g} gives the run of its nominal {own:.4g} in {compared.steps} "
                f"random steps: what lies between them may be one and the same task"
                for end in idle
            ]
    return found


class _Compared:
    """Runs of tasks beside that of the nominal one, with the same seed and actions."""

    def __init__(self, family: TaskFamily, steps: int) -> None:
        free = without_termination(family)  # a fallen robot meets more of its world
        free = replace_attributes(free, switch_at=None)  # the task from the beginning
        worlds, self.others = (TaskWorlds(free, _WORLDS, 1) for _ in range(2))
        self.steps = min(steps, family.horizon)
        size = (self.steps, _WORLDS, worlds.spec.action_size)
        self.actions = 2 * torch.rand(*size, generator=_KEY.fold("actions").torch()) - 1
        self._nominal, self._played = _played(worlds, self.actions), []

    def moves(self, task: Tasks) -> bool:
        """Whether a task's run differs from the nominal one's, in any bit of any step."""
        self.others.set_tasks(task, _WORLDS)
        for t, got in enumerate(_played(self.others, self.actions)):
            if t == len(self._played):
                self._played.append(next(self._nominal))
            if got != self._played[t]:
                return True
        return False


def far_tasks(distribution: TaskDistribution, name: str) -> Tasks:
    """Return tasks with one column at both ends of its range, or at up to 8 of its choices.

    The others are nominal. The task farthest from the nominal one comes first.
    """
    train = next(p.train for p in distribution.family.params if name in p.names)
    count = min(len(train.values), 8) if isinstance(train, Choices) else 2
    tasks = distribution.sweep(name, count)
    away = np.abs(tasks.column(name) - distribution.nominal().column(name))
    order = np.argsort(-away, kind="stable")
    return Tasks(tasks.family, tasks.names, tasks.values[order])


def _played(worlds: TaskWorlds, actions: Tensor) -> Iterator[bytes]:
    """Seed and reset the worlds, and yield all bits of each step of actions (T, B, A).

    But for what ``+told`` shows: that a task is told of is no difference to the robot.

    Raises UserError once the physics of all of them diverges: nothing can be compared then.
    """
    worlds.seed(_KEY)
    worlds.reset()
    sim, told = worlds.simulator, worlds.spec.told_size
    for action in actions:
        got = worlds.step(action)
        if got.diverged.all():
            raise UserError(f"family '{worlds.family.name}': the physics diverges in every world")
        seen = [part[:, : part.shape[1] - told] for part in (got.obs, got.next_obs)]
        parts = (*got._replace(obs=seen[0], next_obs=seen[1]), sim.qpos, sim.qvel)
        yield b"".join(part.numpy().tobytes() for part in parts)
