"""PEARL: posteriors by hand, restarts, adaptation."""

import itertools
from dataclasses import replace

import pytest
import torch
from small_pearl import SMALL, SPEC, learner, snapshot
from torch.distributions import Normal, kl_divergence

from envs.point import PointGoal
from metarl import Choices, Param, TaskDistribution, TaskWorlds, UserError, collect, evaluate
from metarl.algorithms.pearl import METRICS, Pearl, PearlConfig
from metarl.base.keys import Key
from metarl.evaluation.protocol import Report
from metarl.learning.adaptation import adapt_to
from metarl.modules.context import NOISE_EPISODES, Posterior, kl_from_prior, product_of_gaussians
from metarl.tasks.sampler import task_sampler

AUTHORS = replace(SMALL, adapt_every=0)
"""Episodes with z from the prior first, and a belief that changes between episodes alone."""


# --- the posterior -----------------------------------------------------------------------------


def test_the_product_of_two_gaussians_by_hand() -> None:
    # precisions 1 and 4 add to 5; the mean is (1 * 2 + 4 * -3) / 5 = -2
    mean, variance = product_of_gaussians(
        torch.tensor([[[2.0], [-3.0]]]), torch.tensor([[[1.0], [0.25]]])
    )
    assert mean.item() == pytest.approx(-2.0)
    assert variance.item() == pytest.approx(0.2)


def test_the_divergence_from_the_prior_by_hand() -> None:
    # 0.5 (m² + v − 1 − ln v): 0.5 (4 + 1 − 1 − 0) = 2 and 0.5 (0 + 0.5 − 1 + ln 2) = 0.0965736
    mean, variance = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.5]])
    assert kl_from_prior(mean, variance).item() == pytest.approx(2.0965736)
    mean, variance = torch.randn(3, 5), torch.rand(3, 5) + 0.1
    prior = Normal(torch.zeros(3, 5), torch.ones(3, 5))
    expected = kl_divergence(Normal(mean, variance.sqrt()), prior).sum()
    torch.testing.assert_close(kl_from_prior(mean, variance), expected)


def rollout_of(made: Pearl, tasks: int = 2, worlds: int = 2):
    world = TaskWorlds("point-goal", tasks * worlds, 1)
    world.set_tasks(TaskDistribution(world.family).split("train", tasks), worlds)
    world.seed(Key(0))
    world.reset()
    state = made.begin(tasks, worlds)
    return collect(world, made, state, SPEC.horizon, Key(1), explore=True)


def test_the_belief_of_each_world_is_the_product_over_its_own_transitions() -> None:
    made = learner(AUTHORS)
    data, state = rollout_of(made)
    adapted = made.adapt(state, data)
    mean, variance = adapted.posterior()
    for world in range(4):
        context = torch.cat(
            (data.obs[:, world], data.action[:, world], data.reward[:, world, None]), dim=1
        )
        expected = product_of_gaussians(*(part[None] for part in made.encoder(context)))
        torch.testing.assert_close(mean[world], expected[0][0])
        torch.testing.assert_close(variance[world], expected[1][0])


def test_the_posterior_contracts_with_context() -> None:
    made = learner(AUTHORS)
    data, state = rollout_of(made)
    variances = [state.posterior()[1]]
    for _ in range(3):
        state = made.adapt(state, data)
        variances.append(state.posterior()[1])
    assert (variances[0] == 1).all()  # the prior
    for before, after in itertools.pairwise(variances):
        assert (after < before).all()
    torch.testing.assert_close(variances[3], variances[1] / 3)


def test_the_order_of_the_context_does_not_matter() -> None:
    made = learner(AUTHORS)
    data, state = rollout_of(made)
    order = torch.randperm(SPEC.horizon)
    shuffled = data._replace(
        **{name: getattr(data, name)[order] for name in ("obs", "action", "reward", "next_obs")}
    )
    for one, two in zip(
        made.adapt(state, data).posterior(), made.adapt(state, shuffled).posterior(), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_next_observations_are_context_only_if_asked_for() -> None:
    for wanted in (False, True):
        made = learner(replace(SMALL, context_next_obs=wanted))
        data, state = rollout_of(made)
        one = made.adapt(state, data)
        two = made.adapt(state, data._replace(next_obs=data.next_obs + 1))
        assert torch.equal(one.weighted, two.weighted) is not wanted


def test_z_is_drawn_anew_in_each_episode_and_kept_within_it() -> None:
    made, worlds = learner(AUTHORS), TaskWorlds("point-goal", 3, 1)
    worlds.reset()
    state, seen = made.begin(3, 1), []
    for _ in range(2 * SPEC.horizon):
        action, state = made.act(worlds.current, state, explore=False, noise=None)
        seen.append(state.z(from_prior=True))
        worlds.step(action)
    first, second = seen[: SPEC.horizon], seen[SPEC.horizon :]
    assert all(torch.equal(z, first[0]) for z in first)
    assert all(torch.equal(z, second[0]) for z in second)
    assert (first[0] != second[0]).all()
    assert len(torch.unique(first[0])) == first[0].numel()  # each world has its own


@pytest.mark.parametrize("seed", [0, 1])
def test_evaluations_explore_with_the_draws_of_their_seed(seed: int) -> None:
    """The same initial states, weights and tasks: returns differ by z alone."""
    made, other = learner(), learner()
    other.begin_seeded = lambda tasks, worlds, *_: Pearl.begin_seeded(other, tasks, worlds, 0)
    worlds = TaskWorlds("point-goal", 3, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 3)
    for agent in (made, other):
        agent.sac.policy.params.data.normal_(generator=torch.Generator().manual_seed(0))
    one, two = (evaluate(m, worlds, tasks, episodes=1, seed=seed).returns for m in (made, other))
    assert (one == two) is (seed == 0)
    rounds = [
        [float(r.returns) for r in adapt_to(m, TaskWorlds("point-goal", 1, 1), tasks[:1],
         episodes=1, seed=seed)] for m in (made, other)
    ]  # fmt: skip
    assert (rounds[0] == rounds[1]) is (seed == 0)


def test_draws_of_z_have_the_posteriors_moments() -> None:
    key, device = Key(3), torch.device("cpu")
    belief = Posterior.prior(4000, 1, 2, key, device)._replace(episode=torch.zeros(4000).long())
    mean = torch.full((1, 4000, 2), 2.0)
    belief = belief.multiply(mean, torch.full_like(mean, 0.25), torch.ones(1, 4000).bool())
    z = belief.z(from_prior=False)
    assert z.mean().item() == pytest.approx(2.0, abs=5 * 0.5 / 8000**0.5)
    assert z.std().item() == pytest.approx(0.5, rel=0.05)
    assert belief.draws.shape == (NOISE_EPISODES, 4000, 2)


def test_the_report_has_the_posterior_of_each_round() -> None:
    made = learner(replace(AUTHORS, exploration_episodes=1))
    worlds = TaskWorlds("point-goal", 6, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 3)
    report = evaluate(made, worlds, tasks, episodes=2, seed=0)
    variance = torch.tensor(report.diagnostics["z_variance"])
    assert variance.shape == torch.tensor(report.diagnostics["z_mean"]).shape == (3, 3, 5)
    assert (variance[0] == 1).all()
    assert (variance[1] < variance[0]).all()
    assert (variance[2] < variance[1]).all()
    assert report.exploring == 1
    marked = [line for line in report.summary() if line.endswith("exploring")]
    assert [line.split()[0] for line in marked] == ["0"]
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json({k: v for k, v in report.to_json().items() if k != "diagnostics"})


def test_the_posterior_is_used_after_the_exploration_episodes() -> None:
    made = learner(replace(AUTHORS, exploration_episodes=2))
    data, state = rollout_of(made)
    step = TaskWorlds("point-goal", 4, 1).current

    def action(state: Posterior) -> torch.Tensor:
        return made.act(step, state, explore=False, noise=None)[0]

    one = made.adapt(state, data)
    two = made.adapt(one, data)
    assert torch.equal(action(one), action(state))
    assert not torch.equal(action(two), action(state))


# --- the meta-step -----------------------------------------------------------------------------


def meta_steps(
    made: Pearl, numbers: range, tasks: int = 2, each: int = 1
) -> list[dict[str, float]]:
    worlds = TaskWorlds("point-goal", tasks * each, 1)
    distribution = TaskDistribution(worlds.family)
    return [
        made.meta_step(
            worlds,
            task_sampler(distribution, tasks, made.num_train_tasks).sample(i, Key(0)),
            Key(0, i),
        )
        for i in numbers
    ]


def test_collection_fills_both_replays_by_the_clearing_rule() -> None:
    made = Pearl(SPEC, SMALL)
    metrics = meta_steps(made, range(2))
    replay, context = made._replay()
    # each of the 4 tasks: 2 initial episodes of 20 steps
    assert replay.size.tolist() == context.size.tolist() == [40] * 4
    assert [m["gradient_steps"] for m in metrics] == [0, 4]  # once all tasks have data
    (metrics,) = meta_steps(made, range(2, 3))
    # two tasks more: 2 episodes from the prior and 3 from the posterior, on top; the context only
    # holds the former
    assert sorted(replay.size.tolist()) == [40, 40, 100, 100]
    assert context.size.tolist() == [40] * 4
    assert set(METRICS) <= set(metrics)


def test_the_context_holds_the_newest_prior_episodes_only() -> None:
    made = Pearl(SPEC, SMALL)
    meta_steps(made, range(2))
    replay, context = made._replay()
    before = context.data.clone()
    meta_steps(made, range(2, 3))
    collected = (replay.size == 100).nonzero()[:, 0].tolist()
    assert len(collected) == 2
    for task in range(4):
        same = torch.equal(before[task], context.data[task])
        assert same is (task not in collected)
    task = collected[0]
    # rows 40 to 79 of the replay are the prior episodes, then come those of the posterior
    assert torch.equal(context.data[task, :40], replay.data[task, 40:80, :7])


def test_diverged_transitions_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from metarl.algorithms import pearl

    def broken(*args, **kwargs):
        rollout, state = collect(*args, **kwargs)
        rollout.diverged[3:7] = True
        return rollout, state

    monkeypatch.setattr(pearl, "collect", broken)
    made = Pearl(SPEC, SMALL)
    (metrics,) = meta_steps(made, range(1))
    assert sorted(made._replay()[0].size.tolist()) == [0, 0, 32, 32]  # 2 episodes of 20 − 4
    assert metrics["diverged"] == 16  # 2 tasks x 2 episodes x 4 steps


@pytest.mark.parametrize("saved", [True, False])
def test_a_resumed_learner_goes_on_to_the_same_bits(saved: bool) -> None:
    config = replace(SMALL, save_replay=saved, automatic_temperature=True)
    one, two = Pearl(SPEC, config), Pearl(SPEC, config, seed=1)
    meta_steps(one, range(3))
    two.load_state_dict(snapshot(one))
    for name, tensor in snapshot(one).items():
        assert torch.equal(tensor, two.state_dict()[name])
    metrics = [meta_steps(each, range(3, 4))[0] for each in (one, two)]
    same = all(torch.equal(t, two.state_dict()[n]) for n, t in snapshot(one).items())
    assert same is saved
    # without the replay it first collects for every task again
    assert [m["gradient_steps"] for m in metrics] == [4, 4 if saved else 0]


def test_the_device_of_the_replay_changes_nothing() -> None:
    states = []
    for where in ("same", "cpu"):
        made = Pearl(SPEC, replace(SMALL, replay_device=where))
        meta_steps(made, range(3))
        states.append(snapshot(made))
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())


def test_tasks_that_are_not_of_the_pool_are_refused() -> None:
    worlds = TaskWorlds("point-goal", 2, 1)
    tasks = TaskDistribution(worlds.family).sample(2, Key(0).numpy())
    with pytest.raises(UserError, match="pearl needs tasks with ids below train_tasks = 4"):
        Pearl(SPEC, SMALL).meta_step(worlds, tasks, Key(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_tasks", 0), ("lr", float("nan")), ("gamma", 1.1), ("kl_weight", -1.0),
     ("hidden", ()), ("replay_device", "disk"), ("target_rate", 0.0), ("batch_size", 2.5)],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        PearlConfig(**{name: value})


# --- learning ----------------------------------------------------------------------------------


class PointSide(PointGoal):
    """Go to the left or to the right, as the reward reveals: −|x − goal| (m)."""

    name = "point-side"
    params = (Param("goal_x", Choices((-1.0, 1.0)), unit="m"),)

    def reward(self, sim, before, action, task):
        return -(sim.qpos[:, 0] - task["goal_x"]).abs()


@pytest.mark.slow
def test_it_learns_to_adapt_and_needs_the_context_of_the_right_task() -> None:
    config = PearlConfig(
        train_tasks=2, hidden=(32, 32), encoder_hidden=(32,), lr=3e-3, gamma=0.9,
        target_rate=0.02, meta_batch=4, batch_size=64, context_size=20, gradient_steps=100,
        initial_episodes=10, prior_episodes=5, posterior_episodes=5, replay_capacity=3000,
        temperature=0.2, adapt_every=0,
    )  # fmt: skip
    made, each = Pearl(SPEC, config), 5
    worlds = TaskWorlds(PointSide(), 2 * each, 1)
    distribution = TaskDistribution(worlds.family)
    for i in range(9):
        made.meta_step(
            worlds, task_sampler(distribution, 2, made.num_train_tasks).sample(i, Key(0)), Key(0, i)
        )
    tasks = distribution.split("heldout", 2)
    report = evaluate(made, worlds, tasks, episodes=2, seed=0)
    assert report.mean[2] > report.mean[0] + 3
    assert report.mean[2] > report.stand_still + 3

    state = made.begin(2, each)
    for k in range(2):
        worlds.seed(Key(k))
        worlds.reset()
        data, state = collect(worlds, made, state, SPEC.horizon, Key(k), explore=False)
        state = made.adapt(state, data)
    returns = []
    for shift in (0, each):
        worlds.seed(Key(2))
        worlds.reset()
        given = state._replace(
            precision=state.precision.roll(shift, 0), weighted=state.weighted.roll(shift, 0)
        )
        data, _ = collect(worlds, made, given, SPEC.horizon, Key(2), explore=False)
        returns.append(float(data.first_episode_return().mean()))
    assert returns[0] > returns[1] + 5
