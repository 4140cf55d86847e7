"""Reptile: the equations, the joint training that it is with one step, and a learnable toy."""

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from metarl import Spec, TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import Reptile, ReptileConfig
from metarl.base.keys import Key
from metarl.modules.gradients.inner_loop import Batch, Phases, State


def learner(**settings) -> Reptile:
    agent = Reptile(Spec(3, 2, 10), ReptileConfig(hidden=(5,), inner_lr=0.3, **settings))
    agent.theta = agent.theta.double()
    return agent


def phases(count: int, tasks: int = 4, samples: int = 12) -> Phases:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    rng, weight = Key(0).torch(), torch.full((tasks, samples), 1 / samples).double()
    batches = [
        Batch(draw(tasks, samples, 3), draw(tasks, samples, 2), draw(tasks, samples), weight)
        for _ in range(count)
    ]
    return Phases(batches, [draw(tasks)] * count, torch.zeros(tasks))


def test_one_inner_step_is_joint_training() -> None:
    """θ − ε α times the policy gradient of all tasks together: no meta-learning is left."""
    agent, data = learner(inner_steps=1, lr=0.5), phases(1)
    obs, action, advantage, _ = (part.flatten(0, 1) for part in data.batches[0])
    theta = agent.theta.clone().requires_grad_()
    log_prob = agent.policy(theta[None], obs[None]).log_prob(action[None])[0]
    joint = grad(-(log_prob * advantage).mean(), theta)[0]
    before = agent.theta
    agent.update([data], Key(0))
    torch.testing.assert_close(agent.theta, before - 0.5 * 0.3 * joint)


def test_the_prior_moves_to_the_mean_of_the_adapted_policies() -> None:
    agent, data, ends = learner(inner_steps=3, lr=0.25), phases(3), []
    for m in range(4):
        phi = agent.theta[None]
        for batch in data.batches:
            leaf = phi.clone().requires_grad_()
            one = Batch(*(part[m : m + 1] for part in batch))
            phi = phi - 0.3 * grad(agent.inner.loss(leaf, one), leaf)[0]
        ends.append(phi[0])
    expected = agent.theta + 0.25 * (torch.stack(ends).mean(0) - agent.theta)
    agent.update([data], Key(0))
    torch.testing.assert_close(agent.theta, expected)


def test_the_step_decays_over_iterations() -> None:
    agent, data = learner(inner_steps=1, lr=0.5, lr_decay_iterations=4), phases(1)
    lrs = [agent.update([data], Key(i))["lr"] for i in range(6)]
    assert lrs == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.01, 0.01])
    assert int(agent.state_dict()["iteration"]) == 6


def test_every_inner_step_has_rollouts_of_its_own_and_no_rollout_is_for_nothing() -> None:
    worlds = TaskWorlds("point-goal", 8, threads=1)
    agent = Reptile(worlds.spec, ReptileConfig(hidden=(4,), inner_steps=3))
    data = agent.collect(worlds, TaskDistribution(worlds.family).split("train", 4), Key(0))
    assert worlds.env_steps == 3 * 8 * worlds.spec.horizon
    first, second, third = (batch.obs for batch in data.batches)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    state = agent.begin(4, 2)
    for batch in data.batches:
        state = agent.inner.adapt(state, batch)
    assert isinstance(state, State)
    assert state.steps == 3
    agent.update([data], Key(0))
    torch.testing.assert_close(agent.theta, state.params.mean(0))


@pytest.mark.slow
def test_it_learns_to_adapt_on_the_toy() -> None:
    """After 15 updates the steps towards goals never seen gain more than before training."""
    worlds = TaskWorlds("point-goal", 200, threads=1)
    agent = Reptile(worlds.spec, ReptileConfig(inner_lr=0.5), seed=1)
    tasks = TaskDistribution(worlds.family)
    heldout = tasks.split("heldout", 20)
    untrained = evaluate(agent, worlds, heldout, episodes=3, seed=0).mean
    for i in range(15):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, heldout, episodes=3, seed=0)
    assert report.mean[3] - report.mean[0] > 1.3 * (untrained[3] - untrained[0])
    assert report.difference()[1] > 0
