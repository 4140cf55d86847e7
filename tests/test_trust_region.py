"""The trust-region step on quadratics, where everything can be worked out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metarl.trust_region import conjugate_gradient, trust_region_step


def positive_definite(seed: int, size: int = 6) -> Tensor:
    root = torch.randn(
        size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)


@given(st.integers(0, 10**6))
def test_conjugate_gradient_solves_in_as_many_steps_as_dimensions(seed: int) -> None:
    a = positive_definite(seed)
    b = torch.randn(6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    got = conjugate_gradient(lambda v: a @ v, b, 12, tolerance=1e-24)
    torch.testing.assert_close(got, torch.linalg.solve(a, b), rtol=1e-6, atol=1e-8)


def test_no_gradient_no_direction() -> None:
    assert conjugate_gradient(lambda v: v, torch.zeros(3), 5).tolist() == [0, 0, 0]


def test_a_linear_loss_by_hand() -> None:
    """F = 4 I, g = (3, 4), δ = 0.5: s = g / 4, ½ sᵀFs = 25 / 32, so the step has length 0.5.

    It goes along −g / |g| = (−0.6, −0.8): (−0.3, −0.4), whose KL ½ · 4 · 0.25 is δ exactly; a hair
    inside for rounding.
    """
    g = torch.tensor([3.0, 4.0], dtype=torch.float64)

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        return g @ x, 2 * (x @ x) - 1e-12

    step = trust_region_step(
        torch.zeros(2, dtype=torch.float64), g, lambda v: 4 * v, objective, 0.0, max_kl=0.5
    )
    assert step.accepted
    assert step.trials == 1
    assert step.params.tolist() == pytest.approx([-0.3, -0.4])
    assert step.loss == pytest.approx(-2.5)
    assert step.kl == pytest.approx(0.5)


@given(st.integers(0, 10**6), st.floats(1e-4, 1.0), st.floats(0.1, 30.0))
def test_an_accepted_step_is_better_and_within_the_bound(
    seed: int, max_kl: float, error: float
) -> None:
    """Even where the Fisher matrix is wrong by a factor, and the loss is curved."""
    a = positive_definite(seed)
    g = torch.randn(6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)

    def objective(x: Tensor) -> tuple[Tensor, Tensor]:
        return g @ x + 3 * (x @ x) ** 2, 0.5 * error * x @ (a @ x)

    start = torch.zeros(6, dtype=torch.float64)
    step = trust_region_step(start, g, lambda v: a @ v, objective, 0.0, max_kl=max_kl)
    if step.accepted:
        loss, kl = objective(step.params)
        assert float(kl) <= max_kl
        assert float(loss) < 0.0
    else:
        assert torch.equal(step.params, start)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_useless_gradient_changes_nothing(bad: float) -> None:
    start = torch.ones(2)
    step = trust_region_step(
        start, torch.full((2,), bad), lambda v: v, lambda x: (x.sum(), x.sum()), 0.0, max_kl=0.1
    )
    assert not step.accepted
    assert torch.equal(step.params, start)


def test_a_loss_that_is_not_finite_is_never_accepted() -> None:
    nan = torch.tensor(float("nan"))
    step = trust_region_step(
        torch.ones(2), torch.ones(2), lambda v: v, lambda _: (nan, torch.zeros(())), 0.0, max_kl=0.1
    )
    assert not step.accepted
    assert step.trials == 15
