"""Whether the tasks of a third-party environment differ: far tasks, one seed, the same actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metarl.base.errors import UserError
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.gymnasium_setters import seed_globals

if TYPE_CHECKING:
    import gymnasium

    from metarl.tasks.gymnasium_family import GymnasiumFamily

LENGTHS = (20, 100)
"""Steps of the first episodes of a probe; the last one has `GymnasiumFamily.probe_steps`."""
HELD = (1, 1, 10)
"""For how many steps each of the episodes holds an action: held ones get further."""


def probe(family: GymnasiumFamily) -> str:
    """Compare episodes at both ends of each parameter's range, the others nominal.

    Returns:
        A note where the comparison means nothing, since episodes do not repeat; else ''.

    Raises:
        UserError: a parameter changes neither observations, rewards nor the end of an episode.
    """
    with family.blamed("its environment"):
        env = family.make()
    try:
        for i, param in enumerate(family.params):
            low, high = _ends(family, param.name)
            if i == 0 and _differ(family, env, low, low, episodes=1):
                return (
                    f"family '{family.name}': two episodes of one task with one seed and the same "
                    "actions differ, so nothing repeats and tasks cannot be told apart for sure: "
                    "draw from self.np_random alone, after super().reset(seed=seed), and let "
                    "nothing stay from one episode to the next"
                )
            if low != high and not _differ(family, env, low, high):
                raise UserError(_complaint(family, env, param.name, low, high))
    finally:
        env.close()
    return ""


def _ends(family: GymnasiumFamily, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both ends of the range of one parameter, all its elements together."""
    distribution = TaskDistribution(family)
    rows = np.repeat(distribution.nominal().values, 2, axis=0)
    param = next(param for param in family.params if param.name == name)
    for column in param.names:
        at = distribution.names.index(column)
        rows[:, at] = distribution.sweep(column, 2).values[:, at]
    low, high = family.task_dicts(Tasks(family.name, distribution.names, rows))
    return low, high


def _differ(
    family: GymnasiumFamily, env: gymnasium.Env, one: dict[str, Any], two: dict[str, Any],
    episodes: int = len(HELD),
) -> bool:  # fmt: skip
    """Whether any number differs between episodes of two tasks; stops at the first that does."""
    lengths = (*LENGTHS, family.probe_steps)[:episodes]
    for seed, (steps, held) in enumerate(zip(lengths, HELD, strict=False)):
        steps = min(steps, family.probe_steps, family.horizon)
        a, b = (_episode(family, env, task, seed, steps, held) for task in (one, two))
        if not np.array_equal(a, b, equal_nan=True):
            return True
    return False


def _episode(
    family: GymnasiumFamily, env: gymnasium.Env, task: dict[str, Any], seed: int, steps: int,
    held: int,
) -> np.ndarray:  # fmt: skip
    """Return all numbers of an episode with random actions, each held for a few steps."""
    seed_globals(seed)
    rng = np.random.default_rng(seed)
    parts = [family.begin_flat(env, dict(task), seed)]
    taken = np.zeros(family.action.size)
    for t in range(steps):
        if t % held == 0:
            draw = torch.from_numpy(rng.uniform(-1, 1, (1, family.action.size)))
            taken = family.action.taken(draw)[0].numpy()
        obs, *rest = family.step_flat(env, taken)
        parts += [obs, np.array(rest, np.float64)]
        if rest[1] or rest[2]:
            break
    return np.concatenate(parts)


def _complaint(
    family: GymnasiumFamily, env: gymnasium.Env, name: str, low: dict[str, Any],
    high: dict[str, Any],
) -> str:  # fmt: skip
    """Say what is wrong with a parameter that changes nothing, and what to do."""
    text = (
        f"family '{family.name}', parameter '{name}': {low[name]!s:.40} and {high[name]!s:.40} "
        "give the same episodes under one seed and the same actions: "
    )
    if not family.task_after_reset:
        family.task_after_reset = True
        try:
            lost = _differ(family, env, low, high)
        except Exception:  # that order may well be impossible
            lost = False
        finally:
            del family.task_after_reset
        if lost:
            return text + (
                "reset() draws the task anew, after set_task() has set it; write "
                "`task_after_reset = True` in the family, or keep the task in reset()"
            )
    return text + (
        f"let step() or reset() use what set_task() sets; where random actions rarely meet the "
        f"difference, as with sparse rewards, raise `probe_steps` = {family.probe_steps} or set "
        "it to 0"
    )
