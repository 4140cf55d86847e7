"""One world of a task family as a gymnasium.Env, and what the two gymnasium views share.

The views show one agent what other libraries expect: numpy in and out, one stream of episodes, and
a new task when an episode begins. ``gymnasium.make("metarl/HalfCheetahVel-v0")`` makes a `GymEnv`,
``gymnasium.make_vec`` makes a `GymVectorEnv`.

A world whose physics diverged ends its episode as truncated, is paid 0 for that step and says
``diverged`` in its info. The current task is in the info of a reset, not in the observation.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from metarl.adapters.offscreen_renderer import OffscreenRenderer
from metarl.adapters.task_sampler import Task, TaskSampler, task_options
from metarl.base.errors import UserError, check_kinds
from metarl.base.keys import Key
from metarl.base.plugins import reference
from metarl.simulation.backend import Backend
from metarl.simulation.warp.choice import NATIVE, Physics
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily, replace_attributes, without_termination
from metarl.tasks.registry import family_class, find_family
from metarl.worlds.factory import backend_of
from metarl.worlds.on_device.worlds import DeviceWorlds
from metarl.worlds.task_worlds import TaskWorlds


def family_for_view(family: TaskFamily | str, max_episode_steps: int | None) -> TaskFamily:
    """Return a family, or the family of a name, with episodes of so many steps.

    Args:
        family: a family, its name, or ``file.py:Class``.
        max_episode_steps: None keeps the family's own horizon.
    """
    found = find_family(family) if isinstance(family, str) else family
    check_kinds(family=(found, TaskFamily))
    if max_episode_steps is None:
        return found
    if not (isinstance(max_episode_steps, int) and max_episode_steps > 0):
        raise UserError(f"max_episode_steps must be at least 1, not {max_episode_steps!r}")
    return replace_attributes(found, horizon=max_episode_steps)


def worlds_for_view(
    family: TaskFamily, shown: TaskFamily, num_envs: int, threads: int | None, simulator: str
) -> TaskWorlds:
    """Return the worlds of a view.

    Args:
        family: what MuJoCo Warp's room is measured for.
        shown: the same, or one with other attributes: what the worlds run.
        num_envs: B.
        threads: physics threads.
        simulator: mujoco or warp; warp is on a GPU if there is one.

    Raises:
        UserError: the simulator is none, is not installed, or does not run the family.
    """
    physics = Physics(simulator).require()
    if physics == NATIVE:
        return TaskWorlds(shown, num_envs, threads)
    return DeviceWorlds(shown, num_envs, threads, backend=backend_of(family, physics))


def name_for_copies(family: TaskFamily) -> str:
    """Return the name that `find_family` finds a family by: a copy of a view is made from it.

    Raises:
        UserError: the family's class was written in Python and has no such name.
    """
    name = reference(family)
    with contextlib.suppress(UserError):
        if family_class(name) is type(family):
            return name
    raise UserError(
        f"an environment of family '{family.name}' can be neither copied nor pickled, since its "
        "class is neither registered nor named as file.py:Class: make the environment again"
    )


def refuse_unreset(was_reset: bool) -> None:
    """Raise UserError for a step of a view that was never reset, such as a copy."""
    if not was_reset:
        raise UserError("call reset() before step(): a new environment, or a copy, has no episode")


def spaces_of(worlds: TaskWorlds) -> tuple[Box, Box]:
    """The observation and the action space of one world."""
    spec = worlds.spec
    return (
        Box(-np.inf, np.inf, (spec.observation_size,), np.float32),
        Box(-1.0, 1.0, (spec.action_size,), np.float32),
    )


class GymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One world as a gymnasium.Env."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        family: TaskFamily | str,
        task: Task = None,
        *,
        max_episode_steps: int | None = None,
        simulator: str = "mujoco",
        **options: Any,
    ) -> None:
        """Make the world.

        Args:
            family: a family, its name, or ``file.py:Class``.
            task: the one task of all episodes; None draws tasks.
            max_episode_steps: instead of the family's horizon.
            simulator: mujoco, or warp, which is on a GPU if there is one.
            options: fields of `TaskOptions`.
        """
        self.family = family_for_view(family, max_episode_steps)
        self.horizon = self.family.horizon
        self._arguments = {"task": task, "simulator": simulator, **options}
        self.options = task_options(options, ("task", "max_episode_steps", "simulator"))
        # The worlds would begin the next episode at once; here the last step is to be looked at.
        free = without_termination(self.family)
        free = replace_attributes(free, terminated=self._note_failure)
        self.worlds = worlds_for_view(self.family, free, 1, 1, simulator)
        self.observation_space, self.action_space = spaces_of(self.worlds)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.family.dt)}
        self.render_mode = self.options.render_mode
        self._sampler = TaskSampler(self.family, self.options)
        self._renderer: OffscreenRenderer | None = None
        self._steps = self._episodes = 0
        self._seeded = False
        self._pinned: Tasks | None = None
        self.set_task(task)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a new environment of the same arguments, to be reset first."""
        make = functools.partial(
            type(self), name_for_copies(self.family), max_episode_steps=self.family.horizon,
            **self._arguments,
        )  # fmt: skip
        return make, (), {"spec": self.spec}

    @property
    def task(self) -> dict[str, float]:
        """The current task: parameter -> value."""
        return _named(self.worlds.tasks)

    def set_task(self, task: Task) -> None:
        """Run this task from the next reset on: some parameters' values. None draws tasks again."""
        pinned = None if task is None else self._sampler.from_values(task, 1)
        if pinned is not None:
            self.worlds.try_tasks(pinned)
        self._pinned, self._episodes = pinned, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of the tasks and of the initial states; begins the frozen tasks anew.
            options: ``{"task": …}`` calls `set_task` first.
        """
        super().reset(seed=seed)
        options = reset_options(options, ("task",), self._sampler.distribution.names)
        if seed is not None or not self._seeded:
            self.worlds.seed(Key("gymnasium", int(self.np_random.integers(2**62))))
            self._sampler.restart()
            self._seeded, self._episodes = True, 0
        if "task" in options:
            self.set_task(options["task"])
        if self._episodes % self.options.episodes_per_task == 0:
            tasks = self._pinned or self._sampler.next(1, self.np_random)
            self.worlds.set_tasks(tasks, 1)
        self._episodes, self._steps = self._episodes + 1, 0
        if self.spec is not None:
            self.horizon = _steps_of_time_limit(self) or self.family.horizon
        return self.worlds.reset()[0].cpu().numpy(), {"task": self.task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step. Actions are clipped to [-1, 1]."""
        refuse_unreset(self._seeded)
        got = self.worlds.step(action_tensor(action)[None].to(self.worlds.device))
        self.worlds.settle()
        self._steps += 1
        diverged = bool(got.diverged[0])
        terminated = not diverged and bool(self._failed[0])
        truncated = diverged or (not terminated and self._steps >= self.horizon)
        info = {"diverged": diverged}
        return got.next_obs[0].cpu().numpy(), float(got.reward[0]), terminated, truncated, info

    def _note_failure(self, sim: Backend) -> Tensor:
        """Ask the family before it remembers the step, and let the world go on."""
        self._failed = self.family.terminated(sim)
        return torch.zeros_like(self._failed)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return a picture, (height, width, 3) uint8; None without render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = OffscreenRenderer(self.worlds, self.options.width, self.options.height)
        return self._renderer.frame()

    def close(self) -> None:
        """Free what rendering holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _steps_of_time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Return the steps of the TimeLimit whose reset is calling that of `env`, or None.

    ``gymnasium.make(…, max_episode_steps=…)`` tells its wrapper alone, and an environment knows
    nothing of the wrappers around it. One that ends before the wrapper does would ignore the user.
    """
    frame = inspect.currentframe()
    while frame is not None:
        wrapper = frame.f_locals.get("self")
        if isinstance(wrapper, TimeLimit) and wrapper.unwrapped is env:
            return wrapper._max_episode_steps
        frame = frame.f_back
    return None


def reset_options(
    options: dict[str, Any] | None, known: tuple[str, ...], params: tuple[str, ...]
) -> dict[str, Any]:
    """Return the options of a reset that are ours; those of other wrappers are left alone.

    Raises UserError for one of the family's `params`, which belongs into the option task.
    """
    for name in options or ():
        if name in params:
            raise UserError(
                f"'{name}' is no option of a reset but of the task: "
                f"options={{'task': {{'{name}': …}}}}"
            )
    return {name: value for name, value in (options or {}).items() if name in known}


def _named(tasks: Tasks) -> dict[str, float]:
    return dict(zip(tasks.names, tasks.values[0].tolist(), strict=True))


def action_tensor(action: Any) -> Tensor:
    """Return an action, or the actions of several worlds, as float32."""
    return torch.from_numpy(np.asarray(action, np.float32))
