"""ReLU networks as one flat parameter vector, one or several of a shape side by side.

On a GPU a layer is one batched matrix product. On a CPU a network goes through a few hundred rows
at a time, forward and backward: a layer's activations for thousands of rows do not fit a core's
cache, and with them the memory, not the arithmetic, sets the pace.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 512
"""Rows that go through a network together on a CPU, for each thread."""


class Mlp:
    """The layout of `copies` ReLU networks of one shape; the weights are given at each call."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: tuple[int, ...],
        *,
        copies: int = 1,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Lay out the flat vector: each layer's weights (copies, in, out), then its biases.

        Args:
            inputs: numbers in.
            outputs: numbers out.
            hidden: units of the hidden layers.
            copies: networks side by side.
            compute_dtype: what the hidden layers compute in, float32 or bfloat16. Parameters, their
                gradients and the last layer are float32.
        """
        self.copies = copies
        self.compute_dtype = compute_dtype
        sizes = (inputs, *hidden, outputs)
        self.shapes = [
            shape
            for i, o in itertools.pairwise(sizes)
            for shape in ((copies, i, o), (copies, 1, o))
        ]
        self.pieces = [math.prod(shape) for shape in self.shapes]

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return (D,) initial parameters: uniform by fan-in, and a last layer close to zero."""
        parts = []
        last = len(self.shapes) - 2
        for k in range(0, len(self.shapes), 2):
            bound = 1 / math.sqrt(self.shapes[k][1]) if k < last else 3e-3
            parts.append((2 * torch.rand(self.pieces[k], generator=generator) - 1) * bound)
            parts.append(torch.zeros(self.pieces[k + 1]))
        return torch.cat(parts)

    def layers(self, params: Tensor) -> list[Tensor]:
        """View (D,) parameters as weights (copies, in, out) and biases (copies, 1, out) in turn."""
        pieces = params.split(self.pieces)
        return [p.view(s) for p, s in zip(pieces, self.shapes, strict=True)]

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Return (copies, R, out) for (R, in), or (R, out) where there is one copy."""
        blocks = x.device.type == "cpu" and not torch.onnx.is_in_onnx_export()  # it writes in place
        out = _Blocks.apply(params, x, self) if blocks else self.batched(params, x)
        return out[0] if self.copies == 1 else out

    def batched(self, params: Tensor, x: Tensor) -> Tensor:
        """Return (copies, R, out), by one batched matrix product a layer."""
        *inner, weight, bias = self.layers(params)
        x = x.expand(self.copies, -1, -1).to(self.compute_dtype)
        for w, b in zip(inner[::2], inner[1::2], strict=True):
            x = torch.baddbmm(b.to(self.compute_dtype), x, w.to(self.compute_dtype)).relu_()
        return torch.baddbmm(bias, x.float(), weight)


class _Blocks(torch.autograd.Function):
    """`Mlp.batched`, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, params: Tensor, x: Tensor, net: Mlp) -> Tensor:
        """Keep the activations only if there is a gradient to come."""
        low, last, rows = net.layers(params.to(net.compute_dtype)), net.layers(params)[-2:], len(x)
        size = BLOCK * torch.get_num_threads()
        keep = rows if any(ctx.needs_input_grad) else min(rows, size)
        out = x.new_empty(net.copies, rows, net.shapes[-1][2])
        x = x.to(net.compute_dtype)
        hidden = [x.new_empty(net.copies, keep, s[2]) for s in net.shapes[:-2:2]]
        for start in range(0, rows, size):
            block = slice(start, min(start + size, rows))
            kept = block if keep == rows else slice(0, block.stop - start)
            for k in range(net.copies):
                h = x[block]
                for w, b, into in zip(low[:-2:2], low[1:-2:2], hidden, strict=True):
                    h = torch.addmm(b[k], h, w[k], out=into[k, kept]).relu_()
                torch.addmm(last[1][k], h.float(), last[0][k], out=out[k, block])
        ctx.net, ctx.size = net, size
        ctx.save_for_backward(params, x, *hidden)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients by parameters and input, those that are asked for."""
        params, x, *hidden = ctx.saved_tensors
        net, (by_params, by_x) = ctx.net, ctx.needs_input_grad[:2]
        low, last = net.layers(params.to(net.compute_dtype)), net.layers(params)[-2]
        flat = torch.zeros_like(params) if by_params else None
        into = None if flat is None else net.layers(flat)
        to_x = torch.zeros_like(x, dtype=torch.float32) if by_x else None
        for start in range(0, len(x), ctx.size):
            block = slice(start, start + ctx.size)
            for k in range(net.copies):
                delta = gradients[0][k, block]
                for layer in range(len(hidden), -1, -1):
                    below = hidden[layer - 1][k, block] if layer else x[block]
                    if into is not None:
                        _add_product(into[2 * layer][k], below, delta)
                        into[2 * layer + 1][k].add_(delta.sum(0))
                    if layer:
                        weight = last if layer == len(hidden) else low[2 * layer]
                        delta = (delta @ weight[k].T).to(net.compute_dtype)
                        delta = torch.ops.aten.threshold_backward(delta, below, 0)
                    elif to_x is not None:
                        to_x[block] += delta @ low[0][k].T
        return flat, to_x, None


def _add_product(into: Tensor, below: Tensor, delta: Tensor) -> None:
    """Add belowᵀ delta to a float32 gradient."""
    if delta.dtype == below.dtype == into.dtype:
        into.addmm_(below.T, delta)
    elif delta.dtype == below.dtype:
        into += below.T @ delta
    else:  # the last layer
        into.addmm_(below.float().T, delta)
