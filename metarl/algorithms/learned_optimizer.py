"""A learned optimizer (Andrychowicz et al. 2016): an LSTM turns policy gradients into steps.

In each task K steps are taken from a prior θ, each on rollouts of its own. The step of a parameter
is what an LSTM makes of the gradients that this parameter has had so far in the task; one small
LSTM of weights ψ serves all parameters, each with a memory of its own (coordinate-wise):

    g_k = ∇ L_k(φ_k),     L_k(φ) = −E_k[log π_φ(a|s) A]
    φ_{k+1} = φ_k + α LSTM_ψ(p(g_k), m_k)

where p scales a gradient over many orders of magnitude (the paper's appendix A). Both θ and ψ are
trained on the losses after each step. No gradient passes through g, as in the paper, so what is
left is ψ's part in where the steps lead, and the losses' gradients there are policy gradients that
the next rollouts give anyway:

    ∇ Σ_k L_k(φ_k) = Σ_k ⟨g_k, ∂φ_k / ∂(θ, ψ)⟩,    k = 1 … K

With ``--rule adam`` the same prior adapts by Adam of step size α instead: the baseline to beat.
All tasks are one tensor: parameters are (M, D), memories (M, D, …).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.gradients.inner_loop import Batch, InnerLoop, InnerSettings, Phases
from metarl.modules.optim import FlatAdam
from metarl.modules.settings import Count, Layers, Positive
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds

SMALLEST = 10.0
"""p of the paper: gradients below e^−p are told linearly, larger ones by logarithm and sign."""
LAYERS = 2
"""Of the LSTM."""


@dataclass(frozen=True)
class LearnedOptimizerConfig(InnerSettings):
    """Settings of the learned optimizer."""

    rule: Literal["lstm", "adam"] = "lstm"
    """What makes steps of gradients: the LSTM, or Adam, which learns the prior alone."""
    inner_steps: Count = 3
    """K: steps in a task that are trained for, each on fresh rollouts."""
    inner_lr: Positive = 0.1
    """α: the step that an output of 1 is, or Adam's step size."""
    hidden: Layers = (32, 32)
    """Units of the policy's hidden layers (tanh)."""
    units: Count = 20
    """Units of each of the LSTM's two layers."""
    learn_prior: bool = True
    """Learn where the steps begin, too."""
    lr: Positive = 1e-3
    """Step size of the meta-update's Adam."""


class State(NamedTuple):
    """M policies, and what their optimizers remember."""

    params: Tensor
    """(M, D)"""
    memory: Tensor
    """(M, D, R): the LSTM's two layers of h and c, or Adam's two moments"""
    steps: int = 0
    """Steps taken since the prior"""


class Lstm:
    """A two-layer LSTM with one output, whose weights are a flat vector a task."""

    def __init__(self, inputs: int, units: int) -> None:
        """Lay out the vector: for each layer weights of input and h, and a bias; the output's."""
        self.units, self.shapes = units, []
        for size in (inputs, units):
            self.shapes += [(size, 4 * units), (units, 4 * units), (1, 4 * units)]
        self.shapes += [(units, 1), (1, 1)]
        self.num_params = sum(math.prod(shape) for shape in self.shapes)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return (P,) weights, uniform within 1/√units; the forget gates are open."""
        weights = (2 * torch.rand(self.num_params, generator=generator) - 1) / self.units**0.5
        parts = self.split(weights[None])
        for bias in (parts[2], parts[5]):
            bias[..., self.units : 2 * self.units] = 1.0
        return weights

    def split(self, weights: Tensor) -> list[Tensor]:
        """View (M, P) weights as (M, in, out) and (M, 1, out)."""
        pieces = weights.split([math.prod(shape) for shape in self.shapes], dim=-1)
        return [p.view(-1, *shape) for p, shape in zip(pieces, self.shapes, strict=True)]

    def __call__(self, weights: Tensor, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (M, D) and the new memory, given inputs (M, D, I) and (M, D, 4 units)."""
        *layers, out, shift = self.split(weights)
        kept, parts = memory.split(self.units, -1), []
        for n in range(LAYERS):
            (h, c), (of_x, of_h, bias) = kept[2 * n : 2 * n + 2], layers[3 * n : 3 * n + 3]
            gates = torch.baddbmm(bias, x, of_x) + torch.bmm(h, of_h)
            i, f, g, o = gates.split(self.units, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * torch.tanh(c)
            parts += [x, c]
        return torch.baddbmm(shift, x, out)[..., 0], torch.cat(parts, -1)


def preprocessed(gradient: Tensor) -> Tensor:
    """Return (…, 2) inputs: (log|g| / p, sign g), or (−1, e^p g) where |g| < e^−p."""
    size, smallest = gradient.abs(), math.exp(-SMALLEST)
    large = size >= smallest
    first = torch.where(large, size.clamp(min=smallest).log() / SMALLEST, -1.0)
    second = torch.where(large, gradient.sign(), math.exp(SMALLEST) * gradient)
    return torch.stack((first, second), -1)


class LearnedOptimizer(Learner):
    """An LSTM that is trained to make steps of policy gradients."""

    name = "learned-optimizer"
    Config = LearnedOptimizerConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: LearnedOptimizerConfig

    def __init__(
        self, spec: Spec, config: LearnedOptimizerConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior θ and the LSTM's weights ψ."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy, self.lstm = config.policy(spec), Lstm(2, config.units)
        theta = self.policy.initial(Key(seed, "policy").torch())
        psi = self.lstm.initial(Key(seed, "optimizer").torch())
        self.sizes = [len(theta), len(psi)]
        self.learned = FlatAdam(torch.cat((theta, psi)).to(self.device), config.lr)
        self.inner = InnerLoop(
            self.policy, config.inner_lr, config.gamma, config.gae_lambda, config.inner_steps
        )

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior, whose optimizers remember nothing."""
        theta, _ = self.learned.params.detach().split(self.sizes)
        remembered = 2 if self.config.rule == "adam" else 2 * LAYERS * self.config.units
        memory = theta.new_zeros(1, 1, remembered)
        return State(theta.expand(tasks, -1), memory.expand(tasks, len(theta), -1))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each task's own parameters: the mean, plus noise times the std to explore."""
        action = self.policy(state.params, step.obs.unflatten(0, (len(state.params), -1)))
        noise = noise.unflatten(0, (len(state.params), -1)) if noise is not None else None
        return action.sample(noise if explore else None).flatten(0, 1), state

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take one step in every task."""
        return self._adapt(state, self.inner.batch(rollout))

    @torch.no_grad()
    def _adapt(self, state: State, batch: Batch) -> State:
        psi = self.learned.params.detach().split(self.sizes)[1].expand(len(state.params), -1)
        return self._step(psi, state, self._gradient(state.params, batch))

    def _gradient(self, params: Tensor, batch: Batch) -> Tensor:
        """(M, D) policy gradients of the tasks, as numbers: no derivative goes through them."""
        with torch.enable_grad():
            leaf = params.detach().clone().requires_grad_()
            return grad(self.inner.loss(leaf, batch), leaf)[0]

    def _step(self, psi: Tensor, state: State, gradient: Tensor) -> State:
        """Return the state after a step by (M, P) weights, which it can be differentiated by."""
        steps, lr = state.steps + 1, self.config.inner_lr
        if self.config.rule == "lstm":
            change, memory = self.lstm(psi, preprocessed(gradient), state.memory)
            return State(state.params + lr * change, memory, steps)
        first, second = state.memory.unbind(-1)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        scale = (second / (1 - 0.999**steps)).sqrt() + 1e-8
        params = state.params - lr * first / (1 - 0.9**steps) / scale
        return State(params, torch.stack((first, second), -1), steps)

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Phases:
        """Roll out with the prior, and after each step."""
        state = self.begin(len(tasks), worlds.num_worlds // len(tasks))
        steps = self.config.inner_steps
        return self.inner.collect(worlds, self, state, tasks, key, steps, adapt=self._adapt)

    def update(self, shards: Sequence[Phases], key: Key) -> dict[str, float]:
        """Make one step of Adam on the losses after each step of every task."""
        data = Phases.joined(shards)
        rows, moved = self._rows(data.batches)
        if not self.config.learn_prior:
            rows[:, : self.sizes[0]] = 0.0
        tasks = self.sum_tasks(torch.ones_like(data.returns[0])).to(rows.dtype)
        self.learned.step(self.sum_tasks(rows) / tasks)
        moved = float(self.sum_tasks(moved) / tasks)
        return data.metrics(self.sum_tasks) | {"step": moved}

    @torch.enable_grad()
    def _rows(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Return each task's gradient by (θ, ψ), (M, D + P), and the length of its way, (M,)."""
        tasks = len(batches[0].obs)
        start = self.learned.params.detach().expand(tasks, -1).clone().requires_grad_()
        theta, psi = start.split(self.sizes, dim=1)
        state = self.begin(tasks, 1)._replace(params=theta)
        total = theta.new_zeros(())
        gradient = self._gradient(theta, batches[0])
        for batch in batches[1:]:
            state = self._step(psi, state, gradient)
            gradient = self._gradient(state.params, batch)
            total = total + (gradient * state.params).sum()
        (rows,) = grad(total, start)
        return rows, (state.params - theta).detach().norm(dim=1)

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return θ and ψ, (D + P,)."""
        return {"params": self.learned.params.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is learned, and Adam's state."""
        return self.learned.tensors()

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
