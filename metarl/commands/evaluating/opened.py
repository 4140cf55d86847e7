"""Runs that are compared: all of them are opened and checked before the first one is played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarl.base.errors import UserError
from metarl.base.files import check_writable, file_errors, write_json
from metarl.runs.progress import say

if TYPE_CHECKING:
    from metarl.commands.evaluating.on_run import OnRun
    from metarl.learning.checkpoint import Checkpoint
    from metarl.learning.learner import Learner
    from metarl.simulation.warp.choice import Physics
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.vector import VecWorlds


class Opened(NamedTuple):
    """A run that can be played."""

    run: str
    """As it was named"""
    checkpoint: Checkpoint
    family: TaskFamily
    learner: Learner
    tasks: Tasks
    each: int
    """Worlds of each task"""
    physics: Physics

    def worlds(self, count: int, threads: int | None) -> VecWorlds:
        """Make its worlds. Raises UserError if the family has changed."""
        from metarl.run import worlds_for

        return worlds_for(self.family, self.learner, count, threads, self.physics)


def opened(
    args: OnRun, run: str, tasks: Tasks | None, split: str, count: int,
    each: Callable[[Checkpoint, Learner], int], *, simulator: str | None = None, **said: Any,
) -> Opened:  # fmt: skip
    """Load a run, and see that it can be played.

    Args:
        args: of the command.
        run: a RUN.
        tasks: what its tasks must be, if it is compared with another run.
        split: where the tasks come from.
        count: how many there are.
        each: returns how many worlds there are of a task.
        simulator: mujoco or warp; None is that of its training.
        said: family, algorithm, trust_code and settings of `load_run`.

    Raises:
        UserError: it cannot be read, its tasks are others, or worlds do not fit it.
    """
    from metarl.run import load_run, physics_for
    from metarl.tasks.distribution import TaskDistribution

    checkpoint, family, learner = load_run(run, args.device, args.threads, **said)
    worlds_each = each(checkpoint, learner)
    own = TaskDistribution(family).split(split, count)
    if tasks is not None:
        refuse_others(run, family, own, tasks, split)
    physics = physics_for(checkpoint, simulator, args.device)
    found = Opened(run, checkpoint, family, learner, own, worlds_each, physics)
    if tasks is not None:
        found.worlds(1, args.threads)  # of the first run they are made at once
    return found


def refuse_others(run: str, family: TaskFamily, own: Tasks, tasks: Tasks, split: str) -> None:
    """Raise UserError if a run's tasks are not those that it is to be compared on."""
    if not same_tasks(own, tasks):
        raise UserError(
            f"'{run}' was trained on {family.name}, whose {split} tasks are not those of "
            f"{tasks.family}: only runs on the same tasks can be compared"
        )


def same_tasks(one: Tasks, other: Tasks) -> bool:
    """Whether tasks are the same, though of two families, such as one that observes them.

    Two sets of as many skills have the same values for other tasks.
    """

    def files(tasks: Tasks) -> list[str]:  # what they hold, wherever they are
        return sorted(w.partition("#")[2] for w in tasks.family.split("+") if "#" in w)

    values = one.names == other.names and np.array_equal(one.values, other.values)
    return values and files(one) == files(other)


def check_json(file: str | None) -> None:
    """Raise UserError, before the work, if ``--json FILE`` cannot be written."""
    if file not in (None, "-"):
        check_writable(Path(str(file)))


def keep(about: object, file: str | None, own: Path | None) -> None:
    """Write what was found as JSON, to ``--json FILE`` and into the run's folder, and say so.

    A run of somebody else's may lie where nothing can be written: that is a note, and no error.

    Args:
        about: what was found.
        file: of ``--json``, or None.
        own: in the run's folder, or None where that stays as it is.
    """
    for path in filter(None, (None if file is None else Path(file), own)):
        try:
            with file_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, about)
        except UserError as error:
            if path is not own:
                raise
            say(f"note: it is not kept for `metarl report`: {error}")
            continue
        say(f"wrote {path}")
