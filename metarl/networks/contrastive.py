"""A belief learned by contrastive prediction, after ContraBAR (Choshen and Tamar 2023).

A code c_t, read from what a memory holds at step t, must tell what the next actions lead to: among
the true outcome x = (o', r) of k steps later and J outcomes that other tasks had, f must find it,

    max  E_{t, k} log [ exp f(x⁺, g, c_t) / (exp f(x⁺, g, c_t) + Σ_j exp f(x_j⁻, g, c_t)) ]

where g is a recurrence over the actions in between, which begins with o_t. Nothing is decoded: what
does not help to tell tasks apart need not be in c.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.belief import Trials, spread
from metarl.networks.memories.backbone import Memory, MemoryState

MASKED = -1e9
"""Logit of an outcome that is no candidate; finite, so that no row is without one."""


class Code(NamedTuple):
    """What is known of a task."""

    code: Tensor
    """(…, L)"""


class CodeEncoder(nn.Module):
    """From what was seen of a trial to a code."""

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
        self.head = nn.Linear(memory.outputs, latent)
        self.latent = latent

    def prior(self, worlds: int, device: torch.device) -> Code:
        """Return what is said of B worlds before any data: zeros."""
        return Code(torch.zeros(worlds, self.latent, device=device))

    def step(self, x: Tensor, state: MemoryState) -> tuple[Code, MemoryState]:
        """Return the code, (B, L), and the new state, given (B, I)."""
        remembered, state = self.memory.step(torch.tanh(self.embed(x)), state)
        return Code(self.head(remembered)), state

    def forward(self, x: Tensor) -> Code:
        """Return the codes at each step, (T, B, L), given whole trials (T, B, I)."""
        return Code(self.head(self.memory.unroll(torch.tanh(self.embed(x)))))


class Contrasts(NamedTuple):
    """Which terms of the objective of n trials are computed."""

    encoded: Tensor
    """(N,) int64 steps whose codes are asked"""
    step: Tensor
    """(N, n, J) int64 steps of the outcomes that are not the true one"""
    trial: Tensor
    """(N, n, J) int64 their trials, never the same one"""


class ContrastiveModel(nn.Module):
    """The encoder, and the classifier that it is learned with."""

    metrics = ("contrast_loss", "contrast_accuracy")

    def __init__(
        self, encoder: CodeEncoder, sizes: tuple[int, int], hidden: tuple[int, ...], *,
        ahead: int, negatives: int,
    ) -> None:  # fmt: skip
        """Initialise the classifier; torch's global generator decides the weights.

        Args:
            encoder: whose codes it is asked with.
            sizes: O and A.
            hidden: units of the classifier's hidden layers; the first is also the recurrence's.
            ahead: K, steps ahead at most.
            negatives: J.
        """
        super().__init__()
        self.encoder, self.ahead, self.negatives = encoder, ahead, negatives
        (o, a), width = sizes, hidden[0]
        self.start = nn.Linear(o, width)
        self.actions = nn.GRU(a, width)
        self.of_outcome = nn.Linear(o + 1, width)
        self.of_actions = nn.Linear(width, width, bias=False)
        self.of_code = nn.Linear(encoder.latent, width, bias=False)
        self.layers = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise(hidden)))
        self.last = nn.Linear(hidden[-1], 1, bias=False)  # all candidates would have the same bias

    def choose(
        self, trials: int, steps: int, most: tuple[int, int], draws: torch.Generator
    ) -> Contrasts:
        """Draw the steps whose codes are asked, `most[0]` of them, and what is not true."""
        encoded = spread(min(most[0], steps), steps, draws)
        size = (len(encoded), trials, self.negatives)
        step = torch.randint(steps, size, generator=draws)
        shift = torch.randint(1, max(trials, 2), size, generator=draws)
        return Contrasts(encoded, step, (torch.arange(trials)[:, None] + shift) % trials)

    def loss(
        self, trials: Trials, ids: Tensor, chosen: Contrasts, kl_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Return the part of the trials `ids` in the loss, and metrics that add up likewise.

        The mean over encoded steps, trials and 1 to K steps ahead; an outcome beyond the episode is
        not asked for, nor one where the physics diverged. Outcomes of the same task are no
        candidates but the true one, and where no other is left nothing is asked.

        Args:
            trials: n of T steps, with their tasks.
            ids: which of them.
            chosen: the terms.
            kl_weight: is not used: there is no divergence.

        Returns:
            The loss, in nats; and (2,) the same, and how often the true outcome was found.
        """
        rows, weight = self._ahead(trials, chosen.encoded)
        same = _no_candidates(trials, chosen)
        weight = weight * ~same.all(-1)
        weight = weight[..., ids] / weight.sum().clamp(min=1.0)
        code = self.encoder(trials.inputs[:, ids]).code[chosen.encoded]
        outcomes = torch.cat((trials.next_obs, trials.reward), -1)
        true, where = outcomes[:, ids][rows], (chosen.step[:, ids], chosen.trial[:, ids])
        others = outcomes[where]
        given = self.of_actions(self._recurrence(trials, ids, chosen.encoded, rows))
        given = given + self.of_code(code)
        right = self._score(self.of_outcome(true) + given)
        wrong = self._score(self.of_outcome(others) + given[..., None, :]).masked_fill(
            same[:, ids], MASKED
        )
        logits = torch.cat((right[..., None], wrong), -1)
        loss = -(logits.log_softmax(-1)[..., 0] * weight).sum()
        found = ((right > wrong.amax(-1)) * weight).sum()
        return loss, torch.stack((loss, found)).detach()

    def _ahead(self, trials: Trials, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return (K, N) the row of the outcome 1 … K steps ahead, and (K, N, n) its weight."""
        steps = len(trials.valid)
        rows = encoded + torch.arange(self.ahead, device=encoded.device)[:, None]
        inside, rows = rows < steps, rows.clamp(max=steps - 1)
        episode = trials.inputs[..., -1].cumsum(0)  # the last input says where one begins
        together = episode[rows] == episode[encoded]
        return rows, trials.valid[rows] * together * inside[..., None]

    def _recurrence(self, trials: Trials, ids: Tensor, encoded: Tensor, rows: Tensor) -> Tensor:
        """Return (K, N, n, H) what the first 1 … K actions make of the observation before them."""
        actions, obs = trials.action[:, ids][rows], trials.obs[:, ids][encoded]
        first = functional.elu(self.start(obs)).flatten(0, 1)
        hidden = self.actions(actions.flatten(1, 2), first[None])[0]
        return hidden.unflatten(1, obs.shape[:2])

    def _score(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(functional.relu(h))
        return self.last(functional.relu(h))[..., 0]


def _no_candidates(trials: Trials, chosen: Contrasts) -> Tensor:
    """(N, n, J) bool: outcomes of the same task, and of steps at which the physics diverged."""
    assert trials.task is not None
    where = chosen.step, chosen.trial
    same = (trials.task[where] == trials.task[chosen.encoded][:, :, None]).all(-1)
    return same | (trials.valid[where] == 0)
