"""DeviceWorlds: TaskWorlds whose episodes end and begin without a word from the host.

`TaskWorlds` reads one number a world in each step, to know which episodes ended, and begins those
anew. Here the device knows: in each step all worlds are asked for the state that they would begin
with, and those whose episode ended take it. That is more work, and no wait: the host may be many
steps ahead. What only a fault of the family's can lead to is noted, and raised by `settle`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import DeviceRNG, Key
from metarl.simulation.backend import write_where
from metarl.tasks.distribution import Tasks, TaskValues
from metarl.worlds.events import SWITCH
from metarl.worlds.on_device.noise import DeviceNoise
from metarl.worlds.on_device.schedule import DeviceSchedule
from metarl.worlds.rollout import Rollout
from metarl.worlds.task_worlds import TaskWorlds
from metarl.worlds.vector import LARGE_REWARD, Step, Transition

_WRITTEN = ("act", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat", "userdata")
"""What an event may write of the state, beside positions and velocities."""


class Placed(NamedTuple):
    """A task for every world, on the device."""

    values: TaskValues
    """By parameter, (B, …)."""
    fields: dict[str, Tensor]
    """The model fields that it changes, (B, …) in float64."""


class DeviceWorlds(TaskWorlds):
    """B simulated robots of one family, on a device that decides what becomes of them."""

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew: the next reset of world i is its episode 0."""
        super().seed(key)
        self._episodes = torch.zeros(self.num_worlds, dtype=torch.int64, device=self.device)
        self._streams.clear()

    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task, as `TaskWorlds` does."""
        super().set_tasks(tasks, worlds_per_task)
        places = tasks.first + self._task_index, self._world_index
        self._places = tuple(torch.from_numpy(part).to(self.device) for part in places)
        self._streams.clear()
        self._keep_tasks()

    def change_tasks(self, ids: Tensor, tasks: Tasks) -> None:
        """Give some worlds another task, as `TaskWorlds` does."""
        super().change_tasks(ids, tasks)
        self._keep_tasks()

    def task_vector(self) -> Tensor:
        """Return (B, task_size) float32, the task of each world as a network should see it."""
        return super().task_vector() if self.switches else self._vector

    def step(self, action: Tensor) -> Transition:
        """Advance every world by one environment step, and begin new episodes where one ended.

        The host waits for nothing: what is wrong with the family's numbers, `settle` raises.

        Args:
            action: (B, A), clipped to [-1, 1]; not finite counts as diverged.
        """
        acted, failed, outcome = self._advance(action)
        got = self._decided(failed, action, *outcome)
        done = got.terminated | got.truncated | got.diverged
        if self.spec.privileged_size:
            self._look_privileged(got.diverged)
        self.on_episode_end()
        self._begin_where(done)
        obs = self._observe()
        self._note_starts(done, obs)
        got = got._replace(obs=torch.where(done[:, None], obs, got.next_obs))
        self.privileged = self._privileged()
        acted = acted.masked_fill(got.diverged[:, None], 0.0).float()
        self.current = Step(got.obs, acted, got.reward.float(), done)
        return got

    def settle(self) -> None:
        """Wait for the device, and raise what it found out since the last time.

        Raises:
            UserError: the family returned nothing finite although the physics was sane, or an
                episode began with an observation that is not finite; or the simulator's own.
        """
        told = torch.cat((self._senseless[None], self._bad_start.any()[None], self._finite)).cpu()
        senseless, bad_start = told[:2].tolist()
        starts, self._bad_start = self._bad_start, torch.zeros_like(self._bad_start)
        self._senseless = torch.zeros_like(self._senseless)
        if bad_start:
            self._refuse_start(int(starts.nonzero()[0]))
        if senseless:
            self._terms.refuse_nonfinite(told[2:], self.tasks.label(0))
        self.simulator.settle()

    def noise(self, key: Key, steps: int, device: torch.device) -> Sequence[Tensor]:
        """Return T times (B, A) standard normal numbers, drawn on the simulator's device.

        Where they are to be `paired` they come from the host, all at once.
        """
        if self.paired:
            return super().noise(key, steps, device)
        streams = DeviceRNG.streams(key, *self._places)
        return DeviceNoise(streams, steps, self.spec.action_size, device)

    @property
    def large_reward(self) -> str:
        """What there is to say of the first reward that is too large; waits for the device."""
        if not self._large_reward and bool((self._largest.abs() >= LARGE_REWARD).any()):
            world = int((self._largest.abs() >= LARGE_REWARD).nonzero()[0])
            self._say_large(float(self._largest[world]), world)
        return self._large_reward

    # --- the parts of a step -------------------------------------------------------------------

    def _decided(
        self, failed: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, obs: Tensor
    ) -> Transition:
        """Decide which episodes ended and why, as `TaskWorlds` does; before any restart."""
        finite = torch.isfinite(reward.float()) & torch.isfinite(obs).all(1)
        diverged = failed | ~(finite & torch.isfinite(action).all(1))
        self._note_sense(finite | failed, obs)
        late = self._clock - self._began >= self.family.horizon
        truncated = late & ~(terminated | diverged)
        obs = torch.where(diverged[:, None], self.current.obs, obs)
        reward, terminated = reward.masked_fill(diverged, 0.0), terminated & ~diverged
        return Transition(obs, reward, terminated, truncated, obs, diverged)

    def _happen(self, action: Tensor) -> None:
        """Let what is due happen, then let the family remember the step."""
        for name, now in self._schedule.due(self._clock, self._device_draws):
            if name == SWITCH:
                self._exchange(now, self._after)
                self.simulator.refresh(None)
                continue
            with self._alone(now):
                rng = self._device_draws("event", name)
                self._ask("event", name, self.simulator, self._every, self.task, rng)
        if self._remembers:
            self._ask("remember", self.simulator, action, self.task, self._device_draws("remember"))

    def _begin_where(self, which: Tensor) -> None:
        """Begin an episode in the worlds of a mask, (B,) bool."""
        if self.switches:
            self._exchange(which, self._before)
        with self._alone(which):
            self.simulator.reset(which)
            self._control.reset(None)
            for remembered in self.simulator.memory.values():
                remembered.zero_()
            rng = DeviceRNG(self._stream(), self._episodes, dtype=self.simulator.dtype)
            self._ask("initial_state", self.simulator, self._every, rng)
        self.simulator.refresh(None)
        self._episodes += which
        self._began.masked_fill_(which, self._clock)
        self._schedule.begin(which, self._clock, self._device_draws)

    def _exchange(self, which: Tensor, tasks: Placed) -> None:
        """Let the worlds of a mask, (B,) bool, run other tasks from now on; their states stay."""
        for name, values in tasks.values.items():
            write_where(which, values, self.task[name])
        self.simulator.exchange_fields(which, tasks.fields)

    @contextlib.contextmanager
    def _alone(self, which: Tensor) -> Iterator[None]:
        """Undo in all worlds but those of a mask what is written of states and memory here."""
        live = [
            *self.simulator.states(), *self.simulator.memory.values(), *self._control.remembered
        ]  # fmt: skip
        kept = [part.clone() for part in live]
        yield
        for part, old in zip(live, kept, strict=True):
            write_where(~which, old, part)

    def _note_sense(self, sane: Tensor, obs: Tensor) -> None:
        """Note whether nothing of the family's was finite, and what of it was not at first."""
        first = ~(sane.any() | self._senseless)
        finite = self._terms.finite(obs)
        if len(finite) != len(self._finite):  # terms have names from the first step on
            self._finite = torch.ones_like(finite)
        self._finite = torch.where(first, finite, self._finite)
        self._senseless = self._senseless | first

    def _note_starts(self, began: Tensor, obs: Tensor) -> None:
        """Note episodes that begin with an observation that is not finite."""
        self._bad_start = self._bad_start | (began & ~torch.isfinite(obs).all(1))

    def _note_large(self, rollout: Rollout) -> None:
        """Keep the largest reward of each world."""
        signed = torch.stack((rollout.reward.amax(0), rollout.reward.amin(0), self._largest))
        self._largest = signed.gather(0, signed.abs().argmax(0)[None])[0]

    # --- inside --------------------------------------------------------------------------------

    def _count_episodes(self) -> None:
        count, device = self.num_worlds, self.device
        if not self.simulator.on_device:
            raise UserError("the simulator resets no worlds by a mask on its device")
        self._schedule = DeviceSchedule(self.family, count, device)
        self._every = torch.arange(count, device=device)
        self._began = torch.zeros(count, dtype=torch.int64, device=device)
        self._streams: dict[tuple[str, ...], Tensor] = {}
        self._bad_start = torch.zeros(count, dtype=torch.bool, device=device)
        self._senseless = torch.zeros((), dtype=torch.bool, device=device)
        self._finite = torch.ones(1, dtype=torch.bool, device=device)
        self._largest = torch.zeros(count, device=device)
        if self.family.events:  # what an event binds first would be written in every world
            for field in _WRITTEN:
                with contextlib.suppress(UserError):
                    self.simulator.bind(field)

    def _keep_tasks(self) -> None:
        """Keep on the device what it will give its worlds without the host."""
        if not self.switches:
            self._vector = super().task_vector()
            return
        self._before = self._placed(self._schedule.before(self._values))
        self._after = self._placed(self._values)

    def _placed(self, values: np.ndarray) -> Placed:
        """Put tasks (B, P) on the device, with the model fields that they change."""
        fields = self._fields.of(values)
        there = {name: torch.from_numpy(field).to(self.device) for name, field in fields.items()}
        return Placed(self._tensors(values), there)

    def _begin_episodes(self, ids: np.ndarray | None) -> None:
        """Begin an episode in the worlds `ids`, (n,) int64, or in all."""
        which = torch.full_like(self._bad_start, ids is None)
        if ids is not None:
            which[torch.from_numpy(ids).to(self.device)] = True
        self._begin_where(which)

    def _observe_start(self) -> Tensor:
        obs = self._observe()
        self._note_starts(torch.ones_like(self._bad_start), obs)
        return obs

    def _check_start(self) -> None:
        self.settle()

    def _stream(self, *words: str) -> Tensor:
        """(B,) what draws of a kind are streams of: the key, the task and the world."""
        if words not in self._streams:
            self._streams[words] = DeviceRNG.streams(self._key.fold(*words), *self._places)
        return self._streams[words]

    def _device_draws(self, *words: str) -> DeviceRNG:
        """Randomness of every world at this step of its episode."""
        step = self._clock - self._began
        return DeviceRNG(self._stream(*words), self._episodes, step, dtype=self.simulator.dtype)
