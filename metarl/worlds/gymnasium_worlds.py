"""B third-party gymnasium environments behind the methods of TaskWorlds, in worker processes.

The processes are those of gymnasium's AsyncVectorEnv, several environments in each. What a world
does depends on the environment's own random numbers, which are seeded at each reset from the same
keys as the initial states of TaskWorlds.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.base.text import process_ending
from metarl.base.threads import threads_or_default
from metarl.tasks.distribution import Tasks
from metarl.worlds.env_worker import FLAGS, EnvWorker
from metarl.worlds.reward_terms import SUCCESS
from metarl.worlds.vector import Spec, Step, Transition, VecWorlds

if TYPE_CHECKING:
    from metarl.tasks.gymnasium_family import GymnasiumFamily


class GymnasiumWorlds(VecWorlds):
    """B gymnasium environments behind the methods of VecWorlds, in processes."""

    family: GymnasiumFamily  # pyright: ignore[reportIncompatibleVariableOverride]
    worker: ClassVar[type[EnvWorker]] = EnvWorker
    """What runs in each process."""

    def __init__(
        self, family: GymnasiumFamily, num_worlds: int, threads: int | None = None
    ) -> None:
        """Start the processes.

        Args:
            family: whose environments.
            num_worlds: B, shared out evenly.
            threads: how many processes; None takes the process's setting of threads.
        """
        super().__init__(family, num_worlds)
        self.per_worker = -(-num_worlds // min(threads_or_default(threads), num_worlds))
        sizes = [
            min(self.per_worker, num_worlds - i) for i in range(0, num_worlds, self.per_worker)
        ]
        workers = [functools.partial(self.worker, family, n, self.per_worker) for n in sizes]
        _warn(
            f"family '{family.name}' is a gymnasium environment: it runs in processes of "
            "AsyncVectorEnv, many times slower than a family on TaskWorlds"
        )
        if (
            "desired_goal" in family.observation.keys
            and "desired_goal" not in family.observation.hide
        ):
            _warn(
                f"family '{family.name}': the agent observes 'desired_goal', so it is told its "
                'goal; hide = ("desired_goal",) hides it'
            )
        self._vector = AsyncVectorEnv(
            workers, context="fork" if sys.platform == "linux" else None,
            autoreset_mode=AutoresetMode.DISABLED,
        )  # fmt: skip
        # Before multiprocessing ends its processes at exit: by SIGTERM, which these leave alone.
        self._closed = Finalize(self, _close, (self._vector,), exitpriority=1)
        self.env_steps = 0
        self._succeeds: bool | None = None
        self.spec = Spec(
            family.observation.size,
            family.action.size,
            family.horizon,
            family.action.choices,
            family.distribution.task_size,
        )
        if not family.probed and family.probe_steps:
            self.probe()
        self.seed(Key(0))
        self.set_tasks(family.distribution.nominal(), num_worlds)
        self.reset()

    def seed(self, key: Key) -> None:
        """Start the randomness of resets anew."""
        super().seed(key)
        self._fresh = True

    def set_tasks(self, tasks: Tasks, worlds_per_task: int) -> None:
        """Give every world its task. Call `reset` next."""
        self._take_tasks(tasks, worlds_per_task)
        self._task_dicts = self.family.task_dicts(tasks)

    def probe(self) -> None:
        """Raise UserError where a parameter of the family changes nothing.

        The first process does this, in an environment of its own, since it may well die there.
        """
        commands = [{"probe": i == 0} for i in range(len(self._vector.env_fns))]
        infos = self._command(commands, "while two of its tasks were compared")[1]
        for note in filter(None, infos["note"]):
            _warn(str(note))
        self.family.probed = True

    def reset(self, ids: Tensor | None = None) -> Tensor:
        """Begin a new trial in the worlds `ids`, (n,) int64 or a (B,) mask, or in all."""
        mask = torch.zeros(self.num_worlds, dtype=torch.bool)
        mask[slice(None) if ids is None else self._world_ids(ids)] = True
        size = self.per_worker
        commands = [
            {
                "key": self._key.words,
                "fresh": self._fresh,
                "worlds": [
                    (self._task_dicts[i // self.worlds_per_task],
                     self.tasks.first + i // self.worlds_per_task,
                     i % self.worlds_per_task, bool(mask[i]))
                    for i in range(at, min(at + size, self.num_worlds))
                ],
            }
            for at in range(0, self.num_worlds, size)
        ]  # fmt: skip
        self._fresh = False
        got, _ = self._command(commands, "in reset()")
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
        self._check_action(action)
        sane = torch.isfinite(action).all(1)
        taken = self.family.action.taken(torch.where(sane[:, None], action, 0.0).double())
        sent = torch.where(sane[:, None], taken, torch.nan)
        padded = np.zeros((len(self._vector.env_fns) * self.per_worker, self.spec.action_size))
        padded[: self.num_worlds] = sent.numpy()
        actions = padded.reshape(-1, self.per_worker, self.spec.action_size)
        with self._watched("in step()"):
            got, _, _, _, infos = self._vector.step(actions)
        self._raise(infos)
        self.env_steps += self.num_worlds
        terminated, truncated, diverged = (self._rows(got[flag]).bool() for flag in FLAGS)
        if diverged.all() and sane.all():
            raise UserError(
                f"family '{self.family.name}': reward or observation is not finite in any world"
            )
        obs, reward = self._rows(got["obs"]).float(), self._rows(got["reward"])
        self._note_success(self._rows(got["success"]))
        taken = torch.where(diverged[:, None], 0.0, taken)
        done = terminated | truncated | diverged
        self.current = Step(obs, taken.float(), reward.float(), done)
        next_obs = self._rows(got["next_obs"]).float()
        return Transition(obs, reward, terminated, truncated, next_obs, diverged)

    def _note_success(self, success: Tensor) -> None:
        """Measure success as a term that is not paid, where the first step's infos tell of it."""
        if self._succeeds is None:
            self._succeeds = bool(success.isfinite().any())
        if self._succeeds:
            self.reward_terms = {SUCCESS: success.nan_to_num(0.0)}

    def render(self, worlds: Sequence[int] | None = None) -> list[Any]:
        """Return what environments draw: with the family's `render_mode`, a picture of each.

        Args:
            worlds: which of them draw; None is all.
        """
        chosen = range(self.num_worlds) if worlds is None else worlds
        asked = [divmod(i, self.per_worker) for i in chosen]
        places = [[k for at, k in asked if at == n] for n in range(len(self._vector.env_fns))]
        with self._watched("in render()"):
            self._vector.set_attr("drawn", places)
            drawn = self._vector.call("render")
        self._raise({"error": [error for _, error in drawn]})
        pictures = [iter(of_worker) for of_worker, _ in drawn]
        return [next(pictures[at]) for at, _ in asked]

    def why_diverged(self) -> str:
        """Return what made transitions count as diverged; there is no model to look at."""
        return "the environment's reward or observation, or an action, was not finite"

    def close(self) -> None:
        """End the processes."""
        self._closed()

    def __getattr__(self, name: str) -> Any:
        if name == "simulator":
            self.family.compile()
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")

    def _rows(self, workers: np.ndarray) -> Tensor:
        """The (B, …) rows of what the workers gave, without those that fill up the last one."""
        rows = workers.reshape(-1, *workers.shape[2:])[: self.num_worlds]
        return torch.from_numpy(rows.copy())

    def _command(
        self, commands: list[dict[str, Any]], doing: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Let each process carry out its commands; return what AsyncVectorEnv.reset does."""
        with self._watched(doing):
            self._vector.set_attr("commands", commands)
            got, infos = self._vector.reset()
        self._raise(infos)
        return got, infos

    @contextlib.contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        """Turn the end of a process into one line that says how it ended."""
        try:
            yield
        except (EOFError, OSError) as error:
            processes = self._vector.processes
            ready = wait([process.sentinel for process in processes], timeout=5)
            ended = [process for process in processes if process.sentinel in ready]
            for process in ended:
                process.join(5)  # its files are closed a moment before it has an exit code
            code = ended[0].exitcode if ended else None
            self.close()
            raise UserError(
                f"family '{self.family.name}': a process that runs its environment ended "
                f"{doing} {process_ending(code)}; run the environment alone to "
                "see why"
            ) from error

    def _raise(self, infos: dict[str, Any]) -> None:
        """Raise what a worker met with, as one line."""
        for text in infos.get("error", ()):
            if text:
                raise UserError(str(text))


@functools.cache
def _warn(text: str) -> None:
    warnings.warn_explicit(text, UserWarning, "metarl", 1)  # one line, without ours of the source


def _close(vector: AsyncVectorEnv) -> None:
    vector.closed = True  # its own close() would wait for a step that was left half-way
    for process, pipe in zip(vector.processes, vector.parent_pipes, strict=True):
        process.kill()
        process.join()
        pipe.close()
