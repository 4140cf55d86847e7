"""VecWorlds: the vector of worlds that policies act in, whatever simulates them.

Worlds are task-major: world i runs task ``i // worlds_per_task``. `step` resets worlds whose
episode ended, so `obs` is what to act on next, and `next_obs` is always the true successor.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import as_key
from metarl.simulation.warp.choice import NATIVE, Physics
from metarl.tasks.composition import observed
from metarl.worlds import MAX_WORLDS

if TYPE_CHECKING:
    from metarl.base.keys import Key
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.rollout import Rollout

LARGE_REWARD = 1e18
"""Rewards of this size are named if a learner stops: in float32, squares end at 3.4e38."""


class Spec(NamedTuple):
    """What a learner must know of a family: sizes and the horizon, and nothing of its tasks."""

    observation_size: int
    action_size: int
    horizon: int
    """Environment steps in one episode."""
    actions: tuple[int, ...] = ()
    """How many choices each discrete action has; () where actions are continuous. A discrete
    action crosses one-hot: `action_size` is the sum, and the highest number of each is taken."""
    task_size: int = 0
    """Length of a task's vector, `TaskDistribution.task_vector`. For learners that know the task
    in training; policies are for any."""
    privileged_size: int = 0
    """P, the numbers that the family shows critics alone, `TaskFamily.privileged`."""
    told_size: int = 0
    """How many numbers at an observation's end say what the task is: those of ``+told``."""

    @property
    def acting(self) -> tuple[Any, ...]:
        """What a policy depends on: it can act in worlds that have the same."""
        return tuple(self[:4])

    @property
    def training(self) -> tuple[Any, ...]:
        """What a learner depends on that knows the task in training."""
        return tuple(self[:6])

    @property
    def critic_extra(self) -> int:
        """How many numbers `collect` keeps of a step for critics alone; see its `privileged`."""
        return self.task_size + 1 + self.privileged_size

    @classmethod
    def from_json(cls, sizes: Mapping[str, Any]) -> Spec:
        """Read what `to_json` wrote. Raises ValueError if it is malformed."""
        numbers = {name: size for name, size in sizes.items() if name != "actions"}
        actions = tuple(map(int, sizes.get("actions", ())))
        spec = cls(**{name: int(size) for name, size in numbers.items()}, actions=actions)
        if min(*spec[:3], *actions) < 1 or sum(actions) not in (0, spec.action_size):
            raise ValueError(f"sizes {dict(sizes)} cannot be")
        return spec

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, without what is as by default."""
        return {name: value for name, value in self._asdict().items() if value not in ((), 0)}


class Step(NamedTuple):
    """All that an agent may see. There is no task in it."""

    obs: Tensor
    """(B, O) float32"""
    prev_action: Tensor
    """(B, A) float32, zeros at the start of a trial"""
    prev_reward: Tensor
    """(B,) float32, zeros at the start of a trial"""
    first: Tensor
    """(B,) bool, whether this is the first step of an episode"""


class Transition(NamedTuple):
    """What one step of every world gave."""

    obs: Tensor
    """(B, O) float32, what to act on next: of the new episode where one began"""
    reward: Tensor
    """(B,) of the simulator's type, float64 on a CPU; 0 where diverged"""
    terminated: Tensor
    """(B,) bool, the family's failure condition; do not bootstrap"""
    truncated: Tensor
    """(B,) bool, the time limit; bootstrap from next_obs"""
    next_obs: Tensor
    """(B, O) float32, the true successor of the observation acted on"""
    diverged: Tensor
    """(B,) bool, the physics failed; use the transition for nothing"""


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor of a type that shares no memory with this one, which may be a live field."""
    return tensor.clone() if tensor.dtype is dtype else tensor.to(dtype)


def check_worlds(worlds: object) -> None:
    """Raise UserError for what are no worlds."""
    if not isinstance(worlds, VecWorlds):
        raise UserError(f"worlds must be such as metarl.make_worlds returns, not {worlds!r:.80}")


class VecWorlds(ABC):
    """B worlds of one family that step together, each with a task of its own."""

    family: TaskFamily
    num_worlds: int
    """B"""
    spec: Spec
    tasks: Tasks
    """M tasks"""
    worlds_per_task: int
    """E, with B = M E"""
    device: torch.device = torch.device("cpu")
    """Where actions go, and what comes back lies"""
    current: Step
    """What an agent sees now"""
    privileged: Tensor | None = None
    """(B, P) float32, what only critics may see now; None where P is 0"""
    next_privileged: Tensor | None = None
    """(B, P) the same of the true successors of the last step"""
    env_steps: int = 0
    """Environment steps taken so far, summed over worlds"""
    reward_terms: Mapping[str, Tensor] = MappingProxyType({})
    """The terms of the last step's reward, (B,) each, weighted; none where it is not of terms"""
    term_sums: dict[tuple[int, int], Tensor]
    """What `mean_terms` makes means of: (first task, M) -> (M, K + 1), K terms and a count"""
    returns: dict[int, Tensor] | None = None
    """Where `collect` notes the (M,) returns of its tasks' last episodes, by the index of the first
    task; None for nowhere. Later rollouts of the same tasks replace earlier ones."""
    physics: Physics = NATIVE
    """What `make_worlds` was told of it"""
    paired: bool = False
    """Whether the noise of actions is that of native MuJoCo's worlds, wherever these worlds are: so
    evaluations on two simulators differ by nothing else."""
    _large_reward: str = ""

    def __init__(self, family: TaskFamily, num_worlds: int) -> None:
        """Name the family. Raises UserError if it is none, or for a count that cannot be."""
        from metarl.tasks.family import TaskFamily

        if not isinstance(family, TaskFamily):
            raise UserError(f"a family is its name or a TaskFamily, not {family!r:.80}")
        if not isinstance(num_worlds, int | np.integer) or not 1 <= num_worlds <= MAX_WORLDS:
            raise UserError(
                f"the number of worlds must be at least 1 and at most {MAX_WORLDS}, "
                f"not {num_worlds!r:.40}"
            )
        self.family, self.num_worlds = family, num_worlds
        self.term_sums = {}

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew: the next reset of world i is its episode 0."""
        self._key = as_key(key)

    @abstractmethod
    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task. Call `reset` next.

        Args:
            tasks: M tasks of this family; a slice of a task set begins its episodes as the whole
                set does.
            worlds_per_task: E, with M * E equal to the number of worlds.
        """

    @abstractmethod
    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial in the worlds `ids`, (n,) int64 or a (B,) mask, or in all.

        Returns:
            (B, O) float32 observation of every world.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Transition:
        """Advance every world by one environment step, and begin new episodes where one ended.

        What it returns, and `current`, later steps leave as it is: their tensors are new.

        Args:
            action: (B, A), clipped to [-1, 1]; not finite counts as diverged.
        """

    def check_tasks(self, tasks: Tasks) -> None:
        """Raise UserError for tasks of another family, or that the robot cannot have."""
        self.family.distribution.check(tasks)
        self.family.check_tasks(tasks)

    @property
    def switches(self) -> bool:
        """Whether tasks begin within episodes, so that `task_vector` changes from step to step."""
        return self.family.switch_at is not None

    def task_vector(self) -> Tensor:
        """Return (B, task_size) float32, the task of each world as a network should see it."""
        vector = self.family.distribution.task_vector(self.tasks).to(self.device)
        return vector.repeat_interleave(self.worlds_per_task, 0)

    def told(self) -> Tensor:
        """Return (B, n) float32, what an oracle would be told now; the default is `task_vector`."""
        return self.task_vector()

    def _told_size(self) -> int:
        """Return how much of that the family observes."""
        return self.told().shape[1] if observed(self.family)[0] else 0

    def why_diverged(self) -> str:
        """Return what ended most episodes that diverged since `set_tasks`, where it is known."""
        return ""

    def note(self, rollout: Rollout) -> None:
        """Keep the returns of a rollout's tasks, if wanted, and in words the first huge reward."""
        if self.returns is not None:
            self.returns[self.tasks.first] = rollout.last_return_by_task()
        self._note_large(rollout)

    def _note_large(self, rollout: Rollout) -> None:
        large = rollout.reward.abs() >= LARGE_REWARD
        if not self._large_reward and large.any():
            t, world = large.nonzero()[0].tolist()
            self._say_large(float(rollout.reward[t, world]), world)

    def _say_large(self, reward: float, world: int) -> None:
        label = self.tasks.label(world // self.worlds_per_task)
        where = f" in task {label}" if label else ""
        self._large_reward = f"reward() returned {reward:.3g}{where}"

    @property
    def large_reward(self) -> str:
        """What there is to say of the first reward that is too large for a learner."""
        return self._large_reward

    def settle(self) -> None:  # noqa: B027  (most worlds have nothing to wait for)
        """Raise UserError for what worlds on a device learn late; for which they wait for it."""

    def noise(self, key: Key, steps: int, device: torch.device) -> Sequence[Tensor]:
        """Return T times (B, A) standard normal numbers, those of a task by the key and its index.

        Args:
            key: names them.
            steps: T.
            device: where they are needed.
        """
        sizes = len(self.tasks), steps, self.worlds_per_task, self.spec.action_size
        return cast("Sequence[Tensor]", key.normal(*sizes, self.tasks.first).to(device))

    @contextlib.contextmanager
    def pairing(self) -> Iterator[None]:
        """Let the noise of actions be the same on any simulator for as long as the block lasts."""
        self.paired = True
        try:
            yield
        finally:
            self.paired = False

    def _take_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Check that tasks fill the worlds, and take them over."""
        self.check_tasks(tasks)
        whole = isinstance(worlds_per_task, int | np.integer)
        if not whole or len(tasks) * worlds_per_task != self.num_worlds:
            raise UserError(
                f"{len(tasks)} tasks x {worlds_per_task!r:.40} worlds do not fill {self.num_worlds}"
            )
        self.tasks, self.worlds_per_task = tasks, worlds_per_task

    def _check_action(self, action: Tensor) -> None:
        expected = (self.num_worlds, self.spec.action_size)
        if not isinstance(action, Tensor):
            raise UserError(f"an action must be a tensor of shape {expected}, not {action!r:.80}")
        if tuple(action.shape) != expected:
            raise UserError(f"action has shape {tuple(action.shape)}, expected {expected}")
        real = not action.is_complex() and action.dtype is not torch.bool
        if not (real and action.device == self.device and action.layout is torch.strided):
            raise UserError(
                f"an action must be dense, of real numbers and on {self._where}, not of "
                f"{action.dtype}, {action.layout} on {action.device}"
            )
        if action.requires_grad and torch.is_grad_enabled():
            raise UserError(
                "an action must carry no gradient, for there is none through the physics: act "
                "under torch.no_grad(), or give action.detach()"
            )

    @property
    def _where(self) -> str:
        return "the CPU" if self.device.type == "cpu" else str(self.device)

    def _world_ids(self, ids: Tensor) -> Tensor:
        """Return which worlds are meant, each once, (n,) int64.

        Args:
            ids: their numbers, in any order, or a (B,) mask.
        """
        if isinstance(ids, Tensor) and ids.device == self.device:
            if ids.dtype is torch.bool and ids.shape == (self.num_worlds,):
                return ids.nonzero()[:, 0]
            whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool)
            if ids.ndim == 1 and whole and ((ids >= 0) & (ids < self.num_worlds)).all():
                return torch.unique(ids.long())
        what = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)
        raise UserError(
            f"worlds are a CPU tensor of numbers from 0 to {self.num_worlds - 1}, or a mask of "
            f"{self.num_worlds}, not {what:.80}"
        )
