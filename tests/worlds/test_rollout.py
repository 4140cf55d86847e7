"""collect() against a plain loop, and what a rollout says about its episodes."""

import pytest
import torch
from torch import Tensor

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, collect, find_family
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.base.keys import Key
from metarl.worlds.reward_terms import Pay
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Transition

PointGoal = type(find_family("point-goal"))


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


def test_a_plain_function_is_a_policy() -> None:
    worlds = TaskWorlds("point-goal", 2, 1)
    worlds.set_tasks(worlds.family.distribution.split("heldout", 2), 1)
    worlds.reset()
    got, _ = collect(worlds, lambda obs: torch.ones(len(obs), 2), None, 3, Key(1), explore=False)
    assert torch.equal(got.action, torch.ones(3, 2, 2))


def test_nothing_collected_has_a_gradient() -> None:
    """Not even where the policy's parameters have one: a rollout would keep its graph alive."""
    worlds, weight = TaskWorlds("point-goal", 2, 1), torch.ones(2, requires_grad=True)
    worlds.set_tasks(worlds.family.distribution.split("heldout", 2), 1)
    worlds.reset()
    seen: list[bool] = []

    def policy(obs: torch.Tensor) -> torch.Tensor:
        action = weight.expand(len(obs), 2) * 1.0
        seen.append(action.requires_grad)
        return action

    collect(worlds, policy, None, 2, Key(1), explore=False)
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": None}, "a policy is a learner, or a function of observations, not None"),
        ({"policy": MamlTrpo}, "a policy is a learner, or a function of observations, not <class"),
        ({"policy": lambda obs: 1}, "the policy returned int, and not a tensor"),
        ({"steps": 2.0}, "steps must be a whole number of at least 1, not 2.0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"key": 5}, r"a key is metarl\.Key"),
    ],
    ids=["no policy", "a class", "a function of numbers", "half steps", "no steps", "no key"],
)  # fmt: skip
def test_what_collect_cannot_take(change: dict, words: str) -> None:
    worlds = TaskWorlds("point-goal", 2, 1)
    worlds.set_tasks(worlds.family.distribution.split("heldout", 2), 1)
    worlds.reset()
    given = {"policy": lambda obs: obs[:, :2], "state": None, "steps": 2, "key": Key(1)} | change
    with pytest.raises(UserError, match=words):
        collect(worlds, **given, explore=False)


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
    diverged = flags.clone()
    diverged[3] = True  # in the second episode of world 0, in the first of world 1
    assert rollout.first_episode_diverged().tolist() == [False, False]
    broken = rollout._replace(diverged=diverged)
    assert broken.first_episode_diverged().tolist() == [False, True]
    assert rollout.episode_time().tolist() == [[0, 0], [1, 1], [0, 2], [1, 3]]


def test_a_divergence_at_the_start_of_an_episode_does_not_cut_the_one_before() -> None:
    """World 0 fails in step 1 and diverges in step 2, which is another episode; world 1 goes on."""
    none = torch.zeros(4, 2, dtype=torch.bool)
    terminated, diverged, first = none.clone(), none.clone(), none.clone()
    terminated[1, 0] = diverged[2] = first[0] = first[2, 0] = True
    empty = torch.zeros(4, 2, 1)
    rollout = Rollout(
        empty, empty, empty[..., 0], empty, terminated, none, diverged, first, empty,
        empty[..., 0], 1,
    )  # fmt: skip
    assert rollout.before_divergence().truncated.nonzero().tolist() == [[1, 1]]


# --- what a rollout is made of: the truth, and nothing that is not finite ------------------------


def worlds_of(num: int = 4, **methods: object) -> TaskWorlds:
    """Worlds of a point-goal with some methods or attributes replaced."""
    return TaskWorlds(type("Variant", (PointGoal,), {"name": "variant"} | methods)(), num, 1)


def path(worlds: TaskWorlds, steps: int) -> list[Transition]:
    """The transitions under random actions."""
    rng = torch.Generator().manual_seed(0)
    moves = 2 * torch.rand(steps, worlds.num_worlds, 2, generator=rng) - 1
    return [worlds.step(move) for move in moves]


def test_a_reward_that_is_a_view_of_the_state_is_the_one_before_the_reset() -> None:
    """A family may return sim.qvel[:, 0] itself; the observation's element 2 is the same number."""
    worlds = worlds_of(horizon=3, reward=lambda self, sim, before, action, task: sim.qvel[:, 0])
    for got in path(worlds, 5):
        torch.testing.assert_close(got.reward.float(), got.next_obs[:, 2])


def test_after_a_divergence_the_observation_acted_on_stands_in_for_the_successor() -> None:
    worlds = worlds_of()
    acted_on = worlds.current.obs.clone()
    worlds.simulator.qpos[1, 0] = float("nan")
    got = worlds.step(torch.ones(4, 2))
    assert torch.equal(got.next_obs[1], acted_on[1])
    assert not torch.equal(got.obs[1], acted_on[1])
    assert worlds.current.first.tolist() == [False, True, False, False]


def test_a_reward_that_is_not_finite_in_one_world_is_a_divergence_of_that_world() -> None:
    def reward(self, sim, before, action, task) -> Tensor:
        return torch.where(torch.arange(4) == 3, float("nan"), sim.qpos[:, 0])

    for got in path(worlds_of(reward=reward), 2):
        assert got.diverged.tolist() == [False, False, False, True]
        assert got.reward.isfinite().all()


def test_an_action_that_is_not_a_number_is_not_shown_to_the_agent_again() -> None:
    """A recurrent learner that is fed one NaN acts NaN ever after."""
    worlds = worlds_of()
    move = torch.zeros(4, 2)
    move[1] = float("nan")
    worlds.step(move)
    assert all(part.isfinite().all() for part in worlds.current)


def test_an_infinite_action_is_a_divergence() -> None:
    move = torch.zeros(4, 2)
    move[2, 0] = float("inf")
    assert worlds_of().step(move).diverged.tolist() == [False, False, True, False]


def test_an_observation_that_is_not_finite_from_the_start_is_never_returned() -> None:
    def observe(self, sim, task) -> Tensor:
        bad = torch.where(task["goal_x"] < 0, float("nan"), 0.0)
        return torch.cat((sim.qpos, bad[:, None]), 1)

    worlds = worlds_of(observe=observe)
    values = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.5, 0.0], [0.5, 0.0]]).double().numpy()
    worlds.set_tasks(Tasks("variant", worlds.tasks.names, values), 1)
    try:
        seen = [worlds.reset(), *(got.next_obs for got in path(worlds, 2))]
    except UserError as error:
        seen = []
        refused = str(error)
        assert "observe()" in refused
    assert all(obs.isfinite().all() for obs in seen)


def test_a_reward_beyond_float32_is_a_divergence() -> None:
    def reward(self, sim, before, action, task) -> Tensor:
        return torch.where(torch.arange(4) == 2, 1e39, sim.qpos[:, 0])

    worlds = worlds_of(reward=reward)
    path(worlds, 1)
    assert worlds.current.prev_reward.isfinite().all()


@pytest.mark.parametrize("shape", [(4, 1), (2,), (1, 2)])
def test_an_action_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="action"):
        worlds_of().step(torch.ones(shape))


# --- other rewards --------------------------------------------------------------------------------


def test_other_rewards_are_what_the_policy_sees_and_the_rollout_holds() -> None:
    """In their worlds, of the step's own numbers; what is noted as a task's return is unknown."""
    chosen = torch.tensor([True, False, False, False, True, True])
    pay, rollouts = Pay(chosen, lambda obs, action, after: obs[:, 0] + 10 * action[:, 1]), []
    for other in (None, pay):
        worlds, agent = ready()
        worlds.returns, state = {}, agent.begin(3, 2)
        rollouts.append(collect(worlds, agent, state, 30, Key(1), explore=True, pay=other)[0])
    plain, got = rollouts
    assert torch.equal(got.obs, plain.obs)  # the policy of this learner sees no reward
    expected = got.obs[..., 0] + 10 * got.action[..., 1].clamp(-1, 1)
    assert torch.equal(got.reward, torch.where(chosen, expected, plain.reward))
    assert torch.equal(got.prev_reward[1:], got.reward[:-1])
    assert worlds.returns[0].isnan().tolist() == [False, False, True]  # task 0 has another world


def test_other_rewards_are_0_where_the_physics_failed() -> None:
    pay = Pay(torch.ones(6, dtype=torch.bool), lambda obs, action, after: obs[:, 0] + 7.0)
    worlds, _ = ready()
    got, _ = collect(
        worlds, lambda obs: torch.full((6, 2), torch.nan), None, 2, Key(1), explore=False, pay=pay
    )
    assert got.diverged.all()
    assert not got.reward.any()
