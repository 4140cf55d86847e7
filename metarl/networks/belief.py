"""What is believed of a task: a Gaussian that a memory updates at every step, and its decoders.

The encoder and the decoders are a variational autoencoder of trials (Zintgraf et al. 2020). From
the belief at any step of a trial, the decoders predict all of its steps: those that were seen, and
those to come. So the belief holds what is known of the task by then, and how surely.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.task_mlp import Gaussian

LOG_STD = (-5.0, 2.0)
"""Bounds of a belief's log standard deviation."""


class BeliefEncoder(nn.Module):
    """From what was seen of a trial to a diagonal Gaussian over a latent task variable."""

    def __init__(self, inputs: int, hidden: int, memory: Memory, latent: int) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            hidden: width of its embedding.
            memory: from embeddings to what is remembered.
            latent: L.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.head = nn.Linear(memory.outputs, 2 * latent)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Gaussian, MemoryState]:
        """Return the belief, (B, L), and the new state, given (B, I)."""
        remembered, state = self.memory.step(torch.tanh(self.embed(x)), state)
        return self._belief(remembered), state

    def forward(self, x: Tensor) -> Gaussian:
        """Return the beliefs at each step, (T, B, L), given whole trials (T, B, I)."""
        return self._belief(self.memory.unroll(torch.tanh(self.embed(x))))

    def _belief(self, remembered: Tensor) -> Gaussian:
        mean, log_std = self.head(remembered).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD))


class Decoder(nn.Module):
    """A ReLU network that predicts something of each of I steps from each of N draws of z."""

    def __init__(self, inputs: int, latent: int, hidden: tuple[int, ...], outputs: int) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: X, numbers of a step that the prediction is given.
            latent: L.
            hidden: units of the hidden layers.
            outputs: numbers predicted.
        """
        super().__init__()
        self.of_step = nn.Linear(inputs, hidden[0])
        self.of_task = nn.Linear(latent, hidden[0], bias=False)
        sizes = (*hidden, outputs)
        self.layers = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise(sizes)))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return (N, I, B, outputs) for steps (I, B, X) and draws (N, B, L).

        The first layer is a sum of what a step gives and what z gives, so that neither is computed
        again for each pair.
        """
        h = self.of_step(x) + self.of_task(z)[:, None]
        for layer in self.layers:
            h = layer(functional.relu(h))
        return h


def chained_kl(belief: Gaussian) -> Tensor:
    """Return (T, B) KL divergences in nats of each belief from the one before, N(0, I) at first."""
    before = Gaussian(*(torch.cat((torch.zeros_like(p[:1]), p[:-1])) for p in belief))
    return belief.kl(before)


class Trials(NamedTuple):
    """Trials of T steps, n of them, scaled as networks see them."""

    inputs: Tensor
    """(T, n, I) what the encoder sees at each step"""
    obs: Tensor
    """(T, n, O)"""
    action: Tensor
    """(T, n, A)"""
    reward: Tensor
    """(T, n, 1)"""
    next_obs: Tensor
    """(T, n, O)"""
    valid: Tensor
    """(T, n) 1, or 0 where the physics diverged"""


class Chosen(NamedTuple):
    """Which terms of the objective of n trials are computed: all of them, or a sample."""

    encoded: Tensor
    """(N,) int64 steps whose beliefs are decoded"""
    decoded: Tensor
    """(I,) int64 steps that are predicted from each of them"""
    noise: Tensor
    """(N, n, L) standard normal, draws of z"""

    @classmethod
    def sample(
        cls, trials: int, steps: int, encoded: int, decoded: int, latent: int,
        draws: torch.Generator,
    ) -> Chosen:  # fmt: skip
        """Draw `encoded` and `decoded` of the steps, all of them if there are no more."""
        first, second = (_spread(min(n, steps), steps, draws) for n in (encoded, decoded))
        shape = (len(first), trials, latent)
        return cls(first, second, torch.randn(shape, generator=draws))


class TrialVae(nn.Module):
    """Encoder and decoders of trials, and the objective that they are learned by."""

    def __init__(
        self, encoder: BeliefEncoder, sizes: tuple[int, int, int], hidden: tuple[int, ...], *,
        decode_state: bool,
    ) -> None:  # fmt: skip
        """Initialise the decoders; torch's global generator decides the weights.

        Args:
            encoder: whose beliefs they decode.
            sizes: O, A and L.
            hidden: units of the hidden layers of a decoder.
            decode_state: whether there is one for the next observation.
        """
        super().__init__()
        o, a, latent = sizes
        self.encoder = encoder
        self.reward = Decoder(2 * o + a, latent, hidden, 1)
        self.state = Decoder(o + a, latent, hidden, o) if decode_state else None

    def loss(
        self, trials: Trials, ids: Tensor, chosen: Chosen, kl_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Return the part of the trials `ids` in the loss, and metrics that add up likewise.

        The loss is minus the objective, for each step that is predicted: the mean over beliefs and
        predicted steps of the squared errors, halved, and β / T of the mean divergence of a belief
        from the one before.

        Args:
            trials: n of T steps.
            ids: which of them.
            chosen: the terms.
            kl_weight: β.

        Returns:
            The loss; and (3,) squared error of the reward, squared error of the next observation
            summed over its numbers, and divergence in nats.
        """
        encoded, decoded, noise = chosen
        steps, count = trials.valid.shape
        weight = trials.valid[decoded]
        weight = weight[:, ids] / (weight.sum().clamp(min=1.0) * len(encoded))
        belief = self.encoder(trials.inputs[:, ids])
        z = torch.addcmul(belief.mean[encoded], noise[:, ids], belief.log_std[encoded].exp())
        obs, action, reward, after = (
            part[decoded[:, None], ids]
            for part in (trials.obs, trials.action, trials.reward, trials.next_obs)
        )

        def error(decoder: Decoder, given: tuple[Tensor, ...], target: Tensor) -> Tensor:
            found = decoder(torch.cat(given, -1), z)
            return ((found - target).square().sum(-1) * weight).sum()

        reward_error = error(self.reward, (obs, action, after), reward)
        state_error = torch.zeros_like(reward_error)
        if self.state is not None:  # how it changes: that it changes little is no merit
            state_error = error(self.state, (obs, action), after - obs)
        kl = chained_kl(belief).sum() / (steps * count)
        loss = 0.5 * (reward_error + state_error) + kl_weight / steps * kl
        return loss, torch.stack((reward_error, state_error, kl)).detach()

    @torch.no_grad()
    def step_error(self, trials: Trials, belief: Tensor, draws: torch.Generator) -> Tensor:
        """Return (T, n) half the squared error of each step, predicted by the belief after it.

        Args:
            trials: n of T steps.
            belief: (T, n, 2 L) mean and log standard deviation, that has seen the step.
            draws: of z, one from each belief.
        """
        mean, log_std = belief.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=draws).to(mean.device)
        z = torch.addcmul(mean, noise, log_std.exp()).flatten(0, 1)[None]

        def error(decoder: Decoder, given: tuple[Tensor, ...], target: Tensor) -> Tensor:
            found = decoder(torch.cat(given, -1).flatten(0, 1)[None], z)
            return (found.view_as(target) - target).square().sum(-1)

        total = error(self.reward, (trials.obs, trials.action, trials.next_obs), trials.reward)
        if self.state is not None:
            change = trials.next_obs - trials.obs
            total = total + error(self.state, (trials.obs, trials.action), change)
        return 0.5 * total


def _spread(count: int, steps: int, draws: torch.Generator) -> Tensor:
    """Draw `count` of `steps` steps, one in each of as many equal parts, in order."""
    unit = torch.rand(count, generator=draws)
    return ((torch.arange(count) + unit) * (steps / count)).long().clamp(max=steps - 1)
