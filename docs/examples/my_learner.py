"""A learner in one file: one action for each task, held all episode, improved by REINFORCE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl import Learner, Tasks, TaskWorlds, UserError, collect
from metarl.keys import Key
from metarl.rollout import Rollout, Step
from metarl.worlds import Spec


@dataclass(frozen=True)
class ConstantActionConfig:
    """Settings; the docstring under each field is its help text on the command line."""

    inner_lr: float = 2.0
    """Step size of one adaptation, in units of the action."""
    meta_lr: float = 0.1
    """How far the prior moves to the mean of the adapted actions (Reptile)."""
    noise_std: float = 0.3
    """Standard deviation of the exploration."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be positive and finite, not {value}")


class ConstantAction(Learner):
    """A prior action (A), and as its state an adapted action for each task (M, A)."""

    name = "constant-action"
    Config = ConstantActionConfig
    pools_worlds = True  # adapt() uses all worlds of a task together
    explores_to_adapt = True  # and needs noise in the actions to learn from

    def __init__(
        self, spec: Spec, config: ConstantActionConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(spec, config, seed=seed, device=device)
        self.prior = torch.zeros(spec.action_size, device=self.device)

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

    def meta_step(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> dict[str, float]:
        """Collect, adapt, collect again; then move the prior to the mean adapted action."""
        per_task = worlds.num_worlds // len(tasks)
        worlds.set_tasks(tasks, per_task)
        state, returns, diverged = self.begin(len(tasks), per_task), [], 0
        for phase in ("before", "after"):
            worlds.seed(key.fold(phase))
            worlds.reset()
            rollout, state = collect(
                worlds, self, state, self.spec.horizon, key.fold(phase, "noise"), explore=True
            )
            returns.append(float(rollout.first_episode_return().mean()))
            diverged += int(rollout.diverged.sum())
            if phase == "before":
                state = self.adapt(state, rollout)
        self.prior = self.prior + self.config.meta_lr * (state.mean(0) - self.prior)
        return {"return_before": returns[0], "return_after": returns[1], "diverged": diverged}

    def state_dict(self) -> dict[str, Tensor]:
        """All that must survive a restart."""
        return {"prior": self.prior}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take a saved prior, if it fits."""
        if set(tensors) != {"prior"} or tensors["prior"].shape != self.prior.shape:
            raise UserError(f"expected one tensor 'prior' of {self.spec.action_size} numbers")
        self.prior = tensors["prior"].to(self.device)
