"""ES-MAML (Song et al. 2020): meta-learning by evolution strategies, without any gradient.

    U_m(θ) = θ + α mean_e(F_m(θ + σ q_e) q_e) / σ                          adapting to task m
    θ ← θ + β mean_m((F_m(U_m(θ + σ p_m)) − F_m(U_m(θ − σ p_m))) p_m) / σ  the meta-update

F_m is the standardized return in task m. A task has a direction p, and a world of it a direction q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl import Key, Learner, Spec, Step, Tasks, TaskWorlds, collect
from metarl.learning.learner import load_tensors
from metarl.modules.settings import Layers, Positive, Settings
from metarl.networks.task_mlp import GaussianMLP
from metarl.worlds.rollout import Rollout, mean_of_finished, mean_over_tasks


@dataclass(frozen=True)
class EsMamlConfig(Settings):
    """Settings of ES-MAML."""

    sigma: Positive = 0.1
    """σ: length of a direction's components."""
    inner_lr: Positive = 0.05
    """Step size α of the adaptation."""
    lr: Positive = 0.05
    """Step size β of the meta-update."""
    hidden: Layers = (32,)
    """Units of the hidden layers (tanh)."""


class State(NamedTuple):
    """What adapts: one policy a task, and the directions that its worlds try next."""

    params: Tensor
    """(M, D)"""
    directions: Tensor
    """(M, E, D) q, of each world"""
    rounds: int
    """Adaptation steps taken"""


class EsMaml(Learner):
    """Evolution strategies over what evolution strategies adapt."""

    name = "es-maml"
    Config = EsMamlConfig
    adapts_per_task = True
    adapts_on_exploration = True  # the worlds try different parameters

    def __init__(self, spec: Spec, config: EsMamlConfig, *, seed: int = 0, device: str = "cpu"):
        super().__init__(spec, config, seed=seed, device=device)
        sizes = (spec.observation_size, spec.action_size, config.hidden)
        self.policy = GaussianMLP(*sizes, action_scale=0.3)
        self.theta = self.policy.initial(Key(seed, "policy").torch()).to(self.device)

    def begin(self, tasks: int, worlds: int) -> State:
        return self._state(self.theta.expand(tasks, -1), worlds, 0)

    def _state(self, params: Tensor, worlds: int, rounds: int) -> State:
        key, count = Key("queries", rounds), -(-worlds // 2)
        half = key.normal(1, count, 1, params.shape[1])[:, 0].to(params.device)
        directions = torch.cat((half, -half))[:worlds]
        return State(params, directions.expand(len(params), -1, -1), rounds)

    def act(self, step: Step, state: State, *, explore: bool, noise: Tensor | None):
        params = state.params[:, None].expand_as(state.directions)
        if explore:
            params = params + self.config.sigma * state.directions
        return self.policy.mean(params.flatten(0, 1), step.obs[:, None])[:, 0], state

    def adapt(self, state: State, rollout: Rollout) -> State:
        score = rollout.first_episode_return().float().reshape(state.directions.shape[:2])
        score = score - mean_of_finished(score)[:, None]
        score = score.nan_to_num()  # a direction that diverged counts as the mean of the others
        score = score / (score.std(1, correction=0, keepdim=True) + 1e-8)
        gradient = (score[..., None] * state.directions).mean(1) / self.config.sigma
        params = state.params + self.config.inner_lr * gradient
        return self._state(params, state.directions.shape[1], state.rounds + 1)

    def collect(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> dict[str, Tensor]:
        each, size = worlds.num_worlds // len(tasks), len(self.theta)
        worlds.set_tasks(tasks, each)
        p = key.fold("p").normal(len(tasks), 1, 1, size, tasks.first)[0].to(self.device)
        out = {"p": p, "diverged": torch.zeros(len(tasks), device=self.device)}
        for name, sign in (("plus", 1.0), ("minus", -1.0)):
            state = self._state(self.theta + sign * self.config.sigma * p, each, 0)
            for phase in ("before", "after"):
                worlds.seed(key.fold(phase))
                worlds.reset()
                explore, steps = phase == "before", self.spec.horizon
                rollout, _ = collect(worlds, self, state, steps, key, explore=explore)
                out[f"{name} {phase}"] = rollout.return_by_task().float()
                out["diverged"] += rollout.per_task(rollout.diverged).sum((1, 2))
                state = self.adapt(state, rollout) if explore else state
        return out

    def update(self, shards: Sequence[dict[str, Tensor]], key: Key) -> dict[str, float]:
        data = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
        tasks = self.sum_tasks(torch.ones_like(data["plus after"]))
        difference = (data["plus after"] - data["minus after"]).nan_to_num()
        scale = (self.sum_tasks(difference.square()) / tasks).sqrt() + 1e-8
        step = self.sum_tasks((difference / scale)[:, None] * data["p"]) / tasks
        self.theta = self.theta + self.config.lr * step
        names = {"return_before": "plus before", "return_after": "plus after"}
        metrics = {k: mean_over_tasks(data[v], self.sum_tasks) for k, v in names.items()}
        return metrics | {"diverged": float(self.sum_tasks(data["diverged"]))}

    def state_dict(self) -> dict[str, Tensor]:
        return {"theta": self.theta}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        load_tensors({"theta": self.theta}, tensors, self.name)
