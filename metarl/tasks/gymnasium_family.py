"""A third-party gymnasium environment as a task family.

A subclass says which parameters the tasks have and how an environment is given its task.
`meta_train` and `evaluate` take the family like any other. Its worlds run in worker processes,
many times slower than `TaskWorlds`: see `metarl.worlds.gymnasium_worlds`.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np

import metarl
from metarl.base.errors import STOPS, UserError
from metarl.tasks.distribution import Param, Tasks
from metarl.tasks.family import TaskFamily, class_name
from metarl.tasks.gymnasium_setters import call_setter, is_whole, sampled_tasks
from metarl.tasks.gymnasium_spaces import FlatAction, FlatObservation


class GymnasiumFamily(TaskFamily):
    """A gymnasium environment whose task can be set.

    Subclass it, set `env` and `params`, and write `set_task` unless the environment has a
    ``set_task`` or ``reset_task`` of its own. An episode begins with ``set_task``, then
    ``reset(seed=seed)``; with `task_after_reset`, the other way round.
    """

    env: ClassVar[Any] = ""
    """A gymnasium id, or a function (or class) that makes an environment without arguments."""
    horizon: ClassVar[int] = 0
    """Environment steps in one episode; 0 is the environment's own ``max_episode_steps``."""
    hide: ClassVar[tuple[str, ...]] = ()
    """Keys of a Dict observation that the agent does not see, such as ``("desired_goal",)``."""
    task_after_reset: bool = False
    """Whether the task is set after the reset, for environments that draw a task in `reset`. The
    observation is still that of the reset: where it depends on the task, write `begin`."""
    probe_steps: ClassVar[int] = 300
    """Steps in which each parameter must change something before worlds are made; 0: unchecked."""
    has_model: ClassVar[bool] = False
    render_mode: str | None = None
    """What environments are made with; `metarl render` makes them with rgb_array."""
    succeeded: float = float("nan")
    """What the info of the last step of this process said of success; NaN where it said nothing."""
    probed: bool = False
    """Whether worlds of this family have found that each parameter changes something."""

    def __init__(self) -> None:
        """Make an environment, to look at its spaces."""
        self.name = class_name(type(self))
        self._check_params()
        for param in self.params:
            if param.edits or param.size == "model":
                raise UserError(
                    f"family '{self.name}', parameter '{param.name}': an edit changes a MuJoCo "
                    "model, and this is a gymnasium environment: let set_task() use the value"
                )
        self._check_probe()
        with self.blamed("making it"):
            env = self.make()
        try:
            with self.blamed("reading its spaces"):
                hide = (self.hide,) if isinstance(self.hide, str) else tuple(self.hide)
                self.observation = FlatObservation(getattr(env, "observation_space", None), hide)
                self.action = FlatAction(getattr(env, "action_space", None))
                self._dt = float(getattr(env.unwrapped, "dt", 1.0))
                self._sampled_tasks = sampled_tasks(env, self.params)
            if self.horizon == 0:
                self.__dict__["horizon"] = self._own_horizon(env)
        finally:
            env.close()
        self._check()

    # --- what a family of this kind defines ----------------------------------------------------

    def set_task(self, env: gymnasium.Env, task: dict[str, Any]) -> None:
        """Set the task of one environment.

        The default calls the environment's own ``set_task(task)`` or ``reset_task(task)``. If that
        takes a number (``reset_task(idx)``), the family's only parameter is the number. A
        parameter ``idx`` without such a method numbers what ``sample_tasks(n)`` returns.

        Args:
            env: as `env` made it, wrappers included.
            task: parameter -> number, or a list of numbers. Whole-number `Choices` are ints.
        """
        call_setter(env, task, self.params, self._sampled_tasks)

    def begin(self, env: gymnasium.Env, task: dict[str, Any], seed: int) -> Any:
        """Begin an episode in one environment and return its observation, without the info.

        Write another if the task is an option of `reset`, say:
        ``return env.reset(seed=seed, options=task)[0]``.
        """
        if not self.task_after_reset:
            self.set_task(env, task)
        obs = self._reset(env, seed)
        if self.task_after_reset:
            self.set_task(env, task)
        return obs

    # --- inside --------------------------------------------------------------------------------

    @property
    def dt(self) -> float:  # type: ignore[override]
        """Seconds in one step if the environment says so in `dt`, else 1."""
        return self._dt

    def compile(self) -> mujoco.MjModel:
        """Refuse: there is no model of ours."""
        raise UserError(
            f"family '{self.name}' is a gymnasium environment, without a model to compile: it can "
            "be trained on, evaluated and checked, but not adapted to other interfaces"
        )

    def make(self) -> gymnasium.Env:
        """Return an environment."""
        options: dict[str, Any] = {"render_mode": self.render_mode} if self.render_mode else {}
        maker = type(self).env
        if not maker or not (isinstance(maker, str) or callable(maker)):
            raise UserError(
                "set `env` to a gymnasium id, or to a function or class that makes an environment, "
                f"not to {maker!r:.80}"
            )
        env = gymnasium.make(maker, **options) if isinstance(maker, str) else maker(**options)
        if not isinstance(env, gymnasium.Env):
            raise UserError(f"`env` made {type(env).__name__}, which is no gymnasium.Env")
        return env

    def task_dicts(self, tasks: Tasks) -> list[dict[str, Any]]:
        """Return each task as `set_task` takes it."""
        columns = {name: value.tolist() for name, value in self._by_param(tasks).items()}
        return [{n: v[m] for n, v in columns.items()} for m in range(len(tasks))]

    def _by_param(self, tasks: Tasks) -> dict[str, np.ndarray]:
        """The values of each parameter; whole-number choices are integers."""
        values = self.distribution.by_param(tasks.values)
        whole = {param.name for param in self.params if is_whole(param)}
        return {n: v.astype(np.int64) if n in whole else v for n, v in values.items()}

    def begin_flat(self, env: gymnasium.Env, task: dict[str, Any], seed: int) -> np.ndarray:
        """Begin an episode and return its observation, (O,) float64, finite."""
        obs = self.begin(env, task, seed)
        if isinstance(obs, tuple) and len(obs) == 2 and isinstance(obs[1], dict):
            raise UserError(
                "begin() returned (observation, info): return the observation alone, as in "
                "`return env.reset(seed=seed)[0]`"
            )
        flat = self.observation(obs)
        if not np.isfinite(flat).all():
            raise UserError(f"the observation is not finite at the start of an episode of {task}")
        return flat

    def step_flat(
        self, env: gymnasium.Env, taken: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool]:
        """Take one step with (A,) as `FlatAction.taken` returned it.

        Returns:
            The observation, (O,) float64; the reward; terminated; truncated.
        """
        got: Any = env.step(self.action.to_env(taken))
        if not (isinstance(got, tuple) and len(got) == 5):
            size = f"{len(got)} values" if isinstance(got, tuple) else type(got).__name__
            raise UserError(
                f"step() returned {size}: return observation, reward, terminated, truncated, info"
            )
        obs, reward, terminated, truncated, info = got
        said = info.get("success", info.get("is_success", np.nan))
        self.succeeded = float(said) if np.ndim(said) == 0 else np.nan
        if np.ndim(reward) != 0:
            raise UserError(
                f"its reward has shape {np.shape(reward)}: return a number, as in float(reward[0])"
            )
        return self.observation(obs), float(reward), bool(terminated), bool(truncated)

    def _reset(self, env: gymnasium.Env, seed: int) -> Any:
        advice = (
            "write `def reset(self, *, seed=None, options=None)`, call super().reset(seed=seed) in "
            "it, and return observation, info"
        )
        try:
            got: Any = env.reset(seed=seed)
        except TypeError as error:
            if "'seed'" not in str(error):
                raise
            raise UserError(f"its reset() takes no seed: {advice}") from error
        if not (isinstance(got, tuple) and len(got) == 2 and isinstance(got[1], dict)):
            raise UserError(f"its reset() returned {_kind(got)}, not (observation, info): {advice}")
        return got[0]

    @contextlib.contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Turn whatever the environment's code raises into one line."""
        try:
            yield
        except UserError as error:
            if f"family '{self.name}'" in str(error):
                raise
            raise UserError(f"family '{self.name}': {error}") from error
        except STOPS:
            raise
        except BaseException as error:
            hint = _DICTIONARY if isinstance(error, TypeError) and "'dict'" in str(error) else ""
            words = f"{what} failed: {_described(error)}{hint}"
            raise UserError(f"family '{self.name}': {words}") from error

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


def _kind(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"an array of shape {np.shape(value)}" if np.ndim(value) else type(value).__name__


def _described(error: BaseException) -> str:
    """Return an exception in one line: its type, its text, and the line of code that raised it."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(metarl.__file__).parent)
    theirs = [f for f in frames if not f.filename.startswith(ours)]
    written = [f for f in theirs if "site-packages" not in f.filename]
    frame = (written or ([] if text else theirs or frames) or [None])[-1]
    where = f" (line {frame.lineno} of {Path(frame.filename).name})" if frame else ""
    return ": ".join(filter(None, (type(error).__name__, text))) + where


_DICTIONARY = (
    "; if that is the task, which set_task() gets as a dictionary, write `def set_task(self, env, "
    "task)` in the family, or name the argument of the environment's set_task after the parameter"
)

_OPTIONAL = ("horizon", "hide", "task_after_reset", "probe_steps")
"""Attributes of a family that a function or class which makes environments may have."""


def maker_name(make: Callable[..., gymnasium.Env]) -> str:
    """Return the name of a function or class, or of the one in a functools.partial."""
    return getattr(getattr(make, "func", make), "__name__", "environment")


@functools.cache
def family_of(make: Callable[[], gymnasium.Env]) -> type[GymnasiumFamily]:
    """Return the family of a function or class that makes environments: its `params` say which.

    ``params`` is an attribute of the function or class, as is whatever else it sets of a family
    (``horizon``, if its environments have no time limit).
    """
    inner = getattr(make, "func", make)
    name = maker_name(make)
    given = {
        key: getattr(owner, key)
        for owner in (inner, make)
        for key in ("params", "name", *_OPTIONAL)
        if hasattr(owner, key)
    }
    params = given.pop("params", None)
    if not (isinstance(params, tuple) and params and all(isinstance(p, Param) for p in params)):
        raise UserError(
            f"'{name}' makes gymnasium environments, but says nothing of their tasks: set "
            f"{name}.params = (Param(…),), or write a class with metarl.adapters.GymnasiumFamily"
        )
    members = {
        "__module__": inner.__module__,
        "__doc__": inner.__doc__,
        "env": staticmethod(make),
        "params": params,
        **given,
        "name": str(given.get("name", name.replace("_", "-").lower())),
    }
    return type(name, (GymnasiumFamily,), members)
