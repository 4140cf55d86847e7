"""Arguments of worlds that cannot be are refused in one sentence, and change nothing."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, UserError, make_worlds
from metarl.base.keys import Key

COUNT = 4


@functools.cache
def worlds() -> TaskWorlds:
    made = TaskWorlds("point-goal", COUNT, 1)
    made.reset()
    return made


def tasks(n: int = COUNT):
    return TaskDistribution(worlds().family).split("heldout", n)


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([COUNT]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([1j]),
        torch.tensor(1), torch.tensor([[0]]), torch.ones(COUNT - 1, dtype=torch.bool),
        torch.ones(COUNT, 1, dtype=torch.bool), torch.tensor([0], device="meta"), [0], 1, "all",
        np.array([0]),
    ],
    ids=str,
)  # fmt: skip
def test_worlds_that_are_not_there(ids) -> None:
    with pytest.raises(UserError, match=r"numbers from 0 to 3, or a mask of 4, not "):
        worlds().reset(ids)


def test_worlds_that_are_there_in_any_form() -> None:
    mask = torch.tensor([True, False, True, False])
    for ids in (mask, torch.tensor([2, 0, 2]), torch.tensor([0, 2], dtype=torch.int32)):
        worlds().seed(Key(1))
        worlds().reset()
        worlds().step(torch.zeros(COUNT, 2))
        worlds().reset(ids)
        assert torch.equal(worlds().current.first, mask)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: worlds().set_tasks(None, 1), "tasks must be Tasks"),
        (lambda: worlds().set_tasks(tasks(), "1"), "4 tasks x '1' worlds do not fill 4"),
        (lambda: worlds().set_tasks(tasks(), 1.0), "4 tasks x 1.0 worlds do not fill 4"),
        (lambda: worlds().change_tasks(torch.tensor([1]), None), "tasks must be Tasks"),
        (lambda: worlds().seed(5), r"a key is metarl\.Key"),
        (lambda: TaskWorlds("point-goal", 4, "2"), "threads must be a whole number or None"),
        (lambda: TaskWorlds("point-goal", 4, 2.0), "threads must be a whole number or None"),
        (lambda: make_worlds("point-goal", 4, 10**9), "threads must be at most"),
    ],
)
def test_other_arguments(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"dtype": torch.complex64}, "of real numbers"),
        ({"dtype": torch.bool}, "of real numbers"),
        ({"device": "meta"}, "on the CPU"),
        ({"layout": torch.sparse_coo}, "dense"),
        ({"requires_grad": True}, r"no gradient.*action\.detach\(\)"),
    ],
)
def test_actions(how: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        worlds().step(torch.zeros(COUNT, 2, **how))


def test_whole_and_short_numbers_are_actions_and_so_are_parameters_without_gradients() -> None:
    for how in ({"dtype": torch.int64}, {"dtype": torch.float16}):
        worlds().step(torch.zeros(COUNT, 2, **how))
    with torch.no_grad():
        worlds().step(torch.zeros(COUNT, 2, requires_grad=True))
