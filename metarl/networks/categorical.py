"""Discrete actions: a categorical distribution for each, over one-hot vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.networks.actor_critic import MemoryActorCritic


class Categorical(NamedTuple):
    """Independent choices, one for each discrete action."""

    logits: Tensor
    """(…, A), A the sum of `choices`"""
    choices: tuple[int, ...]
    """How many each action has."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (…) log-probabilities of (…, A) one-hot actions; that of zeros is 0."""
        return (self._log_probs() * action).sum(-1)

    def entropy(self) -> Tensor:
        """Return (…) the entropy in nats, summed over the actions."""
        log_probs = self._log_probs()
        return -(log_probs.exp() * log_probs).sum(-1)

    def sample(self, noise: Tensor | None) -> Tensor:
        """Return (…, A) one-hot actions: the most probable, or a draw.

        Args:
            noise: (…, A) standard normal, or None. The Gumbel-max trick (Gumbel 1954): with
                u = Φ(noise), argmax(logits − log(−log u)) is a draw.
        """
        scores = self.logits
        if noise is not None:
            scores = scores - torch.log(-torch.special.log_ndtr(noise))
        chosen = [
            torch.nn.functional.one_hot(part.argmax(-1), part.shape[-1])
            for part in scores.split(self.choices, -1)
        ]
        return torch.cat(chosen, -1).to(self.logits.dtype)

    def _log_probs(self) -> Tensor:
        return torch.cat([part.log_softmax(-1) for part in self.logits.split(self.choices, -1)], -1)


class DiscreteActorCritic(MemoryActorCritic):
    """`MemoryActorCritic` with logits in the place of mean actions."""

    def __init__(self, choices: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        """Initialise.

        Args:
            choices: how many choices each discrete action has.
            args: of `MemoryActorCritic`.
            kwargs: likewise.
        """
        super().__init__(*args, **kwargs)
        del self.log_std
        self.choices = choices

    def policy(self, head: Tensor) -> Categorical:  # type: ignore[override]
        """Return the action distribution of (…, A) logits."""
        return Categorical(head, self.choices)
