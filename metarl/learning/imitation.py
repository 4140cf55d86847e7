"""Learning from demonstrations: what the learners share that imitate, and how they are evaluated.

In:  files of demonstrations (`metarl.learning.demonstrations`), of training and of held-out tasks.
Out: pairs of episodes of the iteration's tasks, and a policy that is shown some in an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.learning.demonstrations import DEMONSTRATED, Demonstrations
from metarl.modules.settings import Count, NonNegative, Positive, Settings
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout, collect, mean_over_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from metarl.base.keys import Key
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.vector import Step, VecWorlds


@dataclass(frozen=True)
class ImitationSettings(Settings):
    """Settings of what imitates demonstrations."""

    paths: ClassVar[tuple[str, ...]] = ("demos", "heldout_demos")
    """See `Settings`."""

    demos: str | None = None
    """File of demonstrations of training tasks, at least two of each (`metarl demos --split
    train`); needed to train, not to act."""
    heldout_demos: str | None = None
    """File of demonstrations of held-out tasks, for the evaluations of a training: without one they
    show no adaptation."""
    train_tasks: Count | None = None
    """Learn from so many of the demonstrated tasks, the first; default: from all."""
    std: NonNegative = 0.1
    """Standard deviation of the actions where it explores, in units of half the action range."""
    updates: Count = 20
    """Gradient steps of an iteration, each on other pairs of demonstrations of its tasks."""
    lr: Positive = 1e-3
    """Step size of Adam."""


class Steps(NamedTuple):
    """The demonstrated steps of n episodes."""

    obs: Tensor
    """(n, T, O)"""
    action: Tensor
    """(n, T, A)"""
    next_obs: Tensor
    """(n, T, O)"""
    weight: Tensor
    """(n, T), sums to 1 in each episode, 0 behind its end; all 0 where nothing is demonstrated"""


def steps_of(rollout: Rollout) -> Steps | None:
    """Return what a rollout demonstrates, an episode a world; None if it is a learner's own."""
    shown = rollout.extras.get(DEMONSTRATED)
    if shown is None:
        return None
    weight = (shown & rollout.valid).float()
    weight = weight / weight.sum(0).clamp(min=1.0)
    # 0 times what is not finite is not 0
    parts = (
        part.where(weight[..., None] > 0, 0.0)
        for part in (rollout.obs, rollout.action, rollout.next_obs)
    )
    return Steps(*(part.transpose(0, 1) for part in (*parts, weight)))


class Lessons:
    """The demonstrations that a learner imitates, read when they are needed; their moments."""

    def __init__(self, learner: Learner, config: ImitationSettings) -> None:
        """Take the learner, for its sizes and its name, and its settings."""
        self.config, self.name, self.device = config, learner.name, learner.device
        self.training: Demonstrations | None = None
        self.heldout: Demonstrations | None = None
        size = learner.spec.observation_size
        self.moments = {
            "obs_mean": torch.zeros(size, device=self.device),
            "obs_std": torch.ones(size, device=self.device),
        }
        """Of the observations to train on, (O,), once training has begun"""
        self.number = torch.zeros((), dtype=torch.int64)
        """What stands for the demonstrations, so that a run goes on with the same ones; 0: any"""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies: what to save, or to load into."""
        return {**self.moments, "demonstrations": self.number}

    def scaled(self, obs: Tensor) -> Tensor:
        """Return observations (…, O) in units of their standard deviation, around their mean."""
        return (obs - self.moments["obs_mean"]) / self.moments["obs_std"]

    def read(self) -> Demonstrations:
        """Return the demonstrations to train on. Raises UserError if there are none."""
        if self.training is None:
            if not self.config.demos:
                raise UserError(
                    f"{self.name} learns from demonstrations: give --demos FILE, which "
                    f"`metarl demos RUN --split train` records"
                )
            found, wanted = Demonstrations.load(self.config.demos), self.config.train_tasks
            self.training = found if wanted is None else found.first(wanted)
        return self.training

    def check(self, worlds: VecWorlds) -> Demonstrations:
        """Return what `read` does, if it is of the worlds' family and training tasks.

        Raises UserError if it is not, or if the held-out ones are not of that family.
        """
        found = self.read()
        _refuse_family(found, worlds, "--demos")
        if self.config.heldout_demos and self.heldout is None:
            self.heldout = Demonstrations.load(self.config.heldout_demos)
            _refuse_family(self.heldout, worlds, "--heldout-demos")
        wanted = worlds.family.distribution.split("train", len(found.tasks))
        if found.split != "train" or not np.array_equal(found.tasks.values, wanted.values):
            raise UserError(
                f"--demos: these are demonstrations of {found.split} tasks, and training is on "
                f"the first tasks of the train split: record them with `metarl demos --split train`"
            )
        self.refuse_change(self.number)
        if found.per_task < 2:
            raise UserError(
                f"--demos: there is one demonstration of each task, and {self.name} needs two: one "
                f"to be shown and one to do as well; record more with `metarl demos --episodes 10`"
            )
        return found

    def refuse_change(self, number: Tensor) -> None:
        """Raise UserError if a run began with other demonstrations than were read."""
        if self.training is not None and int(number) not in (0, self._number()):
            raise UserError(
                f"this run began with other demonstrations than those in '{self.config.demos}'"
            )

    def begin(self) -> Demonstrations:
        """Return what to train on; measure it and note which it is where that is not known yet."""
        found = self.read()
        if not self.number:
            self.number.fill_(self._number())
            obs = found.obs[:, :, :-1][found.valid].double()
            std, mean = torch.std_mean(obs, 0, correction=0)
            self.moments["obs_mean"].copy_(mean)
            self.moments["obs_std"].copy_(std.clamp(min=1e-3))
        return found

    def _number(self) -> int:
        return int((self.read().digest or "1")[:15], 16)

    def shown(self, policy: Policy, tasks: Tasks) -> Policy:
        """Return what an evaluation in training plays: the policy, shown what there is."""
        held = self.heldout
        return policy if held is None else Shown(policy, held, tasks)

    def steps(self, ids: Tensor, which: Tensor) -> Steps:
        """Return episode `which`, (m,), of the training tasks `ids`, (m,)."""
        found = self.read()
        valid = found.valid[ids, which].float()
        weight = valid / valid.sum(1, keepdim=True).clamp(min=1.0)
        obs, action = found.obs[ids, which], found.action[ids, which]
        parts = (obs[:, :-1], action, obs[:, 1:], weight)
        return Steps(*(part.to(self.device) for part in parts))


def _refuse_family(found: Demonstrations, worlds: VecWorlds, option: str) -> None:
    family, sizes = worlds.family.name, (found.obs.shape[3], found.action.shape[3])
    if found.tasks.family != family or sizes != tuple(worlds.spec[:2]):
        raise UserError(
            f"{option}: these demonstrations are of {found.tasks.family}, with {sizes[0]} observed "
            f"numbers and {sizes[1]} actions; {family} has {worlds.spec[0]} and {worlds.spec[1]}"
        )


# --- an iteration --------------------------------------------------------------------------------


class Played(NamedTuple):
    """What one shard of an iteration collected: which tasks, and how the policy does there."""

    ids: Tensor
    """(m,) int64 rows of the training tasks"""
    first: int
    """Place of the first of them among the iteration's tasks"""
    before: Tensor
    """(m,) float64 mean return before a demonstration"""
    after: Tensor
    """(m,) float64, after one"""
    diverged: Tensor
    """(m,) transitions"""

    @classmethod
    def joined(cls, shards: Sequence[Played]) -> Played:
        """Return the data of several shards as those of one, in their order."""
        parts = zip(*((s.ids, s.before, s.after, s.diverged) for s in shards), strict=True)
        ids, before, after, diverged = (torch.cat(same) for same in parts)
        return cls(ids, shards[0].first, before, after, diverged)

    def metrics(self, sum_tasks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the metrics that every learner has."""
        return {
            "return_before": mean_over_tasks(self.before, sum_tasks),
            "return_after": mean_over_tasks(self.after, sum_tasks),
            "diverged": float(sum_tasks(self.diverged)),
        }


def play(
    worlds: VecWorlds, learner: Learner, tasks: Tasks, key: Key, demos: Demonstrations
) -> Played:
    """Let a learner act before and after a demonstration of each task, as in an evaluation.

    Nothing is learned from these episodes: they are there to be watched.
    """
    each = worlds.num_worlds // len(tasks)
    policy = Shown(learner, demos, tasks)
    worlds.set_tasks(tasks, each)
    state, returns = policy.begin(len(tasks), each), []
    diverged = torch.zeros(len(tasks), device=learner.device)
    for phase in ("before", "after"):
        worlds.seed(key.fold(phase))
        worlds.reset()
        rollout, state = collect(
            worlds, policy, state, worlds.spec.horizon, key.fold(phase, "noise"), explore=False
        )
        returns.append(rollout.return_by_task())
        diverged += rollout.per_task(rollout.diverged).flatten(1).sum(1)
        state = policy.adapt(state, rollout) if phase == "before" else state
    return Played(torch.from_numpy(policy.rows), tasks.first, returns[0], returns[1], diverged)


def pairs(key: Key, first: int, tasks: int, count: int, episodes: int) -> Tensor:
    """Draw (count, tasks, 2) int64: for each gradient step two different episodes of each task.

    The draws of a task depend on the key and its place alone, so tasks may be split over processes.
    """
    drawn = np.stack(
        [key.fold("pairs", first + m).numpy().random((count, episodes)) for m in range(tasks)], 1
    )
    return torch.from_numpy(drawn.argsort(-1)[..., :2].copy())


# --- an evaluation -------------------------------------------------------------------------------


class ShownState(NamedTuple):
    """How far a policy is that is shown demonstrations."""

    rounds: int
    """Rounds of adaptation so far"""
    inner: Any
    """The policy's own state"""


class Shown(Policy):
    """A policy that adapts to demonstrations of the tasks that it is evaluated in.

    In round k of the adaptation, world e of a task is shown demonstration e + k of the task's E,
    modulo E, in place of an episode of its own; when all have been shown, its own episodes follow.
    """

    def __init__(self, policy: Policy, demonstrations: Demonstrations, tasks: Tasks) -> None:
        """Show `policy` what there is of each task. Raises UserError if it cannot use it."""
        if not policy.adapts_to_demonstrations:
            raise UserError(
                f"{policy.name} does not adapt to demonstrations: leave out --demos, or use an "
                f"algorithm that does (docs/demos.md)"
            )
        refuse_other(demonstrations, policy)
        self.policy, self.demonstrations = policy, demonstrations
        self.rows = demonstrations.rows_of(tasks)
        self.device = policy.device
        for flag in (
            "name", "spec", "adapts_per_task", "adapts_on_exploration", "adapts_to_demonstrations"
        ):  # fmt: skip
            if hasattr(policy, flag):
                setattr(self, flag, getattr(policy, flag))

    def begin(self, tasks: int, worlds: int) -> ShownState:
        """Return the policy's state before any data."""
        return ShownState(0, self.policy.begin(tasks, worlds))

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> ShownState:
        """Likewise, with the draws of a seed."""
        return ShownState(0, self.policy.begin_seeded(tasks, worlds, seed, first_task))

    def act(
        self, step: Step, state: ShownState, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, ShownState]:
        """Act as the policy does."""
        action, inner = self.policy.act(step, state.inner, explore=explore, noise=noise)
        return action, state._replace(inner=inner)

    def adapt(self, state: ShownState, rollout: Rollout) -> ShownState:
        """Let the policy adapt to the next demonstration, or to its own rollout."""
        k, inner = state
        if k < self.demonstrations.per_task:
            worlds = rollout.obs.shape[1] // len(self.rows)
            each = (torch.arange(worlds) + k) % self.demonstrations.per_task
            shown = self.demonstrations.rollout(self.rows, each.expand(len(self.rows), -1))
            rollout = on_device(shown, self.device)
        return ShownState(k + 1, self.policy.adapt(inner, rollout))

    def diagnostics(self, state: ShownState) -> dict[str, Tensor]:
        """Return the policy's own."""
        return self.policy.diagnostics(state.inner)


def on_device(rollout: Rollout, device: torch.device) -> Rollout:
    """Return a rollout with its tensors on a device."""
    extras = {name: part.to(device) for name, part in rollout.extras.items()}
    parts = {name: part.to(device) for name, part in rollout.tensors().items()}
    return rollout._replace(**parts, extras=extras)


def refuse_other(demonstrations: Demonstrations, policy: Policy) -> None:
    """Raise UserError if demonstrations have other sizes than a policy is for."""
    spec = getattr(policy, "spec", None)
    sizes = demonstrations.obs.shape[3], demonstrations.action.shape[3]
    if spec is not None and tuple(spec[:2]) != sizes:
        raise UserError(
            f"the demonstrations are of {demonstrations.tasks.family}, with {sizes[0]} observed "
            f"numbers and {sizes[1]} actions, and {policy.name} is for {spec[0]} and {spec[1]}"
        )
