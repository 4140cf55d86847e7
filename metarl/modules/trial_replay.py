"""A replay of whole trials, for encoders that are learned from what happened in recent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.distributed import ALONE, Ranks
from metarl.base.versions import claim
from metarl.modules.replay import TaskReplay
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step


class TrialRows(NamedTuple):
    """What is kept of n trials of T steps."""

    obs: Tensor
    """(T, n, O)"""
    prev_action: Tensor
    """(T, n, A)"""
    prev_reward: Tensor
    """(T, n)"""
    first: Tensor
    """(T, n) 1 where an episode begins"""
    action: Tensor
    """(T, n, A), clipped"""
    reward: Tensor
    """(T, n)"""
    next_obs: Tensor
    """(T, n, O)"""
    valid: Tensor
    """(T, n) 1, or 0 where the physics diverged"""
    task: Tensor
    """(T, n, P) the task's vector, P = 0 where none was to be kept"""

    @property
    def step(self) -> Step:
        """What an agent saw."""
        return Step(self.obs, self.prev_action, self.prev_reward, self.first)

    def to(self, device: torch.device) -> TrialRows:
        """Return the same on a device."""
        return TrialRows(*(part.to(device) for part in self))


class TrialReplay:
    """The newest trials, in the host's memory; each rank holds those of all ranks.

    The memory is taken when it is first needed: an agent that only acts never does.
    """

    def __init__(self, spec: Spec, episodes: int, trials: int, task_size: int = 0) -> None:
        """Hold nothing yet.

        Args:
            spec: sizes of observation and action, and the horizon.
            episodes: of a trial.
            trials: how many are kept; the oldest make way for new ones.
            task_size: P, numbers of a task's vector to keep; 0 keeps nothing of the task.
        """
        self.steps, self.trials = episodes * spec.horizon, trials
        o, a = spec.observation_size, spec.action_size
        self.widths = (o, a, 1, 1, a, 1, o, 1, task_size)
        self._ring: TaskReplay | None = None

    @property
    def ring(self) -> TaskReplay:
        """A row a trial, T W numbers. Raises UserError if the host has less memory than that."""
        if self._ring is None:
            width = self.steps * sum(self.widths)
            claim(
                f"{self.trials} trials", 4 * self.trials * width, torch.device("cpu"),
                f"replay_trials (now {self.trials})",
            )  # fmt: skip
            self._ring = TaskReplay(1, self.trials, width)
        return self._ring

    def add(self, rollouts: Sequence[Rollout], ranks: Ranks = ALONE) -> None:
        """Take in a trial of each world.

        Args:
            rollouts: of the shards that this process owns; with `task_size` they kept what is
                privileged.
            ranks: whose shards' trials are taken in, in their order.
        """
        for rows in ranks.every([self.packed(part) for part in rollouts]):
            new = torch.ones(1, len(rows), dtype=torch.bool)
            self.ring.add(torch.zeros(1, dtype=torch.int64), rows[None], new)

    def __len__(self) -> int:
        """Return how many trials are held."""
        return 0 if self._ring is None else int(self._ring.size[0])

    def reward_range(self) -> tuple[float, float]:
        """Return the least and the greatest reward of the steps that are held, of one at least."""
        steps = self.ring.data[0, : len(self)].view(len(self), self.steps, -1)
        reward, valid = (steps[..., sum(self.widths[:place])] for place in (5, 7))
        low, high = torch.aminmax(reward[valid > 0])
        return float(low), float(high)

    def sample(self, count: int, draws: torch.Generator) -> TrialRows:
        """Draw n = `count` trials, with replacement."""
        rows = self.ring.sample(torch.zeros(1, dtype=torch.int64), count, draws)[0]
        return self.unpacked(rows)

    def unpacked(self, rows: Tensor) -> TrialRows:
        """Return n trials, given their rows (n, T W) of the ring."""
        rows = rows.view(len(rows), self.steps, -1).transpose(0, 1).contiguous()
        obs, before, gain, first, action, reward, after, valid, task = rows.split(self.widths, -1)
        gain, first, reward, valid = (part[..., 0] for part in (gain, first, reward, valid))
        return TrialRows(obs, before, gain, first, action, reward, after, valid, task)

    def packed(self, rollout: Rollout) -> Tensor:
        """Return (B, T W): a row a trial."""
        parts = [
            rollout.obs, rollout.prev_action, rollout.prev_reward[..., None],
            rollout.first[..., None], rollout.action.clamp(-1, 1), rollout.reward[..., None],
            rollout.next_obs, rollout.valid[..., None],
        ]  # fmt: skip
        if size := self.widths[-1]:
            parts.append(rollout.extras["privileged"][..., :size])
        rows = torch.cat([part.float() for part in parts], -1)
        rows = torch.where(rollout.valid[..., None], rows, rows.nan_to_num(0.0, 0.0, 0.0))
        return rows.transpose(0, 1).flatten(1).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is held, nothing if no trial was taken in."""
        return {} if self._ring is None else self._ring.state_dict()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned, also nothing."""
        self._ring = None
        if tensors:
            self.ring.load_state_dict(tensors)
