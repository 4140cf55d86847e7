"""What an evaluation measures besides returns: standing still, failures, and what is not paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.tasks.family import TaskFamily, acts
from metarl.worlds.reward_terms import PREFIX, SUCCESS
from metarl.worlds.rollout import mean_of_finished

if TYPE_CHECKING:
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import VecWorlds

MEASURED = "measured/"
"""Of the names of measures among the diagnostics of a report."""
FAILURES = MEASURED + "failures_per_minute"
SUCCESS_RATE = MEASURED + "success_rate"
"""The share of episodes in any step of which the environment's info says success."""


def measures(rollout: Rollout, family: TaskFamily) -> dict[str, Tensor]:
    """Return what a round of an evaluation measured of each task: name -> (M,) float64.

    Means over the valid steps of the terms of the reward whose weight is 0, and how many episodes a
    minute of simulated time ended in failure, where a family says when they do.
    """
    valid = rollout.per_task(rollout.valid.double()).sum((1, 2))
    found = {}
    for name, weight in family.reward_weights.items():
        if not weight and PREFIX + name in rollout.extras:
            total = rollout.per_task(rollout.extras[PREFIX + name].double()).sum((1, 2))
            found[MEASURED + name] = (total / valid).cpu()
    if not family.has_model and PREFIX + SUCCESS in rollout.extras:
        found[SUCCESS_RATE] = succeeded(rollout)
    if family.has_model and acts(family, "terminated"):
        failed = rollout.per_task(rollout.terminated.double()).sum((1, 2))
        found[FAILURES] = (failed / (valid * family.dt / 60.0)).cpu()
    return found


def succeeded(rollout: Rollout) -> Tensor:
    """Return (M,) float64: the share of each task's first episodes with success in any step."""
    first = torch.cumsum(rollout.done.int(), 0) - rollout.done.int() == 0
    ever = ((rollout.extras[PREFIX + SUCCESS] > 0) & first).any(0)
    return ever.double().reshape(rollout.tasks, -1).mean(1).cpu()


def measured_in_words(diagnostics: Mapping[str, Any], rounds: Sequence[int]) -> list[str]:
    """Return a line for each measure among the diagnostics of a report, round by round."""
    lines = []
    for name, values in diagnostics.items():
        if name.startswith(MEASURED):
            tables = (np.array(values[k], float) for k in rounds)
            means = [table[np.isfinite(table)].sum() / np.isfinite(table).sum() for table in tables]
            words = name.removeprefix(MEASURED).replace("_", " ")
            lines.append(f"{words}: {' → '.join(f'{mean:.3g}' for mean in means)}")
    return lines


def stand_still(worlds: VecWorlds, tasks: Tasks, seed: int) -> float:
    """Set the tasks and return the mean return of zero actions over one episode.

    Worlds that diverge are left out; NaN if all of them do.
    """
    return float(mean_of_finished(_stand_still(worlds, tasks, seed).flatten()))


def _stand_still(worlds: VecWorlds, tasks: Tasks, seed: int) -> torch.Tensor:
    """Return (M, E) float64, the return of zero actions in every world; NaN where it diverged."""
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    worlds.seed(Key(seed, "stand still"))
    worlds.reset()
    count, there = worlds.num_worlds, worlds.device
    action = torch.zeros(count, worlds.spec.action_size, device=there)
    total = torch.zeros(count, dtype=torch.float64, device=there)
    running = torch.ones(count, dtype=torch.bool, device=there)
    for _ in range(worlds.spec.horizon):
        got = worlds.step(action)
        total += got.reward * running
        total.masked_fill_(got.diverged & running, torch.nan)
        running &= ~(got.terminated | got.truncated | got.diverged)
    worlds.settle()
    return total.cpu().reshape(len(tasks), -1)
