"""A stranger's gymnasium environment as a task family: slower, and it says so.

Whatever has a `set_task` of any sort becomes a family with a class that says which parameters its
tasks have and how to set them. `meta_train` and `evaluate` then take it like any other. Its worlds
run in processes of gymnasium's AsyncVectorEnv, several worlds in each, which is many times slower
than `TaskWorlds`. What a world does depends on the environment's own random numbers; it is
seeded at each reset, from the same keys as the initial states of TaskWorlds.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box, flatten_space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from torch import Tensor

from metarl.adapters.crew import FLAGS, Crew
from metarl.errors import UserError, one_line
from metarl.family import TaskFamily, class_name
from metarl.keys import Key
from metarl.tasks import Param, TaskDistribution, Tasks
from metarl.threads import physics_threads
from metarl.worlds import Spec, Step, TaskWorlds, Transition


class GymnasiumFamily(TaskFamily):
    """A gymnasium environment whose task can be set.

    Subclass it, set `env` and `params`, and write `set_task` unless the environment's own takes
    {parameter: value}. Actions in [-1, 1] map linearly onto the bounds of its action space, and
    its observation is flattened.
    """

    env: ClassVar[Any] = ""
    """A gymnasium id, or a function (or class) that makes an environment without arguments."""
    horizon: ClassVar[int] = 0
    """Environment steps in one episode; 0 is the environment's own ``max_episode_steps``."""
    has_model: ClassVar[bool] = False

    def __init__(self) -> None:
        """Make an environment, to look at its spaces."""
        self.name = class_name(type(self))
        self._check_params()
        with self.blamed("making it"):
            env = self.make()
        try:
            self.observation_space = self._observation(env)
            self.action_space = self._action(env)
            self._dt = float(getattr(env.unwrapped, "dt", 1.0))
            if self.horizon == 0:
                self.__dict__["horizon"] = self._own_horizon(env)
        finally:
            env.close()
        for param in self.params:
            if param.edits or param.size == "model":
                raise UserError(
                    f"family '{self.name}', parameter '{param.name}': an edit changes a MuJoCo "
                    "model, and this is a gymnasium environment: let set_task() use the value"
                )
        self._check()

    # --- what a family of this kind defines ----------------------------------------------------

    def set_task(self, env: gymnasium.Env, task: dict[str, Any]) -> None:
        """Set the task of one environment; the default calls its own ``set_task(task)``.

        Args:
            env: as `env` made it, wrappers included.
            task: parameter -> number, or a list of numbers.
        """
        env.get_wrapper_attr("set_task")(task)

    def begin(self, env: gymnasium.Env, task: dict[str, Any], seed: int) -> Any:
        """Begin an episode in one environment and return its observation.

        The default sets the task, then resets. Write another if the task is an option of reset, or
        has to be set after it.
        """
        self.set_task(env, task)
        return env.reset(seed=seed)[0]

    # --- inside --------------------------------------------------------------------------------

    @property
    def dt(self) -> float:  # type: ignore[override]
        """Seconds in one step if the environment says so in `dt`, else 1."""
        return self._dt

    def compile(self) -> mujoco.MjModel:
        """Refuse: there is no model of ours."""
        raise UserError(
            f"family '{self.name}' is a gymnasium environment, without a model to compile: it can "
            "be trained on and evaluated, but not checked, rendered or adapted to other interfaces"
        )

    def worlds(self, num_worlds: int, threads: int | None = None) -> TaskWorlds:
        """Return worlds that step in processes."""
        return GymnasiumWorlds(self, num_worlds, threads)

    def make(self) -> gymnasium.Env:
        """Return an environment."""
        if isinstance(self.env, str):
            return gymnasium.make(self.env)
        return type(self).env()

    @contextlib.contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Turn whatever a stranger's code raises into one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            text = one_line(error, self)
            raise UserError(f"family '{self.name}': {what} failed: {text}") from error

    def _observation(self, env: gymnasium.Env) -> Box:
        space = getattr(env, "observation_space", None)
        if isinstance(space, gymnasium.Space) and space.is_np_flattenable:
            flat = flatten_space(space)
            if isinstance(flat, Box):
                return flat
        raise UserError(f"family '{self.name}': its observations cannot be flattened: {space}")

    def _action(self, env: gymnasium.Env) -> Box:
        space = getattr(env, "action_space", None)
        if isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded():
            return space
        raise UserError(
            f"family '{self.name}': its actions must be a bounded Box of one axis, not {space}"
        )

    def _own_horizon(self, env: gymnasium.Env) -> int:
        with contextlib.suppress(AttributeError):
            return int(env.get_wrapper_attr("_max_episode_steps"))  # of gymnasium's TimeLimit
        steps = env.spec.max_episode_steps if env.spec else None
        if steps is None:
            raise UserError(
                f"family '{self.name}': set `horizon`, since the environment has no "
                "max_episode_steps"
            )
        return int(steps)


@functools.cache
def family_of(make: Callable[[], gymnasium.Env]) -> type[GymnasiumFamily]:
    """Return the family of a function or class that makes environments: its `params` say which.

    ``params`` (and ``horizon``, if its environments have no time limit) are attributes of the
    function or class.
    """
    name = getattr(make, "__name__", "environment")
    params = getattr(make, "params", None)
    if not (isinstance(params, tuple) and params and all(isinstance(p, Param) for p in params)):
        raise UserError(
            f"'{name}' makes gymnasium environments, but says nothing of their tasks: set "
            f"{name}.params = (Param(…),), or write a class with metarl.adapters.GymnasiumFamily"
        )
    members = {
        "__module__": make.__module__,
        "__doc__": make.__doc__,
        "name": str(getattr(make, "name", name.replace("_", "-").lower())),
        "env": staticmethod(make),
        "params": params,
        "horizon": getattr(make, "horizon", 0),
    }
    return type(name, (GymnasiumFamily,), members)


class GymnasiumWorlds(TaskWorlds):
    """B gymnasium environments behind the methods of TaskWorlds, in processes."""

    def __init__(
        self, family: GymnasiumFamily, num_worlds: int, threads: int | None = None
    ) -> None:
        """Start the processes.

        Args:
            family: whose environments.
            num_worlds: B, shared out evenly.
            threads: how many processes; None takes the process's setting of threads.
        """
        if num_worlds < 1:
            raise UserError(f"the number of worlds must be at least 1, not {num_worlds}")
        self.family, self.num_worlds = family, num_worlds
        self.crew_size = -(-num_worlds // min(threads or physics_threads(), num_worlds))
        starts = range(0, num_worlds, self.crew_size)
        crews = [
            functools.partial(Crew, family, min(self.crew_size, num_worlds - i), self.crew_size)
            for i in starts
        ]
        _say_slow(family.name)
        self._vector = AsyncVectorEnv(
            crews, context="fork" if sys.platform == "linux" else None,
            autoreset_mode=AutoresetMode.DISABLED,
        )  # fmt: skip
        self._closed = weakref.finalize(self, _close, self._vector)
        self.env_steps = 0
        self.spec = Spec(
            family.observation_space.shape[0], family.action_space.shape[0], family.horizon
        )
        self.seed(Key(0))
        self.set_tasks(TaskDistribution(family).nominal(), num_worlds)
        self.reset()

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew."""
        self._key, self._fresh = key, True

    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task. Call `reset` next."""
        if len(tasks) * worlds_per_task != self.num_worlds:
            raise UserError(
                f"{len(tasks)} tasks x {worlds_per_task} worlds do not fill {self.num_worlds}"
            )
        self.check_tasks(tasks)
        self.tasks, self.worlds_per_task = tasks, worlds_per_task
        columns: dict[str, Any] = {}
        at = 0
        for param in self.family.params:
            value = tasks.values[:, at : at + len(param.names)]
            at += len(param.names)
            columns[param.name] = (value[:, 0] if len(param.names) == 1 else value).tolist()
        self._task_dicts = [{n: v[m] for n, v in columns.items()} for m in range(len(tasks))]

    def change_tasks(self, ids: Tensor, tasks: Tasks) -> None:
        """Refuse: the other interfaces are for MuJoCo families."""
        self.family.compile()

    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial in the worlds `ids`, (n,) int64 or a (B,) mask, or in all."""
        mask = torch.zeros(self.num_worlds, dtype=torch.bool)
        mask[slice(None) if ids is None else ids] = True
        size = self.crew_size
        orders = [
            {
                "key": self._key.words,
                "fresh": self._fresh,
                "worlds": [
                    (self._task_dicts[i // self.worlds_per_task], i // self.worlds_per_task,
                     i % self.worlds_per_task, bool(mask[i]))
                    for i in range(at, min(at + size, self.num_worlds))
                ],
            }
            for at in range(0, self.num_worlds, size)
        ]  # fmt: skip
        self._fresh = False
        self._vector.set_attr("orders", orders)
        got, infos = self._vector.reset()
        self._raise(infos)
        obs = self._rows(got["obs"]).float()
        zeros = torch.zeros(self.num_worlds, self.spec.action_size)
        blank = Step(obs, zeros, torch.zeros(self.num_worlds), mask.clone())
        old = blank if ids is None else self.current
        self.current = Step(
            obs,
            torch.where(mask[:, None], 0.0, old.prev_action),
            torch.where(mask, 0.0, old.prev_reward),
            mask | old.first,
        )
        return obs

    def step(self, action: Tensor) -> Transition:
        """Advance every world by one step, and begin new episodes where one ended."""
        expected = (self.num_worlds, self.spec.action_size)
        if tuple(action.shape) != expected:
            raise UserError(f"action has shape {tuple(action.shape)}, expected {expected}")
        sane = torch.isfinite(action).all(1)
        clipped = torch.where(sane[:, None], action, 0.0).double().clamp(-1.0, 1.0)
        low, high = (
            torch.from_numpy(bound.astype(np.float64))
            for bound in (self.family.action_space.low, self.family.action_space.high)
        )
        sent = torch.where(sane[:, None], low + (clipped + 1) / 2 * (high - low), torch.nan)
        padded = np.zeros((len(self._vector.env_fns) * self.crew_size, expected[1]))
        padded[: self.num_worlds] = sent.numpy()
        actions = padded.reshape(-1, self.crew_size, expected[1])
        got, _, _, _, infos = self._vector.step(actions)
        self._raise(infos)
        self.env_steps += self.num_worlds
        terminated, truncated, diverged = (self._rows(got[flag]).bool() for flag in FLAGS)
        if diverged.all() and sane.all():
            raise UserError(
                f"family '{self.family.name}': reward or observation is not finite in any world"
            )
        obs, reward = self._rows(got["obs"]).float(), self._rows(got["reward"])
        clipped = torch.where(diverged[:, None], 0.0, clipped)
        done = terminated | truncated | diverged
        self.current = Step(obs, clipped.float(), reward.float(), done)
        next_obs = self._rows(got["next_obs"]).float()
        return Transition(obs, reward, terminated, truncated, next_obs, diverged)

    def close(self) -> None:
        """End the processes."""
        self._closed()

    def __getattr__(self, name: str) -> Any:
        if name == "simulator":
            self.family.compile()
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")

    def _rows(self, crews: np.ndarray) -> Tensor:
        """The (B, …) rows of what the crews gave, without those that fill up the last one."""
        rows = crews.reshape(-1, *crews.shape[2:])[: self.num_worlds]
        return torch.from_numpy(rows.copy())

    def _raise(self, infos: dict[str, Any]) -> None:
        """Raise what a crew met with, as one line."""
        for text in infos.get("error", ()):
            if text:
                raise UserError(str(text))


@functools.cache
def _say_slow(name: str) -> None:
    text = (
        f"family '{name}' is a gymnasium environment: it runs in processes of AsyncVectorEnv, many "
        "times slower than a family on TaskWorlds"
    )
    warnings.warn_explicit(text, UserWarning, "metarl", 1)  # one line, without ours of the source


def _close(vector: AsyncVectorEnv) -> None:
    with contextlib.suppress(Exception):
        vector.close(terminate=True)
