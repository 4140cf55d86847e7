"""Policy: whatever acts in a vector of worlds, and may adapt to their tasks.

A learner is a policy that can also be meta-trained. A function of the observation, a random or a
constant controller are policies too, so one `collect` and one `evaluate` serve all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.versions import deprecated

if TYPE_CHECKING:
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import Step


_OLD_FLAGS = {
    "pools_worlds": "adapts_per_task", "explores_to_adapt": "adapts_on_exploration",
    "task_pool": "num_train_tasks",
}  # fmt: skip


class Policy(ABC):
    """Chooses actions from what an agent may see, in an explicit state that adaptation changes."""

    name: ClassVar[str] = "policy"
    """What reports call it, kebab-case."""
    device: torch.device = torch.device("cpu")
    """Where it computes, and where rollouts are stored."""
    adapts_per_task: ClassVar[bool] = False
    """Whether `adapt` pools the worlds of a task. If not, each world is a trial of its own."""
    adapts_on_exploration: ClassVar[bool] = False
    """Whether `adapt` needs exploring rollouts, apart from those that are scored."""
    adapts_to_demonstrations: ClassVar[bool] = False
    """Whether `adapt` imitates a rollout of another agent, which `metarl.learning.demonstrations`
    marks as such; it need not do anything with rollouts of its own."""
    exploring_rounds: int = 0
    """How many rounds of an evaluation, from the first, explore and use nothing of the task."""
    unknown_reward: ClassVar[float] = 0.0
    """What `act` takes for the last reward where nobody measures it, such as on a real robot."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take the flags of a policy by their old names, too, with a warning."""
        super().__init_subclass__(**kwargs)
        for old, new in _OLD_FLAGS.items():
            if old in vars(cls):
                deprecated(f"{cls.__name__}.{old}", new)
                setattr(cls, new, vars(cls)[old])

    def begin(self, tasks: int, worlds: int) -> Any:
        """Return the state before any data, for `tasks` tasks of `worlds` worlds each."""
        return None

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> Any:
        """Return what `begin` does, with the random draws of a seed in it if it holds any.

        Evaluations call this. The default is for states without draws; those of `begin` are those
        of seed 0.

        Args:
            tasks: M.
            worlds: E, of each task.
            seed: of the draws.
            first_task: index of the first task in the whole task set, where this is a part of it.
        """
        return self.begin(tasks, worlds)

    @abstractmethod
    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Choose actions (B, A) float32; the worlds clip them to [-1, 1].

        Args:
            step: what the agent sees in each world.
            state: the policy's state; never changed in place.
            explore: whether to use `noise`.
            noise: (B, A) standard normal, or None if not exploring.
        """

    def act_and_record(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """Act, and also return tensors (B, …) that `collect` keeps in `Rollout.extras`.

        Override it where an update needs more of a step than its action, such as the value.
        """
        action, state = self.act(step, state, explore=explore, noise=noise)
        return action, state, {}

    def adapt(self, state: Any, rollout: Rollout) -> Any:
        """Return the state adapted to a rollout in the same worlds; `state` stays as it is."""
        return state

    def diagnostics(self, state: Any) -> dict[str, Tensor]:
        """Return what a report should say of a state, by name: tensors (B, …), a row a world."""
        return {}


class Teacher(Policy):
    """A policy that acts on what only critics may see, too: in training alone.

    `collect` tells it before each step, where it was asked for ``privileged=True``; no evaluation
    does that. A learner is no teacher, so nothing privileged reaches the `act` of one.
    """

    @abstractmethod
    def tell(self, state: Any, privileged: Tensor) -> Any:
        """Return the state that knows what is so now.

        Args:
            state: as `begin` or the last `act` returned it.
            privileged: (B, task_size + P): the task's vector, and what the family shows critics.
        """


class FunctionPolicy(Policy):
    """A function of the observation as a policy, without noise and without adaptation."""

    name = "function"

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        """Wrap a function from (B, O) float32 observations to (B, A) actions in [-1, 1]."""
        self.function = function

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Return the function's actions."""
        action = self.function(step.obs)
        if not isinstance(action, Tensor):
            raise UserError(f"the policy returned {type(action).__name__}, and not a tensor (B, A)")
        return action, state


class ZeroPolicy(Policy):
    """Takes the action zero at every step: what standing still pays, as a reference line."""

    name = "zero-action"

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Return zeros, (B, A)."""
        return torch.zeros_like(step.prev_action), state


def as_policy(policy: Policy | Callable[[Tensor], Tensor]) -> Policy:
    """Return a policy as it is, and a function of the observation as a `FunctionPolicy`."""
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, type) or not callable(policy):
        raise UserError(f"a policy is a learner, or a function of observations, not {policy!r:.80}")
    return FunctionPolicy(policy)
