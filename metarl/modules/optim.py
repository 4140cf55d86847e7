"""Optimisers whose state is saved with the weights, so that a run resumes to the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from metarl.modules.cuda_graph import can_capture


class FlatAdam:
    """A flat parameter vector and torch's Adam on it, whose state can be captured on a GPU."""

    def __init__(self, params: Tensor, lr: float) -> None:
        """Take over (D,) parameters."""
        self.params = params.requires_grad_()
        self.lr = lr
        moments = {name: torch.zeros_like(params) for name in ("exp_avg", "exp_avg_sq")}
        self.state = {"step": torch.zeros((), device=params.device), **moments}

    @cached_property
    def adam(self) -> torch.optim.Adam:
        """The optimiser, made for the first step: torch imports its compiler to make one (1 s)."""
        adam = torch.optim.Adam(
            [self.params], lr=self.lr, fused=True, capturable=can_capture(self.params.device)
        )
        adam.state[self.params] = self.state
        return adam

    def step(self, gradient: Tensor) -> None:
        """Make one step of Adam along a gradient."""
        self.params.grad = gradient
        self.adam.step()
        self.params.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies: what to save, or to load into."""
        return {"params": self.params.detach(), **self.state}


class ClippedAdam:
    """Adam (Kingma and Ba 2015) on the parameters of a module, with clipping by the global norm."""

    def __init__(self, params: Sequence[nn.Parameter], lr: float) -> None:
        """Start with no gradients seen, at step size `lr`."""
        self.lr = lr
        self.params = list(params)
        self.sizes = [param.numel() for param in self.params]
        self.first = torch.zeros(sum(self.sizes), device=self.params[0].device)
        self.second = torch.zeros_like(self.first)
        self.steps = 0

    @torch.no_grad()
    def step(self, gradient: Sequence[Tensor], max_norm: float) -> None:
        """Change the parameters in place, by a gradient scaled down to `max_norm` if longer."""
        flat = torch.cat([part.flatten() for part in gradient]).float()
        flat *= max_norm / flat.norm().clamp(min=max_norm)
        self.steps += 1
        self.first.lerp_(flat, 1 - 0.9)
        self.second.lerp_(flat.square(), 1 - 0.999)
        scale = (self.second / (1 - 0.999**self.steps)).sqrt() + 1e-8
        change = self.lr * (self.first / (1 - 0.9**self.steps)) / scale
        for param, part in zip(self.params, change.split(self.sizes), strict=True):
            param -= part.view_as(param)

    def state_dict(self) -> dict[str, Tensor]:
        """Return both moments, the number of steps and their size."""
        return {
            "first": self.first, "second": self.second, "steps": torch.tensor(self.steps),
            "lr": torch.tensor(self.lr, dtype=torch.float64),
        }  # fmt: skip

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.first = tensors["first"].to(self.first).clone()
        self.second = tensors["second"].to(self.second).clone()
        self.steps = int(tensors["steps"])
        self.lr = float(tensors["lr"])
