"""An adapted policy that is asked for one action at a time, as a controller or SB3 asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metarl.base.errors import UserError, refuse_unknown
from metarl.learning.adaptation import adapt_to
from metarl.learning.imitation import Shown
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family
from metarl.worlds.factory import make_worlds
from metarl.worlds.vector import Step

if TYPE_CHECKING:
    from metarl.learning.demonstrations import Demonstrations
    from metarl.learning.learner import Learner


class AdaptedPolicy:
    """A learner in the state that it has after adapting to one task."""

    def __init__(self, learner: Learner, state: Any, returns: list[float]) -> None:
        """Take over a learner and a state of it, for the environments that it was adapted in."""
        self.learner = learner
        self.state = state
        self.returns = returns
        """Mean return of each round of the adaptation, the first before any data"""
        self._previous: Step | None = None

    def predict(
        self,
        obs: np.ndarray,
        reward: Any = None,
        done: Any = None,
        *,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return the action for an observation, and None.

        The policy keeps its own state from call to call. `stable_baselines3`'s ``evaluate_policy``
        calls it with `episode_start`; it has no rewards to give, so a policy that reads them (RL²,
        PEARL) is told them by the ``callback=policy.sb3_callback`` of ``evaluate_policy``.

        Args:
            obs: (O,) or (n, O).
            reward: what the last action earned, a number or (n,); None where it is not known,
                which RL² takes for 0, and PEARL for a step that says nothing of the task.
            done: whether the last episode ended with it, or (n,); a new one then begins.
            state: ignored; the policy has its own.
            episode_start: whether an episode begins, as SB3 says it; instead of `done`.
            deterministic: must be True: what is reported of a policy is its mean action.

        Returns:
            (A,) or (n, A) in [-1, 1], and None.
        """
        if not deterministic:
            raise UserError("an adapted policy acts deterministically: deterministic must be True")
        try:
            rows = torch.as_tensor(np.atleast_2d(np.asarray(obs, np.float32)))
        except (TypeError, ValueError):
            raise UserError(f"obs must be an array of numbers, not {obs!r:.80}") from None
        if rows.ndim != 2 or rows.shape[1] != self.learner.spec.observation_size:
            size = self.learner.spec.observation_size
            raise UserError(f"obs must have shape ({size},) or (n, {size}), not {np.shape(obs)}")
        first = done if episode_start is None else episode_start
        step = self._step(rows, reward, first)
        with torch.no_grad():
            action, self.state = self.learner.act(step, self.state, explore=False, noise=None)
        action = action.clamp(-1.0, 1.0).cpu()
        unknown = torch.full((len(rows),), self.learner.unknown_reward)
        self._previous = step._replace(prev_action=action, prev_reward=unknown)
        return (action if np.ndim(obs) > 1 else action[0]).numpy(), None

    def sb3_callback(self, local: Mapping[str, Any], _: Mapping[str, Any]) -> None:
        """Take the rewards of SB3's ``evaluate_policy``: pass it as its ``callback``."""
        if self._previous is not None:
            rewards = torch.as_tensor(np.asarray(local["rewards"], np.float32))
            self._previous = self._previous._replace(prev_reward=rewards)

    def _step(self, obs: torch.Tensor, reward: Any, first: Any) -> Step:
        count, spec = len(obs), self.learner.spec
        before = self._previous
        if before is None:
            action = torch.zeros(count, spec.action_size)
            step = Step(obs, action, torch.zeros(count), torch.ones(count, dtype=torch.bool))
        else:
            begins = torch.zeros(count, dtype=torch.bool)
            step = Step(obs, before.prev_action, before.prev_reward, begins)
        if reward is not None:
            given = torch.as_tensor(np.broadcast_to(np.asarray(reward, np.float32), count).copy())
            step = step._replace(prev_reward=given)
        if first is not None:
            begins = torch.as_tensor(np.broadcast_to(np.asarray(first, bool), count).copy())
            step = step._replace(first=begins if before is not None else step.first)
        return Step(*(part.to(self.learner.device) for part in step))


def adapted(
    learner: Learner,
    family: TaskFamily | str,
    task: Tasks | Mapping[str, float],
    *,
    episodes: int = 3,
    num_envs: int = 1,
    rollouts: int = 20,
    seed: int = 0,
    demonstrations: Demonstrations | None = None,
    **unknown: Any,
) -> AdaptedPolicy:
    """Adapt a learner to one task in simulation, and return what acts there.

    Args:
        learner: is left as it is.
        family: of the task.
        task: one task, or the values of some parameters, the others nominal.
        episodes: K, rounds of adaptation.
        num_envs: environments that the policy will act in at once.
        rollouts: worlds that a round collects in, of a learner that pools them.
        seed: of initial states and exploration.
        demonstrations: of the task, one a round in place of its own episodes, of a learner that
            adapts to them.
        unknown: is refused.
    """
    known = ("family", "episodes", "num_envs", "rollouts", "seed", "demonstrations")
    refuse_unknown("adapted", unknown, known)
    found = family if isinstance(family, TaskFamily) else find_family(family)
    if not isinstance(task, Tasks | Mapping) or not all(
        isinstance(n, str) for n in getattr(task, "names", task)
    ):
        raise UserError(f"a task is a dictionary, parameter -> number, not {task!r:.80}")
    one = task if isinstance(task, Tasks) else found.distribution.make(**task)
    worlds = make_worlds(found, rollouts if learner.adapts_per_task else num_envs)
    policy = learner if demonstrations is None else Shown(learner, demonstrations, one)
    rounds = list(adapt_to(policy, worlds, one, episodes=episodes, seed=seed))
    state = rounds[-1].state if policy is learner else rounds[-1].state.inner
    return AdaptedPolicy(learner, state, [one.mean for one in rounds])
