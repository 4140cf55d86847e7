"""The task-batched Gaussian policy against torch's own layers and distributions."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from metarl.networks import Gaussian, GaussianMLP


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
