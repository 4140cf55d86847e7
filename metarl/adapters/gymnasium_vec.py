"""B worlds of a task family as a gymnasium VectorEnv; `metarl.adapters.sb3` adapts it to SB3."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.adapters.gymnasium_env import (
    action_tensor,
    family_for_view,
    name_for_copies,
    refuse_unreset,
    reset_options,
    spaces_of,
    worlds_for_view,
)
from metarl.adapters.offscreen_renderer import OffscreenRenderer
from metarl.adapters.task_sampler import Task, TaskSampler, task_options
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.worlds.vector import Transition


def _autoreset_mode(name: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(name)
    except ValueError:
        modes = ", ".join(mode.value for mode in AutoresetMode)
        raise UserError(f"autoreset_mode is one of {modes}, not {name!r}") from None


OWN = ("task", "autoreset_mode", "max_episode_steps", "threads", "simulator")
"""Keywords of `GymVectorEnv` beside those of `TaskOptions`."""


class GymVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B worlds as a gymnasium VectorEnv: they step together, on threads, in one process."""

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    _renderer: OffscreenRenderer | None = None  # gymnasium closes what could not be made, too

    def __init__(
        self,
        family: TaskFamily | str,
        num_envs: int = 1,
        task: Task = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        threads: int | None = None,
        simulator: str = "mujoco",
        **options: Any,
    ) -> None:
        """Make the worlds.

        Args:
            family: a family, its name, or ``file.py:Class``.
            num_envs: B.
            task: the task of all episodes, shared or one for each world; None draws tasks.
            autoreset_mode: gymnasium's: SAME_STEP, NEXT_STEP, or DISABLED.
            max_episode_steps: instead of the family's horizon.
            threads: physics threads; None takes the process's setting.
            simulator: mujoco, or warp, which is on a GPU if there is one.
            options: fields of `TaskOptions`.
        """
        self.family = family_for_view(family, max_episode_steps)
        self.mode = _autoreset_mode(autoreset_mode)
        self._arguments = {
            "num_envs": num_envs, "task": task, "autoreset_mode": self.mode,
            "max_episode_steps": max_episode_steps, "threads": threads, "simulator": simulator,
            **options,
        }  # fmt: skip
        self.options = task_options(options, OWN)
        self.worlds = worlds_for_view(self.family, self.family, num_envs, threads, simulator)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces_of(self.worlds)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {
            **self.metadata, "autoreset_mode": self.mode, "render_fps": round(1 / self.family.dt)
        }  # fmt: skip
        self.render_mode = self.options.render_mode
        self._sampler = TaskSampler(self.family, self.options)
        self._seeded = False
        self._ended = torch.zeros(num_envs, dtype=torch.bool)
        self._episodes = np.zeros(num_envs, np.int64)
        self._drawn = np.ones(num_envs, bool)
        self._pinned = np.zeros((num_envs, len(self._sampler.distribution.names)))
        self.worlds.set_tasks(self._sampler.from_values({}, num_envs), 1)
        self.set_task(task)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a new environment of the same arguments, to be reset first."""
        make = functools.partial(type(self), name_for_copies(self.family), **self._arguments)
        return make, (), {"spec": self.spec}

    @property
    def task(self) -> dict[str, np.ndarray]:
        """The current tasks: parameter -> (B,)."""
        tasks = self.worlds.tasks
        return {name: tasks.values[:, i].copy() for i, name in enumerate(tasks.names)}

    def set_task(self, task: Task, ids: np.ndarray | None = None) -> None:
        """Run this task, shared or one for each world, from each world's next episode on.

        Args:
            task: values of some parameters, numbers or (n,); None draws tasks again.
            ids: (n,) the worlds, None for all.
        """
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids)
        if task is not None:
            made = self._sampler.from_values(task, len(ids))
            self.worlds.try_tasks(made)
            self._pinned[ids] = made.values
        self._drawn[ids] = task is None
        self._episodes[ids] = 0

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: of the tasks and of the initial states of all worlds; a list is as good as one.
            options: ``{"task": …}`` calls `set_task` first; ``{"reset_mask": (B,) bool}`` begins
                episodes in some worlds and leaves the others as they are.
        """
        options = reset_options(options, ("task", "reset_mask"), self._sampler.distribution.names)
        if isinstance(seed, list):
            seed = Key("seeds", *map(int, seed)).seed()
        super().reset(seed=seed)
        mask = options.get("reset_mask", np.ones(self.num_envs, bool))
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or not mask.any():
            raise UserError(f"reset_mask must be ({self.num_envs},) bool with a True in it")
        if seed is not None or not self._seeded:
            self.worlds.seed(Key("gymnasium", int(self.np_random.integers(2**62))))
            self._sampler.restart()
            self._seeded = True
            self._episodes[:] = 0
        if "task" in options:
            self.set_task(options["task"])
        obs = self._begin(torch.from_numpy(mask.astype(bool)), None)
        return obs.numpy(), self._task_info(mask.astype(bool))

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step in every world; what happens at an episode's end is `autoreset_mode`'s."""
        refuse_unreset(self._seeded)
        got = self._fetched(self.worlds.step(self._there(action_tensor(actions))))
        over = self.worlds.current.first.cpu()
        again_due = self.mode is AutoresetMode.NEXT_STEP and self._ended.any()
        if not (again_due or over.any()):  # as in most steps
            self._ended = over
            terminated, truncated, diverged, known = np.zeros((4, self.num_envs), bool)
            known[:] = True
            infos = {"diverged": diverged, "_diverged": known}
            return got.next_obs.clone().numpy(), got.reward.numpy(), terminated, truncated, infos
        reward, terminated = got.reward, got.terminated.clone()  # a user may write to these
        truncated, diverged = got.truncated | got.diverged, got.diverged.clone()
        obs, infos = got.next_obs.clone(), {}
        if again_due:
            again = self._ended  # these ended before: whatever the step did there, they begin anew
            obs[again] = self._begin(again, None)[again]
            infos = self._task_info(again.numpy())
            reward = torch.where(again, 0.0, reward)
            terminated, truncated, diverged, over = (
                flags & ~again for flags in (terminated, truncated, diverged, over)
            )
        elif self.mode is AutoresetMode.SAME_STEP:
            infos = _final(got.next_obs.numpy(), diverged.numpy(), over.numpy())
            obs = self._begin(over, got.obs)
            infos |= self._task_info(over.numpy())
        self._ended = over
        infos |= {"diverged": diverged.numpy(), "_diverged": np.ones(self.num_envs, bool)}
        return obs.numpy(), reward.numpy(), terminated.numpy(), truncated.numpy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a picture of every world, (height, width, 3) uint8."""
        if self.render_mode is None:
            return None
        return tuple(self.frame(i) for i in range(self.num_envs))

    def frame(self, world: int) -> np.ndarray:
        """Return a picture of one world, whatever the render mode."""
        if self._renderer is None:
            self._renderer = OffscreenRenderer(self.worlds, self.options.width, self.options.height)
        return self._renderer.frame(world)

    def close_extras(self) -> None:
        """Free what rendering holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _begin(self, which: Tensor, begun: Tensor | None) -> Tensor:
        """Begin episodes in the worlds `which`, (B,) bool, with a new task where one is due.

        Args:
            which: at least one world.
            begun: (B, O) what the worlds observe if they have begun the episodes already.
        """
        ids = which.numpy().nonzero()[0]
        due = ids[self._episodes[ids] % self.options.episodes_per_task == 0]
        drawn, pinned = due[self._drawn[due]], due[~self._drawn[due]]
        values = self.worlds.tasks.values.copy()
        if len(drawn):
            values[drawn] = self._sampler.next(len(drawn), self.np_random).values
        values[pinned] = self._pinned[pinned]
        changed = due[(values[due] != self.worlds.tasks.values[due]).any(1)]
        self._episodes[ids] += 1
        self._ended = self._ended & ~which
        if len(changed):
            tasks = Tasks(self.family.name, self.worlds.tasks.names, values[changed])
            self.worlds.change_tasks(self._there(torch.from_numpy(changed)), tasks)
        if begun is None:
            return self.worlds.reset(self._there(which)).cpu()
        if not len(changed):
            return begun
        return self.worlds.reset(self._there(torch.from_numpy(changed))).cpu()

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.worlds.device)

    def _fetched(self, got: Transition) -> Transition:
        """Return a transition on the host, once the worlds have said what is wrong with it."""
        if self.worlds.device.type == "cpu" and not self.worlds.simulator.on_device:
            return got
        self.worlds.settle()
        return Transition(*(part.cpu() for part in got))

    def _task_info(self, which: np.ndarray) -> dict[str, Any]:
        """The tasks of the worlds that began an episode, as gymnasium lays out nested infos."""
        values = {key: array for name, value in self.task.items()
                  for key, array in ((name, value), (f"_{name}", which))}  # fmt: skip
        return {"task": values, "_task": which}


def _final(obs: np.ndarray, diverged: np.ndarray, over: np.ndarray) -> dict[str, Any]:
    """What gymnasium's same-step mode says of the episodes that are over."""
    last = np.full(len(over), None, dtype=object)
    for i in over.nonzero()[0]:
        last[i] = obs[i]
    return {
        "final_obs": last,
        "_final_obs": over,
        "final_info": {"diverged": diverged & over, "_diverged": over},
        "_final_info": over,
    }
