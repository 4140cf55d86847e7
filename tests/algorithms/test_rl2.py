"""RL²: sequences aligned with what was collected, advantages by hand, and a memory that is used."""

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.families import mostly_slow
from helpers.refusals import refused
from helpers.side import Side
from small_rl2 import TASKS, collected, learner, point, shaken

from metarl import (
    TaskDistribution,
    TaskWorlds,
    UserError,
    collect,
    evaluate,
)
from metarl.algorithms.rl2 import Rl2, Rl2Config, State
from metarl.base.keys import Key
from metarl.networks.memories.choice import MEMORIES
from metarl.worlds.vector import Step

# --- what the agent sees --------------------------------------------------------------------------


@pytest.mark.parametrize("memory", mostly_slow(MEMORIES, "gru", "mingru", "transformer", "mann"))
def test_the_first_epoch_finds_the_log_probs_of_the_collection(memory: str) -> None:
    agent, worlds = point(memory=memory)
    agent.meta_step(worlds, worlds.tasks, Key(1))  # statistics that are not 0 and 1
    shaken(agent)
    batch, mean, value = collected(agent, worlds)
    with torch.no_grad():
        again, value_again = agent._unroll(batch.inputs)
        log_prob = agent.net.policy(again).log_prob(batch.action)
    assert (log_prob - batch.log_prob).abs().max() < 1e-5
    assert (value_again - value).abs().max() < 1e-5
    assert mean.std() > 0.05
    _, metrics = agent._loss(batch, torch.arange(worlds.num_worlds), batch.weight.sum())
    assert metrics[2].abs() < 1e-6  # no divergence before the first step
    assert metrics[3] == 0


@pytest.mark.parametrize("last_transition", [True, False])
def test_training_and_evaluation_show_the_same_inputs(last_transition: bool) -> None:
    """Episodes that the worlds begin by themselves keep the last action; resets forget it."""
    agent, worlds = point(last_transition=last_transition)
    shaken(agent)
    seen = []
    for reset in (False, True):
        state = agent.begin(TASKS, 2)
        worlds.seed(Key(3))
        worlds.reset()
        first, state = collect(worlds, agent, state, worlds.spec.horizon, Key(4), explore=True)
        if reset:
            worlds.seed(Key(3))
            worlds.reset()
            worlds.reset()  # the second episode of the same worlds
        else:
            assert worlds.current.prev_action.abs().sum() > 0
        assert reset == (worlds.current.prev_action.abs().sum() == 0)
        state = agent.adapt(state, first)
        second, _ = collect(worlds, agent, state, worlds.spec.horizon, Key(5), explore=True)
        seen.append(second)
    assert torch.equal(seen[0].obs, seen[1].obs)
    assert torch.equal(seen[0].action, seen[1].action)
    if not last_transition:
        assert torch.equal(agent._inputs(seen[0]), agent._inputs(seen[1]))


def test_an_input_is_observation_last_action_its_reward_and_the_beginning() -> None:
    agent, old = learner(), learner(last_transition=False)
    old.obs_moments, old.reward_moments = agent.obs_moments, agent.reward_moments
    agent.obs_moments.update(torch.tensor([[0.0, 0.0, 0.0], [2.0, 4.0, 200.0]]))
    agent.reward_moments.update(torch.tensor([[1.0], [3.0]]))
    step = Step(
        torch.tensor([[2.0, 2.0, 5000.0]]).repeat(2, 1), torch.tensor([[0.5, -1.0]]).repeat(2, 1),
        torch.tensor([4.0, 4.0]), torch.tensor([False, True]),
    )  # fmt: skip
    # means 1, 2, 100 and stds 1, 2, 100; the last clipped at 10; the reward's mean 2 and std 1
    same, hidden = [1, 0, 10, 0.5, -1, 2, 0], [1, 0, 10, 0, 0, 0, 1]
    for one, second in ((agent, [*same[:-1], 1]), (old, hidden)):
        expected = torch.tensor([same, second], dtype=torch.float32)
        assert torch.allclose(one._inputs(step), expected)


def test_the_action_and_the_reward_that_end_an_episode_are_seen_in_the_next() -> None:
    """On worlds that were reset: in training and in evaluation, once, and not in a new trial."""
    agent, worlds = point(last_transition=True)
    shaken(agent)
    trials = agent.collect(worlds, worlds.tasks, Key(2))
    data, horizon = trials.rollout, worlds.spec.horizon
    assert torch.equal(data.prev_action[horizon], data.action[horizon - 1].clamp(-1, 1))
    assert torch.equal(data.prev_reward[horizon], data.reward[horizon - 1])
    assert data.prev_action[0].abs().sum() == 0
    state = agent.adapt(agent.begin(TASKS, 2), data)
    assert torch.equal(state.last[:, -1], data.reward[-1])
    worlds.reset()
    told, after = agent.act(worlds.current, state, explore=False, noise=None)
    not_told, _ = agent.act(worlds.current, agent.begin(TASKS, 2), explore=False, noise=None)
    assert not torch.allclose(told, not_told)
    assert after.last.abs().sum() == 0
    where = torch.arange(2 * TASKS) < 3
    again, _ = agent.act(worlds.current, agent._restarted(state, where), explore=False, noise=None)
    assert torch.equal(again[:3], not_told[:3])
    assert torch.equal(again[3:], told[3:])


def test_the_mean_is_played_in_evaluation_and_the_memory_goes_on() -> None:
    agent, worlds = point()
    shaken(agent)
    worlds.reset()
    step, state = worlds.current, agent.begin(TASKS, 2)
    noise = torch.ones(2 * TASKS, 2)
    mean, after = agent.act(step, state, explore=False, noise=noise)
    loud, same = agent.act(step, state, explore=True, noise=noise)
    assert torch.allclose(loud - mean, agent.net.log_std.detach().exp().expand_as(mean))
    assert torch.equal(after.memory[0], same.memory[0])
    later, _ = agent.act(step, after, explore=False, noise=None)
    assert not torch.allclose(mean, later)


# --- saving and refusing --------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
def test_an_adapted_policy_is_its_memory_and_what_acts_on_it(memory: str) -> None:
    agent, worlds = point(memory=memory)
    worlds.reset()
    begun = agent.begin(TASKS, 2)
    _, state = collect(worlds, agent, begun, 7, Key(0), explore=False)
    for one in (begun, state):
        saved = safetensors.torch.load(safetensors.torch.save(agent.adapted_state_dict(one)))
        assert {name for name in saved if name.startswith("state")} == {
            "state.last",
            *(f"state.memory.{i}" for i in range(len(one.memory))),
        }
        other = Rl2(worlds.spec, agent.config, seed=5)
        loaded = other.load_adapted_state_dict(saved)
        a, _ = agent.act(worlds.current, one, explore=False, noise=None)
        b, _ = other.act(worlds.current, loaded, explore=False, noise=None)
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "gruu"}, "memory must be one of gru.*did you mean"),
        ({"units": 0}, "units"),
        ({"context": 0}, "context"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"gamma": 1.5}, "gamma"),
        ({"entropy_weight": -1.0}, "entropy_weight"),
        ({"credit": "e-rl3"}, "credit must be one of rl2, e-rl2.*did you mean"),
        ({"credit": "e-rl2", "episodes": 1}, "e-rl2 needs trials of at least 2 episodes"),
        ({"credit": "e-rl2", "min_episodes": 1}, "e-rl2 needs trials of at least 2 episodes"),
        ({"min_episodes": 3}, "min_episodes must be at most episodes = 2"),
        ({"min_episodes": 1, "memory": "snail"}, "in some worlds alone, which snail cannot"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rl2Config(**settings)


def test_weights_of_another_memory_are_refused_in_one_line() -> None:
    with refused(match=r"do not fit this rl2: \d+ tensors differ"):
        learner(memory="gru").load_state_dict(learner(memory="lstm").state_dict())


# --- a toy ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_to_use_its_memory() -> None:
    """On point-goal, the second episode beats the first, and only with the right memory."""
    worlds = TaskWorlds("point-goal", 100, 1)
    distribution = TaskDistribution(worlds.family)
    agent = Rl2(worlds.spec, Rl2Config(units=64, gamma=0.9))
    for i in range(45):
        agent.meta_step(worlds, distribution.sample(100, Key(0, i).numpy()), Key(1, i))
    tasks = distribution.split("heldout", 50)
    zero, first, second = episodes(agent, worlds, tasks)
    assert first > zero + 4.0
    assert second["kept"] > first + 2.0
    assert second["zeroed"] < second["kept"] - 2.0
    assert second["swapped"] < second["kept"] - 5.0


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["mann", "hyper", "s5"])
def test_other_memories_learn_which_side_pays(memory: str) -> None:
    first, second = on_which_side(30, memory=memory, gamma=0.5)
    assert 2.0 < first < second
    assert second > 5.0


@pytest.mark.slow
def test_it_learns_what_it_is_paid_for_in_the_second_episode_alone() -> None:
    _, second = on_which_side(60, credit="e-rl2", gamma=0.8)
    assert second > 5.0


def on_which_side(iterations: int, **settings) -> np.ndarray:
    """Returns of both episodes. Blind to the task at most 0 is to be had, who knows it has 8."""
    worlds = TaskWorlds(Side(), 50, 1)
    distribution = TaskDistribution(worlds.family)
    agent = Rl2(worlds.spec, Rl2Config(units=16, hidden=16, lr=3e-3, **settings))
    for i in range(iterations):
        agent.meta_step(worlds, distribution.sample(50, Key(0, i).numpy()), Key(1, i))
    tasks = distribution.split("heldout", 50)
    return np.mean(evaluate(agent, worlds, tasks, episodes=1, seed=0).returns, axis=0)


@torch.no_grad()
def episodes(agent: Rl2, worlds: TaskWorlds, tasks: object) -> tuple[float, float, dict]:
    """Stand-still score, first episode, and the second with its memory kept, zeroed, swapped."""
    report = evaluate(agent, worlds, tasks, episodes=0, seed=0)
    horizon, begun = worlds.spec.horizon, agent.begin(50, 2)
    worlds.seed(Key(7))
    worlds.reset()
    data, after = collect(worlds, agent, begun, horizon, Key(7), explore=False)
    swapped = State(tuple(part.roll(2, 0) for part in after.memory))
    second = {}
    for name, state in (("kept", after), ("zeroed", begun), ("swapped", swapped)):
        worlds.seed(Key(8))
        worlds.reset()
        again, _ = collect(worlds, agent, state, horizon, Key(8), explore=False)
        second[name] = float(again.first_episode_return().mean())
    return report.stand_still, float(data.first_episode_return().mean()), second
