"""One environment of another interpreter as a gymnasium.Env of this one."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.base.errors import UserError
from metarl.tasks.bridge.client import Worker, shared_worker
from metarl.tasks.bridge.known import described


def space_of(data: dict[str, Any]) -> gymnasium.Space[Any]:
    """Return the space that `worker.space_json` wrote."""
    kind = data["kind"]
    if kind == "Box":
        return spaces.Box(data["low"], data["high"], dtype=np.dtype(data["dtype"]).type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(data["nvec"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    inner = data["spaces"]
    if kind == "Dict":
        return spaces.Dict({key: space_of(space) for key, space in inner.items()})
    return spaces.Tuple([space_of(space) for space in inner])


class RemoteEnv(gymnasium.Env[Any, Any]):
    """An environment whose steps another interpreter takes; this process has one worker for all.

    `set_task` sets its task; ``call(method, *args)`` and ``set_attributes(name=value)`` reach the
    outermost of its wrappers that has what is named, or the environment.
    """

    def __init__(
        self, python: str, suite: str, name: str, seed: int = 0, render_mode: str | None = None
    ) -> None:
        """Make it.

        Args:
            python: the interpreter.
            suite: a suite of the worker.
            name: of a benchmark, or the id of an environment.
            seed: of the benchmark's tasks.
            render_mode: of the environment.
        """
        found = described(python, suite, name, seed)
        self.observation_space = space_of(found["observation"])
        self.action_space = space_of(found["action"])
        self.dt = float(found["dt"])
        self.horizon = found["horizon"]
        self.render_mode = render_mode
        self._asked = {"name": name, "render_mode": render_mode}
        self._where = python, suite
        self._worker: Worker | None = None
        self._env = -1

    def set_task(self, task: Any) -> None:
        """Set the task of the episodes to come."""
        self._ask("task", task=task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        got = self._ask("reset", seed=seed, options=options)
        return self._fit(self.observation_space, got["obs"]), got["info"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        got = self._ask("step", action=action)
        obs = self._fit(self.observation_space, got["obs"])
        return obs, got["reward"], got["terminated"], got["truncated"], got["info"]

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the environment, or of the outermost wrapper that has it."""
        return self._ask("call", method=method, args=list(args))["value"]

    def set_attributes(self, **values: Any) -> None:
        """Set attributes that the environment or a wrapper has: the outermost one's."""
        self._ask("set", values=values)

    def render(self) -> Any:
        """Return what it draws."""
        return self._ask("render")["value"]

    def close(self) -> None:
        """Close it; its worker ends with this process."""
        if self._worker is not None and self._worker.alive:
            with contextlib.suppress(UserError):
                self._worker.ask("close", env=self._env)
        self._worker = None

    def _ask(self, op: str, **request: Any) -> dict[str, Any]:
        if self._worker is None:
            self._worker = shared_worker(*self._where)
            self._env = self._worker.ask("make", **self._asked)["env"]
        return self._worker.ask(op, env=self._env, **request)

    def _fit(self, space: Any, value: Any) -> Any:
        """A tuple crossed as a list."""
        if isinstance(space, spaces.Tuple):
            return tuple(map(self._fit, space.spaces, value))
        if isinstance(space, spaces.Dict):
            return {key: self._fit(inner, value[key]) for key, inner in space.spaces.items()}
        return value
