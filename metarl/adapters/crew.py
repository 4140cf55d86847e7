"""The worker's half of `metarl.adapters.foreign`: several gymnasium environments in one process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, flatten

from metarl.errors import UserError
from metarl.keys import Key, WorldDraws

if TYPE_CHECKING:
    from metarl.adapters.foreign import GymnasiumFamily

FLAGS = ("terminated", "truncated", "diverged")


class Crew(gymnasium.Env[Any, np.ndarray]):
    """Several environments of one process, as one environment for AsyncVectorEnv to run.

    It takes its orders (tasks, seeds, which worlds begin) from the attribute `orders` at a reset,
    begins the next episode of a world at once, and never ends itself.
    """

    def __init__(self, family: GymnasiumFamily, active: int, size: int) -> None:
        """Prepare for `active` environments, in arrays for `size`; they are made when needed."""
        self.family = family
        shape = (size, *family.observation_space.shape)
        wide = functools.partial(Box, -np.inf, np.inf)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "obs": wide(shape, np.float64),
            "next_obs": wide(shape, np.float64),
            "reward": wide((size,), np.float64),
            **{flag: Box(0, 1, (size,), np.int8) for flag in FLAGS},
        }
        self.observation_space = Dict(spaces)
        self.action_space = wide((size, *family.action_space.shape), np.float64)
        self.orders: dict[str, Any] = {}
        self._active = active
        self._envs: list[gymnasium.Env] = []
        self._episode = np.zeros(active, np.int64)
        self._steps = np.zeros(active, np.int64)
        self._out = {name: np.zeros(s.shape or (), s.dtype) for name, s in spaces.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Follow the orders."""
        return self._out, self._guarded(self._obey)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step every environment with its row of the actions."""
        infos = self._guarded(lambda: [self._step(k, action[k]) for k in range(self._active)])
        return self._out, 0.0, False, False, infos

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _guarded(self, work: Callable[[], object]) -> dict[str, Any]:
        """Do the work; what it raises becomes a line for the parent."""
        try:
            with self.family.blamed("its environment"):
                work()
        except UserError as error:
            return {"error": str(error)}
        return {"error": ""}

    def _obey(self) -> None:
        if not self._envs:
            torch.set_num_threads(1)  # this process is one of many
            self._envs = [self.family.make() for _ in range(self._active)]
        if self.orders["fresh"]:
            self._episode[:] = 0
        for k, (_, _, _, begins) in enumerate(self.orders["worlds"]):
            if begins:
                self._begin(k)

    def _begin(self, k: int) -> None:
        task, m, e, _ = self.orders["worlds"][k]
        place = (np.array([n]) for n in (m, e, self._episode[k]))
        seed = int(WorldDraws(Key(*self.orders["key"]), *place).uniform(0, 2**31, 1))
        obs = self._flat(self.family.begin(self._envs[k], dict(task), seed))
        if not np.isfinite(obs).all():
            raise UserError(
                f"family '{self.family.name}': the observation is not finite at the start of an "
                f"episode of task {task}"
            )
        self._out["obs"][k] = obs
        self._episode[k] += 1
        self._steps[k] = 0

    def _step(self, k: int, action: np.ndarray) -> None:
        out, sane = self._out, bool(np.isfinite(action).all())
        action = np.where(sane, action, 0.0).astype(self.family.action_space.dtype)
        obs, reward, terminated, truncated, _ = self._envs[k].step(action)
        obs, reward = self._flat(obs), float(reward)
        self._steps[k] += 1
        diverged = not (sane and np.isfinite(reward) and np.isfinite(obs).all())
        terminated = bool(terminated) and not diverged
        cut = bool(truncated) or self._steps[k] >= self.family.horizon
        out["next_obs"][k] = out["obs"][k] if diverged else obs
        out["reward"][k] = 0.0 if diverged else reward
        out["diverged"][k], out["terminated"][k] = diverged, terminated
        out["truncated"][k] = cut and not (terminated or diverged)
        out["obs"][k] = obs
        if cut or terminated or diverged:
            self._begin(k)

    def _flat(self, obs: Any) -> np.ndarray:
        space = self._envs[0].observation_space
        flat = np.asarray(flatten(space, obs), np.float64)
        if flat.shape != self.family.observation_space.shape:
            raise UserError(
                f"family '{self.family.name}': an observation has {flat.size} numbers, and its "
                f"space {self.family.observation_space.shape[0]}"
            )
        return flat
