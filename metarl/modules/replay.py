"""Per-task replay: the transitions of N tasks as one tensor, from which an update samples.

A buffer is one preallocated (N, capacity, W) tensor on one device. Adding and sampling index it as
a whole, so neither has a Python loop over tasks, and sampling never waits for the host.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.text import counted
from metarl.base.versions import claim
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import LARGE_REWARD


class TaskReplay:
    """Ring buffers of N tasks, one row of W numbers a transition."""

    def __init__(
        self,
        tasks: int,
        capacity: int,
        width: int,
        device: torch.device | str = "cpu",
        *,
        pinned: bool = False,
    ) -> None:
        """Allocate the buffers, empty.

        Args:
            tasks: N.
            capacity: transitions of each task; the oldest make way for new ones.
            width: W.
            device: where the rows lie.
            pinned: in pinned host memory, as are samples then, so that copies of them to a GPU
                need not be waited for.
        """
        device = torch.device(device)
        self.capacity = capacity
        self.pinned = pinned
        self.data = torch.zeros(tasks, capacity, width, device=device, pin_memory=pinned)
        """(N, capacity, W) float32"""
        self.size = torch.zeros(tasks, dtype=torch.int64, device=device)
        """(N,) transitions held"""
        self.cursor = torch.zeros(tasks, dtype=torch.int64, device=device)
        """(N,) where the next one goes"""

    @classmethod
    def pair(
        cls,
        tasks: int,
        capacities: tuple[int, int],
        widths: tuple[int, int],
        device: torch.device,
        *,
        pinned: bool = False,
    ) -> tuple[TaskReplay, TaskReplay]:
        """Return the replays of everything and of the context; first say what memory they take.

        Raises:
            UserError: the device has less memory than that.
        """
        rows = sum(c * w for c, w in zip(capacities, widths, strict=True))
        claim(
            f"{counted(tasks, 'task')} x {capacities[0]} transitions", 4 * tasks * rows, device,
            f"replay_capacity (now {capacities[0]}) or train_tasks (now {tasks})",
        )  # fmt: skip
        first, second = (
            cls(tasks, capacity, width, device, pinned=pinned)
            for capacity, width in zip(capacities, widths, strict=True)
        )
        return first, second

    def select(self, ids: Tensor) -> TaskReplay:
        """Return a copy of the buffers of the tasks `ids`, (n,) int64, as those of n tasks."""
        ids = ids.to(self.data.device)
        part = copy.copy(self)
        part.data, part.size, part.cursor = self.data[ids], self.size[ids], self.cursor[ids]
        return part

    def assign(self, ids: Tensor, part: TaskReplay) -> None:
        """Take over buffers of the tasks `ids` that `select` returned and that have changed."""
        ids = ids.to(self.data.device)
        self.data[ids], self.size[ids], self.cursor[ids] = part.data, part.size, part.cursor

    def add(self, ids: Tensor, rows: Tensor, valid: Tensor) -> None:
        """Append transitions, in order, to the buffers of different tasks.

        Args:
            ids: (M,) int64, distinct.
            rows: (M, n, W).
            valid: (M, n) bool; the others are left out.
        """
        ids, rows, valid = (part.to(self.data.device) for part in (ids, rows, valid))
        count = valid.sum(1)
        rank = valid.cumsum(1) - 1
        keep = valid & (rank >= (count - self.capacity)[:, None])
        slot = (self.cursor[ids][:, None] + rank) % self.capacity
        where = ids[:, None] * self.capacity + slot
        self.data.flatten(0, 1)[where[keep]] = rows[keep]
        self.cursor[ids] = (self.cursor[ids] + count) % self.capacity
        self.size[ids] = (self.size[ids] + count).clamp(max=self.capacity)

    def clear(self, ids: Tensor) -> None:
        """Forget the transitions of the tasks `ids`."""
        ids = ids.to(self.data.device)
        self.size[ids] = 0
        self.cursor[ids] = 0

    def sample(self, ids: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw transitions uniformly, with replacement, each from its own task.

        Args:
            ids: (m,) int64 tasks; of an empty one come rows without meaning.
            n: transitions of each.
            generator: on the buffers' device.

        Returns:
            (m, n, W).
        """
        size = self.size[ids][:, None]
        unit = torch.rand(len(ids), n, device=self.data.device, generator=generator)
        slot = torch.minimum((unit * size).long(), (size - 1).clamp(min=0))
        where = (ids[:, None] * self.capacity + slot).flatten()
        rows = self.data.flatten(0, 1)
        out = torch.empty(len(where), rows.shape[1], pin_memory=True) if self.pinned else None
        return torch.index_select(rows, 0, where, out=out).unflatten(0, (len(ids), n))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows up to the fullest buffer's, and where each buffer stands."""
        filled = int(self.size.max())
        return {"data": self.data[:, :filled], "size": self.size, "cursor": self.cursor}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over rows, in place. Raises UserError if they are those of other buffers."""
        if tensors.keys() != {"data", "size", "cursor"}:
            raise UserError(f"the replay does not fit: it holds {sorted(tensors)}")
        data, size, cursor = tensors["data"], tensors["size"], tensors["cursor"]
        tasks, _, width = self.data.shape
        fits = data.ndim == 3 and (data.shape[0], data.shape[2]) == (tasks, width)
        fits = fits and size.shape == cursor.shape == (tasks,) and data.shape[1] <= self.capacity
        if not fits or not bool(((size >= 0) & (size <= data.shape[1]) & (cursor >= 0)).all()):
            raise UserError(
                f"the replay does not fit: expected {tasks} tasks of at most {self.capacity} "
                f"transitions of {width} numbers, found {tuple(data.shape)}"
            )
        self.data[:, : data.shape[1]] = data
        self.size.copy_(size)
        self.cursor.copy_(cursor % self.capacity)


def pack(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Regroup a rollout by task, a row a transition.

    Returns:
        (M, E T, W) rows of observation, action, reward, next observation and terminated, and
        (M, E T) bool, which of them may be used.
    """
    rows = torch.cat(
        (rollout.obs, rollout.action, rollout.reward[..., None], rollout.next_obs,
         rollout.terminated[..., None].float()), dim=-1,
    )  # fmt: skip
    return rollout.per_task(rows).flatten(1, 2), rollout.per_task(rollout.valid).flatten(1, 2)


def refuse_large_rewards(rollout: Rollout, said: str) -> None:
    """Raise UserError for rewards that no critic can fit, before they are in the replay for good.

    Args:
        rollout: about to be added.
        said: what is said of the first such reward (`TaskWorlds.large_reward`).
    """
    if bool((rollout.reward.abs() >= LARGE_REWARD).any()):
        raise UserError(
            f"{said}: no critic can fit that, so scale the reward; nothing of it is in the replay, "
            f"and the run can be resumed"
        )


class Experience(NamedTuple):
    """What one shard of an iteration collected in M tasks."""

    ids: Tensor
    """(M,) int64, which tasks of the pool"""
    parts: list[tuple[Tensor, Tensor]]
    """The phases: rows (M, n, W) and which of them are valid (M, n), for the replay"""
    context: TaskReplay
    """The encoder's buffers of the M tasks, as they are after this"""
    returns: Tensor
    """(phases, B)"""
    diverged: Tensor
    """() int64, transitions left out"""


class Batch(NamedTuple):
    """The input of a gradient step: m tasks of b transitions."""

    context: Tensor
    """(m, c, C) what the encoder sees"""
    rows: Tensor
    """(m, b, W) transitions; see `pack`"""
    z_noise: Tensor
    """(m, L) standard normal"""
    next_noise: Tensor
    """(m b, A) of the next actions"""
    noise: Tensor
    """(m b, A) of the policy's actions"""

    def parts(self, tasks: Sequence[slice]) -> Iterator[tuple[Batch, float]]:
        """Yield the batches of some of the tasks each, and their share of all tasks."""
        m, each = self.rows.shape[:2]
        for part in tasks:
            rows = slice(part.start * each, part.stop * each)
            cut = zip(self, (part, part, part, rows, rows), strict=True)
            yield Batch(*(tensor[index] for tensor, index in cut)), (part.stop - part.start) / m

    def columns(self, observation_size: int, action_size: int) -> tuple[Tensor, ...]:
        """Return observation, action, reward, next observation and terminated, (m b, …) each."""
        o, a = observation_size, action_size
        return self.rows.flatten(0, 1).split((o, a, 1, o, 1), dim=1)

    @classmethod
    def sample(
        cls, replay: TaskReplay, context: TaskReplay, rows: tuple[int, int, int],
        sizes: tuple[int, int], draws: torch.Generator, noise: torch.Generator,
        device: torch.device,
    ) -> Batch:  # fmt: skip
        """Draw tasks and transitions from `draws`, and noise from `noise`; nothing waits.

        Args:
            replay: of all transitions of a pool of tasks.
            context: what the encoder may see of the same tasks.
            rows: m tasks, b transitions and c of the context; of more tasks than there are, each
                comes about as often.
            sizes: L and A.
            draws: on the replay's device.
            noise: on `device`.
            device: where the batch goes.
        """
        (m, b, c), (latent, actions) = rows, sizes
        where, pool = replay.data.device, len(replay.size)
        order = torch.rand(-(-m // pool), pool, device=where, generator=draws).argsort(1)
        ids = order.flatten()[:m]
        taken, seen = replay.sample(ids, b, draws), context.sample(ids, c, draws)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device, generator=noise)

        return cls(
            seen.to(device, non_blocking=True), taken.to(device, non_blocking=True),
            normal(m, latent), normal(m * b, actions), normal(m * b, actions),
        )  # fmt: skip
