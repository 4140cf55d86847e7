"""Bonuses for exploring in learners of trials: paid to PPO, shown to nothing else."""

import pytest
import torch
from test_varibad import SMALL, vae_weights

from envs.point import PointGoal
from metarl import Choices, Param, TaskDistribution, TaskWorlds, UserError, evaluate
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.algorithms.varibad import Varibad, VaribadConfig
from metarl.base.keys import Key

TASKS = 6
ON = {"bonus_novelty": 0.5, "bonus_error": 0.5, "bonus_steps": 10_000, "bonus_inputs": (0, 1)}


def varibad(**changes: object) -> tuple[Varibad, TaskWorlds]:
    worlds = TaskWorlds("point-goal", TASKS, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), 1)
    return Varibad(worlds.spec, VaribadConfig(**(SMALL | changes))), worlds


def test_only_the_policy_learns_from_the_bonus() -> None:
    """Encoder, decoders, replay and the scales of observation and reward keep their bits."""
    agents = []
    for settings in ({}, ON):
        agent, worlds = varibad(**settings)
        agent.meta_step(worlds, worlds.tasks, Key(1))
        agents.append(agent)
    plain, paid = agents
    assert not torch.equal(plain.params, paid.params)
    assert torch.equal(vae_weights(plain), vae_weights(paid))
    mine, theirs = plain.state_dict(), paid.state_dict()
    for name in mine:
        if not name.startswith(("params", "adam.", "lr")):
            assert torch.equal(mine[name], theirs[name]), name
    assert {name.partition(".")[0] for name in theirs.keys() - mine.keys()} == {
        "bonus_target", "bonus_predictor", "bonus_adam", "bonus_novelty", "bonus_error",
    }  # fmt: skip
    assert paid.policy_state_dict().keys() == plain.policy_state_dict().keys()


def test_the_replay_holds_the_bare_rewards() -> None:
    agent, worlds = varibad(**ON)
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    bare = trial.rollout.reward.clone()
    agent.update([trial], Key(3))
    assert torch.equal(trial.rollout.reward, bare)
    assert torch.equal(trial.seen.reward, bare)
    assert torch.equal(agent.replay.ring.data[0][:TASKS], agent.replay.packed(trial.rollout))


def test_novelty_is_of_where_a_step_led_and_of_what_is_believed_there() -> None:
    """The true successor, also where an episode within the trial ends, and the next belief."""
    agent, worlds = varibad(**ON)
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    seen = []
    novelty = agent.bonus.novelty
    agent.bonus.novelty = lambda where: (seen.append(where), novelty(where))[1]
    agent.update([trial], Key(3))
    horizon = worlds.spec.horizon
    assert torch.equal(seen[0].state, trial.rollout.next_obs)
    assert not torch.equal(seen[0].state[horizon - 1], trial.rollout.obs[horizon])
    assert torch.equal(seen[0].belief[:-1], trial.rollout.extras["belief"][1:])
    assert seen[0].error.min() >= 0


def test_errors_are_those_of_the_decoders_by_a_plain_loop() -> None:
    agent, worlds = varibad(decode_state=True)
    agent.meta_step(worlds, worlds.tasks, Key(1))
    data = agent.collect(worlds, worlds.tasks, Key(2)).rollout
    trials = agent._trials(agent.replay.unpacked(agent.replay.packed(data)))
    belief = data.extras["belief"]
    found = agent.vae.step_error(trials, belief, torch.Generator().manual_seed(4))
    draws = torch.Generator().manual_seed(4)
    noise = torch.randn(*belief.shape[:2], agent.config.latent_size, generator=draws)
    for t, b in ((0, 0), (7, 3), (39, 5)):
        mean, log_std = belief[t, b].chunk(2)
        z = (mean + noise[t, b] * log_std.exp())[None, None]
        obs, action, after = (x[t, b][None, None] for x in (trials.obs, trials.action,
                                                            trials.next_obs))  # fmt: skip
        with torch.no_grad():
            reward = agent.vae.reward(torch.cat((obs, action, after), -1), z)[0, 0, 0]
            change = agent.vae.state(torch.cat((obs, action), -1), z)[0, 0, 0]
        error = (reward - trials.reward[t, b]).square().sum()
        error = error + (change - (after - obs)[0, 0]).square().sum()
        torch.testing.assert_close(found[t, b], 0.5 * error)


def test_a_restored_bonus_goes_on_to_the_same_bits() -> None:
    agent, worlds = varibad(**ON)
    agent.meta_step(worlds, worlds.tasks, Key(1))
    saved = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    other = varibad(**ON)[0]
    other.load_state_dict(saved)
    metrics = [one.meta_step(worlds, worlds.tasks, Key(7)) for one in (agent, other)]
    assert metrics[0]["novelty"] == metrics[1]["novelty"] > 0
    assert metrics[0]["bonus"] == metrics[1]["bonus"] > 0
    a, b = agent.state_dict(), other.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_memory_of_rl2_is_shown_the_bare_rewards() -> None:
    """Only what its policy and its values are trained on differs, and no scale of anything."""
    agents = []
    for settings in ({}, {"bonus_novelty": 0.5, "bonus_steps": 10_000}):
        worlds = TaskWorlds("point-goal", TASKS, 1)
        tasks = TaskDistribution(worlds.family).split("train", TASKS)
        agent = Rl2(worlds.spec, Rl2Config(units=8, hidden=8, **settings))
        trials = agent.collect(worlds, tasks, Key(1))
        batch = agent._batch([trials])
        agents.append((agent, trials, batch))
    (plain, _, bare), (paid, trials, told) = agents
    assert torch.equal(bare.inputs, told.inputs)
    assert not torch.equal(bare.target, told.target)
    assert torch.equal(plain.return_moments.std, paid.return_moments.std)
    bonus, std = paid.bonus, paid.return_moments.std.float()
    data = trials.rollout
    (more,) = bonus.added([data], paid._visits([data]), 0.0, paid.return_moments.std)
    expected = plain._estimates(trials._replace(rollout=more)).target - bare.target
    torch.testing.assert_close(told.target - bare.target, expected, atol=2e-3, rtol=2e-2)
    assert ((more.reward - data.reward) / std).mean() > 0.01


def test_an_exploring_episode_whose_rewards_do_not_count_is_paid_its_bonus() -> None:
    """E-RL² pays nothing in the first episode for what the task pays; for what is new, it does."""
    estimates = []
    for novelty in (0.0, 0.5):
        worlds = TaskWorlds("point-goal", TASKS, 1)
        tasks = TaskDistribution(worlds.family).split("train", TASKS)
        settings = {"bonus_novelty": novelty, "bonus_steps": 10_000 if novelty else None}
        agent = Rl2(worlds.spec, Rl2Config(units=8, hidden=8, credit="e-rl2", **settings))
        paid, estimate = [], agent._estimates
        agent._estimates = lambda one, paid=paid, go=estimate: paid.append(one) or go(one)
        agent._batch([agent.collect(worlds, tasks, Key(1))])
        estimates.append(paid[0].rollout.reward)
    bare, told = (reward.unflatten(0, (2, -1)) for reward in estimates)
    assert not bare[0].any()
    assert bare[1].any()
    assert ((told - bare) > 0).float().mean((1, 2)).min() > 0.9


def test_a_bonus_without_an_end_is_refused() -> None:
    with pytest.raises(UserError, match="a bonus needs bonus_steps"):
        VaribadConfig(bonus_error=1.0)


# --- a toy ----------------------------------------------------------------------------------------


class Corridor(PointGoal):
    """Paid on one side of a corridor, from 0.8 m on; nothing says which before one is there."""

    name = "corridor"
    params = (Param("direction", Choices((-1.0, 1.0)), doc="-1 left, 1 right"),)

    def reward(self, sim, before, action, task):
        return (task["direction"] * sim.qpos[:, 0] >= 0.8).to(sim.dtype)


def returns_of(seed: int, **settings: object) -> list[list[float]]:
    """The return of each of two episodes after a short training, without any bonus in it."""
    family = Corridor()
    worlds, distribution = TaskWorlds(family, 40, 1), TaskDistribution(family)
    config = VaribadConfig(
        units=16, embedding=16, hidden=(32,), decoder_hidden=(16,), gamma=0.95, init_std=0.1,
        vae_updates=2, **settings,
    )  # fmt: skip
    agent = Varibad(worlds.spec, config, seed=seed)
    for i in range(42):
        agent.meta_step(worlds, distribution.sample(40, Key(0, i).numpy()), Key(1, i))
    tasks = distribution.split("heldout", 40)
    return evaluate(agent, worlds, tasks, episodes=1, seed=0).returns


@pytest.mark.slow
def test_the_bonus_finds_what_the_plain_learner_does_not() -> None:
    """Random actions get 0.2 m far, so without it there is hardly ever anything to learn from.

    With it most trainings find one side of the two, and keep to it; which ones do depends on how a
    processor rounds, so that it takes several.
    """
    bonus = {"bonus_novelty": 0.3, "bonus_error": 0.3, "bonus_steps": 60_000, "bonus_inputs": (0,)}
    for seed in (1, 3, 4):
        assert torch.tensor(returns_of(seed)).mean() < 0.1  # a step by chance, in 40 tasks
    paid = [torch.tensor(returns_of(seed, **bonus))[:, 1].mean() for seed in (1, 3, 4)]
    assert max(paid) > 2.0  # one side of two is found, and kept to
