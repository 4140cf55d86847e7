"""The memories that there are, by name."""

from __future__ import annotations

from typing import Literal, get_args

from metarl.base.errors import UserError, did_you_mean
from metarl.networks.memories.attention import (
    Attention,
    History,
    Snail,
    TemporalConvolution,
    Transformer,
)
from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.memories.hyper import Hyper
from metarl.networks.memories.recurrent import GRU, LSTM
from metarl.networks.memories.scan import MinGruLayer, S5Layer, Scan
from metarl.networks.memories.slots import Mann

__all__ = [
    "GRU", "LSTM", "MEMORIES", "Attention", "History", "Hyper", "Mann", "Memory", "MemoryName",
    "MemoryState", "Scan", "Snail", "TemporalConvolution", "Transformer", "make_memory",
]  # fmt: skip

MemoryName = Literal["gru", "lstm", "mingru", "s5", "transformer", "snail", "mann", "hyper"]
MEMORIES: tuple[str, ...] = get_args(MemoryName)
"""The names that `make_memory` knows."""


def make_memory(
    name: str, inputs: int, units: int, *, context: int, layers: int = 2, heads: int = 4
) -> Memory:
    """Return the memory called `name`.

    Args:
        name: one of `MEMORIES`.
        inputs: size of an input.
        units: size of an output; of minGRU and S5, whose outputs are as large as inputs, that of
            each layer's state; of mann and hyper that of the recurrence in them.
        context: steps that transformer and SNAIL look back, and that minGRU and S5 remember first.
        layers: of minGRU, S5, transformer and SNAIL.
        heads: of the transformer, which share the units: an even number for each.

    Raises:
        UserError: there is no such memory, or the units cannot be shared.
    """
    if name == "gru":
        return GRU(inputs, units)
    if name == "lstm":
        return LSTM(inputs, units)
    if name == "mingru":
        return Scan(inputs, [MinGruLayer(inputs, units, context) for _ in range(layers)])
    if name == "s5":
        if units % 2:
            raise UserError(f"units must be even in S5, whose states are complex, not {units}")
        return Scan(inputs, [S5Layer(inputs, units, context) for _ in range(layers)])
    if name == "mann":
        return Mann(inputs, units)
    if name == "hyper":
        return Hyper(inputs, units)
    if name == "snail":
        return Snail(inputs, units, context, layers)
    if name == "transformer":
        if units % (2 * heads):
            raise UserError(
                f"units must be a multiple of 2 x heads = {2 * heads} in a transformer, not {units}"
            )
        return Transformer(inputs, units, context, layers, heads)
    raise UserError(f"no memory '{name}'{did_you_mean(name, MEMORIES)}; there are {MEMORIES}")
