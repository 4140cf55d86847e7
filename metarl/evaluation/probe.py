"""Does a policy adapt, and to what: its state is cleared or swapped, and its rewards are hidden.

Each intervention is evaluated on the same tasks, initial states and noise as the policy as it is,
so that differences are paired by task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import check_progress
from metarl.base.keys import Key
from metarl.base.text import counted
from metarl.evaluation.statistics import gain_interval, too_few
from metarl.learning.adaptation import adaptation_rounds
from metarl.learning.learner import rebuilt_state, state_parts
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout, collect, mean_of_finished

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metarl.worlds.vector import Step, VecWorlds

WINDOW = 10
"""Steps over which rewards are averaged to tell when a rate is reached."""
INTERVENTIONS = {
    "as it is": "the policy after its rounds of adaptation",
    "reward hidden": "it sees rewards of 0, while it acts and while it adapts",
    "state cleared": "it acts at every step as if it had seen nothing before",
    "state swapped": "it acts with the state that it has after adapting to another task",
}


class Effect(NamedTuple):
    """What an intervention does to the return after the last round."""

    returns: list[float]
    """(M,), NaN where every world of a task diverged"""
    change: tuple[float, float, float]
    """Interquartile mean over tasks of the difference to the policy as it is, and its interval"""


class Probe(NamedTuple):
    """What was found."""

    effects: dict[str, Effect]
    """By the names in `INTERVENTIONS`"""
    readable: dict[str, float]
    """Task parameter -> R² of a linear readout from the state, on tasks it was not fitted to"""
    first: list[float]
    """(T,) mean reward at each step of the first episode, over worlds that did not diverge"""
    last: list[float]
    """(T,) the same after the last round"""
    identified: int | None
    """Steps of the first episode until its reward reaches 90 % of the way to the final rate; None
    where it does not, or where nothing changes"""


def effect_words(
    returns: Sequence[float | None], whole: Sequence[float | None],
    change: Sequence[float | None], tasks: np.ndarray,
) -> str:  # fmt: skip
    """Return what is shown of an intervention, and in how many tasks it cannot be compared.

    Args:
        returns: (M,) under it; NaN or None where every world of a task diverged.
        whole: (M,) of the policy as it is.
        change: see `Effect`.
        tasks: (M, P).
    """
    known = np.isfinite(np.array(returns, float)) & np.isfinite(np.array(whole, float))
    _, low, high = np.array(change, float)
    words = "too few tasks for a verdict"
    if known.any() and not too_few(tasks[known]):
        words = "it gains return" if low > 0 else "no effect is shown"
        words = "it costs return, so the policy makes use of it" if high < 0 else words
    lost = f"; in {counted(int((~known).sum()), 'task')} all diverged" * (not known.all())
    return words + lost


class _Wrapped(Policy):
    """A policy that has the name, the device and the flags of another."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.device = policy, policy.device
        names = ("name", "adapts_per_task", "adapts_on_exploration")
        vars(self).update({name: getattr(policy, name) for name in names})


class _HiddenReward(_Wrapped):
    """A policy that sees rewards of 0."""

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> Any:
        """Return the first state of the policy."""
        return self.policy.begin_seeded(tasks, worlds, seed, first_task)

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Act without the reward of the last step."""
        step = step._replace(prev_reward=torch.zeros_like(step.prev_reward))
        return self.policy.act(step, state, explore=explore, noise=noise)

    def adapt(self, state: Any, rollout: Rollout) -> Any:
        """Adapt without the rewards."""
        zeros = torch.zeros_like(rollout.reward)
        return self.policy.adapt(state, rollout._replace(reward=zeros, prev_reward=zeros))


class _Forgetful(_Wrapped):
    """A policy that acts in its first state at every step."""

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Act in `state`, and keep it."""
        return self.policy.act(step, state, explore=explore, noise=noise)[0], state


@torch.no_grad()
def probe(
    policy: Policy,
    worlds: VecWorlds,
    tasks: Tasks,
    *,
    episodes: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Evaluate a policy as it is and under each intervention.

    Args:
        policy: a learner, which is not changed.
        worlds: a multiple of M worlds.
        tasks: M tasks, at least two.
        episodes: K rounds of adaptation before the scores that are compared.
        seed: of initial states and exploration.
        progress: called with (evaluations done, evaluations in all).
    """
    check_progress(progress)
    each, count = worlds.num_worlds // len(tasks), len(tasks)
    done = iter(range(1, len(INTERVENTIONS) + 1))

    def step() -> None:
        if progress is not None:
            progress(next(done), len(INTERVENTIONS))

    played = _rounds(policy, worlds, tasks, episodes, seed)
    (_, first), (state, last) = played[0], played[-1]
    step()
    returns = {"as it is": last.return_by_task()}
    hidden = _rounds(_HiddenReward(policy), worlds, tasks, episodes, seed)
    returns["reward hidden"] = hidden[-1][1].return_by_task()
    step()
    key = Key(seed, "evaluate").fold("score", episodes)
    fresh = policy.begin_seeded(count, each, seed, 0)
    returns["state cleared"] = _score(_Forgetful(policy), worlds, fresh, tasks, key)
    step()
    swapped = swapped_state(state, count, each)
    returns["state swapped"] = _score(policy, worlds, swapped, tasks, key)
    step()
    before = returns["as it is"].cpu().numpy()
    effects = {
        name: Effect(
            value.tolist(), gain_interval(value.cpu().numpy() - before, tasks.values, seed)
        )
        for name, value in returns.items()
    }
    early, late = (step_rewards(one) for one in (first, last))
    return Probe(effects, readable(state, tasks, each), early, late, identified(early, late))


def step_rewards(data: Rollout) -> list[float]:
    """Return (T,) the mean reward at each step, over the worlds whose physics did not fail."""
    reward = data.reward.double().masked_fill(data.diverged.any(0), torch.nan)
    return mean_of_finished(reward).tolist()


def _rounds(
    policy: Policy, worlds: VecWorlds, tasks: Tasks, episodes: int, seed: int
) -> list[tuple[Any, Rollout]]:
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    return list(adaptation_rounds(policy, worlds, len(tasks), episodes, seed))


def swapped_state(state: Any, tasks: int, worlds_per_task: int) -> Any:
    """Return a state in which each task has what belonged to the one before it.

    Args:
        state: its tensors have a leading axis of tasks or of worlds, or concern neither.
        tasks: M.
        worlds_per_task: E.
    """
    rolled = {}
    for name, part in state_parts(state):
        if part.ndim and len(part) in (tasks, tasks * worlds_per_task):
            part = part.roll(len(part) // tasks, 0)
        rolled[name] = part
    device = next((part.device for part in rolled.values()), torch.device("cpu"))
    return rebuilt_state(state, rolled, "state", device)


def _score(policy: Policy, worlds: VecWorlds, state: Any, tasks: Tasks, key: Key) -> Tensor:
    """Return the (M,) returns of an episode in a given state."""
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    worlds.seed(key)
    worlds.reset()
    steps = worlds.spec.horizon
    rollout, _ = collect(worlds, policy, state, steps, key, explore=False)
    worlds.settle()
    return rollout.return_by_task()


def identified(first: list[float], last: list[float]) -> int | None:
    """Return the step of the first episode at which 90 % of the way to the final rate is made.

    The final rate is the mean reward of the last quarter of an episode after adaptation, the way
    begins with the reward of the first `WINDOW` steps, and rewards are averaged over as many.
    """
    window = min(WINDOW, len(first))
    smooth = np.convolve(first, np.ones(window) / window, "valid")
    final = float(np.mean(last[-max(1, len(last) // 4) :]))
    if not final > smooth[0]:
        return None
    there = np.flatnonzero(smooth - smooth[0] >= (0.9 - 1e-9) * (final - smooth[0]))
    return int(there[0]) + window - 1 if len(there) else None


def readable(state: Any, tasks: Tasks, worlds_per_task: int, folds: int = 5) -> dict[str, float]:
    """Return how well each parameter can be read linearly from the state: R² by cross-validation.

    The readout is ridge regression on standardised features, fitted on four fifths of the tasks and
    tested on the rest, in turns. R² is 1 for a perfect readout, and 0 or less for none.

    Args:
        state: of a policy; its tensors have a leading axis of tasks or of worlds.
        tasks: M.
        worlds_per_task: E.
        folds: parts of the tasks.
    """
    count = len(tasks)
    features = []
    for _, part in state_parts(state):
        part = part.double().cpu()
        if part.ndim and len(part) == count * worlds_per_task:
            features.append(part.reshape(count, worlds_per_task, -1).mean(1))
        elif part.ndim and len(part) == count:
            features.append(part.reshape(count, -1))
    if not features or count < 2 * folds:
        return {}
    x = torch.cat(features, 1).numpy()
    x = x[:, x.std(0) > 1e-12]
    if not x.shape[1]:
        return dict.fromkeys(tasks.names, 0.0)
    fold = np.arange(count) % folds
    predicted = np.empty_like(tasks.values)
    for k in range(folds):
        predicted[fold == k] = _ridge(x[fold != k], tasks.values[fold != k], x[fold == k])
    error = ((predicted - tasks.values) ** 2).sum(0)
    spread = ((tasks.values - tasks.values.mean(0)) ** 2).sum(0)
    return {
        name: float(1 - e / s) if s > 0 else float("nan")
        for name, e, s in zip(tasks.names, error, spread, strict=True)
    }


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray, weight: float = 0.1) -> np.ndarray:
    """Predict (n, P) from (n, D), by the dual form: D may exceed the number of rows."""
    mean, std = x.mean(0), x.std(0) + 1e-12
    x, new = (x - mean) / std, (new - mean) / std
    kernel = x @ x.T / x.shape[1]
    alpha = np.linalg.solve(kernel + weight * np.eye(len(x)), y - y.mean(0))
    return y.mean(0) + new @ x.T / x.shape[1] @ alpha
