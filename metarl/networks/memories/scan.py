"""Memories whose recurrence is linear in the state, and so can be computed for many steps at once.

    h_t = a_t ∘ h_{t-1} + b_t,  a_t and b_t functions of the input alone

`linear_scan` needs about 3 √T operations for T steps, however many worlds there are; where another
trial begins, a_t is 0. Both memories are layers, each of them added to its input: `MinGruLayer`
with gates (Feng et al. 2024), and `S5Layer` with the fixed complex rates of a diagonal state-space
model (Smith et al. 2023; within reinforcement learning: Lu et al. 2023).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.backbone import Memory, MemoryState, like

CACHED = 1 << 18
"""Numbers of each tensor, at most, that `_GatedScan` computes with at once: a core's cache."""


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return (T, …) h with h_0 = b_0 and h_t = a_t ∘ h_{t-1} + b_t; real or complex."""
    return _LinearScan.apply(a, b)


class _LinearScan(torch.autograd.Function):
    """The gradient of a scan is a scan back in time: δ_t = ∂L/∂h_t + conj(a_{t+1}) δ_{t+1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        hidden = _scan(a, b)
        ctx.save_for_backward(a, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, hidden = ctx.saved_tensors
        delta = _scan(a.conj(), grad, back=True)
        d_a = torch.zeros_like(a)
        torch.mul(delta[1:], hidden[:-1].conj(), out=d_a[1:])
        return d_a, delta


def _scan(a: Tensor, b: Tensor, *, back: bool = False) -> Tensor:
    """Scan √T blocks of √T steps side by side, and then hand each block's last state to the next.

    Args:
        a: (T, …).
        b: likewise.
        back: go back in time instead, h_t = a_{t+1} ∘ h_{t+1} + b_t.
    """
    steps, shift = len(b), int(back)
    size = math.isqrt(steps)
    count = -(-steps // size)
    hidden = b.new_zeros(count * size, *b.shape[1:])
    hidden[:steps] = b
    carry = torch.zeros_like(hidden)  # how much of the state before a block there is in each state
    carry[: steps - shift] = a[shift:]
    hidden, carry = (part.unflatten(0, (count, size)) for part in (hidden, carry))
    way = reversed if back else iter
    inside = way(list(zip(hidden.unbind(1), carry.unbind(1), strict=True)))
    for (h, p), (h_next, p_next) in itertools.pairwise(inside):
        h_next.addcmul_(p_next, h)
        p_next.mul_(p)
    blocks = way(list(zip(hidden.unbind(0), carry.unbind(0), strict=True)))
    for (h, _), (h_next, p_next) in itertools.pairwise(blocks):
        h_next.addcmul_(p_next, h[0 if back else -1])
    return hidden.flatten(0, 1)[:steps]


class _GatedScan(torch.autograd.Function):
    """`linear_scan` of 1 - z and z ∘ n with z = σ(gate), to the same bits, for CPUs.

    There, all that is computed number by number waits for memory. So each of it is computed for a
    few blocks of the scan while a core's cache holds them, and then for the next.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, new: Tensor) -> Tensor:
        """Return the states, (T, …), given what gates are made of and the new values, likewise."""
        z, hidden, last = torch.sigmoid(gate), torch.empty_like(gate), None  # bits by the whole
        size = math.isqrt(len(gate))
        for part in _groups(gate, size):
            carry = 1 - z[part]
            h = torch.mul(z[part], new[part], out=hidden[part])
            _scan_blocks(h, carry, size)
            for own, p in zip(h.split(size), carry.split(size), strict=True):
                last = (own if last is None else own.addcmul_(p, last))[-1]
        ctx.save_for_backward(z, new, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the gradients of both inputs."""
        z, new, hidden = ctx.saved_tensors
        d_gate, d_new, after = torch.empty_like(z), torch.empty_like(z), None
        size = math.isqrt(len(z))
        for part in reversed(_groups(z, size)):
            delta = grad[part].clone(memory_format=torch.contiguous_format)
            carry, ahead = torch.zeros_like(delta), z[part.start + 1 : part.stop + 1]
            carry[: len(ahead)].fill_(1).sub_(ahead)
            _scan_blocks(delta, carry, size, back=True)
            for own, p in reversed(list(zip(delta.split(size), carry.split(size), strict=True))):
                after = (own if after is None else own.addcmul_(p, after))[0]
            first = int(part.start == 0)  # before it there is no state
            before = hidden[part.start - 1 + first : part.stop - 1]
            torch.mul(delta[first:], before, out=carry[first:])
            carry[:first] = 0.0
            d_z = torch.mul(delta, new[part], out=d_gate[part]).sub_(carry)
            torch.ops.aten.sigmoid_backward.grad_input(d_z, z[part], grad_input=d_z)
            torch.mul(delta, z[part], out=d_new[part])
        return d_gate, d_new


def _groups(x: Tensor, size: int) -> list[slice]:
    """Return the steps of (T, …) in parts of a few whole blocks; a shorter one is by itself."""
    steps, whole = len(x), len(x) // size * size
    width = max(1, CACHED // (size * x[0].numel())) * size
    parts = [slice(start, min(start + width, whole)) for start in range(0, whole, width)]
    return parts + [slice(whole, steps)] * (whole < steps)


def _scan_blocks(hidden: Tensor, carry: Tensor, size: int, *, back: bool = False) -> None:
    """Scan blocks of `size` steps side by side, in place.

    Args:
        hidden: (T, …) b, and then the states if there is none before a block.
        carry: (T, …) a, and then how much of the state before a block there is in each state.
        size: T if that is less.
        back: go back in time instead.
    """
    steps = [x.unflatten(0, (-1, min(size, len(x)))).unbind(1) for x in (hidden, carry)]
    pairs = list(zip(*steps, strict=True))
    for (h, p), (h_next, p_next) in itertools.pairwise(reversed(pairs) if back else pairs):
        h_next.addcmul_(p_next, h)
        p_next.mul_(p)


class _Layer(nn.Module, ABC):
    """What one layer's recurrence is driven by, and what is read from its state."""

    units: int
    """Numbers in the state"""

    @abstractmethod
    def drive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of the recurrence, for (…, width) inputs."""

    def states(self, x: Tensor, going: Tensor | None) -> Tensor:
        """Return (T, B, …) states for (T, B, width) inputs; `going` is false where trials begin."""
        a, b = self.drive(x)
        return linear_scan(a if going is None else a * going, b)

    def advance(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the state after a step, given (B, width) inputs; complex numbers come as pairs."""
        a, b = self.drive(x)
        if a.is_complex():
            hidden = torch.view_as_complex(hidden.unflatten(-1, (-1, 2)))
        return torch.addcmul(b, a, hidden)

    @abstractmethod
    def read(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return (…, width), given the states and the inputs."""


class MinGruLayer(_Layer):
    """h_t = (1 - z_t) ∘ h_{t-1} + z_t ∘ n_t, with z = σ(W x + b) and n linear in x."""

    def __init__(self, width: int, units: int, context: int) -> None:
        """Lay out the weights.

        Args:
            width: of the input and output.
            units: of the state.
            context: the units remember for 1 to this many steps at first (Tallec, Ollivier 2018).
        """
        super().__init__()
        self.units = units
        self.gate = nn.Linear(width, units)
        self.enter = nn.Linear(width, units)
        self.leave = nn.Linear(units, width)
        with torch.no_grad():  # z is about 1 / steps, whose logarithm is uniform
            self.gate.bias.uniform_(-math.log(context), 0)

    def drive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - z, and z times n."""
        kind = self.enter.weight.dtype  # in mixed precision, too, the recurrence keeps its own
        z = torch.sigmoid(self.gate(x).to(kind))
        return 1 - z, z * self.enter(x).to(kind)

    def states(self, x: Tensor, going: Tensor | None) -> Tensor:
        """Return the states, (T, B, units), for (T, B, width) inputs."""
        mixed = torch.is_autocast_enabled(x.device.type)
        if going is not None or mixed or not x.is_cpu or torch.compiler.is_compiling():
            return super().states(x, going)
        return _GatedScan.apply(self.gate(x), self.enter(x))

    def advance(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the state after a step: to act, in the memory that its parts are computed in."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return super().advance(x, hidden)
        z = functional.linear(x, self.gate.weight, self.gate.bias).sigmoid_()
        new = functional.linear(x, self.enter.weight, self.enter.bias).mul_(z)
        return new.addcmul_(z.neg_().add_(1), hidden)

    def read(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return a linear map of the state."""
        return self.leave(hidden)


class S5Layer(_Layer):
    """dh/dt = Λ h + B x, y = Re(C h) + D ∘ x, discretised by a zero-order hold, then gated.

    Λ is diagonal and complex; it starts as S4D-Lin (Gu et al. 2022).
    """

    def __init__(self, width: int, units: int, context: int) -> None:
        """Lay out the weights.

        Args:
            width: of the input and output.
            units: real numbers in the state, two for each complex one.
            context: the longest time, in steps, that a unit remembers at first.
        """
        super().__init__()
        self.units, count = units, units // 2
        self.log_rate = nn.Parameter(torch.full((count,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(count))
        share = torch.linspace(0, 1, count)[torch.randperm(count)]
        longest = max(context, 10)
        self.log_step = nn.Parameter(share * math.log(longest / 5) - math.log(longest))
        self.enter = nn.Linear(width, units, bias=False)
        self.leave = nn.Linear(units, width, bias=False)
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, width)

    def drive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return exp(Λ Δ), and (exp(Λ Δ) - 1) / Λ times B x, both complex."""
        rate = torch.complex(-self.log_rate.exp(), self.frequency)
        decay = torch.exp(rate * self.log_step.exp())
        driven = self.enter(x).to(self.skip.dtype).unflatten(-1, (-1, 2))
        driven = torch.view_as_complex(driven)
        return decay.expand_as(driven), (decay - 1) / rate * driven

    def read(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the gated output."""
        y = self.leave(torch.view_as_real(hidden).flatten(-2)) + self.skip * x
        y = functional.gelu(y)
        return y * torch.sigmoid(self.gate(y))


class Scan(Memory):
    """Layers of linear recurrences, each added to its input, which the later ones normalise."""

    worth_a_thread = 2

    def __init__(self, width: int, layers: Sequence[_Layer]) -> None:
        """Take the size of an input, which is that of an output, and the layers."""
        super().__init__(width, width)
        self.layers = nn.ModuleList(layers)
        norms = [nn.LayerNorm(width) for _ in layers[1:]]
        self.norms = nn.ModuleList([nn.Identity(), *norms])  # the embedding is bounded already
        self._pairs = list(zip(layers, self.norms, strict=True))

    def begin(self, worlds: int) -> MemoryState:
        """Return (B, units) zeros for each layer; complex numbers as pairs of real ones."""
        return tuple(torch.zeros(worlds, layer.units, **like(self)) for layer, _ in self._pairs)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return (B, width), and the new state."""
        new = []
        for (layer, norm), h in zip(self._pairs, state, strict=True):
            u = norm(x)
            h = layer.advance(u, h)
            x = x + layer.read(h, u)
            new.append(torch.view_as_real(h).flatten(-2) if h.is_complex() else h)
        return x, tuple(new)

    def unroll(self, x: Tensor, begins: Tensor | None = None) -> Tensor:
        """Return (T, B, width)."""
        going = None if begins is None else (~begins)[..., None]
        for layer, norm in self._pairs:
            u = norm(x)
            x = x + layer.read(layer.states(u, going), u)
        return x
