"""TaskWorlds: B worlds of a family, each running its own task. Everything else adapts this."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, user_code
from metarl.base.keys import BatchedRNG, Key
from metarl.base.threads import check_defaults
from metarl.simulation.actions import Controller
from metarl.simulation.backend import Backend, MakeBackend, State
from metarl.simulation.simulator import Simulator
from metarl.tasks.distribution import Tasks, TaskValues
from metarl.tasks.events import give_memory
from metarl.tasks.family import METHODS, TaskFamily, acts
from metarl.tasks.model_fields import ModelFields
from metarl.tasks.registry import find_family
from metarl.worlds.events import SWITCH, Schedule
from metarl.worlds.privileged import check_privileged
from metarl.worlds.reward_terms import RewardTerms, refuse_outcome
from metarl.worlds.vector import Spec, Step, Transition, VecWorlds, copied

_NOBODY = np.zeros(0, np.int64)  # the worlds whose episode ended, in most steps


class TaskWorlds(VecWorlds):
    """B simulated robots of one family, each with a task of its own."""

    simulator: Backend
    on_episode_end: Callable[[], object] = staticmethod(lambda: None)
    """Called before episodes begin within a step: `simulator` has the last states then."""

    def __init__(
        self, family: TaskFamily | str, num_worlds: int, threads: int | None = None, *,
        backend: MakeBackend = Simulator,
    ) -> None:  # fmt: skip
        """Make the worlds, all of them running the nominal task.

        Args:
            family: a family or its name.
            num_worlds: B.
            threads: physics threads; None takes the process's setting.
            backend: makes the simulator.

        Raises:
            UserError: the family is unknown, or its methods return the wrong shapes.
        """
        check_defaults(float32=False)
        super().__init__(find_family(family) if isinstance(family, str) else family, num_worlds)
        self.simulator = backend(self.family.compile(), num_worlds, threads)
        self.device = self.simulator.device
        try:
            self.simulator.snapshot(self.family.keep)
        except UserError as error:
            raise UserError(f"family '{self.family.name}', keep: {error}") from None
        self._guards = {
            name: user_code(f"family '{self.family.name}': {name}()", self.family)
            for name in METHODS
        }
        self._fields = ModelFields(self.family)
        self._control = Controller(self.family.command_map, self.simulator)
        self._acts, self._remembers = acts(self.family), acts(self.family, "remember")
        give_memory(self.family, self.simulator)
        self._terms = RewardTerms(self.family, self.simulator)
        self._clock = 0  # steps taken, of all worlds at once
        self._obs_shape: tuple[int, ...] = ()  # (B, O), once the family has observed
        self._unchecked: Tensor | None = None
        """(B, O) observations of which some begin an episode, until they are known to be finite."""
        self._count_episodes()
        self.seed(Key(0))
        self.set_tasks(self.family.distribution.nominal(), num_worlds)
        sizes = self.reset().shape[1], self.family.command_map.size, self.family.horizon
        with self._guards["privileged"]:
            blind = self.family.privileged(self.simulator, self.task) is None
        shown = None if blind else self._ask("privileged", self.simulator, self.task)
        shown = check_privileged(self.family, shown, num_worlds)
        self.spec = Spec(*sizes, (), self.family.distribution.task_size, shown, self._told_size())
        self.privileged = self._privileged()

    def _count_episodes(self) -> None:
        self._schedule = Schedule(self.family, self.num_worlds)
        self._began = np.zeros(self.num_worlds, np.int64)  # the clock when episodes began

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
        self._task_index, self._world_index = divmod(np.arange(self.num_worlds), worlds_per_task)
        self._values = tasks.values[self._task_index]
        self._schedule.set_tasks(self._values, slice(None))
        self.task, fields = self._tensors(self._values), self._fields.of(self._values)
        self.simulator.set_fields(fields)

    def change_tasks(self, ids: Tensor, tasks: Tasks) -> None:
        """Give some worlds another task, where every world has its own; then `reset(ids)` or go on.

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
        which = ids.cpu().numpy()
        self._values[which] = tasks.values
        now = self.tasks
        self.tasks = Tasks(now.family, now.names, self._values.copy(), first=now.first)
        self._schedule.set_tasks(tasks.values, which)
        self._give(tasks.values, ids)
        self.simulator.refresh(ids)

    def check_tasks(self, tasks: Tasks) -> None:
        """Raise UserError for tasks of another family, or that the robot cannot have."""
        super().check_tasks(tasks)
        self._schedule.check(tasks)

    def try_tasks(self, tasks: Tasks) -> None:
        """Raise UserError for tasks that `set_tasks` would refuse, and change nothing."""
        self.check_tasks(tasks)
        self._fields.of(tasks.values)

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
        self._begin_episodes(None if ids is None else ids.cpu().numpy())
        obs = self._observe_start()
        self._check_start()
        self.privileged = self._privileged()
        if ids is None:
            zeros = torch.zeros(self.num_worlds, self.family.command_map.size, device=self.device)
            first = torch.ones(self.num_worlds, dtype=torch.bool, device=self.device)
            self.current = Step(obs, zeros, zeros.new_zeros(self.num_worlds), first)
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
        acted, failed, outcome = self._advance(action)
        got, paid, ended = self._judge(failed, action, *outcome)
        done = got.truncated
        if self.spec.privileged_size:
            self._look_privileged(got.diverged)
        if len(ended):
            acted = acted.where(~got.diverged[:, None], 0.0)
            done = got.terminated | got.truncated | got.diverged
            got = got._replace(obs=self._restart(ended, got.next_obs))
            self.privileged = self._privileged()
        self.current = Step(got.obs, acted.float(), paid, done)
        return got

    # --- the parts of a step -------------------------------------------------------------------

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Let the physics follow; return the clipped actions, (B,) where it failed, the outcome."""
        self._check_action(action)
        acted = action.clamp(-1.0, 1.0)
        control, before = acted.to(self.simulator.dtype), self.simulator.snapshot(self.family.keep)
        self._control(control)
        if self._acts:
            self._ask("act", self.simulator, control, self.task)
        failed = self.simulator.step(self.family.frame_skip)
        self._clock += 1
        self.env_steps += self.num_worlds
        return acted, failed, self._outcome(before, control)

    def _outcome(self, before: State, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward (B,), terminated (B,) bool and observation (B, O) float32 of a step."""
        sim = self.simulator
        self._terms.last = {}
        reward = copied(self._ask("reward", sim, before, action, self.task), sim.dtype)
        if self._terms.expected and not self._terms.last:
            self._terms.refuse_tensor()
        terminated = self._ask("terminated", sim)
        self._happen(action)
        next_obs = self._observe()
        one_each = reward.shape == terminated.shape == (self.num_worlds,)
        if not one_each or terminated.dtype is not torch.bool:
            refuse_outcome(self.family, self.num_worlds, reward, terminated)
        return reward, terminated, next_obs

    def _happen(self, action: Tensor) -> None:
        """Let what is due happen, then let the family remember the step."""
        if self._schedule.first <= self._clock:
            for name, ids in self._schedule.due(self._clock, self._draws):
                which = torch.from_numpy(ids).to(self.device)
                if name == SWITCH:
                    self._give(self._values[ids], which)
                    self.simulator.refresh(which)
                else:
                    rng = self._draws(ids, "event", name)
                    self._ask("event", name, self.simulator, which, self.task, rng)
        if self._remembers:
            rng = self._draws(np.arange(self.num_worlds), "remember")
            self._ask("remember", self.simulator, action, self.task, rng)

    def _judge(
        self, failed: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, obs: Tensor
    ) -> tuple[Transition, Tensor, np.ndarray]:
        """Decide which episodes ended and why; here the host waits for the device, and only here.

        A world diverged where the physics failed, or a result or its action is not finite. The
        host learns (B,) numbers of which those of ended episodes are NaN. If all of them are, then
        every episode ended, or an observation or an action is not finite: it asks again, for which.

        Returns:
            The transition before any restart, its reward in float32, and the (n,) worlds whose
            episode ended.

        Raises:
            UserError: the family returns nothing finite although the physics is sane.
        """
        others = obs.sum() + action.sum()
        if self._unchecked is not None:
            others = others + self._unchecked.sum()
        paid = reward.float()  # what a learner gets
        ended = terminated if failed is self.simulator.calm else terminated | failed
        known = paid.masked_fill(ended, torch.nan).add_(others, alpha=0.0).cpu()
        if self._clock < self._first_limit and math.isfinite(known.sum().item()):
            self._unchecked = None
            none = torch.zeros_like(failed)
            return Transition(obs, reward, terminated, none, obs, none), paid, _NOBODY
        sane, over = torch.isfinite(paid), ~torch.isfinite(known)
        if over.all():
            sane &= torch.isfinite(obs).all(1)
            self._check_start()
            if not (sane.any() or failed.any()):
                self._terms.refuse_nonfinite(self._terms.finite(obs), self.tasks.label(0))
            sane &= torch.isfinite(action).all(1)
            over = (terminated | failed | ~sane).cpu()
        self._unchecked, diverged = None, failed | ~sane
        late = torch.from_numpy(self._clock - self._began >= self.family.horizon)
        truncated = late.to(self.device) & ~(terminated | diverged)
        if self.device.type != "cpu" or diverged.any():  # elsewhere, to ask would be to wait
            obs = torch.where(diverged[:, None], self.current.obs, obs)
        reward, terminated = reward.where(~diverged, 0.0), terminated & ~diverged
        transition = Transition(obs, reward, terminated, truncated, obs, diverged)
        return transition, reward.float(), np.flatnonzero((over | late).numpy())

    def _look_privileged(self, diverged: Tensor) -> None:
        """Note what critics may see of the successor; where it diverged, of the step before."""
        now, before = self._privileged(), self.privileged
        if now is not None and before is not None:
            now = torch.where(diverged[:, None], before, now)
        self.privileged = self.next_privileged = now

    def _restart(self, ended: np.ndarray, next_obs: Tensor) -> Tensor:
        """Begin the next episode of the trial in the worlds `ended`; return what to act on."""
        self.on_episode_end()
        every = len(ended) == self.num_worlds
        self._begin_episodes(None if every else ended)
        obs, rows = self._observe_start(), torch.from_numpy(ended).to(self.device)
        return obs if every else next_obs.index_copy(0, rows, obs[rows])

    # --- inside --------------------------------------------------------------------------------

    def _tensors(self, values: np.ndarray) -> TaskValues:
        return self.family.distribution.tensors(values, self.device, self.simulator.dtype)

    def _begin_episodes(self, ids: np.ndarray | None) -> None:
        """Begin an episode in the worlds `ids`, (n,) int64, or in all."""
        which = np.arange(self.num_worlds) if ids is None else ids
        every = torch.from_numpy(which).to(self.device)
        some = None if ids is None else every
        if self.switches:
            self._give(self._schedule.before(self._values[which]), every)
        self.simulator.reset(some)
        self._control.reset(some)
        for remembered in self.simulator.memory.values():
            remembered[every] = 0.0
        self._ask("initial_state", self.simulator, every, self._rng(self._key, which))
        self.simulator.refresh(some)
        self._episode[which] += 1
        self._began[which] = self._clock
        self._schedule.begin(which, self._clock, self._draws)
        self._first_limit = int(self._began.min()) + self.family.horizon

    def _give(self, values: np.ndarray, ids: Tensor) -> None:
        """Let the worlds `ids` (n,) run tasks (n, P) from now on; their states stay."""
        fields = self._fields.of(values)
        for name, value in self._tensors(values).items():
            self.task[name][ids] = value
        self.simulator.set_fields(fields, ids)

    def _draws(self, ids: np.ndarray, *words: str) -> BatchedRNG:
        """Randomness of the worlds `ids` at this step of their episodes."""
        return self._rng(self._key.fold(*words), ids, self._clock - self._began[ids])

    def _rng(self, key: Key, ids: np.ndarray, *steps: np.ndarray) -> BatchedRNG:
        task, world = self.tasks.first + self._task_index[ids], self._world_index[ids]
        return BatchedRNG(
            key, task, world, self._episode[ids], *steps, device=self.device,
            dtype=self.simulator.dtype,
        )  # fmt: skip

    def _observe_start(self) -> Tensor:
        """The observation of worlds of which some just began an episode: it must be finite."""
        obs = self._unchecked = self._observe()
        if self.device.type == "cpu":  # elsewhere the next step's wait will do
            self._check_start()
        return obs

    def _check_start(self) -> None:
        obs, self._unchecked = self._unchecked, None
        if obs is None or math.isfinite(obs.sum().item()) or torch.isfinite(obs).all():
            return
        self._refuse_start(int((~torch.isfinite(obs).all(1)).nonzero()[0]))

    def _refuse_start(self, world: int) -> NoReturn:
        label = self.tasks.label(int(self._task_index[world]))
        raise UserError(
            f"family '{self.family.name}': observe() is not finite at the start of an episode "
            f"of task {label}: guard its arithmetic"
        )

    def _ask(self, method: str, *args: object) -> Tensor:
        """Call a method of the family: whatever it raises, or returns instead, is one line."""
        with self._guards[method]:
            value = getattr(self.family, method)(*args)
        if method in ("initial_state", "act", "remember", "event") or (
            isinstance(value, Tensor) and value.device == self.device
            and value.layout is torch.strided and not value.is_complex()
        ):  # fmt: skip
            return value
        if method == "reward" and isinstance(value, Mapping):
            value, self.reward_terms = self._terms.total(value), self._terms.last
            return value
        what = type(value).__name__
        if isinstance(value, Tensor):
            what = f"a tensor of {value.dtype}, {value.layout} on {value.device}"
        raise UserError(
            f"family '{self.family.name}': {method}() returned {what}, "
            f"expected a tensor of {self.num_worlds} rows: dense, real and on {self._where}"
        )

    def _observe(self) -> Tensor:
        obs = self._ask("observe", self.simulator, self.task)
        if obs.shape != self._obs_shape:
            width = self._obs_shape[1] if self._obs_shape else 0
            if obs.ndim != 2 or len(obs) != self.num_worlds or not obs.shape[1] or width:
                raise UserError(
                    f"family '{self.family.name}': observe() returned shape {tuple(obs.shape)}, "
                    f"expected ({self.num_worlds}, {width or 'O'}), with at least one number"
                )
            self._obs_shape = obs.shape
        return copied(obs, torch.float32)

    def task_vector(self) -> Tensor:
        """Return (B, task_size) float32, the task of each world now as a network should see it."""
        if not self.switches:
            return super().task_vector()
        return torch.cat(list(self.family.distribution.normalized(self.task).values()), 1).float()

    def told(self) -> Tensor:
        """Return (B, n) float32, what ``+told`` would add to the observation now."""
        return copied(self._ask("told", self.simulator, self.task), torch.float32)

    def _privileged(self) -> Tensor | None:
        """What only critics may see now, (B, P) float32; None if the family has no such thing."""
        if not hasattr(self, "spec") or not self.spec.privileged_size:
            return None
        shown = self._ask("privileged", self.simulator, self.task)
        check_privileged(self.family, shown, self.num_worlds, self.spec.privileged_size)
        return copied(shown, torch.float32)
