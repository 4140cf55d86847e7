"""Rewards of several terms: their weighted sum, and what is kept of each term.

A family's `reward` may return name -> (B,). The worlds add the terms up, `collect` keeps them in
`Rollout.extras` as ``reward/NAME``, and a run logs their means over an iteration's transitions. A
term of weight 0 is measured and not paid: it is kept as it is.

`Pay` puts rewards of another making in the place of the worlds' own, while `collect` goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.base.text import shown
from metarl.tasks.params import is_finite

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.simulation.backend import Backend
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import Transition, VecWorlds

PREFIX = "reward/"
"""Of the names of terms among metrics and in `Rollout.extras`."""
SUCCESS = "success"
"""The term that says whether a step succeeded, of environments whose info does."""
MOST_TERMS = 64


class Pay(NamedTuple):
    """Rewards of another making, in some of the worlds."""

    worlds: Tensor
    """(B,) bool, in which they take the place of the worlds' own"""
    reward: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(B, O) observation, (B, A) clipped action, (B, O) true successor -> (B,) float32"""

    def replaced(self, obs: Tensor, action: Tensor, got: Transition) -> Transition:
        """Return what a step of the worlds gave with these rewards in it, 0 where it diverged."""
        paid = self.reward(obs, action.clamp(-1, 1), got.next_obs.to(obs.device))
        paid = paid.to(got.reward).where(~got.diverged, 0.0)
        return got._replace(reward=torch.where(self.worlds.to(paid.device), paid, got.reward))

    def unknown(self, rollout: Rollout) -> Rollout:
        """Return a rollout with NaN for the rewards of these worlds: they earned no return."""
        return rollout._replace(reward=rollout.reward.masked_fill(self.worlds, torch.nan))


class RewardTerms:
    """Adds up the terms of a family's reward, and keeps those of the last step."""

    def __init__(self, family: TaskFamily, sim: Backend) -> None:
        """Read the weights. Raises UserError if one is no finite number."""
        self._family, self._like = f"family '{family.name}'", sim.qpos
        self._weights = family.reward_weights
        self.names: tuple[str, ...] = ()
        """In the order in which they are added; () before the first step."""
        self.last: dict[str, Tensor] = {}
        """(B,) each, weighted, of the simulator's type."""
        self.expected = bool(self._weights)
        """Whether `reward` must return terms: they have weights, or the last step had some."""
        if not isinstance(self._weights, Mapping):
            raise UserError(
                f"{self._family}: reward_weights must be a dictionary of names and numbers, not "
                f"{self._weights!r:.80}"
            )
        for name, weight in self._weights.items():
            real = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not real or not is_finite(weight):
                raise UserError(
                    f"{self._family}: reward_weights['{name}'] must be a finite number, not "
                    f"{weight!r:.80}; one that is of the task is for reward() to multiply by"
                )

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the (B,) weighted sum of the terms, added in the order of the first step's.

        Raises:
            UserError: a name is new, missing or none, or a term is no (B,) tensor of real numbers.
        """
        if terms.keys() != set(self.names) or not terms:
            self._take_names(terms)
        kept, total = {}, None
        for name in self.names:
            weight, term = self._weights.get(name, 1.0), self._checked(name, terms[name])
            if not weight:  # measured, and not paid
                kept[name] = term
                continue
            kept[name] = term = term * weight
            total = term if total is None else total + term
        self.last, self.expected = kept, True
        return torch.zeros_like(self._like[:, 0]) if total is None else total

    def refuse_tensor(self) -> None:
        """Raise UserError for a reward that is a tensor where terms are expected."""
        names = self.names or self._weights
        raise UserError(
            f"{self._family}: reward() returned a tensor instead of terms by name, of which "
            f"{'the first step had' if self.names else 'reward_weights has'} {', '.join(names)}"
        )

    def finite(self, obs: Tensor) -> Tensor:
        """Return (1 + K,) bool, whether an observation (B, O), and each last term, is finite."""
        parts = [torch.isfinite(part).all() for part in (obs, *self.last.values())]
        return torch.stack(parts)

    def refuse_nonfinite(self, finite: Tensor, label: str) -> NoReturn:
        """Raise UserError where no world gave finite numbers, although the physics is sane.

        Args:
            finite: what the method of that name returned.
            label: a task, in words.
        """
        seen, *terms = finite.tolist()
        bad = [name for name, sane in zip(self.names, terms, strict=False) if not sane]
        what = f"term '{bad[0]}' of reward()" if bad else "reward()"
        what = what if seen else "observe()"
        raise UserError(
            f"{self._family}: {what} is not finite in any world, such as that of task {label}: "
            f"guard its arithmetic"
        )

    def _take_names(self, terms: Mapping[str, Tensor]) -> None:
        if self.names:
            name = min(map(str, terms.keys() ^ set(self.names)))
            how = "is new" if name in terms else "was there at the first step, and is missing"
            raise UserError(
                f"{self._family}: reward() returned other terms than before: '{name}' {how}"
            )
        if not terms:
            raise UserError(f"{self._family}: reward() returned no terms: an empty dictionary")
        if len(terms) > MOST_TERMS:
            raise UserError(
                f"{self._family}: reward() returned {len(terms)} terms, more than {MOST_TERMS}"
            )
        for name in terms:
            if not isinstance(name, str) or not name.isidentifier():
                raise UserError(
                    f"{self._family}: reward() returned a term {name!r:.40}: name it with letters, "
                    "digits and _"
                )
        for name in self._weights:
            if name not in terms:
                raise UserError(
                    f"{self._family}: reward_weights: reward() returns no term "
                    f"'{name}'{did_you_mean(str(name), terms)}; it has {', '.join(terms)}"
                )
        self.names = tuple(terms)

    def _checked(self, name: str, term: Tensor) -> Tensor:
        """The term, of the simulator's type."""
        like = self._like
        if isinstance(term, Tensor):
            sound = term.shape == like.shape[:1] and term.device == like.device
            sound &= term.layout is torch.strided and not term.is_complex()
            if sound and term.dtype is not torch.bool and not term.requires_grad:
                return term if term.dtype is like.dtype else term.to(like.dtype)
        what = type(term).__name__
        if isinstance(term, Tensor):
            shape, grad = tuple(term.shape), " with a gradient" * term.requires_grad
            what = f"a tensor of {term.dtype}, {term.layout}, shape {shape}, on {term.device}{grad}"
        raise UserError(
            f"{self._family}: reward() returned term '{name}' as {what}, expected a dense tensor "
            f"of real numbers, shape ({len(like)},), on {like.device}, without a gradient"
        )


def refuse_outcome(family: TaskFamily, num_worlds: int, reward: Tensor, terminated: Tensor) -> None:
    """Raise UserError for what is wrong with the shape or the type of either."""
    for method, got in (("reward", reward), ("terminated", terminated)):
        if got.shape != (num_worlds,):
            raise UserError(
                f"family '{family.name}': {method}() returned shape {tuple(got.shape)}, "
                f"expected ({num_worlds},)"
            )
    raise UserError(
        f"family '{family.name}': terminated() returned {terminated.dtype}, expected "
        f"torch.bool: compare, as in `sim.qpos[:, 2] < 0.3`"
    )


def kept_terms(
    worlds: VecWorlds, rollout: Rollout, terms: list[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the terms of a rollout, (T, B) float32 by ``reward/NAME``, 0 where diverged.

    Their sums over the valid transitions of each task are added to the worlds' `term_sums`.

    Args:
        worlds: that were stepped.
        rollout: of T steps.
        terms: of each step; empty where the reward has none.
    """
    if not terms:
        return {}
    names, device = list(terms[0]), rollout.obs.device
    stacked = torch.stack([torch.stack([step[name] for step in terms]) for name in names])
    stacked = stacked.to(device).masked_fill(rollout.diverged, 0.0)  # (K, T, B)
    both = torch.cat((stacked.double(), rollout.valid[None].double()))
    sums = torch.stack([rollout.per_task(row).sum((1, 2)) for row in both], 1)  # (M, K + 1)
    place = worlds.tasks.first, len(worlds.tasks)
    worlds.term_sums[place] = worlds.term_sums.get(place, 0.0) + sums
    return {PREFIX + name: part.float() for name, part in zip(names, stacked, strict=True)}


def mean_terms(worlds: VecWorlds, learner: Learner) -> dict[str, float]:
    """Return the mean of each term over the transitions collected since `term_sums` was cleared.

    By ``reward/NAME``: weighted, in one step; NaN if all transitions diverged. Transitions of all
    processes are in it. Nothing where the reward has no terms.
    """
    if not worlds.term_sums:
        return {}
    rows = torch.cat([rows for _, rows in sorted(worlds.term_sums.items())]).cpu()
    *sums, count = learner.sum_tasks(rows).tolist()
    names = worlds.reward_terms
    return {
        PREFIX + name: total / count if count else math.nan
        for name, total in zip(names, sums, strict=True)
    }


def terms_in_words(metrics: Mapping[str, float]) -> list[str]:
    """Return a line on the terms among an iteration's metrics, or nothing."""
    found = {n.removeprefix(PREFIX): v for n, v in metrics.items() if n.startswith(PREFIX)}
    words = ", ".join(f"{name} {shown(value, 3)}" for name, value in found.items())
    return [f"reward in a step, last iteration: {words}"] if words else []
