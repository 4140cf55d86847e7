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
        self.latent = latent

    def prior(self, worlds: int, device: torch.device) -> Gaussian:
        """Return the belief of B worlds before any data, N(0, I)."""
        none = torch.zeros(worlds, self.latent, device=device)
        return Gaussian(none, none)

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
    task: Tensor | None = None
    """(T, n, P) the task's vector, where it is kept"""


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
        first, second = (spread(min(n, steps), steps, draws) for n in (encoded, decoded))
        shape = (len(first), trials, latent)
        return cls(first, second, torch.randn(shape, generator=draws))


Decoders = tuple[Decoder, Decoder | None]
"""Of the reward and, if it is to be predicted, of the next observation."""


def make_decoders(
    sizes: tuple[int, int, int], hidden: tuple[int, ...], *, decode_state: bool
) -> Decoders:
    """Return decoders; torch's global generator decides the weights.

    Args:
        sizes: O, A and L.
        hidden: units of the hidden layers of a decoder.
        decode_state: whether there is one for the next observation.
    """
    o, a, latent = sizes
    reward = Decoder(2 * o + a, latent, hidden, 1)
    return reward, Decoder(o + a, latent, hidden, o) if decode_state else None


def decoding_errors(
    decoders: Decoders, trials: Trials, ids: Tensor, decoded: Tensor, z: Tensor
) -> Tensor:
    """Return the part of the trials `ids` in the mean errors of what is decoded.

    Args:
        decoders: of reward and next observation.
        trials: n of T steps.
        ids: which of them.
        decoded: (I,) the steps that are predicted.
        z: (N, len(ids), L) draws, each of which predicts all of these.

    Returns:
        (2,) squared error of the reward, and of the next observation summed over its numbers;
        means over draws and steps.
    """
    weight = trials.valid[decoded]
    weight = weight[:, ids] / (weight.sum().clamp(min=1.0) * len(z))
    obs, action, reward, after = (
        part[decoded[:, None], ids]
        for part in (trials.obs, trials.action, trials.reward, trials.next_obs)
    )

    def error(decoder: Decoder, given: tuple[Tensor, ...], target: Tensor) -> Tensor:
        found = decoder(torch.cat(given, -1), z)
        return ((found - target).square().sum(-1) * weight).sum()

    reward_error = error(decoders[0], (obs, action, after), reward)
    state_error = torch.zeros_like(reward_error)
    if decoders[1] is not None:  # how it changes: that it changes little is no merit
        state_error = error(decoders[1], (obs, action), after - obs)
    return torch.stack((reward_error, state_error))


class TrialVae(nn.Module):
    """Encoder and decoders of trials, and the objective that they are learned by."""

    metrics = ("reward_error", "state_error", "belief_kl")

    def __init__(
        self, encoder: BeliefEncoder, sizes: tuple[int, int, int], hidden: tuple[int, ...], *,
        decode_state: bool,
    ) -> None:  # fmt: skip
        """Initialise the decoders of an encoder's beliefs, see `make_decoders`."""
        super().__init__()
        self.encoder = encoder
        self.reward, self.state = make_decoders(sizes, hidden, decode_state=decode_state)

    def choose(
        self, trials: int, steps: int, most: tuple[int, int], draws: torch.Generator
    ) -> Chosen:
        """Draw `most` of the steps to encode and to decode, and the noise."""
        return Chosen.sample(trials, steps, *most, self.encoder.latent, draws)

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
            The loss; and (3,) the `decoding_errors`, and the divergence in nats.
        """
        steps, count = trials.valid.shape
        belief = self.encoder(trials.inputs[:, ids])
        mean, log_std = (part[chosen.encoded] for part in belief)
        z = torch.addcmul(mean, chosen.noise[:, ids], log_std.exp())
        errors = decoding_errors((self.reward, self.state), trials, ids, chosen.decoded, z)
        kl = chained_kl(belief).sum() / (steps * count)
        loss = 0.5 * errors.sum() + kl_weight / steps * kl
        return loss, torch.cat((errors, kl[None])).detach()

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


def spread(count: int, steps: int, draws: torch.Generator) -> Tensor:
    """Draw `count` of `steps` steps, one in each of as many equal parts, in order."""
    unit = torch.rand(count, generator=draws)
    return ((torch.arange(count) + unit) * (steps / count)).long().clamp(max=steps - 1)
