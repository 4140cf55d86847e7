"""Soft actor-critic: densities against torch.distributions, targets and losses by hand."""

import math

import pytest
import torch
from torch.autograd import grad
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from metarl import UserError
from metarl.learning.learner import load_tensors
from metarl.modules.optim import FlatAdam
from metarl.modules.sac import ActorCritic

FEATURES, ACTIONS, ROWS = 4, 2, 6


def made(temperature: float = 0.5) -> ActorCritic:
    generator = torch.Generator().manual_seed(0)
    sac = ActorCritic(
        FEATURES, ACTIONS, (8,), lr=1e-2, temperature=temperature, generator=generator,
        device=torch.device("cpu"),
    )  # fmt: skip
    for params in (sac.policy.params, sac.critic.params, sac.target):
        params.detach().normal_(std=0.5, generator=generator)
    return sac


def draws(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_density_is_that_of_a_squashed_gaussian() -> None:
    sac, x, noise = made(), draws(ROWS, FEATURES), draws(ROWS, ACTIONS)
    got = sac.sample(sac.policy.params, x, noise)
    base = Normal(got.mean, got.log_std.exp())
    squashed = TransformedDistribution(base, [TanhTransform(cache_size=1)])
    raw = got.mean + got.log_std.exp() * noise
    torch.testing.assert_close(got.action, raw.tanh())
    expected = squashed.log_prob(got.action).sum(-1)
    torch.testing.assert_close(got.log_prob, expected, rtol=1e-3, atol=1e-3)


def test_a_saturated_action_has_a_finite_density() -> None:
    sac, x = made(), draws(ROWS, FEATURES)
    got = sac.sample(sac.policy.params, x, torch.full((ROWS, ACTIONS), 100.0))
    assert got.log_prob.isfinite().all()
    assert (got.action.abs() <= 1).all()


def test_the_bellman_target_by_hand() -> None:
    sac, x, noise = made(temperature=0.5), draws(ROWS, FEATURES), draws(ROWS, ACTIONS)
    reward = torch.arange(6.0)
    discount = torch.tensor([0.9, 0.9, 0.0, 0.9, 0.0, 0.9])
    got = sac.bellman_target(x, noise, reward, discount)
    action, log_prob, *_ = sac.sample(sac.policy.params, x, noise)
    q = sac.critic_net.batched(sac.target, torch.cat((x, action), 1))[..., 0]
    for i in range(ROWS):
        soft = min(q[0, i].item(), q[1, i].item()) - 0.5 * log_prob[i].item()
        assert got[i].item() == pytest.approx(i + discount[i].item() * soft, rel=1e-5)
    assert got[2] == 2  # terminated: nothing follows
    assert not got.requires_grad


def test_the_critic_loss_by_hand() -> None:
    sac, x, action = made(), draws(ROWS, FEATURES), draws(ROWS, ACTIONS, seed=4)
    target = torch.linspace(-1, 1, ROWS)
    q = sac.critic_net.batched(sac.critic.params, torch.cat((x, action), 1))[..., 0]
    by_hand = sum(((q[k] - target) ** 2).sum() / ROWS for k in (0, 1))
    got = sac.critic_loss(sac.critic.params, x, action, target)
    torch.testing.assert_close(got, by_hand)


def test_the_actor_climbs_the_smaller_critic_and_leaves_the_critics_alone() -> None:
    sac, x, noise = made(), draws(ROWS, FEATURES), draws(ROWS, ACTIONS)
    loss, log_prob = sac.actor_loss(sac.policy.params, x, noise, 0.0)
    action = sac.sample(sac.policy.params, x, noise).action
    q = sac.critic_net.batched(sac.critic.params, torch.cat((x, action), 1))[..., 0]
    torch.testing.assert_close(loss, (0.5 * log_prob - q.min(0).values).mean())
    assert grad(loss, sac.critic.params, allow_unused=True) == (None,)


def test_the_penalty_is_of_mean_and_log_std() -> None:
    sac, x, noise = made(), draws(ROWS, FEATURES), draws(ROWS, ACTIONS)
    without, _ = sac.actor_loss(sac.policy.params, x, noise, 0.0)
    with_penalty, _ = sac.actor_loss(sac.policy.params, x, noise, 2.0)
    mean, log_std = sac.head(sac.policy.params, x)
    torch.testing.assert_close(with_penalty - without, 2 * ((mean**2).mean() + (log_std**2).mean()))


def test_the_temperature_rises_when_the_entropy_is_too_low() -> None:
    for entropy, rises in ((-ACTIONS - 1.0, True), (-ACTIONS + 1.0, False)):
        sac = made(temperature=0.5)
        flat = torch.zeros(sac.policy.params.numel() + 2)
        flat[-1] = -entropy - ACTIONS  # log π − A
        sac.improve_actor(flat, temperature=True)
        assert bool(sac.temperature() > 0.5) is rises


def test_targets_move_a_fraction_of_the_way() -> None:
    sac = made()
    before, goal = sac.target.clone(), sac.critic.params.detach()
    sac.update_targets(0.25)
    torch.testing.assert_close(sac.target, 0.75 * before + 0.25 * goal)


def test_training_steps_are_those_of_adam() -> None:
    mine = FlatAdam(torch.tensor([1.0, -2.0]), 0.1)
    plain = torch.tensor([1.0, -2.0], requires_grad=True)
    adam = torch.optim.Adam([plain], lr=0.1)
    for k in range(5):
        gradient = torch.tensor([1.0 + k, -0.3])
        mine.step(gradient)
        plain.grad = gradient.clone()
        adam.step()
    torch.testing.assert_close(mine.params, plain)
    saved = {name: tensor.clone() for name, tensor in mine.tensors().items()}
    other = FlatAdam(torch.zeros(2), 0.1)
    load_tensors(other.tensors(), saved, "test")
    assert "adam" not in vars(other)  # torch's own, whose making takes a second, is not needed yet
    for each in (mine, other):
        each.step(torch.ones(2))
    assert torch.equal(mine.params, other.params)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_tensors_that_do_not_fit_are_refused(change: str) -> None:
    mine, given = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    if change == "missing":
        given = {}
    elif change == "unknown":
        given["b"] = torch.ones(1)
    else:
        given["a"] = torch.ones(3)
    with pytest.raises(UserError, match="do not fit this test"):
        load_tensors(mine, given, "test")
    assert math.isclose(float(mine["a"].sum()), 0.0)
