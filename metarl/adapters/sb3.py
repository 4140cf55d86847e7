"""The view for stable-baselines3: ``PPO("MlpPolicy", SB3VecEnv("half-cheetah-vel", 16))``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from metarl.adapters.gymnasium_vec import GymVectorEnv
from metarl.adapters.task_sampler import Task
from metarl.base.errors import UserError
from metarl.tasks.family import TaskFamily


class SB3VecEnv(VecEnv):
    """B worlds as a VecEnv of stable-baselines3: they step together, on threads, in one process.

    The info of an episode's last step has ``terminal_observation`` and ``TimeLimit.truncated``. A
    world that diverged counts as truncated, so that its value is bootstrapped.
    """

    def __init__(
        self, family: TaskFamily | str, num_envs: int = 1, task: Task = None, **options: Any
    ) -> None:
        """Make the worlds; the arguments are those of `GymVectorEnv`, but for `autoreset_mode`."""
        if "autoreset_mode" in options:
            raise UserError("SB3VecEnv always begins the next episode in the same step")
        self.env = GymVectorEnv(
            family, num_envs, task, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)
        self.metadata["render_fps"] = self.env.metadata["render_fps"]

    def reset(self) -> np.ndarray:
        """Begin episodes, with the seeds and options set before."""
        for i, options in enumerate(self._options):
            if "task" in options:
                self.env.set_task(options["task"], np.array([i]))
        seeds = [seed for seed in self._seeds if seed is not None]
        obs, infos = self.env.reset(seed=seeds or None)
        self.reset_infos = self._task_infos(infos, {i: {} for i in range(self.num_envs)})
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (B, A)."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take one step in every world."""
        obs, rewards, terminated, truncated, got = self.env.step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in dones.nonzero()[0]:
            infos[i]["terminal_observation"] = got["final_obs"][i]
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["diverged"] = bool(got["diverged"][i])
        if dones.any():
            began = self._task_infos(got, {int(i): {} for i in dones.nonzero()[0]})
            for i in dones.nonzero()[0]:
                self.reset_infos[i] = began[int(i)]
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Free what rendering holds."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture of every world."""
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each world: its own task, or what all of them share."""
        if attr_name == "task":
            task = self.env.task
            return [{name: float(v[i]) for name, v in task.items()} for i in self._which(indices)]
        return [getattr(self.env, attr_name) for _ in self._which(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all worlds; `indices` must name them all, since they share it."""
        if len(self._which(indices)) < self.num_envs:
            raise UserError(f"the worlds share '{attr_name}': it is set for all of them, or none")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call ``set_task(task)`` of each world, or a method of the vector environment, once."""
        which = self._which(indices)
        if method_name == "set_task":
            for i in which:
                self.env.set_task(*method_args, ids=np.array([i]), **method_kwargs)
            return [None] * len(which)
        if method_name == "render":
            return [self.env.frame(i) for i in which]
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * len(which)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Say that no world is wrapped."""
        return [False for _ in self._which(indices)]

    def _which(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))

    def _task_infos(self, infos: dict[str, Any], into: dict[int, dict[str, Any]]) -> Any:
        """Give each world of `into` its task, from the infos of the vector environment."""
        names = [name for name in infos["task"] if not name.startswith("_")]
        for i, info in into.items():
            info["task"] = {name: float(infos["task"][name][i]) for name in names}
        return into if len(into) < self.num_envs else [into[i] for i in range(self.num_envs)]
