"""The variation that tells the robot its task: the observation of an oracle."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from metarl import Choices, Interval, Param, TaskDistribution, TaskWorlds, find_family
from metarl.base.keys import Key


@pytest.mark.parametrize(
    "name", ["half-cheetah-vel", "walker2d-params", "half-cheetah-vel+dynamics+latency"]
)
def test_the_told_family_has_the_tasks_of_the_family(name: str) -> None:
    plain, told = (TaskDistribution(find_family(name + more)) for more in ("", "+told"))
    for split in ("train", "heldout", "ood"):
        np.testing.assert_array_equal(plain.split(split, 6).values, told.split(split, 6).values)


def test_the_observation_ends_with_the_parameters() -> None:
    worlds = TaskWorlds("half-cheetah-vel+told", 2, 1)
    plain = TaskWorlds("half-cheetah-vel", 2, 1)
    assert worlds.spec.observation_size == plain.spec.observation_size + 1
    distribution = TaskDistribution(worlds.family)
    low, high = distribution.params[0].train.low, distribution.params[0].train.high
    tasks = type(distribution.nominal())(
        worlds.family.name, distribution.names, np.array([[low], [(low + high) / 2]])
    )
    worlds.set_tasks(tasks, 1)
    assert worlds.reset()[:, -1].tolist() == [-1.0, 0.0]
    assert worlds.step(torch.zeros(2, 6)).next_obs[:, -1].tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("train", "values", "expected"),
    [
        (Interval(1.0, 3.0), [1.0, 2.0, 4.0], [[-1.0], [0.0], [2.0]]),
        (Interval(0.25, 4.0, log=True), [0.25, 1.0, 8.0], [[-1.0], [0.0], [1.5]]),
        (Choices((-1.0, 1.0)), [-1.0, 1.0], [[-1.0], [1.0]]),
        (Choices((0.0, 1.0, 5.0)), [1.0, 5.0, 7.0], [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (Choices((2.0,)), [2.0], [[-1.0]]),
        (Choices((1.0, 2.0, 5.0), heldout=(3.0,)), [1.0, 3.0, 5.0], [[-1.0], [0.0], [1.0]]),
    ],
)
def test_encoding(train: Interval | Choices, values: list, expected: list) -> None:
    got = Param("x", train).encode(torch.tensor(values, dtype=torch.float64))
    assert got.tolist() == [pytest.approx(row) for row in expected]


def test_vectors_and_values_without_a_logarithm() -> None:
    param = Param("x", Interval(1.0, math.e**2, log=True), size=2)
    got = param.encode(torch.tensor([[1.0, math.e], [math.e**2, 0.0]], dtype=torch.float64))
    assert got[0].tolist() == pytest.approx([-1.0, 0.0])
    assert torch.isfinite(got).all()


def test_one_that_is_told_before_other_variations() -> None:
    family = find_family("half-cheetah-vel+told+latency")
    assert family.name == "half-cheetah-vel+latency+told"
    worlds = TaskWorlds(family, 1, 1)
    assert worlds.spec.observation_size == TaskWorlds("half-cheetah-vel", 1, 1).spec[0] + 2


@pytest.mark.parametrize("name", ["half-cheetah-terrain", "quadruped-terrain"])
def test_on_terrain_the_oracle_sees_the_ground_and_not_only_its_number(name: str) -> None:
    told, scan = (TaskWorlds(find_family(name + more), 3, 1) for more in ("+told", "-scan"))
    tasks = TaskDistribution(told.family).split("heldout", 3)
    seen = []
    for worlds in (told, scan):
        worlds.set_tasks(dataclasses.replace(tasks, family=worlds.family.name), 1)
        worlds.seed(Key(0))
        worlds.reset()
        worlds.simulator.qpos[:, 0] += 12.0  # m: beyond the flat start
        worlds.simulator.refresh(None)
        seen.append(worlds.family.observe(worlds.simulator, worlds.task))
    places = seen[1].shape[1] - TaskWorlds(find_family(name), 1, 1).spec.observation_size
    differ = seen[0][:, -places:] - seen[1][:, -places:]  # by where the robot counts its root from
    torch.testing.assert_close(differ, differ[:1, :1].expand_as(differ), rtol=0, atol=1e-9)
    assert (seen[0][:, -places:].std(1) > 0).any()
