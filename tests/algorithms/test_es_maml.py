"""ES-MAML: its directions, its estimates against plain loops, and a learnable toy."""

from dataclasses import replace

import pytest
import torch
from helpers.refusals import refused
from helpers.teacher import teacher

from metarl import Spec, TaskDistribution, TaskWorlds, UserError, evaluate
from metarl.algorithms import EsMaml, EsMamlConfig, Ppo
from metarl.base.keys import Key
from metarl.learning import checkpoint as checkpoints
from metarl.worlds.rollout import collect

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
    for name, value in (
        ("adaptation", "climb"), ("sigma", 0.0), ("repeats", 0), ("hidden", ()), ("context", -1),
        ("learns", "context"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=name):
            replace(EsMamlConfig(), **{name: value})


# --- a context, and a start -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "worlds", "least"),
    [({}, 1, 2), ({"adaptation": "hill-climb"}, 1, 2),
     ({"adaptation": "hill-climb", "repeats": 5}, 9, 10)],
)  # fmt: skip
def test_too_few_worlds_to_compare_in_are_refused(settings, worlds: int, least: int) -> None:
    """In training, and in an evaluation that adapts; acting needs one world."""
    several = TaskWorlds("point-goal", 2 * worlds, threads=1)
    agent = EsMaml(several.spec, EsMamlConfig(hidden=(4,), **settings))
    tasks = TaskDistribution(several.family).split("train", 2)
    evaluate(agent, several, tasks, episodes=0)
    for go in (
        lambda: agent.meta_step(several, tasks, Key(0)),
        lambda: evaluate(agent, several, tasks, episodes=1),
    ):
        with refused(f"give --rollouts-per-task {least} or more"):
            go()


def test_of_a_policy_with_a_context_that_alone_is_tried_and_adapts() -> None:
    agent = learner(context=2, context_sigma=3.0, adaptation="hill-climb")
    state = agent.begin_seeded(3, 5, seed=1)
    moved = state.queries - state.params[:, None]
    assert not moved[..., :-2].any()
    assert not moved[:, 0].any()  # the incumbent is among them
    expected = 3.0 * Key("queries", 1, 0).normal(3, 5, 1, 2).movedim(0, 1)
    torch.testing.assert_close(moved[:, 1:, -2:], expected[:, 1:])
    after = agent._climbed(state, torch.arange(15.0).view(3, 5))
    assert torch.equal(after, state.queries[:, 4])

    stepped = learner(context=2, context_sigma=0.5, inner_lr=0.2)
    state = stepped.begin(1, 4)
    q = ((state.queries - state.params[:, None]) / 0.5)[0, :, -2:]
    step = stepped._stepped(state, torch.tensor([[1.0, 2.0, 3.0, 6.0]]))[0] - state.params[0]
    weights = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 3.5**0.5
    expected = 0.2 * (weights[:, None] * q).mean(0) / 0.5
    torch.testing.assert_close(step[-2:], expected)
    assert not step[:-2].any()


def test_the_policy_sees_its_context_after_the_observation() -> None:
    agent = learner(context=2)
    state = agent.begin(2, 1)
    params = state.params.clone()
    params[1, -2:] = torch.tensor([4.0, -1.0])
    obs = torch.randn(2, 1, 3, generator=Key(0).torch())
    seen = torch.cat((obs, params[:, None, -2:]), -1)
    expected = agent.policy.mean(params[:, :-2], seen)
    torch.testing.assert_close(agent._mean(params, obs), expected)
    assert not torch.allclose(expected[1], agent._mean(state.params, obs)[1])


def test_the_meta_update_may_be_of_the_context_alone() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = EsMaml(worlds.spec, EsMamlConfig(hidden=(4,), context=2, learns="context"))
    before, tasks = agent.theta, TaskDistribution(worlds.family).split("train", 3)
    agent.meta_step(worlds, tasks, Key(0))
    moved = agent.theta != before
    assert not moved[:-2].any()
    assert moved[-2:].all()


def test_it_starts_as_the_policy_of_ppo_that_was_told_its_task() -> None:
    """With the context that this was told, it acts the same; in a run that goes on, as that was."""
    told = TaskWorlds("point-goal+told", 4, threads=1)
    run = teacher(hidden=(8,), init_std=0.3)
    ppo = checkpoints.restore(checkpoints.load(run))
    assert isinstance(ppo, Ppo)
    ppo.ppo.obs_moments.update(2 * torch.randn(50, 6, generator=Key(1).torch()) + 1)
    run = str(checkpoints.save(f"{run}-seen", ppo, family="point-goal+told", step=0, meta={}))

    worlds = TaskWorlds("point-goal", 4, threads=1)
    config = EsMamlConfig(hidden=(8,), context=2, start=run, action_scale=0.3)
    agent = EsMaml(worlds.spec, config)
    agent.plan(worlds, 1, None)
    tasks = TaskDistribution(worlds.family).split("train", 4)
    for one in (told, worlds):
        one.set_tasks(tasks, 1)
        one.seed(Key(0))
        one.reset()
    scaled = ppo.ppo.obs_moments.normalise(told.current.obs) / ppo.ppo.obs_moments.weight.float()
    state = agent.begin(4, 1)
    params = state.params.clone()
    params[:, -2:] = scaled[:, -2:]
    theirs, _ = collect(told, ppo, ppo.begin(4, 1), 20, Key(1), explore=False)
    ours, _ = collect(worlds, agent, state._replace(params=params), 20, Key(1), explore=False)
    torch.testing.assert_close(ours.action, theirs.action, atol=1e-5, rtol=1e-4)
    assert not agent.begin(4, 1).params[:, -2:].any()  # before data: the mean of what it was told

    other = EsMaml(worlds.spec, config, seed=3)
    other.plan(worlds, 1, None)
    agent.meta_step(TaskWorlds("point-goal", 8, threads=1), tasks, Key(0))
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.theta, agent.theta)


@pytest.mark.parametrize(
    ("run", "settings", "message"),
    [
        ({}, {"hidden": (4,)}, "give --hidden 8 --context 2"),
        ({}, {"context": 1}, "give --hidden 8 --context 2"),
        ({"family": "point-goal"}, {}, "give --hidden 8 --context 0"),
        ({"history": 2}, {}, "without --history and --state-std"),
        ({"state_std": True}, {}, "without --history and --state-std"),
        ({"algorithm": "finetune"}, {}, "is finetune on 'point-goal\\+told'"),
        ({"family": "half-cheetah-vel"}, {}, "trained on 'point-goal' or on it with"),
        (None, {"start": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_a_start_that_does_not_fit_is_refused(
    run: dict | None, settings: dict, message: str
) -> None:
    worlds = TaskWorlds("point-goal", 2, threads=1)
    start = {} if run is None else {"start": teacher(**({"hidden": (8,)} | run))}
    config = EsMamlConfig(**({"hidden": (8,), "context": 2} | start | settings))
    with pytest.raises(UserError, match=message):
        EsMaml(worlds.spec, config).plan(worlds, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adaptation", "more", "updates", "lr"),
    [("mc", 1.2, 40, 0.02), ("hill-climb", 0.75, 20, 0.05)],
)
def test_it_adapts_on_the_toy(adaptation: str, more: float, updates: int, lr: float) -> None:
    """After some updates a round gains; by Monte Carlo more than it did before training."""
    worlds = TaskWorlds("point-goal", 200, threads=1)
    config = EsMamlConfig(adaptation=adaptation, hidden=(8,), sigma=0.3, inner_lr=0.3, lr=lr)
    agent = EsMaml(worlds.spec, config, seed=1)
    tasks = TaskDistribution(worlds.family)
    heldout = tasks.split("heldout", 20)
    untrained = evaluate(agent, worlds, heldout, episodes=1, seed=0).mean
    for i in range(updates):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, heldout, episodes=1, seed=0)
    assert report.mean[1] - report.mean[0] > more * (untrained[1] - untrained[0])
    assert report.difference()[1] > 0.1 * -report.mean[0]  # the lower end of the interval
