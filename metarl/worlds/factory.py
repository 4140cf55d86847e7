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
