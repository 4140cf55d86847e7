"""ES-MAML: its directions, its estimates against plain loops, and a learnable toy."""

from dataclasses import replace

import pytest
import torch

from metarl import Spec, TaskDistribution, TaskWorlds, UserError, evaluate
from metarl.algorithms import EsMaml, EsMamlConfig
from metarl.base.keys import Key

SPEC = Spec(3, 2, 10)


def learner(**settings) -> EsMaml:
    return EsMaml(SPEC, EsMamlConfig(hidden=(4,), **settings))


def directions(agent: EsMaml, state) -> torch.Tensor:
    return (state.queries - state.params[:, None]) / agent.config.sigma


def test_directions_are_mirrored_and_each_task_round_and_seed_has_its_own() -> None:
    agent = learner(sigma=0.5)
    state = agent.begin_seeded(3, 6, seed=1)
    q = directions(agent, state)
    torch.testing.assert_close(q[:, 3:], -q[:, :3], atol=1e-5, rtol=0)
    seen = [q[0, 0], q[1, 0], directions(agent, agent.begin_seeded(3, 6, seed=2))[0, 0]]
    seen.append(directions(agent, agent._with_queries(state._replace(rounds=1), 6))[0, 0])
    assert all(not torch.allclose(a, b) for i, a in enumerate(seen) for b in seen[:i])
    part = agent.begin_seeded(1, 6, seed=1, first_task=2)
    assert torch.equal(part.queries[0], state.queries[2])


def test_a_monte_carlo_step_is_the_standardised_returns_times_the_directions() -> None:
    agent = learner(sigma=0.5, inner_lr=0.2)
    state = agent.begin(2, 4)
    score = torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0, torch.nan, 4.0, 4.0]], dtype=torch.float64)
    after = agent._stepped(state, score)
    weights = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 3.5**0.5  # (1, 2, 3, 6) standardised
    q = directions(agent, state)
    step = sum(w * q[0, e] for e, w in enumerate(weights)) / 4 / 0.5
    torch.testing.assert_close(after[0], state.params[0] + 0.2 * step, atol=1e-5, rtol=1e-4)
    assert torch.equal(after[1], state.params[1])  # equal returns say nothing


def test_a_monte_carlo_step_climbs_a_linear_return() -> None:
    """With many queries it is the gradient: its direction, and with it the expected length."""
    agent = learner(sigma=1e-3, inner_lr=1e-3)
    state = agent.begin(1, 20000)
    slope = torch.randn(state.params.shape[1], generator=Key(0).torch())
    score = directions(agent, state).double() @ slope.double()
    step = agent._stepped(state, score)[0] - state.params[0]
    assert float(torch.cosine_similarity(step, slope, dim=0)) > 0.99
    assert float(step.norm()) == pytest.approx(1.0, rel=0.05)


def test_hill_climbing_keeps_the_best_mean_and_tries_the_incumbent_again() -> None:
    agent = learner(adaptation="hill-climb", repeats=2)
    state = agent.begin(3, 6)  # three candidates, each in two worlds
    q = directions(agent, state)
    assert torch.equal(q[:, 0], torch.zeros_like(q[:, 0]))
    assert torch.equal(state.queries[:, :3], state.queries[:, 3:])
    nan = torch.nan
    score = torch.tensor([
        [0.0, 9.0, 3.0, 0.0, -9.0, 2.0],  # one lucky return does not make a mean
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],  # a draw: stay
        [0.0, nan, -1.0, 0.0, 99.0, -1.0],  # what diverges is never chosen
    ], dtype=torch.float64)  # fmt: skip
    after = agent._climbed(state, score)
    assert torch.equal(after[0], state.queries[0, 2])
    assert torch.equal(after[1], state.params[1])
    assert torch.equal(after[2], state.params[2])


def test_each_world_acts_by_its_own_query_and_none_by_noise() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = EsMaml(worlds.spec, EsMamlConfig(hidden=(8,)))
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", 3), 4)
    worlds.seed(Key(0))
    worlds.reset()
    state, obs = agent.begin(3, 4), worlds.current.obs
    explored, _ = agent.act(worlds.current, state, explore=True, noise=None)
    plain, _ = agent.act(worlds.current, state, explore=False, noise=None)
    for world in range(12):
        m, e = divmod(world, 4)
        for action, params in ((explored, state.queries[m, e]), (plain, state.params[m])):
            expected = agent.policy.mean(params[None], obs[world][None, None])[0, 0]
            torch.testing.assert_close(action[world], expected)


def test_the_meta_update_is_the_antithetic_difference() -> None:
    agent = learner(sigma=0.5, lr=0.2)
    size = len(agent.theta)
    p = torch.randn(4, size, generator=Key(3).torch())
    plus = torch.tensor([1.0, 5.0, torch.nan, 2.0], dtype=torch.float64)
    minus = torch.tensor([0.0, 7.0, 3.0, 2.0], dtype=torch.float64)
    shard = {"p": p, "diverged": torch.zeros(4), "1 0": plus, "1 after": plus, "-1 0": minus,
             "-1 after": minus, "obs": torch.randn(10, 3, generator=Key(4).torch())}  # fmt: skip
    before = agent.theta
    agent.update([shard], Key(0))
    scale = (5 / 4) ** 0.5  # differences 1, -2, unknown and 0
    expected = (p[0] - 2 * p[1]) / scale / 4 / 0.5
    torch.testing.assert_close(agent.theta, before + 0.2 * expected)
    torch.testing.assert_close(agent.moments.mean, shard["obs"].double().mean(0))
    equal = shard | {"-1 after": plus.nan_to_num(), "1 after": plus.nan_to_num()}
    now = agent.theta
    agent.update([equal], Key(1))
    assert torch.equal(agent.theta, now)  # no difference, no step


@pytest.mark.parametrize("rounds", [1, 2])
def test_all_queries_of_the_adaptation_are_env_steps(rounds: int) -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = EsMaml(worlds.spec, EsMamlConfig(hidden=(4,), inner_steps=rounds))
    tasks = TaskDistribution(worlds.family).split("train", 3)
    agent.meta_step(worlds, tasks, Key(0))
    assert worlds.env_steps == 2 * (rounds + 1) * 12 * worlds.spec.horizon


def test_settings_that_cannot_work_are_refused() -> None:
    for name, value in (("adaptation", "climb"), ("sigma", 0.0), ("repeats", 0), ("hidden", ())):
        with pytest.raises(UserError, match=name):
            replace(EsMamlConfig(), **{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(("adaptation", "more"), [("mc", 1.2), ("hill-climb", 0.75)])
def test_it_adapts_on_the_toy(adaptation: str, more: float) -> None:
    """After 40 updates a round gains; by Monte Carlo more than it did before training."""
    worlds = TaskWorlds("point-goal", 200, threads=1)
    config = EsMamlConfig(adaptation=adaptation, hidden=(8,), sigma=0.3, inner_lr=0.3, lr=0.02)
    agent = EsMaml(worlds.spec, config, seed=1)
    tasks = TaskDistribution(worlds.family)
    heldout = tasks.split("heldout", 20)
    untrained = evaluate(agent, worlds, heldout, episodes=1, seed=0).mean
    for i in range(40):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, heldout, episodes=1, seed=0)
    assert report.mean[1] - report.mean[0] > more * (untrained[1] - untrained[0])
    assert report.difference()[1] > 0.1 * -report.mean[0]  # the lower end of the interval
