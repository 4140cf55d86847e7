"""Memories that look back on the last `context` steps themselves: a transformer and SNAIL.

What they hold of those steps while acting is a `History` a layer. All worlds are at the same step
of their trials, so the trials of a batch begin together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.backbone import Memory, MemoryState


class History:
    """The last steps of a sequence, in blocks, so that adding one copies one block and no more.

    Step p lies in slot p % size of block (p // size) % count. Blocks are shared between states and
    never written to; a ring of them holds at least the last `length` steps.
    """

    def __init__(self, length: int, *shape: int, dim: int = 1, size: int = 32) -> None:
        """Lay out the ring.

        Args:
            length: steps to hold.
            shape: what a step of one world is, without the time axis.
            dim: where in a block, (B, …), the time axis goes.
            size: steps in a block.
        """
        self.length, self.size, self.dim = length, min(size, length), dim
        self.count = 1 if self.size == length == 1 else -(-(length - 1) // self.size) + 1
        self.shape = (*shape[: dim - 1], self.size, *shape[dim - 1 :])

    def begin(self, like: Tensor, worlds: int) -> MemoryState:
        """Return empty blocks, on the device of `like` and with its type."""
        return (like.new_zeros(worlds, *self.shape),) * self.count

    def add(self, blocks: MemoryState, position: int, x: Tensor) -> MemoryState:
        """Return the blocks with step `position`, (B, …) of `shape`, after the one before it."""
        which = position // self.size % self.count
        block = blocks[which].clone()
        block.select(self.dim, position % self.size).copy_(x)
        return (*blocks[:which], block, *blocks[which + 1 :])

    def at(self, blocks: MemoryState, position: int) -> Tensor:
        """Return (B, …) what step `position` was: one of the last `length`; zeros before 0."""
        if position < 0:
            return torch.zeros_like(blocks[0].select(self.dim, 0))
        block = blocks[position // self.size % self.count]
        return block.select(self.dim, position % self.size)

    def upto(self, blocks: MemoryState, position: int) -> list[Tensor]:
        """Return the blocks of the last `length` steps, in order, cut to just these steps."""
        first, parts = max(0, position - self.length + 1), []
        while first <= position:
            block = blocks[first // self.size % self.count]
            last = min(position, first // self.size * self.size + self.size - 1)
            parts.append(block.narrow(self.dim, first % self.size, last - first + 1))
            first = last + 1
        return parts


def _clock(worlds: int, device: torch.device) -> Tensor:
    clock = torch.zeros(worlds, dtype=torch.int64, device=device)
    vars(clock)["position"] = 0
    return clock


def _ticked(clock: Tensor) -> tuple[int, Tensor]:
    """Return the step that a clock (B,) is at, and the clock one step later.

    The host remembers what it knows of a clock with the tensor itself, for to read it is to wait
    for a device. A copy, such as one that was moved or loaded, is read once.
    """
    known = vars(clock).get("position")
    position = int(clock[0]) if known is None else known
    later = clock + 1
    vars(later)["position"] = position + 1
    return position, later


class Attention(nn.Module):
    """Causal attention of several heads to the last `context` steps (Vaswani et al. 2017)."""

    def __init__(self, inputs: int, units: int, heads: int, context: int, *, rotary: bool) -> None:
        """Lay out the projections.

        Args:
            inputs: size of an input.
            units: size of an output, over all heads.
            heads: which share the units.
            context: steps that a step sees, itself among them.
            rotary: whether keys tell how long ago they were (Su et al. 2021).
        """
        super().__init__()
        self.heads, self.size, self.context = heads, units // heads, context
        self.project = nn.Linear(inputs, 3 * units)
        self.history = History(context, heads, self.size, dim=2)
        self.rotary = rotary

    def begin(self, worlds: int) -> MemoryState:
        """Return the empty blocks of keys, then those of values."""
        weight = self.project.weight.detach()
        return self.history.begin(weight, worlds) + self.history.begin(weight, worlds)

    def step(self, x: Tensor, state: MemoryState, position: int) -> tuple[Tensor, MemoryState]:
        """Return (B, units) read at step `position`, given (B, inputs), and the new state."""
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, self.size)).unbind(1)
        at = torch.full((1,), position, device=x.device)
        query, key = (self._rotate(part[:, :, None], at) for part in (query, key))
        count = self.history.count
        keys = self.history.add(state[:count], position, key[:, :, 0])
        values = self.history.add(state[count:], position, value)
        seen = self.history.upto(keys, position)
        scores = torch.cat([query @ block.transpose(-2, -1) for block in seen], -1) / math.sqrt(
            self.size
        )
        weights = torch.softmax(scores, -1).split([block.shape[2] for block in seen], -1)
        blocks = self.history.upto(values, position)
        read = sum(w @ block for w, block in zip(weights, blocks, strict=True))
        return torch.as_tensor(read).flatten(1), keys + values

    def unroll(self, x: Tensor) -> Tensor:
        """Return (T, B, units) read at each of (T, B, inputs)."""
        steps = len(x)
        query, key, value = (
            part.permute(1, 2, 0, 3)
            for part in self.project(x).unflatten(-1, (3, self.heads, self.size)).unbind(2)
        )
        at = torch.arange(steps, device=x.device)
        query, key = self._rotate(query, at), self._rotate(key, at)
        band = None
        if steps > self.context:
            age = at[:, None] - at
            band = (age >= 0) & (age < self.context)
        read = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=band, is_causal=band is None
        )
        return read.permute(2, 0, 1, 3).flatten(2)

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        """Turn (B, heads, n, size) by angles that grow with the (n,) positions."""
        if not self.rotary:
            return x
        pairs = torch.arange(self.size // 2, device=x.device)
        angle = position[:, None] * 10000.0 ** (-2 * pairs / self.size)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        one, two = x.chunk(2, -1)
        return torch.cat((one * cos - two * sin, one * sin + two * cos), -1)


class Transformer(Memory):
    """A causal transformer with layer norms first, and a cache of keys and values for acting."""

    restarts = False

    def __init__(self, inputs: int, units: int, context: int, layers: int, heads: int) -> None:
        """Take the sizes, and how many steps a layer looks back."""
        super().__init__(inputs, units)
        self.enter = nn.Linear(inputs, units)
        self.attend = nn.ModuleList(
            Attention(units, units, heads, context, rotary=True) for _ in range(layers)
        )
        self.merge = nn.ModuleList(nn.Linear(units, units) for _ in range(layers))
        self.widen = nn.ModuleList(nn.Linear(units, 2 * units) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(2 * units, units) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(units) for _ in range(2 * layers + 1))
        with torch.no_grad():  # residual branches that add up to the size of one
            for name, weight in self.named_parameters():
                if name.startswith(("merge", "narrow")):
                    weight *= 1 / math.sqrt(2 * layers)

    def begin(self, worlds: int) -> MemoryState:
        """Return the number of steps seen, (B,) int64, and the empty blocks of every layer."""
        blocks = [attend.begin(worlds) for attend in self._attentions()]
        return (
            _clock(worlds, blocks[0][0].device),
            *(block for layer in blocks for block in layer),
        )

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return (B, units) and the new state."""
        (position, clock), new, x = _ticked(state[0]), [], self.enter(x)
        for i, attend in enumerate(self._attentions()):
            size = 2 * attend.history.count
            blocks = state[1 + i * size : 1 + (i + 1) * size]
            read, blocks = attend.step(self.norms[2 * i](x), blocks, position)
            new += blocks
            x = self._add(i, x, read)
        return self.norms[-1](x), (clock, *new)

    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, units)."""
        x = self.enter(x)
        for i, attend in enumerate(self._attentions()):
            x = self._add(i, x, attend.unroll(self.norms[2 * i](x)))
        return self.norms[-1](x)

    def _add(self, i: int, x: Tensor, read: Tensor) -> Tensor:
        """Add what layer i read, and what it makes of that."""
        x = x + self.merge[i](read)
        return x + self.narrow[i](functional.gelu(self.widen[i](self.norms[2 * i + 1](x))))

    def _attentions(self) -> list[Attention]:
        return [attend for attend in self.attend if isinstance(attend, Attention)]


class TemporalConvolution(nn.Module):
    """Dilated causal convolutions, densely connected (Mishra et al. 2018; van den Oord 2016).

    Layer i sees its input now and 2^i steps ago, and appends tanh(a) σ(b) to it.
    """

    def __init__(self, inputs: int, filters: int, context: int) -> None:
        """Make as many layers as it takes to see `context` steps."""
        super().__init__()
        depth = max(1, math.ceil(math.log2(context)))
        self.dilations = [2**i for i in range(depth)]
        widths = [inputs + i * filters for i in range(depth)]
        self.now = nn.ModuleList(nn.Linear(width, 2 * filters) for width in widths)
        self.ago = nn.ModuleList(nn.Linear(width, 2 * filters, bias=False) for width in widths)
        self.outputs = inputs + depth * filters
        self.history = History(self.dilations[-1] + 1, self.outputs)

    def step(self, x: Tensor, blocks: MemoryState, position: int) -> tuple[Tensor, MemoryState]:
        """Return (B, outputs) at step `position`, given (B, inputs), and the new blocks."""
        for now, ago, dilation in zip(self.now, self.ago, self.dilations, strict=True):
            past = self.history.at(blocks, position - dilation)[:, : x.shape[1]]
            x = self._append(x, now(x) + ago(past))
        return x, self.history.add(blocks, position, x)

    def unroll(self, x: Tensor) -> Tensor:
        """Return (T, B, outputs)."""
        for now, ago, dilation in zip(self.now, self.ago, self.dilations, strict=True):
            delayed = functional.pad(ago(x[:-dilation]), (0, 0, 0, 0, min(dilation, len(x)), 0))
            x = self._append(x, now(x) + delayed)
        return x

    def _append(self, x: Tensor, both: Tensor) -> Tensor:
        value, gate = both.chunk(2, -1)
        return torch.cat((x, torch.tanh(value) * torch.sigmoid(gate)), -1)


class Snail(Memory):
    """SNAIL (Mishra et al. 2018): temporal convolution and attention, by turns."""

    restarts = False

    def __init__(self, inputs: int, units: int, context: int, layers: int) -> None:
        """Take the sizes, how many steps to look back, and the number of pairs of both."""
        super().__init__(inputs, units)
        filters, read = max(1, units // 8), max(2, units // 4)
        self.convolve, self.attend = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.convolve.append(convolution := TemporalConvolution(inputs, filters, context))
            self.attend.append(Attention(convolution.outputs, read, 1, context, rotary=False))
            inputs = convolution.outputs + read
        self.leave = nn.Linear(inputs, units)

    def begin(self, worlds: int) -> MemoryState:
        """Return the number of steps seen, (B,) int64, and the empty blocks of every layer."""
        weight = self.leave.weight.detach()
        state: MemoryState = (_clock(worlds, weight.device),)
        for convolution, attend in self._pairs():
            state += convolution.history.begin(weight, worlds) + attend.begin(worlds)
        return state

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return (B, units) and the new state."""
        position, clock = _ticked(state[0])
        rest, new = state[1:], (clock,)
        for convolution, attend in self._pairs():
            sizes = convolution.history.count, 2 * attend.history.count
            past, cache, rest = rest[: sizes[0]], rest[sizes[0] : sum(sizes)], rest[sum(sizes) :]
            x, past = convolution.step(x, past, position)
            read, cache = attend.step(x, cache, position)
            x, new = torch.cat((x, read), -1), new + past + cache
        return self.leave(x), new

    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, units)."""
        for convolution, attend in self._pairs():
            x = convolution.unroll(x)
            x = torch.cat((x, attend.unroll(x)), -1)
        return self.leave(x)

    def _pairs(self) -> list[tuple[TemporalConvolution, Attention]]:
        pairs = zip(self.convolve, self.attend, strict=True)
        return [(c, a) for c, a in pairs if isinstance(c, TemporalConvolution)
                and isinstance(a, Attention)]  # fmt: skip
