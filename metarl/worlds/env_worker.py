"""Worker processes of `metarl.worlds.gymnasium_worlds`: several environments in each."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict

from metarl.base.errors import UserError, worded
from metarl.base.keys import BatchedRNG, Key
from metarl.tasks.gymnasium_setters import seed_globals
from metarl.worlds.task_probe import probe

if TYPE_CHECKING:
    from metarl.tasks.gymnasium_family import GymnasiumFamily


def _left_to_the_parent(signum: int, frame: object) -> None:
    """Ignore a signal that a terminal or a scheduler sends to the parent as well, which saves.

    A function, not SIG_IGN, which the programs that an environment starts would inherit.
    """


FLAGS = ("terminated", "truncated", "diverged")


class EnvWorker(gymnasium.Env[Any, np.ndarray]):
    """Several environments of one process, as one environment for AsyncVectorEnv to run.

    A reset carries out the attribute `commands` (tasks, seeds, which worlds begin), and `render`
    draws the environments of `drawn`. The worker begins the next episode of a world in the step
    that ends one, and never ends itself.
    """

    def __init__(self, family: GymnasiumFamily, active: int, size: int) -> None:
        """Prepare for `active` environments, in arrays for `size`; they are made when needed."""
        self.family = family
        shape = (size, family.observation.size)
        wide = functools.partial(Box, -np.inf, np.inf)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "obs": wide(shape, np.float64),
            "next_obs": wide(shape, np.float64),
            "reward": wide((size,), np.float64),
            "success": wide((size,), np.float64),
            **{flag: Box(0, 1, (size,), np.int8) for flag in FLAGS},
        }
        self.observation_space = Dict(spaces)
        self.action_space = wide((size, family.action.size), np.float64)
        self.commands: dict[str, Any] = {}
        self.drawn: list[int] = []
        self._active = active
        self._envs: list[gymnasium.Env] = []
        self._episode = np.zeros(active, np.int64)
        self._steps = np.zeros(active, np.int64)
        self._out = {name: np.zeros(s.shape or (), s.dtype) for name, s in spaces.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Carry out the commands."""
        return self._out, self._guarded(self._apply_commands)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step every environment with its row of the actions."""
        infos = self._guarded(lambda: [self._step(k, action[k]) for k in range(self._active)])
        return self._out, 0.0, False, False, infos

    def render(self) -> tuple[list[Any], str]:  # type: ignore[override]
        """Return what each of `drawn` draws, and in words what went wrong, or ''."""
        pictures: list[Any] = []
        infos = self._guarded(lambda: pictures.extend(self._envs[k].render() for k in self.drawn))
        return pictures, infos["error"]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _guarded(self, work: Callable[[], object]) -> dict[str, Any]:
        """Do the work; what it raises becomes a line for the parent, as does what it returns."""
        try:
            with self.family.blamed("its environment"):
                note = work()
        except BaseException as error:  # a Ctrl-C is for the parent, so this is none
            text = f"family '{self.family.name}': its environment raised {worded(error)}"
            return {"error": str(error) if isinstance(error, UserError) else text, "note": ""}
        return {"error": "", "note": note if isinstance(note, str) else ""}

    def _apply_commands(self) -> str:
        torch.set_num_threads(1)  # this process is one of many
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, _left_to_the_parent)
        if "probe" in self.commands:
            return probe(self.family) if self.commands["probe"] else ""
        if not self._envs:
            self._envs = [self.family.make() for _ in range(self._active)]
        if self.commands["fresh"]:
            self._episode[:] = 0
        for k, (_, _, _, begins) in enumerate(self.commands["worlds"]):
            if begins:
                self._begin(k)
        return ""

    def _begin(self, k: int) -> None:
        task, m, e, _ = self.commands["worlds"][k]
        place = (np.array([n]) for n in (m, e, self._episode[k]))
        seed = int(BatchedRNG(Key(*self.commands["key"]), *place).uniform(0, 2**31, 1))
        seed_globals(seed)
        self._out["obs"][k] = self.family.begin_flat(self._envs[k], dict(task), seed)
        self._episode[k] += 1
        self._steps[k] = 0

    def _step(self, k: int, taken: np.ndarray) -> None:
        out, sane = self._out, bool(np.isfinite(taken).all())
        obs, reward, terminated, truncated = self.family.step_flat(
            self._envs[k], np.where(sane, taken, 0.0)
        )
        out["success"][k] = self.family.succeeded
        self._steps[k] += 1
        diverged = not (sane and np.isfinite(reward) and np.isfinite(obs).all())
        terminated = terminated and not diverged
        cut = truncated or self._steps[k] >= self.family.horizon
        out["next_obs"][k] = out["obs"][k] if diverged else obs
        out["reward"][k] = 0.0 if diverged else reward
        out["diverged"][k], out["terminated"][k] = diverged, terminated
        out["truncated"][k] = cut and not (terminated or diverged)
        out["obs"][k] = obs
        if cut or terminated or diverged:
            self._begin(k)
