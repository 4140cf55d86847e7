"""Networks whose parameters are one flat vector a task, so that M policies are one tensor (M, D).

A forward pass of all tasks is one batched matrix product a layer. Parameters as a flat vector make
an inner step, a conjugate gradient and a line search one line each.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions."""

    mean: Tensor
    """(M, N, A)"""
    log_std: Tensor
    """(M, 1, A), or (M, N, A) where it depends on the state"""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (M, N) log densities of (M, N, A) actions."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        constant = self.log_std.sum(-1) + 0.5 * math.log(2 * math.pi) * action.shape[-1]
        return -0.5 * z.square().sum(-1) - constant

    def entropy(self) -> Tensor:
        """Return (M, 1) or (M, N) entropies in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """Return (M, N) KL(self ‖ other)."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        z = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (ratio + z.square() - 1) - (self.log_std - other.log_std)).sum(-1)

    def sample(self, noise: Tensor | None) -> Tensor:
        """Return (M, N, A) actions: the mean, plus standard normal noise times the std if any."""
        return self.mean if noise is None else self.mean + noise * self.log_std.exp()

    def detach(self) -> Gaussian:
        """Return the same distribution, cut from the graph."""
        return Gaussian(self.mean.detach(), self.log_std.detach())


class GaussianMLP:
    """A tanh network with a Gaussian head; the weights are given at each call.

    The action's mean is `action_scale` times the output and its standard deviation `action_scale`
    times exp(log std): with an initial std of 1 and a scale of 0.1, the robot explores with a
    tenth of its action range.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: tuple[int, ...],
        *,
        action_scale: float = 1.0,
        init_std: float = 1.0,
        min_std: float = 1e-3,
        state_std: bool = False,
    ) -> None:
        """Lay out the flat vector: each layer's weight (in, out) and bias, then the log stds.

        With `state_std`, the last layer also gives what to add to each log std.
        """
        self.state_std = state_std
        self.sizes = (inputs, *hidden, outputs * (1 + state_std))
        self.shapes = [
            shape for i, o in itertools.pairwise(self.sizes) for shape in ((i, o), (1, o))
        ]
        self.shapes.append((1, outputs))
        self.num_params = sum(math.prod(shape) for shape in self.shapes)
        self.action_scale = action_scale
        self.init_std = init_std
        self.min_log_std = math.log(min_std)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return (D,) initial parameters: Xavier uniform weights (Glorot 2010), zero biases."""
        parts = []
        for i, o in itertools.pairwise(self.sizes):
            bound = math.sqrt(6.0 / (i + o))
            weight = (2 * torch.rand(i, o, generator=generator) - 1) * bound
            parts += [weight.flatten(), torch.zeros(o)]
        parts.append(torch.full(self.shapes[-1], math.log(self.init_std))[0])
        return torch.cat(parts)

    def split(self, params: Tensor) -> list[Tensor]:
        """View (M, D) parameters as the layers' tensors, (M, in, out) and (M, 1, out)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        pieces = params.split(sizes, dim=-1)
        return [p.view(-1, *s) for p, s in zip(pieces, self.shapes, strict=True)]

    def mean(self, params: Tensor, obs: Tensor) -> Tensor:
        """Return the (M, N, A) mean actions at (M, N, O) observations."""
        *layers, _ = self.split(params)
        return self._forward(layers, obs)

    def __call__(self, params: Tensor, obs: Tensor) -> Gaussian:
        """Return the action distributions of M policies, each at its own N observations.

        Args:
            params: (M, D).
            obs: (M, N, O).
        """
        *layers, log_std = self.split(params)
        mean = self._forward(layers, obs)
        if self.state_std:
            mean, offset = mean.chunk(2, -1)
            log_std = (log_std + offset).clamp(max=0.0)  # an unbounded one can run away
        log_std = log_std.clamp(min=self.min_log_std) + math.log(self.action_scale)
        return Gaussian(mean, log_std)

    def _forward(self, layers: list[Tensor], x: Tensor) -> Tensor:
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            x = torch.tanh(torch.baddbmm(bias, x, weight))
        return self.action_scale * torch.baddbmm(layers[-1], x, layers[-2])
