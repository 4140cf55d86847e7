"""What a public function cannot take is one sentence that names the argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from metarl import Choices, Interval, Key, Param, Tasks, TrainConfig, UserError
from metarl.adapters import GymEnv
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.evaluation import protocol
from metarl.learning.adapted_policy import AdaptedPolicy


@functools.cache
def worlds() -> metarl.TaskWorlds:
    return metarl.TaskWorlds("point-goal", 4, 1)


@functools.cache
def maml() -> MamlTrpo:
    return MamlTrpo(worlds().spec, MamlTrpoConfig(hidden=(4,)))


def collect(given: object = None, **more: Any) -> object:
    asked = {"policy": lambda obs: obs[:, :2], "state": None, "steps": 2, "key": Key(0), **more}
    return metarl.collect(worlds() if given is None else given, explore=False, **asked)


def train(**given: Any) -> object:
    made = {
        "learner": maml(), "worlds": worlds(), "distribution": worlds().family.distribution,
        "config": TrainConfig(tasks_per_iteration=2, rollouts_per_task=2),
    }  # fmt: skip
    return metarl.meta_train(**made | given)


def save(**given: Any) -> object:
    good = {"folder": "x", "learner": maml(), "family": "point-goal", "step": 1, "meta": {}}
    return metarl.save(**good | given)


ENV = functools.partial(gymnasium.make, "metarl/PointGoal-v0")
CALLS: list[tuple[Callable[[], object], str]] = [
    *((lambda bad=bad: collect(bad), "worlds must be such as") for bad in ([], "ant-dir", 4, {})),
    (lambda: collect(ENV()), "worlds must be such as metarl.make_worlds returns"),
    (lambda: collect(worlds().family), "worlds must be such as"),
    (lambda: metarl.collect(None, maml(), None, 2, Key(0), explore=False), "not None"),  # type: ignore[arg-type]
    (lambda: collect(on_step=[]), "on_step must be a function"),
    (
        lambda: collect(policy=Rl2(worlds().spec, Rl2Config(units=4, hidden=4))),
        "rl2 acts from a state: give what begin(",
    ),
    (
        lambda: protocol.evaluate(maml(), ENV(), None, episodes=0, seed=0),  # type: ignore[arg-type]
        "worlds must be such as",
    ),
    (lambda: metarl.evaluate(maml(), worlds(), 2, seed=None), "a seed must be a whole number"),  # type: ignore[arg-type]
    (lambda: Key(0.5), "a seed must be a whole number, not 0.5"),  # type: ignore[arg-type]
    (lambda: train(learner=None), "learner must be of type Learner, not None"),
    (lambda: train(worlds=[]), "worlds must be of type VecWorlds, not []"),
    (lambda: train(distribution=worlds().family), "distribution must be of type TaskDistribution"),
    (lambda: train(config={}), "config must be of type TrainConfig, not {}"),
    (lambda: train(callbacks=3), "callbacks must be of type Sequence"),
    (lambda: train(callbacks="ab"), "a callback must be a Callback or a function, not 'a'"),
    (lambda: metarl.load_adapted(None), "give the path of a file or folder, not None"),  # type: ignore[arg-type]
    (lambda: protocol.Report.load([]), "give the path of a file or folder, not []"),  # type: ignore[arg-type]
    (lambda: save(folder=3), "give the path of a file or folder, not 3"),
    (lambda: save(folder="a\0b"), "give the path of a file or folder"),
    (lambda: save(learner={}), "learner must be of type Learner"),
    (lambda: save(family=None), "family must be of type str"),
    (lambda: save(step="1"), "step must be a whole number of at least 0, not '1'"),
    (lambda: save(step=-1), "step must be a whole number of at least 0, not -1"),
    (lambda: save(meta=None), "meta must be of type dict"),
    (lambda: MamlTrpo(None, MamlTrpoConfig()), "spec must be of type Spec"),  # type: ignore[arg-type]
    (lambda: MamlTrpo(worlds().spec, Rl2Config()), "config must be of type MamlTrpoConfig"),
    (lambda: MamlTrpo(worlds().spec, MamlTrpoConfig(), seed=None), "seed must be of type int"),  # type: ignore[arg-type]
    (
        lambda: MamlTrpo(worlds().spec, MamlTrpoConfig(), device="gpu"),
        "device must be cpu or cuda, not 'gpu'",
    ),
    (lambda: maml().load_state_dict(None), "weights must be of type Mapping"),  # type: ignore[arg-type]
    (
        lambda: maml().load_state_dict(dict.fromkeys(maml().state_dict(), 1)),  # type: ignore[arg-type]
        "found int",
    ),
    (lambda: metarl.TaskDistribution("point-goal"), "family must be of type TaskFamily"),  # type: ignore[arg-type]
    (lambda: GymEnv(3), "family must be of type TaskFamily, not 3"),  # type: ignore[arg-type]
    (
        lambda: metarl.with_params("point-goal", Param("x", Interval(0.0, 1.0))),  # type: ignore[arg-type]
        "family must be of type TaskFamily, not 'point-goal'",
    ),
    (lambda: Choices(None), "values of Choices must be of type Iterable"),  # type: ignore[arg-type]
    (lambda: Choices((1.0, torch.tensor(1.0))), "a value is repeated"),  # type: ignore[arg-type]
    (lambda: Interval(torch.zeros(2), 1.0), "Interval"),  # type: ignore[arg-type]
    (lambda: Tasks("f", 3, np.zeros((1, 1))), "names must be of type"),  # type: ignore[arg-type]
    (lambda: Tasks("f", ("a",), "x"), "values must be numbers (M, P), not 'x'"),  # type: ignore[arg-type]
    (lambda: Tasks.from_json([]), "tasks JSON is malformed"),  # type: ignore[arg-type]
    (
        lambda: metarl.train("point-goal", "maml-trpo", total_timesteps=1),
        "maml-trpo has no setting 'total_timesteps': here it is env_steps",
    ),
    (
        lambda: metarl.train("point-goal", "maml-trpo", n_envs=4),
        "no setting 'n_envs': here it is tasks_per_iteration and rollouts_per_task",
    ),
    (lambda: metarl.train("point-goal", "maml"), "'maml' (did you mean 'maml-trpo'?)"),
    (
        lambda: metarl.TaskDistribution("point-goal"),  # type: ignore[arg-type]
        "not 'point-goal': find_family('point-goal') gives one",
    ),
    (
        lambda: AdaptedPolicy(maml(), maml().begin(1, 1), []).predict("abc"),
        "obs must be an array of numbers, not 'abc'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), CALLS, ids=[words for _, words in CALLS])
def test_it_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert words in str(caught.value)
