"""Collecting experience: act in every world at once, and keep what happened, time first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from metarl import threads
from metarl.keys import Key
from metarl.worlds import Spec, Step, TaskWorlds

if TYPE_CHECKING:
    from metarl.learner import Learner

__all__ = ["Rollout", "Step", "collect"]


class Rollout(NamedTuple):
    """T steps of B worlds, task-major in B, on the learner's device."""

    obs: Tensor
    """(T, B, O) float32"""
    action: Tensor
    """(T, B, A) float32, as the learner chose it, before clipping"""
    reward: Tensor
    """(T, B) float32"""
    next_obs: Tensor
    """(T, B, O) float32, the true successor"""
    terminated: Tensor
    """(T, B) bool"""
    truncated: Tensor
    """(T, B) bool"""
    diverged: Tensor
    """(T, B) bool: leave these transitions out of every loss"""
    first: Tensor
    """(T, B) bool: the first step of an episode"""
    prev_action: Tensor
    """(T, B, A) float32"""
    prev_reward: Tensor
    """(T, B) float32"""
    tasks: int
    """M"""

    @property
    def valid(self) -> Tensor:
        """(T, B) bool: the transitions that a loss may use."""
        return ~self.diverged

    @property
    def done(self) -> Tensor:
        """(T, B) bool: the last transition of an episode, however it ended."""
        return self.terminated | self.truncated | self.diverged

    def before_divergence(self) -> Rollout:
        """Return the rollout with each episode cut, as by a time limit, before it diverged.

        A diverged transition tells nothing, and so the step before it must not be told that
        nothing follows, which would be a prize where rewards are negative.
        """
        cut = torch.zeros_like(self.truncated)
        cut[:-1] = self.diverged[1:] & ~self.first[1:]
        return self._replace(truncated=self.truncated | cut)

    def per_task(self, values: Tensor) -> Tensor:
        """Regroup (T, B, …) as (M, E, T, …)."""
        steps, worlds = values.shape[:2]
        values = values.reshape(steps, self.tasks, worlds // self.tasks, *values.shape[2:])
        return values.movedim(0, 2)

    def first_episode_return(self) -> Tensor:
        """Return (B,) float64: the undiscounted return of each world's first episode."""
        return (self.reward.double() * self._in_first_episode()).sum(0)

    def first_episode_diverged(self) -> Tensor:
        """Return (B,) bool: whether it was the physics that ended each world's first episode."""
        return (self.diverged & self._in_first_episode()).any(0)

    def episode_time(self) -> Tensor:
        """Return (T, B) int64: steps since the episode began; a rollout starts at a first step."""
        index = torch.arange(len(self.obs), device=self.obs.device)[:, None]
        start = torch.where(self.first, index, 0).cummax(0).values
        return index - start

    def _in_first_episode(self) -> Tensor:
        """(T, B) bool: the steps up to each world's first `done`, that one too."""
        return torch.cumsum(self.done.int(), 0) - self.done.int() == 0


def _empty(steps: int, worlds: int, spec: Spec, tasks: int, device: torch.device) -> Rollout:
    size, actions = spec.observation_size, spec.action_size

    def floats(*shape: int) -> Tensor:
        return torch.empty(steps, worlds, *shape, device=device)

    def flags() -> Tensor:
        return torch.empty(steps, worlds, dtype=torch.bool, device=device)

    return Rollout(
        obs=floats(size), action=floats(actions), reward=floats(), next_obs=floats(size),
        terminated=flags(), truncated=flags(), diverged=flags(), first=flags(),
        prev_action=floats(actions), prev_reward=floats(), tasks=tasks,
    )  # fmt: skip


@torch.no_grad()
def collect(
    worlds: TaskWorlds, learner: Learner, state: Any, steps: int, key: Key, *, explore: bool
) -> tuple[Rollout, Any]:
    """Let the learner act in every world for `steps` environment steps.

    It goes on from where the worlds are: call ``worlds.reset()`` first for fresh episodes.

    Args:
        worlds: B worlds with their tasks set.
        learner: acts; its state is threaded through.
        state: the learner's state for these worlds.
        steps: T.
        key: names the action noise.
        explore: whether to sample actions, or to take the deterministic ones.

    Returns:
        The rollout, on the learner's device, and the learner's state after it.
    """
    tasks, device = len(worlds.tasks), learner.device
    size = worlds.spec.action_size
    out = _empty(steps, worlds.num_worlds, worlds.spec, tasks, device)
    noise = key.normal(tasks, steps, worlds.worlds_per_task, size).to(device) if explore else None
    with threads.sampling():
        for t in range(steps):
            step = Step(*(part.to(device) for part in worlds.current))
            action, state = learner.act(
                step, state, explore=explore, noise=None if noise is None else noise[t]
            )
            got = worlds.step(action.cpu())
            out.obs[t], out.first[t] = step.obs, step.first
            out.prev_action[t], out.prev_reward[t] = step.prev_action, step.prev_reward
            out.action[t], out.reward[t], out.next_obs[t] = action, got.reward, got.next_obs
            out.terminated[t], out.truncated[t] = got.terminated, got.truncated
            out.diverged[t] = got.diverged
    return out, state
