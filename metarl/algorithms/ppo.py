"""PPO over the task distribution (Schulman et al. 2017): one policy for all tasks, blind to them.

This is domain randomisation: the policy is trained on every task and adapts to none, so it is what
adapting has to beat. On a family with ``+told``, which observes the task, it is the oracle. With
``--history N`` it sees its last N steps, and can infer a little of the dynamics from them.

    max_θ  E[min(ρ A, clip(ρ, 1 ± ε) A)],    ρ = π_θ(a | s) / π_old(a | s)

over the transitions of all tasks of an iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.batched_ppo import Adam, BatchedPpo, PpoSettings
from metarl.modules.settings import CriticSettings
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class PpoConfig(CriticSettings, PpoSettings):
    """Settings of PPO."""


class State(NamedTuple):
    """What the policy has seen lately; no state at all with a history of 1."""

    window: Tensor
    """(B, history - 1, F)"""


class Ppo(Learner):
    """A memoryless policy for the whole task distribution."""

    name = "ppo"
    Config = PpoConfig
    config: PpoConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: PpoConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise policy, critic and optimiser."""
        super().__init__(spec, config, seed=seed, device=device)
        extra = spec.critic_extra if self.privileged else 0
        self.ppo = BatchedPpo(spec, config, self.device, critic_extra=extra)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)

    def begin(self, tasks: int, worlds: int) -> State:
        """Return empty windows."""
        return State(self.ppo.window(tasks * worlds))

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act on what is seen: the mean, plus noise times the std to explore."""
        action, window = self.ppo.act(self.params, step, state.window, noise if explore else None)
        return action, State(window)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state as it is: this policy does not adapt."""
        return state

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Let the policy explore for one horizon in every world."""
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        worlds.reset()
        state = self.begin(len(tasks), worlds.worlds_per_task)
        return collect(
            worlds, self, state, self.spec.horizon, key.fold("noise"), explore=True,
            privileged=self.privileged,
        )[0]  # fmt: skip

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the transitions of all shards."""
        self.params, self.adam, self.lr, metrics = self.ppo.learn(
            self.params, self.adam, self.lr, shards, key, self.ranks
        )
        return metrics

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the networks and the statistics that scale their input."""
        moments = self.ppo.state_dict().items()
        return {"params": self.params} | {n: t for n, t in moments if n.startswith("obs.")}

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimiser with its step size, and running statistics."""
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return {"params": self.params, "lr": self.lr, **adam, **self.ppo.state_dict()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
        self.ppo.refresh()
