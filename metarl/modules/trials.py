"""Trials: episodes of one task that a memory lasts through, and where they begin in a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout


class Trials(NamedTuple):
    """What one shard of an iteration collected: a trial in each of B worlds."""

    rollout: Rollout
    """T = episodes x horizon steps; in its extras the policy's head and the value of each step"""
    next_value: Tensor
    """(episodes, B) the value of what would follow each episode if it went on"""
    returns: Tensor
    """(episodes, B)"""
    begins: Tensor
    """(episodes, B) bool, whether a trial begins with the episode"""

    @classmethod
    def joined(cls, shards: Sequence[Trials]) -> Trials:
        """Return the trials of several shards side by side."""
        rollouts, *others = zip(*shards, strict=True)
        return cls(Rollout.joined(rollouts, dim=1), *(torch.cat(part, 1) for part in others))

    @property
    def ends(self) -> Tensor:
        """(episodes, B) bool, whether a trial ends with the episode."""
        return torch.cat((self.begins[1:], torch.ones_like(self.begins[:1])))

    def by_step(self, flags: Tensor, step: int) -> Tensor:
        """Return (T, B) bool: (episodes, B) flags, at the first (0) or last (-1) steps."""
        out = torch.zeros_like(self.rollout.first)
        out.unflatten(0, (len(flags), -1))[:, step] = flags
        return out

    def following(self, value: Tensor) -> Tensor:
        """Return the value of what follows each step, (T, B), given that of each step.

        The last step of an episode is followed by the first of the next one, unless a trial ends.
        """
        out = torch.cat((value[1:], value[:1]))
        last = out.unflatten(0, (len(self.begins), -1))[:, -1]
        last.copy_(torch.where(self.ends, self.next_value, last))
        return out


def trial_starts(tasks: Tasks, worlds: int, fewest: int, most: int, key: Key) -> Tensor:
    """Draw with which of its episodes each world begins a trial.

    A trial has `fewest` to `most` episodes, each number as likely as the others; the last trial of
    a world may end early, and takes what would be too little for another.

    Args:
        tasks: M tasks; the draws of a task depend on its index alone.
        worlds: E, of each.
        fewest: episodes.
        most: episodes, which are also all that a world has.
        key: of the draws.

    Returns:
        (most, M E) bool, true in the first row.
    """
    begins = torch.zeros(most, len(tasks) * worlds, dtype=torch.bool)
    begins[0] = True
    if fewest == most:
        return begins
    share = torch.special.ndtr(key.normal(len(tasks), most, worlds, 1, tasks.first)[..., 0])
    length = fewest + (share * (most - fewest + 1)).floor().clamp(max=most - fewest)
    left = torch.zeros(begins.shape[1])
    for k in range(most):
        begins[k] = left == 0
        whole = torch.where(most - k - length[k] < fewest, most - k, length[k])
        left = torch.where(begins[k], whole, left) - 1
    return begins
