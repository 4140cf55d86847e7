"""What only critics may see of a rollout, and only in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import VecWorlds


def privileged_extras(
    worlds: VecWorlds, rollout: Rollout, own: list[tuple[Tensor | None, Tensor | None]]
) -> dict[str, Tensor]:
    """Return what only critics may see, `privileged` of each step, `next_privileged` of the next.

    (T, B, `Spec.critic_extra`) each: the task's vector, the share of the episode that is left,
    and what the family shows critics.

    Args:
        worlds: with the tasks of the rollout.
        rollout: of T steps, which starts at first ones.
        own: what the family shows critics of each step and its successor; empty for nothing.
    """
    if not own:
        return {}
    device, found = rollout.obs.device, {}
    task = worlds.task_vector().to(device).expand(len(own), -1, -1)
    for later, name in enumerate(("privileged", "next_privileged")):
        left = 1.0 - (rollout.episode_time() + later).float()[..., None] / worlds.spec.horizon
        shown = [part for part in (both[later] for both in own) if part is not None]
        last = [torch.stack(shown).to(device)] if shown else []
        found[name] = torch.cat([task, left, *last], -1)
    return found
