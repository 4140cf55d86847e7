"""Adds up tensors of five shards, as one of some ranks, and compares."""

import sys

import torch

from metarl.base.distributed import SLICED, Ranks, ranks


def main() -> None:
    """Print "equal" if the sum has the bits of that of one process."""
    one, mine = Ranks(5), ranks(5)
    draws = torch.Generator().manual_seed(0)
    for size in (SLICED - 1, SLICED, SLICED + 1):
        parts = list(torch.randn(5, size, generator=draws))
        assert torch.equal(one.sum(parts), mine.sum([parts[shard] for shard in mine.owned])), size
    sys.stdout.write("equal\n")  # in one piece: print may write the end of the line by itself
    sys.stdout.flush()
