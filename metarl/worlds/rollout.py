"""Collecting experience: act in every world at once, and keep what happened, time first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.base import threads
from metarl.base.errors import UserError
from metarl.base.keys import Key, as_key
from metarl.worlds.policy import Policy, Teacher, as_policy
from metarl.worlds.privileged import privileged_extras
from metarl.worlds.reward_terms import Pay, kept_terms
from metarl.worlds.vector import Spec, Step, Transition, VecWorlds, check_worlds

__all__ = ["OnStep", "Rollout", "Step", "collect"]

OnStep = Callable[[Transition], None]
"""Called after each step of the worlds that an episode is collected in."""


class Rollout(NamedTuple):
    """T steps of B worlds, task-major in B, on the policy's device."""

    obs: Tensor
    """(T, B, O) float32"""
    action: Tensor
    """(T, B, A) float32, as the policy chose it, before clipping; 0 where diverged"""
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
    extras: dict[str, Tensor] = {}  # noqa: RUF012  (never written to)
    """What the policy recorded of each step, (T, B, …) by name, see `Policy.act_and_record`; and of
    a reward of terms each weighted term, ``reward/NAME``, (T, B) float32, 0 where diverged."""

    @property
    def valid(self) -> Tensor:
        """(T, B) bool: the transitions that a loss may use."""
        return ~self.diverged

    @property
    def done(self) -> Tensor:
        """(T, B) bool: the last transition of an episode, however it ended."""
        return self.terminated | self.truncated | self.diverged

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, those of `extras` left out."""
        return {name: part for name, part in self._asdict().items() if isinstance(part, Tensor)}

    @classmethod
    def joined(cls, parts: Sequence[Rollout], *, dim: int) -> Rollout:
        """Return rollouts one after the other in time (dim 0), or side by side as tasks (dim 1)."""
        one = parts[0]
        names, extras = one.tensors(), one.extras
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts], dim) for name in names},
            tasks=one.tasks if dim == 0 else sum(part.tasks for part in parts),
            extras={name: torch.cat([p.extras[name] for p in parts], dim) for name in extras},
        )

    def for_critic(self, inputs: Tensor, of: str = "privileged") -> Tensor:
        """Return inputs (T, B, I), followed by what only critics may see if it was kept."""
        return torch.cat((inputs, self.extras[of]), -1) if of in self.extras else inputs

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
        """Return (B,) float64: the undiscounted return of each world's first episode.

        NaN where the physics ended it: what was paid until then is no return. `mean_return` leaves
        those worlds out.
        """
        total = (self.reward.double() * self._in_first_episode()).sum(0)
        return total.masked_fill(self.first_episode_diverged(), torch.nan)

    def mean_return(self) -> float:
        """Return the mean of the first episodes that did not diverge; NaN if all of them did."""
        return float(mean_of_finished(self.first_episode_return()))

    def return_by_task(self) -> Tensor:
        """Return (M,) float64: the same of each task."""
        return mean_of_finished(self.first_episode_return().reshape(self.tasks, -1))

    def last_return_by_task(self) -> Tensor:
        """Return (M,) float64: the same of each world's last whole episode, or of its only one."""
        last = self._episode() == (self.done.sum(0) - 1).clamp(min=0)
        total = (self.reward.double() * last).sum(0)
        total = total.masked_fill((self.diverged & last).any(0), torch.nan)
        return mean_of_finished(total.reshape(self.tasks, -1))

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
        return self._episode() == 0

    def _episode(self) -> Tensor:
        return torch.cumsum(self.done.int(), 0) - self.done.int()


def _empty(steps: int, worlds: int, spec: Spec, tasks: int, device: torch.device) -> Rollout:
    size, actions = spec.observation_size, spec.action_size

    def floats(*shape: int) -> Tensor:
        return torch.empty(steps, worlds, *shape, dtype=torch.float32, device=device)

    def flags() -> Tensor:
        return torch.empty(steps, worlds, dtype=torch.bool, device=device)

    return Rollout(
        obs=floats(size), action=floats(actions), reward=floats(), next_obs=floats(size),
        terminated=flags(), truncated=flags(), diverged=flags(), first=flags(),
        prev_action=floats(actions), prev_reward=floats(), tasks=tasks,
    )  # fmt: skip


_TOGETHER = 16  # steps that are written into a rollout together


def _write(out: Rollout, end: int, recent: list[tuple[Step, Transition]]) -> None:
    """Move the steps before `end` into a rollout, once they are many or the last: a copy a field.

    One a step would take longer.
    """
    if len(recent) < _TOGETHER and end < len(out.obs):
        return
    steps, got = zip(*recent, strict=True)
    for source, names in (
        (steps, ("obs", "first", "prev_action", "prev_reward")),
        (got, ("reward", "next_obs", "terminated", "truncated", "diverged")),
    ):
        for name in names:
            parts = torch.stack([getattr(part, name) for part in source])
            getattr(out, name)[end - len(recent) : end] = parts
    recent.clear()


def mean_of_finished(returns: Tensor) -> Tensor:
    """Return the mean over the last dimension of the returns that are not NaN (diverged).

    NaN where all of them are. Without any, the bits are those of `Tensor.mean`.
    """
    if returns.device.type == "cpu":
        return returns.nanmean(-1) if returns.isnan().any() else returns.mean(-1)
    return torch.where(returns.isnan().any(), returns.nanmean(-1), returns.mean(-1))


def mean_over_tasks(returns: Tensor, sum_tasks: Callable[[Tensor], Tensor] = torch.sum) -> float:
    """Return the mean of (M,) returns by task that are not NaN (diverged); NaN if all are.

    Args:
        returns: of the tasks of this process.
        sum_tasks: `Learner.sum_tasks`, with which those of other processes are in the mean.
    """
    known = ~returns.isnan()
    count = float(sum_tasks(known.to(returns.dtype)))
    total = float(sum_tasks(torch.where(known, returns, 0.0)))
    return total / count if count else float("nan")


def _stacked(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return name -> (T, B, …) for the extras of T steps, name -> (B, …) each."""
    names = steps[0] if steps else ()
    return {name: torch.stack([step[name] for step in steps]) for name in names}


def _checked(
    worlds: VecWorlds, policy: Policy | Callable[[Tensor], Tensor], state: Any, steps: int,
    key: Key, on_step: OnStep | None,
) -> Policy:  # fmt: skip
    """Return the policy of `collect`. Raises UserError for arguments that it cannot take."""
    check_worlds(worlds)
    as_key(key)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserError(f"steps must be a whole number of at least 1, not {steps!r:.40}")
    policy = as_policy(policy)
    if on_step is not None and not callable(on_step):
        raise UserError(f"on_step must be a function of a Transition, not {on_step!r:.80}")
    if state is None and policy.begin(1, 1) is not None:
        raise UserError(f"{policy.name} acts from a state: give what begin(tasks, worlds) returned")
    return policy


def _stepped(worlds: VecWorlds, step: Step, action: Tensor, pay: Pay | None) -> Transition:
    """Advance the worlds; return what they gave, with other rewards in it if there are to be."""
    got = worlds.step(action if action.device == worlds.device else action.to(worlds.device))
    return got if pay is None else pay.replaced(step.obs, action, got)


def _told(policy: Policy, state: Any, task: Tensor | None, own: Tensor | None) -> Any:
    """Return the policy's state; that of a teacher knows the task's vector and the family's own."""
    if task is None or not isinstance(policy, Teacher):
        return state
    known = task if own is None else torch.cat((task, own), -1)
    return policy.tell(state, known.to(policy.device))


@torch.no_grad()
def collect(
    worlds: VecWorlds, policy: Policy | Callable[[Tensor], Tensor], state: Any, steps: int,
    key: Key, *, explore: bool, on_step: OnStep | None = None, privileged: bool = False,
    pay: Pay | None = None,
) -> tuple[Rollout, Any]:  # fmt: skip
    """Let a policy act in every world, from where it is: for new episodes, reset the worlds first.

    Args:
        worlds: B worlds with their tasks set.
        policy: acts, such as a learner or a function; its state is threaded through.
        state: the policy's state for these worlds.
        steps: T. Raises UserError if it, the worlds, the policy or the key is of another kind.
        key: names the action noise.
        explore: whether to sample actions, or to take the deterministic ones.
        on_step: called with what each step returned, such as to record it.
        privileged: whether the extras keep what only critics may see, see `privileged_extras`.
        pay: rewards in place of some worlds' own, which earn no return that is noted.

    Returns:
        The rollout, on the policy's device, and the policy's state after it.
    """
    device = (policy := _checked(worlds, policy, state, steps, key, on_step)).device
    out = _empty(steps, worlds.num_worlds, worlds.spec, len(worlds.tasks), device)
    noise = worlds.noise(key, steps, device) if explore else [None] * steps
    here, task, got = device == worlds.device, None, None
    recorded, recent, own, terms = [], [], [], []
    with threads.sampling():
        for t in range(steps):
            step, seen = worlds.current, worlds.privileged
            step = step if here else Step(*(part.to(device) for part in step))
            if pay is not None and got is not None:  # the policy sees what was paid
                step = step._replace(prev_reward=got.reward.to(step.prev_reward))
            if privileged and (worlds.switches or task is None):
                task = worlds.task_vector()
            action, state, more = policy.act_and_record(
                step, _told(policy, state, task, seen), explore=explore, noise=noise[t]
            )
            got = _stepped(worlds, step, action, pay)
            out.action[t] = action  # a policy may reuse its memory
            recorded.append(more)
            recent.append((step, got))
            own += [(task, seen, worlds.next_privileged)] if task is not None else []
            terms += [worlds.reward_terms] if worlds.reward_terms else []
            _write(out, t + 1, recent)
            if on_step is not None:
                on_step(got)
    out.action.masked_fill_(out.diverged[..., None], 0.0)  # NaN times a weight of 0 is NaN
    worlds.note(out if pay is None else pay.unknown(out))
    kept = _stacked(recorded) | kept_terms(worlds, out, terms)
    return out._replace(extras=kept | privileged_extras(worlds, out, own)), state
