"""The learned optimizer: its parts against torch's, the meta-gradient, and a learnable toy."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from metarl import Key, Spec, TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import LearnedOptimizer, LearnedOptimizerConfig
from metarl.algorithms.learned_optimizer import Lstm, preprocessed
from metarl.modules.gradients.inner_loop import Batch, Phases
from metarl.tasks.sampler import task_sampler


def learner(**settings) -> LearnedOptimizer:
    config = LearnedOptimizerConfig(hidden=(2,), units=3, inner_lr=0.3, **settings)
    agent = LearnedOptimizer(Spec(2, 1, 10), config)
    agent.learned.params = agent.learned.params.detach().double()
    return agent


def phases(count: int = 3, tasks: int = 2, samples: int = 5) -> Phases:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    rng, weight = Key(0).torch(), torch.full((tasks, samples), 1 / samples).double()
    batches = [
        Batch(draw(tasks, samples, 2), draw(tasks, samples, 1), draw(tasks, samples), weight)
        for _ in range(count)
    ]
    return Phases(batches, [draw(tasks)] * count, torch.zeros(tasks))


def test_the_lstm_is_torchs() -> None:
    """With the same weights, over four steps, for each of the tasks with weights of its own."""
    ours, rng = Lstm(2, 3), Key(1).torch()
    weights = torch.stack([ours.initial(rng) for _ in range(2)])
    x, memory, found = torch.randn(4, 2, 6, 2, generator=rng), torch.zeros(2, 6, 12), []
    for step in x:
        out, memory = ours(weights, step, memory)
        found.append(out)
    for m, parts in enumerate(zip(*(part.unbind(0) for part in ours.split(weights)), strict=True)):
        theirs = nn.LSTM(2, 3, num_layers=2)
        with torch.no_grad():
            for layer in range(2):
                of_x, of_h, bias = parts[3 * layer : 3 * layer + 3]
                getattr(theirs, f"weight_ih_l{layer}").copy_(of_x.T)
                getattr(theirs, f"weight_hh_l{layer}").copy_(of_h.T)
                getattr(theirs, f"bias_ih_l{layer}").copy_(bias[0])
                getattr(theirs, f"bias_hh_l{layer}").zero_()
            expected = (theirs(x[:, m])[0] @ parts[6] + parts[7])[..., 0]
        torch.testing.assert_close(torch.stack(found)[:, m], expected)


def test_gradients_are_told_by_logarithm_and_sign() -> None:
    """By hand, on both sides of e^−10, and at zero."""
    given = torch.tensor([1.0, -math.exp(5), math.exp(-9), -math.exp(-11), 0.0])
    expected = [[0.0, 1.0], [0.5, -1.0], [-0.9, 1.0], [-1.0, -math.exp(-1)], [-1.0, 0.0]]
    torch.testing.assert_close(preprocessed(given), torch.tensor(expected))


def test_the_baseline_is_torchs_adam() -> None:
    agent, data = learner(rule="adam"), phases(4)
    state = agent.begin(2, 1)
    params = state.params.clone().requires_grad_()
    adam = torch.optim.Adam([params], lr=0.3)
    for batch in data.batches:
        params.grad = agent._gradient(state.params, batch)
        adam.step()
        state = agent._adapt(state, batch)
        torch.testing.assert_close(state.params, params.detach())


@pytest.mark.parametrize("rule", ["lstm", "adam"])
def test_the_meta_gradient_is_that_of_where_the_steps_lead(rule: str) -> None:
    """Finite differences of Σ_k ⟨g_k, φ_k⟩, with the gradients g_k held as they are."""
    agent, data = learner(rule=rule), phases()
    gradients, state = [], agent.begin(2, 1)
    for batch in data.batches:
        gradients.append(agent._gradient(state.params, batch))
        state = agent._adapt(state, batch)
    rows, moved = agent._rows(data.batches)

    def total(learned: Tensor) -> Tensor:
        theta, psi = learned.expand(2, -1).split(agent.sizes, dim=1)
        state, found = agent.begin(2, 1)._replace(params=theta), torch.zeros(2)
        for before, after in itertools.pairwise(gradients):
            state = agent._step(psi, state, before)
            found = found + (after * state.params).sum(1)
        return found

    learned, eps = agent.learned.params, 1e-6
    directions = torch.eye(len(learned), dtype=torch.float64)
    found = [(total(learned + eps * d) - total(learned - eps * d)) / (2 * eps) for d in directions]
    torch.testing.assert_close(rows, torch.stack(found, 1), atol=1e-6, rtol=1e-5)
    assert rows[:, agent.sizes[0] :].any() == (rule == "lstm")
    assert (moved > 0).all()


def test_the_prior_can_be_held() -> None:
    agent = LearnedOptimizer(Spec(2, 1, 10), LearnedOptimizerConfig(hidden=(2,), learn_prior=False))
    before = agent.learned.params.detach().clone()
    data = phases()
    batches = [Batch(*(part.float() for part in batch)) for batch in data.batches]
    agent.update([data._replace(batches=batches)], Key(0))
    changed = (agent.learned.params.detach() != before).split(agent.sizes)
    assert not changed[0].any()
    assert changed[1].all()


@pytest.mark.slow
def test_its_steps_become_better_than_untrained_ones() -> None:
    """From a prior that is held, so that nothing but the steps can have become better."""
    worlds, test = TaskWorlds("point-goal", 80, 1), TaskWorlds("point-goal", 80, 1)
    config = LearnedOptimizerConfig(hidden=(8,), units=8, learn_prior=False, lr=0.02)
    agent = LearnedOptimizer(worlds.spec, config, seed=0)
    tasks = TaskDistribution(worlds.family).split("heldout", 10)
    sampler = task_sampler(worlds.family.distribution, 8, None)
    untrained = evaluate(agent, test, tasks, episodes=3, seed=0)
    for i in range(60):
        agent.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
    report = evaluate(agent, test, tasks, episodes=3, seed=0)
    assert report.mean[0] == untrained.mean[0]
    assert report.mean[-1] > untrained.mean[-1] + 3
    assert report.difference()[1] > 0
