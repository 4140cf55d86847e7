"""The parts of PPO and the running statistics, against numbers by hand and plain references."""

import math

import pytest
import torch

from metarl.modules.optim import ClippedAdam
from metarl.modules.ppo import (
    ClippedSettings,
    adapted_lr,
    clipped_surrogate,
    discounted_sums,
    next_lr,
    normalized,
    thread_pool,
)
from metarl.networks.normalise import RunningMoments


def test_the_gain_is_clipped_only_where_that_lowers_it() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    # min(3, 2.4); min(-3, -2.4); min(1, 1.6); min(-1, -1.6); 2.2
    expected = torch.tensor([2.4, -3.0, 1.0, -1.6, 2.2])
    assert torch.allclose(clipped_surrogate(ratio.log(), advantage, 0.2), expected)


@pytest.mark.parametrize(
    ("kl", "lr"), [(0.03, 1e-3 / 1.5), (0.004, 1.5e-3), (0.01, 1e-3), (0.02, 1e-3)]
)
def test_the_step_size_follows_the_divergence(kl: float, lr: float) -> None:
    assert math.isclose(adapted_lr(1e-3, kl, 0.01), lr)
    assert adapted_lr(1e-3, kl, 0.0) == 1e-3


def test_the_step_size_stays_within_bounds() -> None:
    assert adapted_lr(1e-2, 0.0, 0.01) == 1e-2
    assert adapted_lr(1e-5, 1.0, 0.01) == 1e-5


@pytest.mark.parametrize(("env_steps", "left"), [(0, 1.0), (50, 0.5), (99, 0.02), (300, 0.02)])
def test_the_schedule_lowers_the_step_size_or_the_divergence(env_steps: int, left: float) -> None:
    kept = ClippedSettings(lr=1e-3, desired_kl=0.0, lr_decay_steps=100)
    assert math.isclose(next_lr(7.0, 0.01, env_steps, kept), 1e-3 * left)
    adapted = ClippedSettings(desired_kl=0.01, lr_decay_steps=100)
    assert next_lr(1e-3, 0.011 * left, env_steps, adapted) == 1e-3
    assert next_lr(1e-3, 0.021 * left, env_steps, adapted) < 1e-3
    assert next_lr(1e-3, 0.01, env_steps, ClippedSettings(desired_kl=0.0)) == 1e-3


def test_standardising_leaves_out_what_has_no_weight() -> None:
    x, weight = torch.tensor([1.0, 3.0, 100.0, 5.0]), torch.tensor([1.0, 1.0, 0.0, 1.0])
    # mean 3, variance (4 + 0 + 4) / 3
    root = math.sqrt(8 / 3)
    assert torch.allclose(normalized(x, weight), torch.tensor([-2 / root, 0.0, 0.0, 2 / root]))
    assert (normalized(x, torch.zeros(4)) == 0).all()


def test_discounted_sums_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0], [2.0, 4.0], [3.0, 0.0]])
    expected = torch.tensor([[1.0, 0.0], [2.5, 4.0], [4.25, 2.0]])
    assert torch.equal(discounted_sums(reward, 0.5), expected)


def test_adam_is_torchs_adam_with_a_bounded_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 2, generator=rng), torch.randn(4, generator=rng)]
    mine = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    adam, reference = ClippedAdam(mine, 0.01), torch.optim.Adam(theirs, lr=0.01)
    for scale in (0.01, 10.0, 0.1, 1.0):
        gradient = [scale * torch.randn(p.shape, generator=rng) for p in start]
        adam.step(gradient, 0.5)
        for p, g in zip(theirs, gradient, strict=True):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_side_by_side_puts_the_threads_back() -> None:
    torch.set_num_threads(3)
    with thread_pool() as pool:
        assert torch.get_num_threads() == 1
        assert list(pool.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
    assert torch.get_num_threads() == 3


def test_running_moments_are_those_of_all_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 3, generator=rng) * 5 + n for n in (7, 1, 40)]
    moments, rows = RunningMoments(3, torch.device("cpu")), torch.cat(parts).double()
    x = torch.randn(4, 3, generator=rng)
    assert torch.equal(moments.normalise(x * 9), (x * 9).clamp(-10, 10))  # 0 and 1 before any rows
    for part in parts:
        moments.update(part)
    moments.update(torch.zeros(0, 3))
    assert moments.count == 48
    assert torch.allclose(moments.mean, rows.mean(0))
    assert torch.allclose(moments.variance, rows.var(0, correction=0))
    expected = ((x - rows.mean(0)) / rows.std(0, correction=0)).float()
    assert torch.allclose(moments.normalise(x), expected, atol=1e-5)
    other = RunningMoments(3, torch.device("cpu"))
    other.load_state_dict(moments.state_dict())
    assert torch.equal(other.normalise(x), moments.normalise(x))


def test_a_constant_is_no_division_by_zero() -> None:
    moments = RunningMoments(1, torch.device("cpu"))
    moments.update(torch.ones(5, 1))
    assert moments.normalise(torch.tensor([[1.0], [2.0]])).tolist() == [[0.0], [10.0]]
