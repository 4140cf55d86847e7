"""collect() against a plain loop, and what a rollout says about its episodes."""

import torch

from metarl import TaskDistribution, TaskWorlds, collect
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.keys import Key
from metarl.rollout import Rollout


def ready(seed: int = 0) -> tuple[TaskWorlds, MamlTrpo]:
    worlds = TaskWorlds("point-goal", 6, 2)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", 3), 2)
    worlds.seed(Key(seed))
    worlds.reset()
    return worlds, MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))


def test_collect_is_a_plain_loop() -> None:
    worlds, agent = ready()
    got, _ = collect(worlds, agent, agent.begin(3, 2), 30, Key(1), explore=True)
    worlds, agent = ready()
    state, noise = agent.begin(3, 2), Key(1).normal(3, 30, 2, 2)
    for t in range(30):
        step = worlds.current
        action, state = agent.act(step, state, explore=True, noise=noise[t])
        after = worlds.step(action)
        for name in ("obs", "first", "prev_action", "prev_reward"):
            assert torch.equal(getattr(got, name)[t], getattr(step, name))
        assert torch.equal(got.action[t], action)
        assert torch.equal(got.reward[t], after.reward.float())
        assert torch.equal(got.next_obs[t], after.next_obs)
        assert torch.equal(got.truncated[t], after.truncated)


def test_what_the_agent_sees_of_the_past() -> None:
    worlds, agent = ready()
    got, _ = collect(worlds, agent, agent.begin(3, 2), 30, Key(1), explore=True)
    assert not got.prev_action[0].any()
    assert not got.prev_reward[0].any()
    assert torch.equal(got.prev_reward[1:], got.reward[:-1])
    assert torch.equal(got.prev_action[1:], got.action[:-1].clamp(-1, 1))
    assert torch.equal(got.first[1:], got.done[:-1])
    within = ~got.done[:-1]
    assert torch.equal(got.obs[1:][within], got.next_obs[:-1][within])


def test_without_exploring_actions_repeat() -> None:
    results = []
    for seed in (1, 2):
        worlds, agent = ready()
        results.append(collect(worlds, agent, agent.begin(3, 2), 5, Key(seed), explore=False)[0])
    assert torch.equal(results[0].action, results[1].action)


def test_grouping_is_task_major() -> None:
    worlds, agent = ready()
    got, _ = collect(worlds, agent, agent.begin(3, 2), 4, Key(1), explore=True)
    grouped = got.per_task(got.obs)
    assert grouped.shape == (3, 2, 4, 4)
    for world in range(6):
        assert torch.equal(grouped[world // 2, world % 2], got.obs[:, world])


def test_returns_and_times_by_hand() -> None:
    """World 0 ends after two steps and begins again; world 1 never ends."""
    flags = torch.zeros(4, 2, dtype=torch.bool)
    done = flags.clone()
    done[1, 0] = True
    first = flags.clone()
    first[0] = True
    first[2, 0] = True
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 30.0], [8.0, 40.0]])
    empty = torch.zeros(4, 2, 1)
    rollout = Rollout(
        empty, empty, reward, empty, done, flags, flags, first, empty, empty[..., 0], 1
    )
    assert rollout.first_episode_return().tolist() == [3.0, 100.0]
    assert rollout.episode_time().tolist() == [[0, 0], [1, 1], [0, 2], [1, 3]]
