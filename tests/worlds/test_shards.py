"""A part of an iteration's tasks, in a process of its own, does what it does in the whole."""

import multiprocessing
from multiprocessing.connection import Connection

import pytest
import torch
from helpers.demonstrations import demonstrations_file
from helpers.small_learners import small
from helpers.teacher import teacher
from torch import Tensor

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, collect, evaluate, find_family, find_learner
from metarl.base.keys import Key
from metarl.learning.registry import list_learners
from metarl.tasks.sampler import task_sampler
from metarl.worlds.policy import ZeroPolicy

TASKS, WORLDS = 4, 3


@pytest.fixture(autouse=True)
def _short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 10)


def shard(learner, family: str, start: int, stop: int):
    """What a process with the tasks from `start` to `stop` collects."""
    every = TaskDistribution(find_family(family)).split("train", TASKS)
    tasks = every[start:stop]
    worlds = TaskWorlds(family, len(tasks) * WORLDS, 1)
    return learner.collect(worlds, tasks, Key(1))


def tensors(data: object) -> list[Tensor]:
    """Every tensor in what a learner collected."""
    if isinstance(data, Tensor):
        return [data]
    if hasattr(data, "__dict__"):  # buffers
        data = vars(data)
    parts = data.values() if isinstance(data, dict) else data
    nested = parts if isinstance(parts, tuple | list) or isinstance(data, dict) else ()
    return [tensor for part in nested for tensor in tensors(part)]


def maml():
    cls = find_learner("maml-trpo")
    spec = TaskWorlds("point-goal", 1, 1).spec
    return cls(spec, cls.Config(**small("maml-trpo", TASKS)), seed=0)


def half_of_the_tasks(start: int, stop: int, others: Connection, result: Connection) -> None:
    """One of two processes: gathers the rows of the other one for every sum over tasks."""
    torch.set_num_threads(1)
    learner = maml()

    def sum_tasks(rows: Tensor) -> Tensor:
        others.send(rows.detach().numpy())
        theirs = torch.from_numpy(others.recv())
        both = (rows.detach(), theirs) if start == 0 else (theirs, rows.detach())
        return torch.cat(both).sum(0)

    learner.sum_tasks = sum_tasks
    metrics = learner.update([shard(learner, "point-goal", start, stop)], Key(1))
    result.send((learner.theta.numpy(), metrics))


def test_two_processes_with_half_of_the_tasks_each_reach_the_bits_of_one() -> None:
    learner = maml()
    before = learner.theta.clone()
    expected = learner.update([shard(learner, "point-goal", 0, TASKS)], Key(1))
    assert not torch.equal(before, learner.theta)
    context = multiprocessing.get_context("fork")
    ends, results, processes = context.Pipe(), [], []
    for part, (start, stop) in enumerate(((0, 2), (2, TASKS))):
        mine, theirs = context.Pipe()
        arguments = (start, stop, ends[part], theirs)
        processes.append(context.Process(target=half_of_the_tasks, args=arguments))
        processes[-1].start()
        results.append(mine)
    for process, result in zip(processes, results, strict=True):
        theta, metrics = result.recv()
        process.join()
        assert torch.equal(torch.from_numpy(theta), learner.theta)
        assert metrics == expected


def test_the_data_of_two_shards_are_those_of_the_whole() -> None:
    one, two = maml(), maml()
    whole = one.update([shard(one, "point-goal", 0, TASKS)], Key(1))
    parts = [shard(two, "point-goal", 0, 1), shard(two, "point-goal", 1, TASKS)]
    assert two.update(parts, Key(1)) == whole
    assert torch.equal(one.theta, two.theta)


@pytest.mark.parametrize("family", ["point-goal", "half-cheetah-vel"])
def test_a_slice_of_tasks_has_the_starts_and_the_noise_that_it_has_in_the_whole(family) -> None:
    tasks = TaskDistribution(find_family(family)).split("heldout", TASKS)
    rollouts = []
    for part in (tasks, tasks[2:], tasks[2:][1:], tasks[:2]):
        worlds = TaskWorlds(family, len(part) * WORLDS, 1)
        worlds.set_tasks(part, WORLDS)
        worlds.seed(Key(0))
        worlds.reset()
        rollouts.append(collect(worlds, ZeroPolicy(), None, 3, Key(0), explore=True)[0].obs)
    whole, half, last, first = rollouts
    assert torch.equal(half, whole[:, 2 * WORLDS :])
    assert torch.equal(last, whole[:, 3 * WORLDS :])
    assert torch.equal(first, whole[:, : 2 * WORLDS])
    assert not torch.equal(first, half)
    noise = Key(1).normal(TASKS, 3, WORLDS, 6)
    assert torch.equal(Key(1).normal(2, 3, WORLDS, 6, first_task=2), noise[:, 2 * WORLDS :])


@pytest.mark.parametrize("name", list_learners())
def test_a_task_scores_alone_what_it_scores_among_others(name: str) -> None:
    cls, tasks = find_learner(name), TaskDistribution(find_family("point-goal")).split("ood", 3)
    spec = TaskWorlds("point-goal", 1, 1).spec
    learner = cls(spec, cls.Config(**small(name, TASKS)), seed=0)
    every = evaluate(learner, TaskWorlds("point-goal", 6, 1), tasks, episodes=2, seed=3)
    alone = evaluate(learner, TaskWorlds("point-goal", 2, 1), tasks[2:], episodes=2, seed=3)
    assert alone.returns[0] == pytest.approx(every.returns[2], rel=1e-4)


def needed(name: str) -> dict[str, str]:
    """Settings without which a learner cannot be trained."""
    if find_learner(name).adapts_to_demonstrations:
        return {"demos": demonstrations_file("train", TASKS, 3)}
    return {"teacher": teacher()} if name == "distil" else {}


@pytest.mark.parametrize("name", list_learners())
def test_collecting_changes_nothing_of_a_learner(name: str) -> None:
    cls = find_learner(name)
    spec = TaskWorlds("point-goal", 1, 1).spec
    learner = cls(spec, cls.Config(**small(name, TASKS, **needed(name))), seed=0)
    sampler = task_sampler(
        TaskDistribution(find_family("point-goal")), TASKS, learner.num_train_tasks
    )
    worlds, tasks = TaskWorlds("point-goal", TASKS * WORLDS, 1), sampler.sample(0, Key(0))
    learner.meta_step(worlds, tasks, Key(0))
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    one, two = learner.collect(worlds, tasks, Key(1)), learner.collect(worlds, tasks, Key(1))
    after = learner.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    pairs = list(zip(tensors(one), tensors(two), strict=True))
    assert pairs
    assert all(torch.equal(a, b) for a, b in pairs)
