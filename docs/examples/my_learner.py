"""A learner in one file: one action for each task, held all episode, improved by REINFORCE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl import Learner, Tasks, TaskWorlds, collect
from metarl.base.keys import Key
from metarl.learning.learner import load_tensors
from metarl.modules.settings import Positive, Settings
from metarl.worlds.rollout import Rollout, mean_over_tasks
from metarl.worlds.vector import Spec, Step


@dataclass(frozen=True)
class ConstantActionConfig(Settings):
    """Settings; the docstring under each field is its help text on the command line."""

    inner_lr: Positive = 2.0
    """Step size of one adaptation, in units of the action."""
    meta_lr: Positive = 0.1
    """How far the prior moves to the mean of the adapted actions (Reptile)."""
    noise_std: Positive = 0.3
    """Standard deviation of the exploration."""


class ConstantAction(Learner):
    """A prior action (A), and as its state an adapted action for each task (M, A)."""

    name = "constant-action"
    Config = ConstantActionConfig
    adapts_per_task = True  # adapt() uses all worlds of a task together
    adapts_on_exploration = True  # and needs noise in the actions to learn from

    def __init__(
        self, spec: Spec, config: ConstantActionConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(spec, config, seed=seed, device=device)
        self.prior = 0.01 * Key(seed, "prior").normal(1, 1, 1, spec.action_size)[0, 0].to(device)

    def begin(self, tasks: int, worlds: int) -> Tensor:
        """Before any data, every task has the prior."""
        return self.prior.repeat(tasks, 1)

    def act(
        self, step: Step, state: Tensor, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """World i runs task i // E, so each row of the state serves E worlds in turn."""
        action = state.repeat_interleave(len(step.obs) // len(state), dim=0)
        if explore and noise is not None:
            action = action + self.config.noise_std * noise
        return action, state

    def adapt(self, state: Tensor, rollout: Rollout) -> Tensor:
        """Move each task's action along the mean of advantage times noise; `state` stays."""
        to_go = rollout.reward.flip(0).cumsum(0).flip(0)  # (T, B), one episode without an end
        score = rollout.per_task(to_go)  # (M, E, T)
        advantage = (score - score.mean(1, keepdim=True)) / (score.std() + 1e-8)
        deviation = rollout.per_task(rollout.action) - state[:, None, None]  # (M, E, T, A)
        valid = rollout.per_task(rollout.valid)  # diverged transitions teach nothing
        gradient = ((valid * advantage)[..., None] * deviation).mean((1, 2))
        return state + self.config.inner_lr * gradient / self.config.noise_std

    def collect(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> dict[str, Tensor]:
        """Roll out, adapt, and roll out again; nothing of the learner changes."""
        per_task = worlds.num_worlds // len(tasks)
        worlds.set_tasks(tasks, per_task)
        state, data = self.begin(len(tasks), per_task), {"diverged": torch.zeros(len(tasks))}
        for phase in ("before", "after"):
            worlds.seed(key.fold(phase))
            worlds.reset()
            rollout, state = collect(
                worlds, self, state, self.spec.horizon, key.fold(phase, "noise"), explore=True
            )
            data[phase] = rollout.return_by_task()
            data["diverged"] += rollout.per_task(rollout.diverged).flatten(1).sum(1)
            if phase == "before":
                state = self.adapt(state, rollout)
        return data | {"adapted": state}

    def update(self, shards: Sequence[dict[str, Tensor]], key: Key) -> dict[str, float]:
        """Move the prior to the mean adapted action, over the tasks of all shards."""
        data = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
        total = {name: self.sum_tasks(rows) for name, rows in data.items()}
        tasks = self.sum_tasks(torch.ones(len(data["before"])))
        self.prior = self.prior + self.config.meta_lr * (total["adapted"] / tasks - self.prior)
        return {
            "return_before": mean_over_tasks(data["before"], self.sum_tasks),
            "return_after": mean_over_tasks(data["after"], self.sum_tasks),
            "diverged": float(total["diverged"]),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All that must survive a restart."""
        return {"prior": self.prior}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take a saved prior, if it fits."""
        load_tensors({"prior": self.prior}, tensors, self.name)
