"""Planning with a model: sequences of actions are tried in all worlds at once, by its returns.

The first action of what is found is taken, and the next step plans anew.

What a learner adapts is its model; what it plans with that, and how it collects, is the same for
all of them: `PlanState`, `planned`, `first_action` and `collect_planning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import BatchedRNG, DeviceRNG, Key
from metarl.modules.settings import Count, Positive, Settings
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Step, VecWorlds

Returns = Callable[[Tensor], Tensor]
"""What a model predicts of sequences of actions in n worlds: (n, C, H, A) -> (n, C)."""
_ROWS = 1 << 16
"""Candidates that are planned with together, of as many worlds as they belong to."""


@dataclass(frozen=True)
class PlannerSettings(Settings):
    """Settings of planning."""

    planner: Literal["shooting", "cem", "mppi"] = "shooting"
    """Random shooting, the cross-entropy method, or a mean weighted by exponentiated returns."""
    plan_steps: Count = 10
    """Steps that are planned ahead."""
    candidates: Count = 256
    """Sequences of actions that are tried in a world, in each round of planning."""
    plan_rounds: Count = 5
    """Rounds of cem and mppi, each around what the last found; shooting has one."""
    elites: Count = 25
    """Best candidates that cem continues from."""
    temperature: Positive = 0.1
    """Of mppi's weights, in standard deviations of the candidates' returns."""
    warm_start: bool = False
    """Search around what is left of the last step's plan (cem, mppi), or try it, too (shooting)."""

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError for more elites than candidates."""
        super().__post_init__()
        if self.planner == "cem" and self.elites > self.candidates:
            raise UserError(f"elites ({self.elites}) must be at most candidates")

    def parts(self, worlds: int) -> Iterator[slice]:
        """Yield the worlds that are planned for together, lest memory grow with their number."""
        each = max(1, _ROWS // self.candidates)
        yield from (slice(start, start + each) for start in range(0, worlds, each))


class PlanState(Protocol):
    """What the state of a learner that plans holds, beside what its model adapts to."""

    @property
    def plan(self) -> Tensor:
        """(B, H, A) the plan that the last action began; zeros before one."""
        ...

    @property
    def world(self) -> Tensor:
        """(B, 3) int64 that name the draws of each world: task, world in it, steps so far."""
        ...

    @property
    def seed(self) -> int:
        """Of all draws."""
        ...


def begun_worlds(tasks: int, worlds: int, first_task: int, device: torch.device) -> Tensor:
    """Return (B, 3) int64, the `world` of a state in which nothing has happened."""
    index = torch.arange(tasks * worlds)
    return torch.stack((first_task + index // worlds, index % worlds, 0 * index), 1).to(device)


def stepped_worlds(world: Tensor) -> Tensor:
    """Return (n, 3) worlds a step later; see `begun_worlds`."""
    return torch.cat((world[:, :2], world[:, 2:] + 1), 1)


def world_draws(seed: int, world: Tensor) -> BatchedRNG:
    """Return the draws of (n, 3) worlds at their steps; see `begun_worlds`."""
    if world.device.type != "cpu":
        task, index, step = world.unbind(1)
        streams = DeviceRNG.streams(Key("plan", seed), task)
        return DeviceRNG(streams, index, step, dtype=torch.float32)
    named = world.numpy().T
    return BatchedRNG(Key("plan", seed), *named, device=world.device, dtype=torch.float32)


def planned(
    settings: PlannerSettings, step: Step, state: PlanState, model_of: Callable[[slice], Returns],
    *, random: bool,
) -> Tensor:  # fmt: skip
    """Return the plans of all worlds, (B, H, A), a part of the worlds after the other.

    Args:
        settings: how to search.
        step: what is seen now.
        state: of the learner.
        model_of: some of the worlds -> what their models predict, asked for where one plans.
        random: plan at random, without a model.
    """
    left, plans = state.plan.masked_fill(step.first[:, None, None], 0.0), []
    for part in settings.parts(len(step.obs)):
        draws = world_draws(state.seed, state.world[part])
        if random:
            plans.append(draws.uniform(-1, 1, left[0].numel()).view_as(left[part]))
        else:
            plans.append(plan(settings, model_of(part), left[part], draws))
    return torch.cat(plans)


def first_action(plans: Tensor, noise: Tensor | None, std: float) -> Tensor:
    """Return the first action of each plan, (B, A), with noise of so much if there is any."""
    return plans[:, 0] if noise is None else plans[:, 0] + std * noise


def collect_planning(worlds: VecWorlds, policy: Policy, tasks: Tasks, key: Key) -> Rollout:
    """Collect an episode's worth of steps in every world, planned with draws of their own."""
    each = worlds.num_worlds // len(tasks)
    worlds.set_tasks(tasks, each)
    worlds.seed(key.fold("reset"))
    worlds.reset()
    state = policy.begin_seeded(len(tasks), each, key.fold("plan").seed(), tasks.first)
    return collect(worlds, policy, state, worlds.spec.horizon, key, explore=True)[0]


def plan(settings: PlannerSettings, returns: Returns, last: Tensor, rng: BatchedRNG) -> Tensor:
    """Return the plans of n worlds, (n, H, A) in [-1, 1].

    Args:
        settings: how to search.
        returns: of the models of n worlds.
        last: (n, H, A), the plans of the step before, or zeros.
        rng: the draws of each world.
    """
    n, steps, size = last.shape
    shape = (n, settings.candidates, steps, size)
    count = settings.candidates * steps * size
    left = torch.cat((last[:, 1:], torch.zeros_like(last[:, :1])), 1)[:, None]
    if settings.planner == "shooting":
        tried = rng.uniform(-1, 1, count).view(shape)
        if settings.warm_start:
            tried = torch.cat((left, tried[:, 1:]), 1)
        best = returns(tried).argmax(1)
        return tried[torch.arange(n, device=last.device), best]
    mean, std = left if settings.warm_start else torch.zeros_like(left), torch.ones_like(left)
    for _ in range(settings.plan_rounds):
        tried = (mean + std * rng.normal(count).view(shape)).clamp(-1, 1)
        mean, std = _narrowed(settings, tried, returns(tried))
    return mean[:, 0]


def _narrowed(settings: PlannerSettings, tried: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (n, 1, H, A) of the candidates that count."""
    if settings.planner == "cem":
        index = score.topk(settings.elites, 1).indices[..., None, None]
        elite = tried.gather(1, index.expand(-1, -1, *tried.shape[2:]))
        std, mean = torch.std_mean(elite, 1, correction=0, keepdim=True)
        return mean, std
    scale = settings.temperature * score.std(1, correction=0, keepdim=True) + 1e-8
    weight = ((score - score.amax(1, keepdim=True)) / scale).softmax(1)[..., None, None]
    mean = (weight * tried).sum(1, keepdim=True)
    return mean, (weight * (tried - mean).square()).sum(1, keepdim=True).sqrt()
