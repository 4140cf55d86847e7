"""A belief that is a mixture of Gaussians: which kind of task this is, and which of that kind.

After the subtask decomposition of SDVT (Lee et al. 2023), a Gaussian-mixture autoencoder of trials:
y is one of C categories, z a point whose prior is that of its category,

    q(y | h_t) = softmax(l_t),   q(z | h_t, y) = N(μ, σ²),   p(y) = 1 / C,   p(z | y) = N(m_y, s_y²)

with h_t what a memory holds at step t. Learning draws y by Gumbel-softmax (Jang et al. 2017), so
that the gradient reaches l; acting takes the probabilities themselves.

Tasks that nobody has can be imagined: draw weights y of a few categories from a Dirichlet
distribution and z ~ p(z | y), and the decoder of rewards is the reward of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.belief import LOG_STD, Chosen, Decoders, Trials, decoding_errors
from metarl.networks.memories.backbone import Memory, MemoryState
from metarl.networks.task_mlp import Gaussian


class Mixture(NamedTuple):
    """What is believed of a task: its category, and a Gaussian."""

    mean: Tensor
    """(…, L)"""
    log_std: Tensor
    """(…, L)"""
    category: Tensor
    """(…, C) probabilities"""


class MixtureChosen(NamedTuple):
    """Which terms of the objective of n trials are computed, and with which draws."""

    encoded: Tensor
    """(N,) int64 steps whose beliefs are decoded"""
    decoded: Tensor
    """(I,) int64 steps that are predicted from each of them"""
    noise: Tensor
    """(N, n, L) standard normal, draws of z"""
    gumbel: Tensor
    """(N, n, C) Gumbel(0, 1), draws of y"""


class MixtureEncoder(nn.Module):
    """From what was seen of a trial to a mixture."""

    def __init__(
        self, inputs: int, hidden: int, memory: Memory, latent: int, categories: int
    ) -> None:
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            hidden: width of its embedding, and of the layer before the Gaussian.
            memory: from embeddings to what is remembered.
            latent: L.
            categories: C.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.category = nn.Linear(memory.outputs, categories)
        self.within = nn.Linear(memory.outputs + categories, hidden)
        self.head = nn.Linear(hidden, 2 * latent)
        self.latent, self.categories = latent, categories

    def prior(self, worlds: int, device: torch.device) -> Mixture:
        """Return what is said of B worlds before any data: N(0, I), and any category."""
        none = torch.zeros(worlds, self.latent, device=device)
        even = none.new_full((worlds, self.categories), 1 / self.categories)
        return Mixture(none, none, even)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Mixture, MemoryState]:
        """Return the belief, (B, …), and the new state, given (B, I)."""
        remembered, state = self.memory.step(torch.tanh(self.embed(x)), state)
        return self._belief(remembered), state

    def forward(self, x: Tensor) -> Mixture:
        """Return the beliefs at each step, (T, B, …), given whole trials (T, B, I)."""
        return self._belief(self.remembered(x))

    def remembered(self, x: Tensor) -> Tensor:
        """Return (T, B, H) what the memory holds at each step, given (T, B, I)."""
        return self.memory.unroll(torch.tanh(self.embed(x)))

    def gaussian(self, remembered: Tensor, y: Tensor) -> Gaussian:
        """Return q(z | h, y), (…, L), given (…, H) and y, (…, C) that sum to 1."""
        hidden = functional.relu(self.within(torch.cat((remembered, y), -1)))
        mean, log_std = self.head(hidden).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*LOG_STD))

    def _belief(self, remembered: Tensor) -> Mixture:
        probabilities = self.category(remembered).softmax(-1)
        return Mixture(*self.gaussian(remembered, probabilities), probabilities)


class MixtureVae(nn.Module):
    """Encoder, decoders and the categories' priors, and the objective that they are learned by."""

    metrics = ("reward_error", "state_error", "belief_kl", "category_kl", "occupancy")

    def __init__(
        self, encoder: MixtureEncoder, decoders: Decoders, *, temperature: float,
        occupancy_weight: float,
    ) -> None:  # fmt: skip
        """Initialise the priors; torch's global generator decides the weights.

        Args:
            encoder: whose beliefs are decoded.
            decoders: from draws of z to rewards and observations.
            temperature: of the Gumbel-softmax.
            occupancy_weight: of the use of later categories, see `occupancy`.
        """
        super().__init__()
        self.encoder = encoder
        self.reward, self.state = decoders
        self.priors = nn.Linear(encoder.categories, 2 * encoder.latent, bias=False)
        self.temperature, self.occupancy_weight = temperature, occupancy_weight

    @property
    def imagined_from(self) -> int:
        """How many normal numbers `imagined` makes a task of."""
        return 2 * self.encoder.categories + self.encoder.latent

    def imagined(self, noise: Tensor, kinds: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return the reward of B tasks whose categories are mixed, see `mixed`.

        Each has one z ~ p(z | y) for good, so it is a task like any other.

        Args:
            noise: (B, imagined_from) standard normal.
            kinds: categories in each mixture.

        Returns:
            (B, O) observations, (B, A) actions, (B, O) successors, scaled -> (B,) scaled rewards.
        """
        drawn, point = noise.split((2 * self.encoder.categories, self.encoder.latent), -1)
        mean, log_std = self.priors(mixed(drawn, kinds)).chunk(2, -1)
        z = torch.addcmul(mean, point, log_std.clamp(*LOG_STD).exp())[None]

        def reward(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
            return self.reward(torch.cat((obs, action, after), -1)[None], z)[0, 0, :, 0]

        return reward

    def choose(
        self, trials: int, steps: int, most: tuple[int, int], draws: torch.Generator
    ) -> MixtureChosen:
        """Draw `most` of the steps to encode and to decode, and the noise."""
        chosen = Chosen.sample(trials, steps, *most, self.encoder.latent, draws)
        size = (*chosen.noise.shape[:2], self.encoder.categories)
        unit = torch.rand(size, generator=draws).clamp(1e-6, 1 - 1e-6)
        return MixtureChosen(*chosen, -torch.log(-torch.log(unit)))

    def loss(
        self, trials: Trials, ids: Tensor, chosen: MixtureChosen, kl_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Return the part of the trials `ids` in the loss, and metrics that add up likewise.

        The `decoding_errors`, halved, and β / T times the mean over encoded steps of

            KL(q(z | h, y) ‖ p(z | y)) + KL(q(y | h) ‖ p(y)) + o occupancy(y)

        Args:
            trials: n of T steps.
            ids: which of them.
            chosen: the terms.
            kl_weight: β.

        Returns:
            The loss; and (5,) what `metrics` names, divergences in nats.
        """
        steps, count = trials.valid.shape
        remembered = self.encoder.remembered(trials.inputs[:, ids])[chosen.encoded]
        logits = self.encoder.category(remembered)
        y = gumbel_softmax(logits, chosen.gumbel[:, ids], self.temperature)
        belief = self.encoder.gaussian(remembered, y)
        z = torch.addcmul(belief.mean, chosen.noise[:, ids], belief.log_std.exp())
        errors = decoding_errors((self.reward, self.state), trials, ids, chosen.decoded, z)
        mean, log_std = self.priors(y).chunk(2, -1)
        within = belief.kl(Gaussian(mean, log_std.clamp(*LOG_STD)))
        log_q = logits.log_softmax(-1)
        which = (log_q.exp() * (log_q + math.log(logits.shape[-1]))).sum(-1)
        terms = torch.stack((within, which, occupancy(y))).sum((1, 2))
        terms = terms / (len(chosen.encoded) * count)
        weights = terms.new_tensor((1.0, 1.0, self.occupancy_weight))
        loss = 0.5 * errors.sum() + kl_weight / steps * (weights * terms).sum()
        return loss, torch.cat((errors, terms)).detach()


def gumbel_softmax(logits: Tensor, gumbel: Tensor, temperature: float) -> Tensor:
    """Return (…, C) draws that sum to 1, nearer to one-hot at lower temperatures.

    Args:
        logits: (…, C).
        gumbel: (…, C) Gumbel(0, 1) noise.
        temperature: above 0.
    """
    return ((logits + gumbel) / temperature).softmax(-1)


def mixed(noise: Tensor, kinds: int) -> Tensor:
    """Return (…, C) weights: Dirichlet(1, …, 1) over `kinds` of C categories, 0 for the others.

    Args:
        noise: (…, 2 C) standard normal: which categories, and how much of each.
        kinds: how many, at most C.
    """
    which, share = noise.chunk(2, -1)
    chosen = which.topk(kinds, -1).indices
    share = -torch.special.log_ndtr(share)  # of the unit exponential distribution
    weight = torch.zeros_like(share).scatter(-1, chosen, share.gather(-1, chosen))
    return weight / weight.sum(-1, keepdim=True)


def occupancy(y: Tensor) -> Tensor:
    """Return (…) what a draw of y, (…, C), is charged: log C · Σ_c e^{c − C} y_c, c = 1 … C.

    So later categories are used only where they pay, and a few are found to be enough.
    """
    categories = y.shape[-1]
    number = torch.arange(1 - categories, 1, dtype=y.dtype, device=y.device)
    return math.log(categories) * (number.exp() * y).sum(-1)
