"""Keyed randomness: the same words give the same numbers, whoever asks and whenever."""

import numpy as np
import pytest
import torch

from metarl.base.keys import BatchedRNG, Key

GOLDEN_KEY = 7163381271710615482
GOLDEN_DRAW = 0.8946894304475369
GOLDEN_NOISE = [0.9242377877235413, -1.1717455387115479]
GOLDEN_UNIFORM = [
    [0.3186081054902884, 0.5582204605982432],
    [0.5183742298130488, 0.2057609816997492],
]


def test_pinned() -> None:
    """Golden: a change here changes every split and every run."""
    assert Key(0).uint64() == GOLDEN_KEY
    assert Key(0).fold("tasks", 1).numpy().random() == GOLDEN_DRAW
    assert draws([5, 2]).uniform(0, 1, 2).tolist() == GOLDEN_UNIFORM
    assert Key(0).normal(1, 2, 1, 1).flatten().tolist() == GOLDEN_NOISE


def test_words_are_told_apart() -> None:
    keys = [Key(1), Key("1"), Key(1, 1), Key(11), Key("a", "b"), Key("ab"), Key("a\x1fb")]
    assert len({key.uint64() for key in keys}) == len(keys)
    assert Key(1).fold(2, "x") == Key(1, 2, "x")


def test_noise_of_a_task_does_not_depend_on_the_others() -> None:
    four, two = Key(3).normal(4, 5, 3, 2), Key(3).normal(2, 5, 3, 2)
    assert four.shape == (5, 12, 2)
    assert torch.equal(four[:, :6], two)
    assert not torch.equal(four[:, :3], four[:, 3:6])


def draws(index: list[int], episode: int = 0) -> BatchedRNG:
    which = np.array(index)
    return BatchedRNG(Key(0), which // 2, which % 2, np.full(len(which), episode))


def test_a_world_draws_alike_in_any_company() -> None:
    every = draws(list(range(6)))
    some = draws([4, 1])
    for _ in range(3):
        a, b = every.uniform(-1, 1, 3), some.uniform(-1, 1, 3)
        assert torch.equal(a[[4, 1]], b)
        c, d = every.normal(2), some.normal(2)
        assert torch.equal(c[[4, 1]], d)


def test_worlds_and_episodes_differ() -> None:
    first, second = draws(list(range(50))), draws(list(range(50)), episode=1)
    numbers = torch.cat((first.uniform(0, 1, 4), second.uniform(0, 1, 4)))
    assert len(numbers.unique()) == 400


def test_distributions() -> None:
    many = BatchedRNG(Key(5), np.arange(20000), np.zeros(20000), np.zeros(20000))
    u, z = many.uniform(2.0, 4.0, 3), many.normal(3)
    assert 2.0 <= float(u.min()) < float(u.max()) < 4.0
    assert abs(float(u.mean()) - 3.0) < 0.01
    assert abs(float(u.var()) - 4 / 12) < 0.01
    assert abs(float(z.mean())) < 0.02
    assert abs(float(z.std()) - 1) < 0.02
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 0.02


@pytest.mark.parametrize("size", [1, 9])
def test_a_world_draws_alike_alone(size: int) -> None:
    """Vectorised logarithms and cosines must not depend on how many numbers there are."""
    normal, uniform = draws(list(range(70))).normal(size), draws(list(range(70))).uniform(0, 1, 1)
    for i in range(70):
        assert torch.equal(draws([i]).normal(size)[0], normal[i])
        assert torch.equal(draws([i]).uniform(0, 1, 1)[0], uniform[i])


def test_a_key_is_a_value() -> None:
    key = Key(1, "a")
    assert key == Key(1).fold("a")
    assert len({key, Key(1, "a"), Key(1, "b")}) == 2
    key.fold("b").numpy().random()
    assert key.words == (1, "a")
    assert key.numpy().random() == key.numpy().random()
    assert torch.equal(torch.rand(3, generator=key.torch()), torch.rand(3, generator=key.torch()))


def test_action_noise_is_standard_normal_and_apart_by_key_and_task() -> None:
    noise = Key(5).normal(8, 50, 20, 6).double()
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    blocks = torch.stack((*noise.unflatten(1, (8, 20)).unbind(1), Key(6).normal(1, 50, 20, 6)))
    correlation = torch.corrcoef(blocks.flatten(1)) - torch.eye(9)
    assert float(correlation.abs().max()) < 0.06


@pytest.mark.parametrize("bit", range(64))
def test_all_64_bits_of_a_key_reach_its_noise(bit: int, monkeypatch) -> None:
    """With 32 of them, of 10^5 streams of a run two would be the same."""
    whole = Key.uint64
    noise = Key("x").normal(1, 2, 1, 2)
    monkeypatch.setattr(Key, "uint64", lambda key: whole(key) ^ (1 << bit))
    assert not torch.equal(Key("x").normal(1, 2, 1, 2), noise)
