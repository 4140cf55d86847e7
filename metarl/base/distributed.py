"""Ranks: the tasks of an iteration cut into shards, which the processes of torchrun share.

A run that is distributed cuts each iteration's tasks into a number of shards that it records. Each
process, a rank, owns whole shards, computes each of them by itself, and sends one tensor a shard.
The tensors of all shards are added in the order of the shards, by every rank or a slice by each. So
the result does not depend on how many ranks there are, to the bit: on CPUs of one kind, each rank
computing on one thread.

This is the only module that knows ``torch.distributed``; learners call `Ranks.sum` and `Ranks.rows`
through `Learner.ranks`.
"""

from __future__ import annotations

import atexit
import os
import pickle
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from metarl.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 600
"""Seconds that a rank waits for the others; METARL_RANK_TIMEOUT in the environment overrides it."""

SLICED = 4096
"""Numbers in a tensor from which on more than two ranks share the adding up."""

T = TypeVar("T")

if "WORLD_SIZE" in os.environ:  # torch reads it as it loads; or a wait prints 50 C++ frames
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


class LostRankError(UserError):
    """Another rank has ended or hangs, so this one cannot go on."""


class Ranks:
    """This process's place among those of a run, and what it exchanges with them."""

    def __init__(self, shards: int = 1, rank: int = 0, size: int = 1) -> None:
        """Share `shards` shards out.

        Args:
            shards: S, the parts that the tasks of an iteration are cut into.
            rank: of this process, from 0.
            size: W, the number of processes.

        Raises:
            UserError: there are fewer shards than processes.
        """
        if shards < size:
            raise UserError(
                f"{size} ranks need at least as many task shards, not {shards}: give "
                f"--task-shards {size}, or start fewer ranks"
            )
        self.shards, self.rank, self.size = shards, rank, size
        self.owned = self._owned(rank)
        self.bytes_sent = 0
        """Bytes that this rank has sent to the others."""

    def _owned(self, rank: int) -> range:
        return range(rank * self.shards // self.size, (rank + 1) * self.shards // self.size)

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    def slices(self, count: int) -> list[slice]:
        """Return where this rank's shards lie in `count` tasks; the last shards may be larger."""
        ends = [count * shard // self.shards for shard in range(self.shards + 1)]
        return [slice(ends[shard], ends[shard + 1]) for shard in self.owned]

    # --- exchange ------------------------------------------------------------------------------

    def gather(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return one tensor of each shard, in their order.

        Args:
            parts: one of each shard that this rank owns, all of the same shape on every rank.
        """
        if self.size == 1:
            return list(parts)
        import torch

        mine = self._padded(parts).contiguous()
        kind = mine.dtype
        if kind == torch.bool:
            mine = mine.to(torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        self._exchange(lambda dist: dist.all_gather(found, mine), mine.nbytes * (self.size - 1))
        return [part.to(kind) for part in self._of_shards(found)]

    def sum(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum of one tensor of each shard, added in the order of the shards.

        Args:
            parts: see `gather`.
        """
        if self.size > 2 and parts[0].numel() >= SLICED:
            return self._sum_of_slices(parts)
        return _sum_in_order(self.gather(parts))

    def _sum_of_slices(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the same sum to the bit: each rank adds up a slice, and tells the others of it.

        A rank then sends about two tensors in all, however many ranks there are, and not one to
        each of the others.
        """
        import torch

        others = self.size - 1
        mine = self._padded(parts).flatten(1)
        mine = torch.nn.functional.pad(mine, (0, -mine.shape[1] % self.size))
        sent = mine.reshape(len(mine), self.size, -1).transpose(0, 1).contiguous()
        found = torch.empty_like(sent)
        size = sent[0].nbytes * others
        self._exchange(lambda dist: dist.all_to_all_single(found, sent), size)
        added = _sum_in_order(self._of_shards(list(found)))
        slices = [torch.empty_like(added) for _ in range(self.size)]
        self._exchange(lambda dist: dist.all_gather(slices, added), added.nbytes * others)
        return torch.cat(slices)[: parts[0].numel()].reshape(parts[0].shape)

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        """Return this rank's tensors as one, with as many rows as the most that a rank owns."""
        import torch

        most = -(-self.shards // self.size)
        mine = torch.stack([part.detach() for part in parts])
        return torch.cat((mine, mine.new_zeros(most - len(mine), *mine.shape[1:])))

    def _of_shards(self, of_ranks: Sequence[Tensor]) -> list[Tensor]:
        """Return one tensor of each shard, given the padded ones of each rank."""
        return [
            part
            for rank, tensor in enumerate(of_ranks)
            for part in tensor[: len(self._owned(rank))]
        ]

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Return the sum over tasks, (m, …) to (…); `rows` holds one row a task of this rank."""
        return self.sum([part.sum(0) for part in rows.tensor_split(len(self.owned))])

    def rows(self, local: Tensor, dim: int = 0) -> Tensor:
        """Return what every shard holds side by side along `dim`, given this rank's part of it."""
        if self.size == 1:
            return local
        import torch

        return torch.cat(self.gather(local.tensor_split(len(self.owned), dim)), dim)

    def objects(self, mine: T) -> list[T]:
        """Return one object of each rank, in their order."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        size = len(pickle.dumps(mine)) * (self.size - 1)
        self._exchange(lambda dist: dist.all_gather_object(found, mine), size)
        return found

    def every(self, mine: Sequence[T]) -> list[T]:
        """Return the objects of all shards in their order, given those of this rank's shards."""
        return [item for items in self.objects(list(mine)) for item in items]

    def _exchange(self, call: Callable[[Any], object], size: int) -> None:
        import torch.distributed as dist

        self.bytes_sent += size
        try:
            call(dist)
        except RuntimeError as error:
            late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            what = f"did not answer within {timeout()} s" if late else "has ended"
            raise LostRankError(f"rank {self.rank} stops: another rank {what}") from error

    def refuse_differences(self, what: dict[str, Any]) -> None:
        """Check that every rank has the same settings, versions and kind of CPU.

        Raises UserError naming the first that differs.
        """
        found = self.objects(what)
        for rank, other in enumerate(found):
            for name, value in other.items():
                if value != found[0][name]:
                    raise UserError(
                        f"rank {rank} has another {name} than rank 0, so their sums would differ: "
                        f"{value} and {found[0][name]}"
                    )


def _sum_in_order(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum, added one after the other: a sum of torch may start anywhere."""
    total, *more = parts
    for part in more:
        total = total + part
    return total


ALONE = Ranks()
"""One process with all tasks in one shard."""
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets to make a process a rank."""
_joined = False


def world_size() -> int:
    """Return the number of ranks that torchrun has started, or 1. Raises UserError."""
    return _number("WORLD_SIZE", 1, least=1)


def rank_of_process() -> int:
    """Return the rank that torchrun has given this process, or 0. Raises UserError."""
    if (size := world_size()) == 1:
        return 0
    if (rank := _number("RANK", None)) >= size:
        raise UserError(f"RANK in the environment must be less than WORLD_SIZE, not {rank}")
    return rank


def local_rank() -> int:
    """Return the rank of this process among those of its machine, or 0. Raises UserError."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return how many ranks share this machine, 1 without torchrun. Raises UserError."""
    return _number("LOCAL_WORLD_SIZE", 1, least=1)


def _number(name: str, default: int | None, least: int = 0) -> int:
    """Return a number of the environment; without a default it must be set. Raises UserError."""
    text, most = os.environ.get(name), 65535
    if text is None and default is not None:
        return default
    if text is None or not (re.fullmatch(r"[0-9]{1,9}", text) and least <= int(text) <= most):
        what = "but is not set" if text is None else f"not {text!r:.40}"
        raise UserError(
            f"{name} in the environment, which torchrun sets, must be a whole number from {least} "
            f"to {most}, {what}"
        )
    return int(text)


def environment_of_one() -> dict[str, str]:
    """Return the environment for a process that is to be a run by itself, not a rank."""
    return {
        name: value for name, value in os.environ.items()
        if name not in TORCHRUN and not name.startswith("TORCHELASTIC_")
    }  # fmt: skip


def follows() -> bool:
    """Whether this process is a rank other than the first: it neither writes files nor prints."""
    with suppress(UserError):  # of an environment that cannot be every process tells
        return rank_of_process() > 0
    return False


def says(error: BaseException) -> bool:
    """Whether this rank is to tell the user of an error, or leaves it to the first rank.

    Before the ranks meet, all of them find the same faults, but for one that cannot reach the
    others. After that, a rank tells of its own.
    """
    lost = isinstance(error, LostRankError)
    return not follows() or (lost != _joined and not isinstance(error, KeyboardInterrupt))


def restarted() -> bool:
    """Whether torchrun has started this process again after a rank was lost."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def share_of_cores(cores: int) -> int:
    """Return how many of a machine's cores each of the ranks on it gets."""
    return max(1, cores // local_world_size())


def timeout() -> int:
    """Return the seconds that a rank waits for the others. Raises UserError."""
    text = os.environ.get("METARL_RANK_TIMEOUT", str(TIMEOUT))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise UserError(f"METARL_RANK_TIMEOUT must be a number of seconds, not {text!r:.40}")
    return int(text)


def ranks(shards: int | None) -> Ranks:
    """Join the other ranks, if torchrun has started some; they stay joined until the process ends.

    Args:
        shards: of the run; None means one a rank.
    """
    size = world_size()
    if size == 1:
        return ALONE if shards in (None, 1) else Ranks(shards)
    found = Ranks(shards or size, rank_of_process(), size)
    _join(found.rank)
    return found


def _join(rank: int) -> None:
    import torch
    import torch.distributed as dist

    global _joined
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    wait = timedelta(seconds=timeout())
    try:
        dist.init_process_group(backend, timeout=wait, **_store(wait))
    except (RuntimeError, ValueError) as error:
        raise LostRankError(f"rank {rank} cannot reach the others: {error}") from error
    atexit.register(dist.destroy_process_group)
    _joined = True


def _store(wait: timedelta) -> dict[str, Any]:
    """Return where the ranks find each other's addresses, for `init_process_group`.

    torchrun may keep its store over restarts, with the addresses of ranks that are no more in it:
    so each start has a part of the store to itself.
    """
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    address, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", None)
    server = TCPStore(address, port, is_master=False, timeout=wait)
    start = f"metarl start {_number('TORCHELASTIC_RESTART_COUNT', 0)}"
    ranks = {"rank": rank_of_process(), "world_size": world_size()}
    return {"store": PrefixStore(start, server), **ranks}
