"""The pool of training tasks that learners with a memory of each task draw from."""

from pathlib import Path

import numpy as np
import pytest

from metarl import TaskDistribution, TaskWorlds, UserError, find_family, find_learner, meta_train
from metarl.base.keys import Key
from metarl.runs.config import TrainConfig
from metarl.tasks.sampler import task_sampler


def distribution(name: str = "half-cheetah-vel") -> TaskDistribution:
    return TaskDistribution(find_family(name))


def test_a_pool_is_the_frozen_train_split() -> None:
    tasks = task_sampler(distribution(), 4, 10).sample(3, Key(0))
    assert tasks.ids is not None
    assert len(set(tasks.ids.tolist())) == 4
    assert np.array_equal(tasks.values, distribution().split("train", 10).values[tasks.ids])


def test_without_a_pool_tasks_are_new_draws() -> None:
    one, two = (task_sampler(distribution(), 4, None).sample(i, Key(0)) for i in (0, 1))
    assert one.ids is None
    assert one != two
    assert one == distribution().sample(4, Key(0, "tasks", 0).numpy())


@pytest.mark.parametrize(("pool", "n"), [(10, 5), (10, 4), (7, 7), (3, 2), (1, 1)])
def test_a_sweep_visits_every_task_of_the_pool(pool: int, n: int) -> None:
    sweep = -(-pool // n)
    for start in (0, sweep, 5 * sweep):
        drawn = [
            task_sampler(distribution(), n, pool).sample(start + i, Key(1)).ids
            for i in range(sweep)
        ]
        assert all(ids is not None and len(set(ids.tolist())) == n for ids in drawn)
        assert {int(i) for ids in drawn if ids is not None for i in ids} == set(range(pool))


def test_sweeps_differ_in_their_order_and_repeat_with_the_key() -> None:
    def ids(iteration: int, seed: int) -> list[int]:
        drawn = task_sampler(distribution(), 20, 20).sample(iteration, Key(seed)).ids
        assert drawn is not None
        return drawn.tolist()

    assert ids(0, 1) == ids(0, 1)
    assert ids(0, 1) != ids(1, 1)
    assert ids(0, 1) != ids(0, 2)


def test_a_part_of_the_tasks_keeps_their_ids() -> None:
    tasks = task_sampler(distribution(), 6, 10).sample(0, Key(0))
    assert tasks.ids is not None
    part = tasks[2:4]
    assert part.ids is not None
    assert part.ids.tolist() == tasks.ids[2:4].tolist()


def test_more_tasks_than_the_pool_has_is_an_error() -> None:
    with pytest.raises(UserError, match="tasks_per_iteration is 3, but the learner keeps a pool"):
        task_sampler(distribution("half-cheetah-dir"), 3, 2).sample(0, Key(0))


def test_a_pool_that_is_too_small_leaves_no_run_behind(tmp_path: Path) -> None:
    cls, pool = find_learner("pearl"), distribution("point-goal")
    worlds = TaskWorlds(pool.family, 3, 1)
    learner = cls(worlds.spec, cls.Config(train_tasks=2, hidden=(8,), encoder_hidden=(8,)))
    train = TrainConfig(
        tasks_per_iteration=3, rollouts_per_task=1, threads=1, out=str(tmp_path / "run")
    )
    with pytest.raises(UserError, match="the learner keeps a pool of 2 training tasks"):
        meta_train(learner, worlds, pool, train)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_pool_resumes_to_the_same_bits(tmp_path: Path) -> None:
    from metarl.learning.checkpoint import load, newest, restore

    cls = find_learner("pearl")
    config = cls.Config(
        train_tasks=4, hidden=(8,), encoder_hidden=(8,), meta_batch=2, batch_size=8,
        context_size=4, gradient_steps=2, initial_episodes=1, replay_capacity=200,
    )  # fmt: skip
    pool = distribution("point-goal")
    settings = {
        "tasks_per_iteration": 2, "rollouts_per_task": 1, "evaluate_every": 100,
        "evaluate_tasks": 2, "evaluate_episodes": 1, "threads": 1, "progress": False, "seed": 3,
    }  # fmt: skip

    def run(out: str, iterations: int, resume: Path | None = None) -> Path:
        worlds = TaskWorlds(pool.family, 2, 1)
        checkpoint = None if resume is None else load(newest(resume))
        learner = cls(worlds.spec, config, seed=3) if checkpoint is None else restore(checkpoint)
        where = str(tmp_path / out)
        train = TrainConfig(iterations=iterations, out=where, **settings)
        return meta_train(learner, worlds, pool, train, resume=checkpoint)

    whole = load(newest(run("whole", 5)))
    parts = load(newest(run("parts", 5, resume=run("parts", 3))))
    assert whole.tensors.keys() == parts.tensors.keys()
    assert {"replay.data", "context.data"} <= whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert np.array_equal(tensor.numpy(), parts.tensors[name].numpy()), name
