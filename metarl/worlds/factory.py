"""The worlds that a family needs: MuJoCo's batch engine, or worker processes."""

from __future__ import annotations

from metarl.tasks.family import TaskFamily
from metarl.tasks.gymnasium_family import GymnasiumFamily
from metarl.tasks.registry import find_family
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import VecWorlds


def make_worlds(family: TaskFamily | str, num_worlds: int, threads: int | None = None) -> VecWorlds:
    """Return worlds of a family, all of them running the nominal task.

    Args:
        family: a family or its name.
        num_worlds: B.
        threads: physics threads, or worker processes; None takes the process's setting.

    Raises:
        UserError: the family is unknown, or what it returns has the wrong shapes.
    """
    family = find_family(family) if isinstance(family, str) else family
    if isinstance(family, GymnasiumFamily):
        from metarl.worlds.gymnasium_worlds import GymnasiumWorlds

        return GymnasiumWorlds(family, num_worlds, threads)
    return TaskWorlds(family, num_worlds, threads)


class SizedWorlds:
    """Worlds of one family, made when a number of tasks first needs them, and kept."""

    def __init__(self, family: TaskFamily, per_task: int, threads: int | None = None) -> None:
        """Take what `make_worlds` takes, and the number of worlds of a task."""
        self.family, self.per_task, self.threads = family, per_task, threads
        self._made: dict[int, VecWorlds] = {}

    def of(self, tasks: int) -> VecWorlds:
        """Return the worlds for so many tasks."""
        if tasks not in self._made:
            self._made[tasks] = make_worlds(self.family, tasks * self.per_task, self.threads)
        return self._made[tasks]
