"""PEARL within an episode: what it believes after each step, and that training is not changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pearl import SMALL, SPEC, learner, snapshot

import metarl
from metarl import TaskDistribution, TaskWorlds, UserError, collect
from metarl.adapters import GymEnv
from metarl.algorithms.pearl import Pearl
from metarl.base.keys import Key
from metarl.cli import main
from metarl.learning import checkpoint as checkpoints
from metarl.learning.adapted_policy import AdaptedPolicy
from metarl.modules.context import product_of_gaussians
from metarl.run import refuse_changes, train_config
from metarl.tasks.sampler import task_sampler

EVERY = 4
ONLINE = replace(SMALL, adapt_every=EVERY, context_size=10)


def sharp(config=ONLINE) -> Pearl:
    """A learner whose policy and encoder are far from constant."""
    made, noise = learner(config), torch.Generator().manual_seed(0)
    for params in (made.sac.policy.params, made.encoder.weights.params):
        params.data.normal_(std=0.5, generator=noise)
    return made


def worlds_of(tasks: int, each: int = 1) -> TaskWorlds:
    worlds = TaskWorlds("point-goal", tasks * each, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", tasks), each)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


def product(made: Pearl, rows, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the product over the first `stop` transitions of each world."""
    context = torch.cat((rows.obs, rows.action, rows.reward[..., None]), -1)[:stop]
    return product_of_gaussians(*(part.transpose(0, 1) for part in made.encoder(context)))


def test_the_policy_acts_on_what_it_has_seen_every_few_steps() -> None:
    """By a plain loop: z is a draw from the prior, then the mean given the transitions so far."""
    made, worlds = sharp(), worlds_of(3)
    state = made.begin(3, 1)
    data, _ = collect(worlds, made, state, SPEC.horizon, Key(0), explore=False)
    for t in range(SPEC.horizon):
        seen = min(t // EVERY * EVERY, t)
        seen = ONLINE.context_size if t >= ONLINE.context_size else seen
        z = product(made, data, seen)[0] if seen else state.draws[0]
        head, _ = made.sac.head(made.sac.policy.params, torch.cat((data.obs[t], z), 1))
        torch.testing.assert_close(data.action[t], head.tanh())


def test_no_more_transitions_count_than_in_a_context_of_training() -> None:
    made, worlds = sharp(), worlds_of(2, 2)
    data, state = collect(worlds, made, made.begin(2, 2), SPEC.horizon, Key(0), explore=False)
    before = [part.clone() for part in state.posterior()]
    for _ in range(3):  # `adapt` counts nothing twice, and the limit holds over rounds
        state = made.adapt(state, data)
        for part, seen, expected in zip(
            state.posterior(), before, product(made, data, ONLINE.context_size), strict=True
        ):
            torch.testing.assert_close(part, expected)
            torch.testing.assert_close(seen, expected)
        assert state.seen.tolist() == [ONLINE.context_size] * 4


def test_a_new_episode_goes_on_from_the_belief_and_skips_the_step_between() -> None:
    made = sharp(replace(ONLINE, context_size=100))
    worlds = worlds_of(2)
    data, state = collect(worlds, made, made.begin(2, 1), 2 * SPEC.horizon, Key(0), explore=False)
    assert data.first[SPEC.horizon].all()
    # the last transition of an episode, and of the rollout, ends with no step that is acted on
    assert state.total_seen().tolist() == [2 * (SPEC.horizon - 1)] * 2
    assert made.adapt(state, data).total_seen().tolist() == [2 * SPEC.horizon] * 2


def test_diverged_and_unknown_transitions_do_not_count() -> None:
    made, worlds = sharp(), worlds_of(2)
    step, state = worlds.current, made.begin(2, 1)
    _, state = made.act(step, state, explore=False, noise=None)
    for reward in (1.0, float("nan"), 1.0):
        rewards = torch.tensor([1.0, reward])
        step = step._replace(prev_reward=rewards, first=torch.zeros(2, dtype=torch.bool))
        _, state = made.act(step, state, explore=False, noise=None)
    assert state.total_seen().tolist() == [3, 2]
    assert all(part.isfinite().all() for part in state.posterior())


@pytest.mark.parametrize("told", [True, False])
def test_a_deployed_policy_adapts_if_it_is_told_rewards(told: bool) -> None:
    made = sharp()
    state = made.begin(1, 1)
    policy, env = AdaptedPolicy(made, state, []), GymEnv("point-goal", {"goal_x": 0.5})
    (obs, _), reward = env.reset(seed=0), None
    rows = []
    for _ in range(SPEC.horizon):
        action, _ = policy.predict(obs, reward)
        rows.append((obs, action))
        obs, earned, *_ = env.step(action)
        reward = earned if told else None
    assert policy.state.total_seen().item() == (ONLINE.context_size if told else 0)
    z = state.draws[0]
    for obs, action in rows if not told else rows[:EVERY]:
        x = torch.cat((torch.tensor(np.float32(obs))[None], z), 1)
        expected = made.sac.head(made.sac.policy.params, x)[0].tanh()
        np.testing.assert_allclose(action, expected[0].detach().numpy(), atol=1e-6)
    if told:
        x = torch.cat((torch.tensor(np.float32(rows[-1][0]))[None], z), 1)
        blind = made.sac.head(made.sac.policy.params, x)[0].tanh()[0].detach().numpy()
        assert np.abs(rows[-1][1] - blind).max() > 1e-3


def test_training_is_the_same_whatever_the_evaluations_do() -> None:
    weights = []
    for every in (0, 1, 10):
        made = Pearl(SPEC, replace(SMALL, adapt_every=every))
        worlds = TaskWorlds("point-goal", 2, 1)
        sampler = task_sampler(TaskDistribution(worlds.family), 2, made.num_train_tasks)
        for i in range(3):
            made.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
        weights.append(snapshot(made))
    assert all(torch.equal(t, other[name]) for other in weights[1:] for name, t in other.items())
    for other in weights[1:]:
        assert all(torch.equal(tensor, weights[0][name]) for name, tensor in other.items())


def test_a_policy_that_an_earlier_version_saved_still_acts() -> None:
    """It had no counts and nothing of the present episode: its belief counts as whole."""
    made, worlds = sharp(), worlds_of(1)
    data, state = collect(worlds, made, made.begin(1, 1), SPEC.horizon, Key(0), explore=False)
    saved = made.adapted_state_dict(made.adapt(state, data))
    old = {n: t for n, t in saved.items() if not n.startswith(("state.seen", "state.recent"))}
    loaded = made.load_adapted_state_dict(made.upgrade_adapted(old, rounds=1))
    assert torch.equal(loaded.precision, made.adapt(state, data).precision)
    after, end = collect(worlds_of(1), made, loaded, SPEC.horizon, Key(0), explore=False)
    assert torch.equal(end.posterior()[0], loaded.posterior()[0])
    assert after.action.isfinite().all()
    assert made.upgrade_adapted(saved, rounds=1) is saved


# --- the settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("following", [False, True])
def test_normalised_observations_reach_policy_critics_and_encoder(following: bool) -> None:
    """In other units, observations that are normalised lead to the same actions."""
    made = learner(replace(SMALL, normalise=True, context_next_obs=following))
    assert made.moments is not None
    obs = torch.randn(500, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 2.0
    made.moments.update(obs)
    plain = learner(replace(SMALL, context_next_obs=following))
    for name in ("policy.params", "encoder.params"):
        plain._weights()[name].copy_(made._weights()[name])
    rows = torch.cat((obs[:7], torch.ones(7, 3), obs[7:14]), 1)[:, : made.context_width]
    scaled = [made.moments.normalise(part) for part in (obs[:7], obs[7:14])]
    same = torch.cat((scaled[0], torch.ones(7, 3), scaled[1]), 1)[:, : made.context_width]
    for one, two in zip(made.encoder(rows), plain.encoder(same), strict=True):
        torch.testing.assert_close(one, two)
    assert {"obs.mean", "obs.variance", "obs.count"} <= made.policy_state_dict().keys()
    other = learner(replace(SMALL, normalise=True, context_next_obs=following), seed=1)
    other.load_policy_state_dict(made.policy_state_dict())
    torch.testing.assert_close(other.moments.normalise(obs), made.moments.normalise(obs))


def test_a_run_that_normalises_learns_its_scales_in_training() -> None:
    made = Pearl(SPEC, replace(SMALL, normalise=True))
    worlds = TaskWorlds("point-goal", 4, 1)
    sampler = task_sampler(TaskDistribution(worlds.family), 4, made.num_train_tasks)
    made.meta_step(worlds, sampler.sample(0, Key(0)), Key(0))
    replay = made._replay()[0]
    seen = replay.data[:, : int(replay.size[0]), :4].flatten(0, 1).double()
    torch.testing.assert_close(made.moments.mean, seen.mean(0))
    torch.testing.assert_close(made.moments.variance, seen.var(0, correction=0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("runs") / "run"
    metarl.train(
        "point-goal", "pearl", iterations=1, tasks_per_iteration=2, rollouts_per_task=1, out=path,
        evaluate_tasks=2, evaluate_episodes=1, progress=False, train_tasks=2, gradient_steps=1,
        initial_episodes=1, hidden=(8,), encoder_hidden=(8,), batch_size=4, meta_batch=2,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("command", ["evaluate", "adapt"])
def test_the_authors_protocol_goes_by_a_setting(run, command: str, capsys) -> None:
    tasks = ["--tasks", "2"] if command == "evaluate" else []
    words = [command, str(run), "--episodes", "2", "--threads", "1", *tasks]
    for more, marked in (([], 0), (["--setting", "adapt_every=0"], 2)):
        assert main([*words, *more]) == 0
        assert capsys.readouterr().out.count("exploring") == marked
    assert metarl.load(run, settings={"adapt_every": 0}).exploring_rounds == 2
    for bad, says in (("adapt_evry=0", "did you mean"), ("adapt_every", "NAME=VALUE"),
                      ("adapt_every=-1", "adapt_every must be")):  # fmt: skip
        assert main([*words, "--setting", bad]) == 2
        assert says in capsys.readouterr().err


def test_a_run_of_a_version_without_a_setting_goes_on(run) -> None:
    """What its checkpoint does not name is the default."""
    found = checkpoints.load(checkpoints.newest(run))
    config, train = checkpoints.learner_config(found), train_config(found)
    had = {name: value for name, value in found.learner_config.items() if name != "adapt_every"}
    old = replace(found, learner_config=had)
    refuse_changes(old, train, config)
    with pytest.raises(UserError, match="adapt_every cannot change"):
        refuse_changes(old, train, replace(config, adapt_every=0))
