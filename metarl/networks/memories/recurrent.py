"""Memories that squeeze the past into a fixed number of units: GRU and LSTM.

On a CPU a recurrence is bound by how long each of its small operations takes to start. torch's GRU
starts about forty a step in training; `_Gru` starts five forwards and three backwards, and does the
rest for many steps at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metarl.networks.memories.backbone import Memory, MemoryState, like

ROWS = 128
"""Steps x worlds whose gates `_Gru.backward` differentiates at once: what a core's cache holds."""


class _Recurrent(Memory):
    """A recurrence of torch's, cut where trials begin."""

    net: nn.GRU | nn.LSTM

    def unroll(
        self, x: Tensor, begins: Tensor | None = None, state: MemoryState | None = None
    ) -> Tensor:
        """Return the hidden states, (T, B, units); those of trials under way go on from a state."""
        cuts = [] if begins is None else begins[1:].any(1).nonzero()[:, 0].add(1).tolist()
        state, outputs = state or self.begin(x.shape[1]), []
        for start, end in zip((0, *cuts), (*cuts, len(x)), strict=True):
            if start and begins is not None:
                state = self.restart(state, begins[start])
            output, state = self._run(x[start:end], state)
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _run(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the hidden states of (T, B, inputs) from a state, and the state after them."""
        raise NotImplementedError


class GRU(_Recurrent):
    """A gated recurrent unit (Cho et al. 2014), of torch's own parameters."""

    def __init__(self, inputs: int, units: int) -> None:
        """Take the size of an input and the number of units."""
        super().__init__(inputs, units)
        self.net = nn.GRU(inputs, units)

    def begin(self, worlds: int) -> MemoryState:
        """Return (B, units) zeros."""
        return (torch.zeros(worlds, self.outputs, **like(self.net)),)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the hidden state, (B, units), as output and as state."""
        hidden = torch.gru_cell(x, state[0], *self.net.all_weights[0])
        return hidden, (hidden,)

    def _run(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        if x.is_cpu and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
            hidden = _Gru.apply(x, state[0], *self.net.all_weights[0])
        else:
            hidden = self.net(x, state[0][None])[0]
        return hidden, (hidden[-1],)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), torch's own kernels."""

    def __init__(self, inputs: int, units: int) -> None:
        """Take the size of an input and the number of units."""
        super().__init__(inputs, units)
        self.net = nn.LSTM(inputs, units)

    def begin(self, worlds: int) -> MemoryState:
        """Return the hidden and the cell state, (B, units) zeros each."""
        zeros = torch.zeros(worlds, self.outputs, **like(self.net))
        return zeros, zeros

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the hidden state, (B, units), and both states."""
        hidden, cell = torch.lstm_cell(x, list(state), *self.net.all_weights[0])
        return hidden, (hidden, cell)

    def _run(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        output, after = self.net(x, tuple(part[None] for part in state))
        return output, tuple(part[0] for part in after)


class _Gru(torch.autograd.Function):
    """The hidden states of a GRU, with the gradient by hand.

    r, z = σ(W x + b + U h),  n = tanh(W_n x + b_n + r ∘ m),  m = U_n h + c_n,  h' = n + z ∘ (h - n)

    Backwards in time, δ = ∂L/∂h' is the only thing that one step needs of the next. Its gradients
    with respect to what r, z and m are made of are δ times factors that do not depend on it, so
    those are computed for many steps at once; and the weights' are one product over all steps.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> Tensor:
        """Return (T, B, units) for (T, B, inputs), from (B, units)."""
        (steps, worlds, _), units = x.shape, w_hh.shape[1]
        rows, both = x.reshape(steps * worlds, -1), 2 * units
        gates = x.new_empty(steps, worlds, 3 * units)
        gates[..., both:] = b_hh[both:]
        torch.addmm(
            (b_ih + b_hh)[:both], rows, w_ih[:both].t(),
            out=gates.view(len(rows), -1)[:, :both],
        )  # fmt: skip
        new = torch.addmm(b_ih[both:], rows, w_ih[both:].t()).view(steps, worlds, units)
        hidden = x.new_empty(steps + 1, worlds, units)
        hidden[0] = h0
        h, weight = hidden[0], w_hh.t()
        parts = (gates, gates[..., :both], *gates.split(units, -1), new, hidden[1:])
        for gate, r_and_z, r, z, m, n, out in zip(*(part.unbind(0) for part in parts), strict=True):
            gate.addmm_(h, weight)
            r_and_z.sigmoid_()
            h = torch.lerp(n.addcmul_(r, m).tanh_(), h, z, out=out)
        ctx.save_for_backward(x, w_ih, w_hh, hidden, gates, new)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the gradients of the six inputs."""
        x, w_ih, w_hh, hidden, gates, new = ctx.saved_tensors
        steps, worlds, units = new.shape
        delta = grad.clone(memory_format=torch.contiguous_format)
        d_gates, d_new = x.new_empty(steps, worlds, 3, units), torch.empty_like(new)
        parts = (*gates.split(units, -1), new, hidden[:-1], delta, d_gates, d_new)
        blocks = zip(*(part.split(max(1, ROWS // worlds)) for part in parts), strict=True)
        after: tuple[Tensor, Tensor, Tensor] | None = None  # of the step before, in this order
        for r, z, m, n, h, d, dg, dn in reversed(list(blocks)):
            slope = (1 - z).mul_(torch.addcmul(torch.ones_like(n), n, n, value=-1))
            torch.mul(slope, r, out=dg[:, :, 2])
            torch.addcmul(r, r, r, value=-1, out=dg[:, :, 0]).mul_(m).mul_(slope)
            torch.addcmul(z, z, z, value=-1, out=dg[:, :, 1]).mul_(h - n)
            views = (d, d.unsqueeze(2), z, dg, dg.flatten(2))
            for d_h, wide, z_t, factor, flat in reversed(
                list(zip(*(view.unbind(0) for view in views), strict=True))
            ):
                if after is not None:
                    d_h.addcmul_(*after[:2]).addmm_(after[2], w_hh)
                factor.mul_(wide)
                after = d_h, z_t, flat
            torch.mul(slope, d, out=dn)
        assert after is not None
        d_h0 = (after[0] * after[1]).addmm_(after[2], w_hh)
        return (*_products(x, w_ih, hidden[:-1], d_gates, d_new, d_h0),)


def _products(
    x: Tensor, w_ih: Tensor, hidden: Tensor, d_gates: Tensor, d_new: Tensor, d_h0: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of a GRU's inputs, given those of its gates before the nonlinearity.

    Args:
        x: (T, B, inputs).
        w_ih: (3 units, inputs).
        hidden: (T, B, units), before each step.
        d_gates: (T, B, 3, units), of the sums that r, z and m are made of.
        d_new: (T, B, units), of the sum that n is made of.
        d_h0: (B, units).
    """
    both = 2 * d_new.shape[-1]
    rows, gates, new = x.flatten(0, 1), d_gates.flatten(2).flatten(0, 1), d_new.flatten(0, 1)
    r_and_z, b_hh = gates[:, :both], gates.sum(0)
    d_x = (r_and_z @ w_ih[:both]).addmm_(new, w_ih[both:]).view(x.shape)
    w_ih = torch.cat((r_and_z.t() @ rows, new.t() @ rows))
    b_ih = torch.cat((b_hh[:both], new.sum(0)))
    return d_x, d_h0, w_ih, gates.t() @ hidden.flatten(0, 1), b_ih, b_hh
