"""What the tests of the robots share: recorded steps, states set by hand, and hashes of splits."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch

from metarl import TaskDistribution, Tasks, TaskWorlds, find_family
from metarl.simulation.simulator import State
from metarl.tasks.family import replace_attributes


class Record(NamedTuple):
    """One step of B worlds, as numpy arrays; the states are those before any reset."""

    qpos_before: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    action: np.ndarray
    """Clipped to [−1, 1]."""
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def record(
    name: str, steps: int = 60, tasks: Tasks | None = None, scale: float = 1.5
) -> tuple[Tasks, list[Record]]:
    """Run held-out tasks with actions U[−scale, scale) and return what happened at every step."""
    seen = []

    def reward(sim, before, action, task):
        seen.append((before.qpos.numpy().copy(), sim.qpos.numpy().copy(), sim.qvel.numpy().copy()))
        return family.reward(sim, before, action, task)

    family = find_family(name)
    tasks = tasks or TaskDistribution(family).split("heldout", 12)
    worlds = TaskWorlds(replace_attributes(family, reward=reward), len(tasks), 1)
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    rng, records = np.random.default_rng(0), []
    for _ in range(steps):
        action = rng.uniform(-scale, scale, (len(tasks), worlds.spec.action_size))
        got = worlds.step(torch.from_numpy(action))
        assert not got.diverged.any()
        flags = (part.numpy() for part in (got.reward, got.terminated, got.truncated))
        records.append(Record(*seen[-1], np.clip(action, -1, 1), *flags))
    return tasks, records


def one_world(name: str, **task: float) -> TaskWorlds:
    """Return one world that runs the task with the named values."""
    worlds = TaskWorlds(name, 1, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(**task), 1)
    worlds.reset()
    return worlds


def reward_by_state(
    worlds: TaskWorlds, before: dict[int, float], after: dict[int, float], action: list[float]
) -> float:
    """Return the reward of a step between two states, given as {index of qpos: value}."""
    sim = worlds.simulator
    start = torch.zeros_like(sim.qpos)
    for index, value in before.items():
        start[0, index] = value
    for index, value in after.items():
        sim.qpos[0, index] = value
    taken = torch.tensor([action], dtype=torch.float64)
    state = State(start, torch.zeros_like(sim.qvel))
    return float(worlds.family.reward(sim, state, taken, worlds.task))


def digest(name: str) -> str:
    """Return a hash of 50 tasks of each split of a family."""
    tasks = TaskDistribution(find_family(name))
    splits = ["train", "heldout"] + (["ood"] if tasks.has_ood else [])
    values = b"".join(tasks.split(split, 50).values.tobytes() for split in splits)
    return hashlib.sha256(values).hexdigest()[:16]
