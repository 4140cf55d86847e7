"""What RL² learns from: its targets, trials, weights and gradients."""

import pytest
import torch
from helpers.families import mostly_slow
from small_rl2 import SPEC, TASKS, collected, learner, point, shaken
from torch import Tensor

from metarl import (
    TaskDistribution,
    Tasks,
    evaluate,
    find_family,
)
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.modules.ppo import Batch, parallel_gradient
from metarl.modules.trials import Trials, trial_starts
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec


def rollout(reward: Tensor, **flags: Tensor) -> Rollout:
    """A rollout of 2 episodes of half its length, with these rewards (T, B) and flags."""
    steps, worlds = reward.shape
    rng = torch.Generator().manual_seed(0)
    none = torch.zeros(steps, worlds, dtype=torch.bool)
    first, truncated = none.clone(), none.clone()
    first[[0, steps // 2]] = True
    truncated[[steps // 2 - 1, steps - 1]] = True

    def draw(size: int) -> Tensor:
        return torch.randn(steps, worlds, size, generator=rng)

    parts = {
        "obs": draw(3), "action": draw(2), "reward": reward, "next_obs": draw(3),
        "terminated": none, "truncated": truncated, "diverged": none, "first": first,
        "prev_action": draw(2), "prev_reward": draw(1)[..., 0], "tasks": worlds,
    }  # fmt: skip
    return Rollout(**(parts | flags))


def targets(
    agent: Rl2, data: Rollout, value: Tensor, last: Tensor, first: Tensor | None = None,
    cut: bool = False,
) -> tuple[Tensor, Batch]:  # fmt: skip
    """The value targets in units of the reward's scale, where all values are in rewards.

    `first` and `last` are those of what would follow the first and the second episode; a trial of
    its own is each of them with `cut`.
    """
    agent.return_moments.mean = torch.zeros(1, dtype=torch.float64)
    agent.return_moments.variance = torch.full((1,), 4.0, dtype=torch.float64)
    agent.return_moments.count = torch.tensor(1e12, dtype=torch.float64)  # a scale of 2 that stays
    data = data._replace(extras={"head": torch.zeros(*value.shape, 2), "value": value / 2})
    begins = torch.tensor([True, cut])[:, None].expand(2, data.obs.shape[1])
    after = torch.stack((last if first is None else first, last)) / 2
    batch = agent._batch([Trials(data, after, torch.zeros_like(after), begins)])
    return batch.target * 2, batch


def mark(data: Tensor, *where: tuple[int, int]) -> Tensor:
    flags = torch.zeros_like(data, dtype=torch.bool)
    for t, world in where:
        flags[t, world] = True
    return flags


# --- what it learns from --------------------------------------------------------------------------


def test_returns_cross_the_boundary_of_episodes_and_bootstrap_at_the_end() -> None:
    """γ 0.5 and λ 1: the target is the discounted sum of rewards, and then of the last value."""
    agent = learner(gamma=0.5, gae_lambda=1.0)
    reward, zeros = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.zeros(4, 1)
    target, _ = targets(agent, rollout(reward), zeros, torch.tensor([8.0]))
    # 4 + 8/2 = 8; 3 + 8/2 = 7; then, over the time limit, 2 + 7/2 = 5.5; 1 + 5.5/2 = 3.75
    assert torch.allclose(target[:, 0], torch.tensor([3.75, 5.5, 7.0, 8.0]))


def test_one_step_targets_use_the_value_of_the_next_episode() -> None:
    """λ near 0: r_t + γ V_{t+1}, where V_2 is the value of the second episode's first step."""
    agent = learner(gamma=0.5, gae_lambda=1e-9)
    reward, value = torch.ones(4, 1), torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    target, _ = targets(agent, rollout(reward), value, torch.tensor([50.0]))
    assert torch.allclose(target[:, 0], torch.tensor([11.0, 16.0, 21.0, 26.0]), atol=1e-5)


def test_a_trial_that_ends_between_episodes_bootstraps_from_its_own_successor() -> None:
    agent = learner(gamma=0.5, gae_lambda=1.0, min_episodes=1)
    reward, zeros = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.zeros(4, 1)
    data = rollout(reward)
    target, batch = targets(agent, data, zeros, torch.tensor([8.0]), torch.tensor([6.0]), cut=True)
    # 2 + 6/2 = 5; 1 + 5/2 = 3.5; the second trial as before
    assert torch.allclose(target[:, 0], torch.tensor([3.5, 5.0, 7.0, 8.0]))
    assert batch.begins is not None
    assert batch.begins[:, 0].tolist() == [True, False, True, False]


def test_e_rl2_pays_for_what_the_first_episode_is_good_for_alone() -> None:
    """γ 0.5 and λ 1: the first episode's rewards, 1 and 2, are in no target."""
    agent = learner(gamma=0.5, gae_lambda=1.0, credit="e-rl2")
    reward, zeros = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.zeros(4, 1)
    data = rollout(reward)
    target, batch = targets(agent, data, zeros, torch.tensor([8.0]))
    # 4 + 8/2 = 8; 3 + 8/2 = 7; then 0 + 7/2 = 3.5; 0 + 3.5/2 = 1.75
    assert torch.allclose(target[:, 0], torch.tensor([1.75, 3.5, 7.0, 8.0]))
    plain = learner(gamma=0.5, gae_lambda=1.0)
    assert torch.equal(batch.inputs, targets(plain, data, zeros, torch.tensor([8.0]))[1].inputs)


def test_e_rl2_scales_values_by_the_returns_that_it_maximises() -> None:
    agent = learner(gamma=0.5, credit="e-rl2")
    data = rollout(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    data = data._replace(extras={"head": torch.zeros(4, 1, 2), "value": torch.zeros(4, 1)})
    begins, none = torch.tensor([[True], [False]]), torch.zeros(2, 1)
    agent._batch([Trials(data, none, none, begins)])
    # discounted sums 0, 0, 3, 4 + 3/2: their mean is 2.125, their variance 39.25/4 - 2.125²
    assert torch.isclose(agent.return_moments.variance, torch.tensor(5.296875).double())


def test_e_rl2_lets_every_trial_of_a_world_begin_unpaid() -> None:
    """Of three episodes of two steps: trials begin with the first and with the second."""
    agent = learner(credit="e-rl2")
    data = rollout(torch.arange(1.0, 7.0)[:, None])
    begins = torch.tensor([[True], [True], [False]])
    paid = agent._credited(Trials(data, torch.zeros(3, 1), torch.zeros(3, 1), begins))
    assert paid[:, 0].tolist() == [0, 0, 0, 0, 5, 6]


def test_trials_have_every_number_of_episodes_equally_often() -> None:
    tasks = TaskDistribution(find_family("point-goal")).sample(3000, Key(0).numpy())
    begins = trial_starts(tasks, 1, 2, 5, Key(1))
    assert begins[0].all()
    first = torch.where(begins[1:].any(0), begins[1:].int().argmax(0) + 1, 5)
    counts = [int((first == n).sum()) for n in range(1, 6)]
    # of 4 drawn, 1 episode would be left, too little for a trial: it is 5
    assert counts[0] == counts[3] == 0
    assert all(
        abs(n / 3000 - share) < 0.03 for n, share in zip(counts[1:3], (0.25, 0.25), strict=True)
    )
    part = Tasks(tasks.family, tasks.names, tasks.values[100:], first=100)
    assert torch.equal(trial_starts(part, 1, 2, 5, Key(1)), begins[:, 100:])


@pytest.mark.parametrize(
    "memory", mostly_slow(("gru", "lstm", "mingru", "s5", "mann", "hyper"), "gru", "mingru", "mann")
)
def test_trials_of_random_lengths_are_replayed_as_they_were_played(memory: str) -> None:
    agent, worlds = point(memory=memory, episodes=3, min_episodes=1)
    agent.meta_step(worlds, worlds.tasks, Key(1))
    shaken(agent)
    trials = agent.collect(worlds, worlds.tasks, Key(2))
    assert trials.begins[1:].any()
    assert not trials.begins[1:].all()
    batch = agent._batch([trials])
    with torch.no_grad():
        head, value = agent._unroll(batch.inputs, batch.begins)
    assert (head - trials.rollout.extras["head"]).abs().max() < 1e-5
    assert (value - trials.rollout.extras["value"]).abs().max() < 1e-5


@pytest.mark.parametrize("discrete", [False, True])
def test_the_standard_deviation_can_depend_on_the_state(discrete: bool) -> None:
    spec = Spec(3, 4, 10, (2, 2)) if discrete else SPEC
    agent = shaken(Rl2(spec, Rl2Config(units=16, hidden=8, state_std=True, min_std=0.1)))
    head, _ = agent.net(torch.randn(5, 3, spec.observation_size + spec.action_size + 2))
    policy = agent.net.policy(head)
    assert head.shape[-1] == 4
    if not discrete:
        std = policy.log_std.exp()
        assert std.shape == policy.mean.shape == (5, 3, 2)
        assert std.std(0).min() > 0.01
        assert 0.0999 < std.min() < std.max() <= 1.0


def test_a_failure_has_no_successor() -> None:
    agent = learner(gamma=0.5, gae_lambda=1.0)
    reward = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    data = rollout(reward, terminated=mark(reward, (1, 0)))
    target, batch = targets(agent, data, torch.zeros(4, 1), torch.tensor([8.0]))
    assert torch.allclose(target[:, 0], torch.tensor([2.0, 2.0, 7.0, 8.0]))  # 1 + 2/2 = 2; 2
    assert (batch.weight == 1).all()


def test_a_diverged_step_is_left_out_and_the_one_before_it_bootstraps() -> None:
    agent = learner(gamma=0.5, gae_lambda=1.0)
    reward = torch.tensor([[1.0], [0.0], [3.0], [4.0]])
    value = torch.tensor([[0.0], [6.0], [0.0], [0.0]])
    data = rollout(reward, diverged=mark(reward, (1, 0)))
    target, batch = targets(agent, data, value, torch.tensor([8.0]))
    # 1 + 6/2 = 4, as if a time limit had come before the diverged step
    assert torch.allclose(target[[0, 2, 3], 0], torch.tensor([4.0, 7.0, 8.0]))
    assert batch.weight[:, 0].tolist() == [1, 0, 1, 1]
    assert batch.advantage[1, 0] == 0
    assert torch.isclose(batch.advantage.sum(), torch.tensor(0.0), atol=1e-6)
    assert torch.isclose(batch.advantage.square().sum() / 3, torch.tensor(1.0))


def test_what_a_diverged_step_holds_changes_no_gradient() -> None:
    agent = shaken(learner())
    reward = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    diverged = mark(reward, (2, 1), (5, 3))
    reward = reward.masked_fill(diverged, 0.0)
    results = []
    for wild in (0.5, 1e3, float("nan")):
        data = rollout(reward, diverged=diverged)
        data = data._replace(action=data.action.masked_fill(diverged[..., None], wild))
        _, batch = targets(agent, data, torch.zeros(6, 4), torch.zeros(4))
        loss, _ = agent._loss(batch, torch.arange(4), batch.weight.sum())
        results.append(torch.autograd.grad(loss, agent.adam.params))
        assert all(part.isfinite().all() for part in results[-1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_gradient_of_the_loss_equals_finite_differences() -> None:
    agent = shaken(learner(entropy_weight=0.1))
    agent.net.double()
    _, batch = targets(agent, rollout(torch.randn(6, 4)), torch.randn(6, 4), torch.randn(4))
    batch = Batch(*(part.double() for part in batch if part is not None))
    agent._unroll = agent.net  # not back to float32
    ids, params = torch.arange(4), agent.adam.params

    def loss() -> Tensor:
        return agent._loss(batch, ids, batch.weight.sum())[0]

    gradient = torch.autograd.grad(loss(), params)
    direction = [torch.randn_like(p) for p in params]
    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    values = []
    for shift in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p += shift * d
        values.append(loss().detach())
    assert torch.isclose((values[0] - values[1]) / 2e-6, slope, rtol=1e-4)


def test_policy_and_value_have_hidden_layers_of_their_own() -> None:
    net = learner().net
    mean, value = net(torch.randn(5, 3, 3 + 2 + 2))
    for output, idle in ((mean, slice(8, None)), (value, slice(None, 8))):
        (gradient,) = torch.autograd.grad(output.sum(), net.body.weight, retain_graph=True)
        assert gradient[idle].abs().max() == 0
        assert gradient.abs().max() > 0


def test_the_entropy_bonus_widens_the_policy() -> None:
    """The entropy grows by 1 nat with the log std of each action."""
    agents = [learner(entropy_weight=weight) for weight in (0.0, 0.3)]
    _, batch = targets(agents[0], rollout(torch.randn(6, 4)), torch.randn(6, 4), torch.randn(4))
    losses = [agent._loss(batch, torch.arange(4), batch.weight.sum())[0] for agent in agents]
    without, with_bonus = (
        torch.autograd.grad(loss, agent.net.log_std)[0]
        for loss, agent in zip(losses, agents, strict=True)
    )
    torch.testing.assert_close(with_bonus - without, torch.full((2,), -0.3))


def test_a_gradient_has_the_same_bits_on_any_number_of_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    agent, worlds = point()
    batch = collected(agent, worlds)[0]
    everyone, total = torch.arange(worlds.num_worlds), batch.weight.sum()

    def gradient(parts: int, threads: int) -> list[Tensor]:
        with ThreadPoolExecutor(threads) as pool:
            return parallel_gradient(
                lambda ids: agent._loss(batch, ids, total), agent.adam.params,
                [everyone.chunk(parts)], pool,
            )[0]  # fmt: skip

    one, four, whole = gradient(4, 1), gradient(4, 4), gradient(1, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, whole, strict=True))


def test_minibatches_are_drawn_from_the_key() -> None:
    results = []
    for seed in (1, 2, 1):
        agent, worlds = point(minibatches=2, epochs=1)
        agent._gradient_steps(collected(agent, worlds)[0], Key(seed))
        results.append(torch.cat([param.flatten() for param in agent.adam.params]))
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_statistics_move_in_training_alone() -> None:
    agent, worlds = point()
    tasks = worlds.tasks
    agent.meta_step(worlds, tasks, Key(1))
    for moments in (agent.obs_moments, agent.reward_moments, agent.return_moments):
        assert moments.count == 2 * TASKS * 40
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    evaluate(agent, worlds, tasks, episodes=1, seed=0)
    assert all(torch.equal(before[name], t) for name, t in agent.state_dict().items())
    agent.meta_step(worlds, tasks, Key(2))
    assert agent.obs_moments.count == 2 * 2 * TASKS * 40


def test_mixed_precision_stays_close() -> None:
    agent, worlds = point()
    batch = collected(shaken(agent), worlds)[0]
    mixed = Rl2(worlds.spec, Rl2Config(units=16, hidden=8, bfloat16=True))
    mixed.load_state_dict(agent.state_dict())
    with torch.no_grad():
        (mean, value), (other, estimate) = (a._unroll(batch.inputs) for a in (agent, mixed))
    assert other.dtype == estimate.dtype == torch.float32
    assert not torch.equal(mean, other)
    assert (mean - other).abs().max() < 0.05
    assert (value - estimate).abs().max() < 0.05
