"""Trials: episodes of one task that a memory lasts through, and where they begin in a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.reward_terms import Pay
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Step, VecWorlds


class Trials(NamedTuple):
    """What one shard of an iteration collected: a trial in each of B worlds."""

    rollout: Rollout
    """T = episodes x horizon steps; in its extras the policy's head and the value of each step"""
    next_value: Tensor
    """(episodes, B) the value of what would follow each episode if it went on"""
    returns: Tensor
    """(episodes, B)"""
    begins: Tensor
    """(episodes, B) bool, whether a trial begins with the episode"""

    @classmethod
    def joined(cls, shards: Sequence[Trials]) -> Trials:
        """Return the trials of several shards side by side."""
        rollouts, *others = zip(*shards, strict=True)
        return cls(Rollout.joined(rollouts, dim=1), *(torch.cat(part, 1) for part in others))

    @property
    def ends(self) -> Tensor:
        """(episodes, B) bool, whether a trial ends with the episode."""
        return torch.cat((self.begins[1:], torch.ones_like(self.begins[:1])))

    def by_step(self, flags: Tensor, step: int) -> Tensor:
        """Return (T, B) bool: (episodes, B) flags, at the first (0) or last (-1) steps."""
        out = torch.zeros_like(self.rollout.first)
        out.unflatten(0, (len(flags), -1))[:, step] = flags
        return out

    def following(self, value: Tensor) -> Tensor:
        """Return the value of what follows each step, (T, B), given that of each step.

        The last step of an episode is followed by the first of the next one, unless a trial ends.
        """
        out = torch.cat((value[1:], value[:1]))
        last = out.unflatten(0, (len(self.begins), -1))[:, -1]
        last.copy_(torch.where(self.ends, self.next_value, last))
        return out


class SeenTrial(NamedTuple):
    """What one shard of an iteration collected, for a policy that is told of its task."""

    rollout: Rollout
    """T = episodes x horizon steps; in its extras what the policy was told"""
    seen: Rollout
    """The same as the policy saw it: what it is told is observed, and only a trial's end is one"""
    returns: Tensor
    """(episodes, B), NaN where virtual"""
    virtual: Tensor
    """(B,) bool, where the rewards were none of the worlds' own"""

    @property
    def real(self) -> Rollout:
        """The trials that are not virtual, side by side."""
        if not self.virtual.any():
            return self.rollout
        kept = {name: part[:, ~self.virtual] for name, part in self.rollout.tensors().items()}
        extras = {name: part[:, ~self.virtual] for name, part in self.rollout.extras.items()}
        return self.rollout._replace(**kept, tasks=int((~self.virtual).sum()), extras=extras)


def seen_trial(
    worlds: VecWorlds, tasks: Tasks, policy: Policy, episodes: int, key: Key, *,
    privileged: bool = False, pay: Pay | None = None,
) -> SeenTrial:  # fmt: skip
    """Let a policy explore for a trial in every world, and return what its PPO learns from.

    The time limit of an episode inside the trial is no end: what follows is the next episode's
    first step. The trial's own end bootstraps from its true successor.

    Args:
        worlds: B worlds.
        tasks: M of them.
        policy: records what it is told as ``belief``, (B, N); see `trial_episodes`.
        episodes: that each start with a reset of all worlds.
        key: of resets and noise.
        privileged: see `collect`.
        pay: of the worlds whose trials are virtual, see `collect`.
    """
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    worlds.seed(key.fold("reset"))
    played = list(trial_episodes(worlds, policy, episodes, key, privileged=privileged, pay=pay))
    parts, (last, state) = [part for part, _ in played], played[-1]
    after = policy.act_and_record(step_after(last), state, explore=False, noise=None)[2]["belief"]
    rollout = Rollout.joined(parts, dim=0)
    wide = torch.cat((rollout.obs, rollout.extras["belief"]), -1)
    end = torch.zeros_like(rollout.truncated)
    end[-1] = True
    following = torch.cat((wide[1:], torch.cat((last.next_obs[-1], after), -1)[None]))
    seen = rollout._replace(obs=wide, next_obs=following, truncated=end, extras={})
    none = torch.zeros_like(rollout.first[0])
    virtual = none if pay is None else pay.worlds
    returns = torch.stack([part.first_episode_return() for part in parts])
    return SeenTrial(rollout, seen, returns.masked_fill(virtual, torch.nan), virtual)


def trial_starts(tasks: Tasks, worlds: int, fewest: int, most: int, key: Key) -> Tensor:
    """Draw with which of its episodes each world begins a trial.

    A trial has `fewest` to `most` episodes, each number as likely as the others; the last trial of
    a world may end early, and takes what would be too little for another.

    Args:
        tasks: M tasks; the draws of a task depend on its index alone.
        worlds: E, of each.
        fewest: episodes.
        most: episodes, which are also all that a world has.
        key: of the draws.

    Returns:
        (most, M E) bool, true in the first row.
    """
    begins = torch.zeros(most, len(tasks) * worlds, dtype=torch.bool)
    begins[0] = True
    if fewest == most:
        return begins
    share = torch.special.ndtr(key.normal(len(tasks), most, worlds, 1, tasks.first)[..., 0])
    length = fewest + (share * (most - fewest + 1)).floor().clamp(max=most - fewest)
    left = torch.zeros(begins.shape[1])
    for k in range(most):
        begins[k] = left == 0
        whole = torch.where(most - k - length[k] < fewest, most - k, length[k])
        left = torch.where(begins[k], whole, left) - 1
    return begins


def trial_episodes(
    worlds: VecWorlds, policy: Policy, episodes: int, key: Key, *,
    restart: Callable[[Any, int], Any] | None = None, privileged: bool = False,
    pay: Pay | None = None,
) -> Iterator[tuple[Rollout, Any]]:  # fmt: skip
    """Let a policy with a memory explore for some episodes, each after a reset of all worlds.

    Args:
        worlds: their tasks set and seeded.
        policy: its state has a field `last`, see `ending`.
        episodes: of a horizon each.
        key: of the action noise.
        restart: the state and the number of the next episode -> the state to begin it in.
        privileged: see `collect`.
        pay: see `collect`.

    Yields:
        Each episode, as the policy saw it, and the state that it ended in.
    """
    state = policy.begin(len(worlds.tasks), worlds.worlds_per_task)
    for k in range(episodes):
        worlds.reset()
        state = restart(state, k) if k and restart is not None else state
        last = state.last
        part, state = collect(
            worlds, policy, state, worlds.spec.horizon, key.fold("noise", k), explore=True,
            privileged=privileged, pay=pay,
        )  # fmt: skip
        if last is not None and k:
            part.prev_action[0], part.prev_reward[0] = last[:, :-1], last[:, -1]
        yield part, state
        state = policy.adapt(state, part)


def ending(rollout: Rollout) -> Tensor:
    """Return the action and the reward, (B, A + 1), that ended an episode; 0 where diverged.

    A reset makes the worlds forget them, so the state of a policy carries them as `last` from
    `adapt` to the next step.
    """
    end = torch.cat((rollout.action[-1].clamp(-1, 1), rollout.reward[-1, :, None]), -1)
    return end.masked_fill(rollout.diverged[-1, :, None], 0.0)


def with_ending(step: Step, last: Tensor) -> Step:
    """Return a step that shows `ending`, (B, A + 1), where the worlds do not show it themselves."""
    action, reward = last[:, :-1], last[:, -1]
    return step._replace(
        prev_action=torch.where(action != 0, action, step.prev_action),
        prev_reward=torch.where(reward != 0, reward, step.prev_reward),
    )


def step_after(rollout: Rollout) -> Step:
    """Return what an agent would see after a rollout if its episode went on."""
    return Step(
        rollout.next_obs[-1], rollout.action[-1].clamp(-1, 1), rollout.reward[-1],
        torch.zeros_like(rollout.first[-1]),
    )  # fmt: skip
