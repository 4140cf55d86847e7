"""What only critics may see of a rollout, and only in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarl.base.errors import UserError

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import VecWorlds


def check_privileged(
    family: TaskFamily, shown: Tensor | None, num_worlds: int, size: int | None = None
) -> int:
    """Return P, how many numbers the family shows critics.

    Raises UserError for a wrong shape, or if it was `size` before and is not now.
    """
    if shown is None:
        return 0
    if shown.ndim != 2 or len(shown) != num_worlds or not shown.shape[1]:
        raise UserError(
            f"family '{family.name}': privileged() returned shape {tuple(shown.shape)}, "
            f"expected ({num_worlds}, P), with at least one number, or None"
        )
    if size not in (None, shown.shape[1]):
        raise UserError(
            f"family '{family.name}': privileged() returned {shown.shape[1]} numbers for each "
            f"world, and {size} before: it has to be as many at every step"
        )
    return shown.shape[1]


def privileged_extras(
    worlds: VecWorlds, rollout: Rollout, own: list[tuple[Tensor, Tensor | None, Tensor | None]]
) -> dict[str, Tensor]:
    """Return what only critics may see, `privileged` of each step, `next_privileged` of the next.

    (T, B, `Spec.critic_extra`) each: the task's vector, the share of the episode that is left,
    and what the family shows critics.

    Args:
        worlds: with the tasks of the rollout.
        rollout: of T steps, which starts at first ones.
        own: each step's task, and what the family shows critics of it and of its successor; empty
            for nothing.
    """
    if not own:
        return {}
    device, found = rollout.obs.device, {}
    tasks, done = [task for task, *_ in own], rollout.done[..., None]
    now = torch.stack(tasks) if worlds.switches else tasks[0].expand(len(own), -1, -1)
    now = then = now.to(device)
    if worlds.switches:  # a restart has set those that ended back
        after = torch.cat((now[1:], worlds.task_vector()[None].to(device)))
        then = torch.where(done, now, after)
    for later, name in enumerate(("privileged", "next_privileged")):
        left = 1.0 - (rollout.episode_time() + later).float()[..., None] / worlds.spec.horizon
        shown = [part for part in (both[1 + later] for both in own) if part is not None]
        last = [torch.stack(shown).to(device)] if shown else []
        found[name] = torch.cat([(now, then)[later], left, *last], -1)
    return found
