"""The trust-region step on quadratics, where everything can be worked out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metarl.modules.gradients.trust_region import conjugate_gradient, trust_region_step


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


def test_a_stretched_quadratic_by_hand() -> None:
    """F = diag(1, 4), g = (2, 4), δ = 1: s = F⁻¹g = (2, 1), sᵀFs = 8, so the step is −½ s."""
    fisher = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    g = torch.tensor([2.0, 4.0], dtype=torch.float64)
    step = trust_region_step(
        torch.ones(2, dtype=torch.float64), g, lambda v: fisher @ v,
        lambda x: (g @ x, 0.5 * (x - 1) @ fisher @ (x - 1) - 1e-12), 6.0, max_kl=1.0,
    )  # fmt: skip
    assert step.params.tolist() == pytest.approx([0.0, 0.5])
    assert step.loss == pytest.approx(2.0)
    assert step.kl == pytest.approx(1.0)


def test_backtracking_by_hand() -> None:
    """The true KL is twice the estimated one: ½ · 2 · 0.8^2k ≤ ½ first holds at k = 2."""
    g = torch.tensor([1.0, 0.0], dtype=torch.float64)
    step = trust_region_step(
        torch.zeros(2, dtype=torch.float64), g, lambda v: v, lambda x: (g @ x, x @ x), 0.0,
        max_kl=0.5,
    )  # fmt: skip
    assert step.trials == 3
    assert step.params.tolist() == pytest.approx([-0.64, 0.0])
    assert step.kl == pytest.approx(0.64**2)


@given(st.floats(1e-9, 1e9))
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    """Once a fixed tolerance ended the solver at random numbers where gradients were small."""
    a, g = positive_definite(1), torch.arange(1.0, 7.0, dtype=torch.float64)

    def step(factor: float) -> Tensor:
        return trust_region_step(
            torch.zeros(6, dtype=torch.float64), factor * g, lambda v: a @ v,
            lambda x: (factor * g @ x, 0.49 * x @ a @ x), 0.0, max_kl=0.1,
        ).params  # fmt: skip

    torch.testing.assert_close(step(scale), step(1.0), rtol=1e-6, atol=1e-9)


def test_torch_s_global_generator_is_left_alone() -> None:
    """It is seeded by nobody, so a step that reads it would differ from run to run."""
    before = torch.get_rng_state()
    trust_region_step(
        torch.ones(2), torch.ones(2), lambda v: v, lambda x: (x.sum(), 0 * x.sum()), 2.0, max_kl=0.1
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fisher", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_fisher_matrix_that_is_none_changes_nothing(fisher: float) -> None:
    start = torch.ones(2)
    step = trust_region_step(
        start, torch.ones(2), lambda v: fisher * v, lambda x: (x.sum(), 0 * x.sum()), 2.0,
        max_kl=0.1,
    )  # fmt: skip
    assert not step.accepted
    assert torch.equal(step.params, start)
