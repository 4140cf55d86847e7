"""FTML: its losses and steps against those of the inner loop, what a stream changes, and a toy."""

import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import Ftml, FtmlConfig
from metarl.base.keys import Key
from metarl.modules.gradients.remembered import kept, weighted_loss
from metarl.worlds.rollout import collect


def small(**settings) -> tuple[Ftml, TaskWorlds]:
    worlds = TaskWorlds("point-goal", 8, threads=1)
    defaults = {"hidden": (8,), "updates": 2, "update_tasks": 4, "buffer": 3, "samples": 40}
    agent = Ftml(worlds.spec, FtmlConfig(**(defaults | settings)), seed=0)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", 2), 4)
    return agent, worlds


def played(agent: Ftml, worlds: TaskWorlds, state, seed: int = 0):
    worlds.seed(Key(seed))
    worlds.reset()
    return collect(worlds, agent, state, worlds.spec.horizon, Key(seed), explore=True)[0]


def test_the_loss_of_fresh_data_has_the_policy_gradient_and_old_weights_are_cut_off() -> None:
    agent, worlds = small()
    state = agent.begin(2, 4)
    batch = agent.inner.batch(played(agent, worlds, state))
    rows = kept(agent.policy, [batch], [state.params], batch.weight.shape[1])[:, 0]
    params = state.params.clone().requires_grad_()
    (mine,) = torch.autograd.grad(weighted_loss(agent.policy, params, rows, 2, 2.0), params)
    (plain,) = torch.autograd.grad(agent.inner.loss(params, batch), params)
    torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)
    old = rows.clone()
    old[..., -1] -= 1.5  # e^1.5 times as likely now: the weight is 2, by value and by gradient
    loss = weighted_loss(agent.policy, params, old, 2, 2.0)
    (cut,) = torch.autograd.grad(loss, params)
    torch.testing.assert_close(cut, 2 * plain, rtol=1e-4, atol=1e-6)


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    agent, worlds = small(inner_steps=2, inner_lr=0.3, max_ratio=50.0)
    state = agent.adapt(agent.begin(2, 4), played(agent, worlds, agent.begin(2, 4)))
    prior, rounds = state.prior.double(), state.buffer[:, :1].double()
    gradient = agent._gradients(prior, rounds)[:, 0]
    way = torch.randn(prior.shape, generator=Key(1).torch(), dtype=torch.float64)
    way = way / way.norm()

    def value(params):
        before, after = rounds.flatten(0, 1).unbind(1)
        for _ in range(2):
            params = params.detach().requires_grad_()
            params = params - 0.3 * torch.autograd.grad(agent._loss(params, before), params)[0]
        return float(agent._loss(params, after).detach())

    slope = (value(prior + 1e-5 * way) - value(prior - 1e-5 * way)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_a_stream_moves_its_prior_and_restarts_there_and_a_frozen_one_does_not() -> None:
    for online in (True, False):
        agent, worlds = small(online=online, restart=2)
        first = agent.begin(2, 4)
        one = agent.adapt(first, played(agent, worlds, first))
        two = agent.adapt(one, played(agent, worlds, one, 1))
        assert torch.equal(first.prior, two.prior) != online
        assert not torch.equal(one.params, one.prior)
        assert torch.equal(two.params, two.prior)
        assert not torch.equal(one.buffer[:, 0], first.buffer[:, 0])
        assert torch.equal(one.buffer[:, 0], two.buffer[:, 0])


@pytest.mark.slow
def test_it_learns_to_adapt_on_the_toy() -> None:
    worlds = TaskWorlds("point-goal", 200, threads=1)
    agent = Ftml(worlds.spec, FtmlConfig(inner_lr=0.5, lr=4e-3), seed=1)
    tasks = TaskDistribution(worlds.family)
    for i in range(10):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, tasks.split("heldout", 20), episodes=1, seed=0)
    assert report.difference()[1] > 0.2 * -report.mean[0]  # the lower end of the interval
