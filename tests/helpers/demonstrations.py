"""Demonstrations of a point that knows its goal, for what learns from them."""

import functools
import tempfile
from pathlib import Path

import torch

from envs.point import PointGoal
from metarl import Demonstrations, TaskWorlds
from metarl.learning.demonstrator import record
from metarl.worlds.policy import as_policy


def goes_there(obs: torch.Tensor) -> torch.Tensor:
    """Steer from where the point is, with its speed, to the goal that it is told."""
    place, speed, goal = obs.split(2, dim=1)
    return (3 * (goal - place) - 0.5 * speed).clamp(-1, 1)


def demonstrated(split: str = "train", tasks: int = 3, each: int = 3) -> Demonstrations:
    """Return demonstrations of point-goal, with the horizon that it has now."""
    return _demonstrated(split, tasks, each, PointGoal.horizon)


def demonstrations_file(split: str = "train", tasks: int = 3, each: int = 3) -> str:
    """Return the path of a file of them."""
    return _file(split, tasks, each, PointGoal.horizon)


@functools.cache
def _demonstrated(split: str, tasks: int, each: int, horizon: int) -> Demonstrations:
    worlds = TaskWorlds("point-goal+told", tasks * each, 1)
    chosen = worlds.family.distribution.split(split, tasks)
    return record(as_policy(goes_there), worlds, chosen, split=split)


@functools.cache
def _file(split: str, tasks: int, each: int, horizon: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="metarl-demos-"))
    return str(_demonstrated(split, tasks, each, horizon).save(folder / "demos.safetensors"))
