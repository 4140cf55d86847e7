"""A model that one gradient step adapts to the last transitions, and how its prior is learned.

A tanh network f_θ predicts, from observation and action, the change of the observation and the
reward, all normalised. The prior θ is learned for the step that adapts it (Nagabandi et al. 2019):

    θ' = θ − α ∇ mean (f_θ(o_t, a_t) − (Δo_t, r_t))²    over M successive transitions
    min over θ of the same error of θ' in the K transitions that follow, through the inner step

The step size α is one number, or one of each parameter that is learned with θ (Li et al. 2017).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarl.base.distributed import Ranks
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.modules.model_based.transitions import Transitions, fit
from metarl.modules.optim import FlatAdam
from metarl.modules.settings import Count, Layers, NonNegative, Positive, Settings
from metarl.networks.task_mlp import GaussianMLP


@dataclass(frozen=True)
class AdaptiveModelSettings(Settings):
    """Settings of the model."""

    absent: ClassVar[dict[str, Any]] = {"learn_inner_lr": False}
    """Runs of before there was the setting."""

    inner_lr: NonNegative = 0.1
    """Step size α of the adaptation; what it starts from where it is learned."""
    learn_inner_lr: bool = True
    """Learn a step size of each parameter (Meta-SGD)."""
    past: Count = 16
    """M: transitions that the model adapts to; until there are as many, the prior plans."""
    future: Count = 16
    """K: transitions that the adapted model must predict, if an episode has them."""
    hidden: Layers = (128, 128)
    """Units of the model's hidden layers (tanh)."""
    lr: Positive = 3e-3
    """Step size of Adam."""
    updates: Count = 200
    """Gradient steps of the model in an iteration."""
    batch_size: Count = 32
    """Windows of M + K transitions in a gradient step."""

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError for a step size to learn that begins with 0."""
        super().__post_init__()
        if self.learn_inner_lr and self.inner_lr == 0:
            raise UserError("learn_inner_lr needs an inner_lr to start from, not 0")


class AdaptiveModel:
    """The prior, the step that adapts it to n worlds at once, and its meta-learning."""

    def __init__(self, data: Transitions, settings: AdaptiveModelSettings, key: Key) -> None:
        """Initialise the prior. Raises UserError if M transitions are all that an episode has."""
        self.data, self.settings, spec = data, settings, data.spec
        if settings.past >= spec.horizon:
            raise UserError(f"past must be less than an episode's {spec.horizon} steps")
        self.length = min(settings.past + settings.future, spec.horizon)
        o = spec.observation_size
        self.net = GaussianMLP(o + spec.action_size, o + 1, settings.hidden)
        self.size = self.net.num_params
        """D"""
        start = self.net.initial(key.torch())
        if settings.learn_inner_lr:
            start = torch.cat((start, torch.full_like(start, math.log(settings.inner_lr))))
        self.adam = FlatAdam(start.to(data.device), settings.lr)

    @property
    def theta(self) -> Tensor:
        """(D,) the prior."""
        return self.adam.params.detach()[: self.size]

    @property
    def step_size(self) -> Tensor | float:
        """α, (D,) where it is learned."""
        learned = self.settings.learn_inner_lr
        return self.adam.params[self.size :].exp() if learned else self.settings.inner_lr

    def predict(self, params: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Return (n, N, O + 1) normalised changes and rewards, of n models at N inputs each."""
        return self.net.mean(params, self.data.inputs(obs, action))

    def returns(self, params: Tensor, obs: Tensor, actions: Tensor) -> Tensor:
        """Return (n, C) normalised returns that n models predict of (n, C, H, A) actions."""
        return self.data.returns(lambda o, a: self.predict(params, o, a), obs, actions)

    def error(self, params: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Return (n,) mean squared errors of n models in the valid ones of N transitions each.

        Args:
            params: (n, D).
            rows: (n, N, W).
            valid: (n, N) float, 0 or 1.
        """
        inputs, target = self.data.split(rows)
        wrong = (self.net.mean(params, inputs) - target).square().mean(-1)
        return (wrong * valid).sum(1) / valid.sum(1).clamp(min=1)

    def adapted(
        self, params: Tensor, rows: Tensor, valid: Tensor, *, create_graph: bool = False,
        share: Tensor | float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Return (n, D) parameters after the inner step, or (n, 1) shares of it.

        The other arguments are those of `error`.
        """
        with torch.enable_grad():
            start = params if create_graph else params.detach().requires_grad_()
            error = self.error(start, rows, valid).sum()  # each model has its own part of it
            (gradient,) = torch.autograd.grad(error, start, create_graph=create_graph)
        step = self.step_size
        if isinstance(step, Tensor) and not create_graph:
            step = step.detach()
        return params - share * step * gradient

    # --- meta-learning -------------------------------------------------------------------------

    def learn(self, draws: torch.Generator, ranks: Ranks, *, adapt: bool) -> dict[str, float]:
        """Make the gradient steps of an iteration; return the mean errors in what follows.

        Args:
            draws: of the windows.
            ranks: that share the windows.
            adapt: whether the adapted model is to predict, or the prior.
        """
        before, after = fit(
            self.data, functools.partial(self.loss, adapt=adapt), [self.adam.params],
            lambda gradient: self.adam.step(gradient[0]), draws, ranks,
            updates=self.settings.updates, windows=self.settings.batch_size, length=self.length,
        ).tolist()  # fmt: skip
        return {"error_prior": before, "error_adapted": after}

    def loss(
        self, rows: Tensor, valid: Tensor, count: int, *, adapt: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the share of some windows in the mean loss of `count`, and both errors'."""
        prior, m = self.adam.params[: self.size].expand(len(rows), -1), self.settings.past
        future = rows[:, m:], valid[:, m:]
        before = self.error(prior, *future).sum() / count
        loss = after = before
        if adapt:
            moved = self.adapted(prior, rows[:, :m], valid[:, :m], create_graph=True)
            loss = after = self.error(moved, *future).sum() / count
        return loss, torch.stack((before, after)).detach()

    # --- saving --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return how much there was to learn from, the prior and its optimiser: what is saved."""
        adam = {f"adam.{name}": tensor for name, tensor in self.adam.tensors().items()}
        return {"iterations": self.data.iterations, **adam}

    def policy_tensors(self) -> dict[str, Tensor]:
        """Return those that acting and adapting need."""
        return {"iterations": self.data.iterations, "adam.params": self.tensors()["adam.params"]}
