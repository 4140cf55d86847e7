"""The task-batched Gaussian policy against torch's own layers and distributions."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from metarl.networks.task_mlp import Gaussian, GaussianMLP


def gaussian(seed: int) -> Gaussian:
    rng = torch.Generator().manual_seed(seed)
    return Gaussian(
        torch.randn(3, 5, 2, generator=rng, dtype=torch.float64),
        0.3 * torch.randn(3, 1, 2, generator=rng, dtype=torch.float64),
    )


def reference(g: Gaussian) -> Independent:
    return Independent(Normal(g.mean, g.log_std.exp().expand_as(g.mean)), 1)


def test_log_prob_and_kl_are_torch_distributions() -> None:
    p, q = gaussian(0), gaussian(1)
    action = torch.randn(3, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(action), reference(p).log_prob(action))
    torch.testing.assert_close(p.kl(q), kl_divergence(reference(p), reference(q)))
    assert p.kl(p).abs().max() == 0


def test_each_task_is_a_plain_network() -> None:
    net = GaussianMLP(4, 2, (6, 5), action_scale=0.3, init_std=0.7)
    params = torch.randn(3, net.num_params, generator=torch.Generator().manual_seed(2))
    obs = torch.randn(3, 7, 4)
    got = net(params, obs)
    for m in range(3):
        w1, b1, w2, b2, w3, b3, log_std = (part[0] for part in net.split(params[m : m + 1]))
        hidden = torch.tanh(torch.tanh(obs[m] @ w1 + b1) @ w2 + b2)
        torch.testing.assert_close(got.mean[m], 0.3 * (hidden @ w3 + b3))
        torch.testing.assert_close(got.log_std[m].exp(), 0.3 * log_std.exp().clamp(min=1e-3))


def test_initial_parameters() -> None:
    net = GaussianMLP(17, 6, (64, 64), action_scale=0.1, init_std=1.0)
    theta = net.initial(torch.Generator().manual_seed(0))
    assert theta.shape == (17 * 64 + 64 + 64 * 64 + 64 + 64 * 6 + 6 + 6,)
    assert torch.equal(theta, net.initial(torch.Generator().manual_seed(0)))
    std = net(theta[None], torch.zeros(1, 1, 17)).log_std.exp()
    torch.testing.assert_close(std, torch.full((1, 1, 6), 0.1))
    assert net(theta[None], torch.zeros(1, 1, 17)).mean.abs().max() == 0


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_kl_is_never_negative(one: int, other: int) -> None:
    assert float(gaussian(one).kl(gaussian(other)).min()) >= -1e-12


def test_gradients_are_those_of_torch_distributions() -> None:
    leaves = [part.clone().requires_grad_() for part in gaussian(3)]
    p, q = Gaussian(*leaves), gaussian(4)
    action = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = (
        (p.log_prob(action), reference(p).log_prob(action)),
        (p.kl(q), kl_divergence(reference(p), reference(q))),
        (q.kl(p), kl_divergence(reference(q), reference(p))),
    )
    for ours, theirs in pairs:
        got, expected = (torch.autograd.grad(x.sum(), leaves) for x in (ours, theirs))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_the_smallest_std() -> None:
    """exp(−9) is raised to 10⁻³, then scaled like every action."""
    net = GaussianMLP(1, 2, (3,), action_scale=0.5)
    theta = torch.zeros(1, net.num_params)
    theta[0, -2:] = torch.tensor([-9.0, 1.0])
    std = net(theta, torch.zeros(1, 1, 1)).log_std.exp().flatten()
    torch.testing.assert_close(std, torch.tensor([0.5e-3, 0.5 * 2.718281828]))


def test_first_weights_fill_glorot_s_range() -> None:
    net = GaussianMLP(50, 10, (40,))
    weights = net.split(net.initial(torch.Generator().manual_seed(1))[None])[0]
    bound = (6 / 90) ** 0.5
    assert 0.99 * bound < float(weights.abs().max()) <= bound
    assert abs(float(weights.std()) - bound / 3**0.5) < 0.005
