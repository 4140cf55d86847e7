"""TaskWorlds: B worlds of a family, each running its own task. Everything else adapts this.

Worlds are task-major: world i runs task ``i // worlds_per_task``. `step` resets worlds whose
episode ended, so `obs` is what to act on next, and `next_obs` is always the true successor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean, user_code
from metarl.base.keys import BatchedRNG, Key
from metarl.base.threads import check_defaults
from metarl.simulation.controls import control_range
from metarl.simulation.edits import NEVER_NEGATIVE, nominal_value
from metarl.simulation.simulator import Simulator, State
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family
from metarl.worlds.vector import Spec, Step, Transition, VecWorlds


class TaskValues(dict[str, Tensor]):
    """Parameter -> (B,) or (B, size), which knows what to say of another name."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.family = family

    def __missing__(self, name: str) -> Tensor:
        raise UserError(
            f"family '{self.family}' has no parameter '{name}'{did_you_mean(str(name), self)}; "
            f"it has {', '.join(self) or 'none'}"
        )


class TaskWorlds(VecWorlds):
    """B simulated robots of one family, each with a task of its own."""

    on_episode_end: Callable[[], object] = staticmethod(lambda: None)
    """Called where episodes ended, before the next begin: `simulator` has the last states then."""

    def __init__(
        self, family: TaskFamily | str, num_worlds: int, threads: int | None = None
    ) -> None:
        """Make the worlds, all of them running the nominal task.

        Args:
            family: a family or its name.
            num_worlds: B.
            threads: physics threads; None takes the process's setting.

        Raises:
            UserError: the family is unknown, or its methods return the wrong shapes.
        """
        check_defaults(float32=False)
        super().__init__(find_family(family) if isinstance(family, str) else family, num_worlds)
        self.simulator = Simulator(self.family.compile(), num_worlds, threads)
        try:
            self.simulator.snapshot(self.family.keep)
        except UserError as error:
            raise UserError(f"family '{self.family.name}', keep: {error}") from None
        self._rows = [[e.rows(self.family.compile()) for e in p.edits] for p in self.family.params]
        self._action_map()
        self._clock = 0
        """Steps taken, of all worlds at once."""
        self._began = torch.zeros(num_worlds, dtype=torch.int64)
        """The clock when each world's episode began."""
        self.seed(Key(0))
        self.set_tasks(self.family.distribution.nominal(), num_worlds)
        obs = self.reset()
        self.spec = Spec(obs.shape[1], self.simulator.ctrl.shape[1], self.family.horizon)

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew: the next reset of world i is its episode 0."""
        super().seed(key)
        self._episode = np.zeros(self.num_worlds, np.int64)

    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task: always from the nominal model. Call `reset` next.

        Args:
            tasks: M tasks of this family; a slice of a task set begins its episodes as the whole
                set does.
            worlds_per_task: E, with M * E equal to the number of worlds.
        """
        self._take_tasks(tasks, worlds_per_task)
        self._task_index = np.arange(self.num_worlds) // worlds_per_task
        self._world_index = np.arange(self.num_worlds) % worlds_per_task
        self.task, fields = self._values_and_fields(tasks.values[self._task_index])
        self.simulator.set_fields(fields)

    def change_tasks(self, ids: Tensor, tasks: Tasks) -> None:
        """Give some worlds another task, where every world has its own. Call `reset(ids)` next.

        Args:
            ids: (n,) int64, the worlds.
            tasks: n tasks of this family.
        """
        self.check_tasks(tasks)
        if self.worlds_per_task != 1 or len(tasks) != len(self._world_ids(ids)):
            raise UserError(
                f"{len(tasks)} tasks for {len(ids)} worlds, of {self.worlds_per_task} a task: "
                "each world that changes needs a task of its own"
            )
        values = self.tasks.values.copy()
        values[ids.numpy()] = tasks.values
        self.tasks = Tasks(self.tasks.family, self.tasks.names, values, first=self.tasks.first)
        changed, fields = self._values_and_fields(tasks.values)
        for name, value in changed.items():
            self.task[name][ids] = value
        self.simulator.set_fields(fields, ids)

    def try_tasks(self, tasks: Tasks) -> None:
        """Raise UserError for tasks that `set_tasks` would refuse, and change nothing."""
        self.check_tasks(tasks)
        self._values_and_fields(tasks.values)

    def why_diverged(self) -> str:
        """Return what ended most episodes that diverged since the tasks were set, and a task."""
        world, words = self.simulator.most_blamed()
        label = "" if world is None else self.tasks.label(int(self._task_index[world]))
        return f"in task {label}, {words}" if label else words

    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial in the worlds `ids`, (n,) int64 or a (B,) mask, or in all.

        Returns:
            (B, O) float32 observation of every world.
        """
        if ids is not None:
            ids = self._world_ids(ids)
        self._begin_episodes(ids)
        obs = self._observe_start()
        if ids is None:
            zeros = torch.zeros(self.num_worlds, self.simulator.ctrl.shape[1])
            first = torch.ones(self.num_worlds, dtype=torch.bool)
            self.current = Step(obs, zeros, torch.zeros(self.num_worlds), first)
            return obs
        _, prev_action, prev_reward, first = (part.clone() for part in self.current)
        prev_action[ids], prev_reward[ids], first[ids] = 0.0, 0.0, True
        self.current = Step(obs, prev_action, prev_reward, first)
        return obs

    def step(self, action: Tensor) -> Transition:
        """Advance every world by one environment step, and begin new episodes where one ended.

        Args:
            action: (B, A), clipped to [-1, 1]; not finite counts as diverged.
        """
        self._check_action(action)
        acted = action.clamp(-1.0, 1.0)
        control, before = acted.double(), self.simulator.snapshot(self.family.keep)
        failed = self._advance(control)
        reward, terminated, next_obs = self._outcome(before, control)
        truncated = self._at_time_limit(terminated)
        diverged = self._diverged(failed, reward, next_obs, action)
        done = terminated | truncated | diverged
        obs = next_obs
        if done.any():
            next_obs = torch.where(diverged[:, None], self.current.obs, next_obs)
            acted, reward = acted.where(~diverged[:, None], 0.0), reward.where(~diverged, 0.0)
            terminated, truncated = terminated & ~diverged, truncated & ~diverged
            obs = self._restart(done, next_obs)
        self.current = Step(obs, acted.float(), reward.float(), done)
        return Transition(obs, reward, terminated, truncated, next_obs, diverged)

    # --- inside --------------------------------------------------------------------------------

    def _advance(self, action: Tensor) -> Tensor:
        """Let the physics follow actions (B, A) in [-1, 1]; return (B,) bool, where it failed."""
        torch.addcmul(self._ctrl_mid, action, self._ctrl_half, out=self.simulator.ctrl)
        failed = self.simulator.step(self.family.frame_skip)
        self._clock += 1
        self.env_steps += self.num_worlds
        return failed

    def _outcome(self, before: State, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward (B,) float64, terminated (B,) bool and observation (B, O) of a step."""
        sim = self.simulator
        reward = self._ask("reward", sim, before, action, self.task).to(torch.float64, copy=True)
        terminated = self._ask("terminated", sim)
        next_obs = self._observe()
        one_each = reward.shape == terminated.shape == (self.num_worlds,)
        if not one_each or terminated.dtype is not torch.bool:
            self._refuse(reward, terminated)
        return reward, terminated, next_obs

    def _at_time_limit(self, terminated: Tensor) -> Tensor:
        """Return (B,) bool: whose episode has reached the horizon without a failure."""
        if self._clock < self._first_limit:
            return torch.zeros_like(terminated)
        return (self._clock - self._began >= self.family.horizon) & ~terminated

    def _diverged(self, failed: Tensor, reward: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Return (B,) bool: where the physics failed, or a result or an action is not finite.

        Raises UserError where the family returns nothing finite although the physics is sane.
        """
        reward = reward.float()  # what a learner would get
        if math.isfinite(reward.sum().item() + obs.sum().item() + action.sum().item()):
            return failed
        sane = torch.isfinite(reward) & torch.isfinite(obs).all(1)
        if not sane.any() and not failed.any():
            what = "reward()" if torch.isfinite(obs).all() else "observe()"
            raise UserError(
                f"family '{self.family.name}': {what} is not finite in any world, such as that of "
                f"task {self.tasks.label(0)}: guard its arithmetic"
            )
        return failed | ~(sane & torch.isfinite(action).all(1))

    def _values_and_fields(
        self, values: np.ndarray
    ) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        """The parameters by name, (n,) or (n, size), and the model fields that they give, (n, …).

        Args:
            values: (n, P) the task of each world.
        """
        task: dict[str, Tensor] = TaskValues(self.family.name)
        fields: dict[str, np.ndarray] = {}
        by_param = self.family.distribution.by_param(values)
        for param, rows in zip(self.family.params, self._rows, strict=True):
            value = by_param[param.name]
            task[param.name] = torch.from_numpy(value)
            for edit, which in zip(param.edits, rows, strict=True):
                field = self._field(fields, edit.field, len(values))
                edit.apply(field, which, value.reshape(len(values), -1))
        for name, field in fields.items():
            if name in NEVER_NEGATIVE and (field < 0).any():
                self._refuse_field(name, f"{field.min():g}", "be negative")
            if name.endswith("range") and (field[..., 0] > field[..., 1]).any():
                low, high = field[field[..., 0] > field[..., 1]][0]
                self._refuse_field(name, f"{low:g} to {high:g}", "end below its start")
        return task, fields

    def _refuse_field(self, field: str, would_be: str, must: str) -> None:
        names = [p.name for p in self.family.params if any(e.field == field for e in p.edits)]
        raise UserError(
            f"family '{self.family.name}', parameter {' and '.join(map(repr, names))}: {field} "
            f"would be {would_be} in one of the tasks, and must not {must}"
        )

    def _action_map(self) -> None:
        """Actions in [-1, 1] map linearly onto each actuator's control range."""
        low, high = control_range(self.family.compile()).T
        self._ctrl_mid = torch.from_numpy((low + high) / 2).expand(self.num_worlds, -1)
        self._ctrl_half = torch.from_numpy((high - low) / 2)

    def _field(self, fields: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
        """The (count, …) values of a model field being edited, nominal at first."""
        if name not in fields:
            fields[name] = np.repeat(nominal_value(self.family.compile(), name)[None], count, 0)
        return fields[name]

    def _begin_episodes(self, ids: Tensor | None) -> None:
        every = torch.arange(self.num_worlds) if ids is None else ids
        which = every.numpy()
        self.simulator.reset(ids)
        task = self.tasks.first + self._task_index[which]
        rng = BatchedRNG(self._key, task, self._world_index[which], self._episode[which])
        self._ask("initial_state", self.simulator, every, rng)
        self.simulator.refresh(ids)
        self._episode[which] += 1
        self._began[every] = self._clock
        self._first_limit = int(self._began.min()) + self.family.horizon

    def _restart(self, done: Tensor, next_obs: Tensor) -> Tensor:
        """Begin the next episode of the trial in the worlds that are done."""
        self.on_episode_end()
        ids = None if bool(done.all()) else done.nonzero()[:, 0]
        self._begin_episodes(ids)
        obs = self._observe_start()
        return obs if ids is None else torch.where(done[:, None], obs, next_obs)

    def _observe_start(self) -> Tensor:
        """The observation of worlds of which some just began an episode: it must be finite."""
        obs = self._observe()
        if not math.isfinite(obs.sum().item()) and not torch.isfinite(obs).all():
            world = int((~torch.isfinite(obs).all(1)).nonzero()[0])
            label = self.tasks.label(int(self._task_index[world]))
            raise UserError(
                f"family '{self.family.name}': observe() is not finite at the start of an episode "
                f"of task {label}: guard its arithmetic"
            )
        return obs

    def _ask(self, method: str, *args: object) -> Tensor:
        """Call a method of the family: whatever it raises, or returns instead, is one line."""
        with user_code(f"family '{self.family.name}': {method}()", self.family):
            value = getattr(self.family, method)(*args)
        dense = isinstance(value, Tensor) and value.layout is torch.strided
        if method != "initial_state" and not (dense and value.is_cpu and not value.is_complex()):
            what = type(value).__name__
            if isinstance(value, Tensor):
                what = f"a tensor of {value.dtype}, {value.layout} on {value.device}"
            raise UserError(
                f"family '{self.family.name}': {method}() returned {what}, "
                f"expected a tensor of {self.num_worlds} rows: dense, real and on the CPU"
            )
        return value

    def _observe(self) -> Tensor:
        obs = self._ask("observe", self.simulator, self.task)
        width = self.spec.observation_size if hasattr(self, "spec") else 0
        right = obs.ndim == 2 and obs.shape[0] == self.num_worlds and obs.shape[1]
        if not right or obs.shape[1] != (width or obs.shape[1]):
            raise UserError(
                f"family '{self.family.name}': observe() returned shape {tuple(obs.shape)}, "
                f"expected ({self.num_worlds}, {width or 'O'}), with at least one number"
            )
        return obs.to(torch.float32)

    def _refuse(self, reward: Tensor, terminated: Tensor) -> None:
        """Raise UserError for what is wrong with the shape or the type of either."""
        for method, got in (("reward", reward), ("terminated", terminated)):
            if got.shape != (self.num_worlds,):
                raise UserError(
                    f"family '{self.family.name}': {method}() returned shape {tuple(got.shape)}, "
                    f"expected ({self.num_worlds},)"
                )
        raise UserError(
            f"family '{self.family.name}': terminated() returned {terminated.dtype}, expected "
            f"torch.bool: compare, as in `sim.qpos[:, 2] < 0.3`"
        )
