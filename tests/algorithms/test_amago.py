"""AMAGO: what it acts on is what it learns from, targets and filter by plain loops, and a toy."""

from dataclasses import replace

import pytest
import torch
from helpers.side import Side
from torch import Tensor

from metarl import TaskDistribution, TaskWorlds, UserError, evaluate
from metarl.algorithms.amago import Amago, AmagoConfig, Draws, _packed, cloned
from metarl.base.keys import Key
from metarl.worlds.vector import Spec

SMALL = {
    "memory": "gru", "units": 8, "embedding": 6, "hidden": (7, 5), "critics": 3, "horizons": (2, 4),
    "gradient_steps": 2, "batch_trials": 4, "loss_steps": 6, "replay_trials": 12, "shards": 1,
}  # fmt: skip
TASKS = 6


def point(**changes: object) -> tuple[Amago, TaskWorlds]:
    """A learner on point-goal, with a world for each of six tasks."""
    worlds = TaskWorlds("point-goal", TASKS, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), 1)
    return Amago(worlds.spec, AmagoConfig(**(SMALL | changes))), worlds


def shaken(agent: Amago) -> Amago:
    """Give all heads large weights, targets of their own, and values a scale."""
    draws = torch.Generator().manual_seed(3)
    net = agent.net
    for part in (net.actor, net.critic, net.target_actor, net.target_critic):
        part.data.add_(0.3 * torch.randn(part.shape, generator=draws))
    agent.values.mean = torch.tensor([-1.0, -2.0, -3.0]).double()
    agent.values.square = agent.values.mean.square() + torch.tensor([1.0, 4.0, 9.0]).double()
    return agent


def drawn(agent: Amago, worlds: TaskWorlds) -> Draws:
    agent.meta_step(worlds, worlds.tasks, Key(1))
    return agent._sample(torch.Generator().manual_seed(0))


def mlp(layers: list[Tensor], copy: int, x: Tensor) -> Tensor:
    """One network of several, for one row."""
    for k in range(0, len(layers), 2):
        x = x @ layers[k][copy] + layers[k + 1][copy, 0]
        x = x.relu() if k < len(layers) - 2 else x
    return x


# --- what it sees ---------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["gru", "transformer", "mann", "hyper"])
def test_it_learns_from_what_it_acted_on(memory: str) -> None:
    """The policy of the last discount, run over the replay, gives the actions of the trial."""
    agent, worlds = point(memory=memory, init_std=0.5, min_std=0.5)
    agent.meta_step(worlds, worlds.tasks, Key(1))  # statistics that are not 0 and 1
    shaken(agent)
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    agent._memory().add(
        torch.zeros(1, dtype=torch.int64), _packed(trial)[None],
        torch.ones(1, TASKS, dtype=torch.bool),
    )  # fmt: skip
    data = trial.rollout
    noise = torch.cat(
        [Key(2).fold("noise", k).normal(TASKS, worlds.spec.horizon, 1, 2) for k in range(2)]
    )
    batch = agent._sample(torch.Generator().manual_seed(0))
    mine, seen = agent._inputs(data), 0
    with torch.no_grad():
        policy = agent.net.policy(agent.net.actor, agent.net(batch.inputs).flatten(0, 1))
    mean, log_std = (part[:, -1].unflatten(0, batch.inputs.shape[:2]) for part in policy)
    for n in range(batch.inputs.shape[1]):
        for world in range(TASKS):
            if torch.equal(batch.inputs[:-1, n], mine[:, world]):
                seen += 1
                acted = mean[:-1, n] + noise[:, world] * log_std[:-1, n].exp()
                torch.testing.assert_close(acted, data.action[:, world], atol=1e-5, rtol=0)
                steps = batch.steps
                assert torch.equal(batch.action[:, n], data.action[steps, world].clamp(-1, 1))
                assert torch.equal(batch.reward[:, n], data.reward[steps, world])
                assert torch.equal(batch.inputs[-1, n], agent._inputs(trial.after)[world])
    assert seen


def test_a_trial_ends_with_what_would_follow_it() -> None:
    agent, worlds = point()
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    last = trial.rollout
    assert torch.equal(trial.after.obs, last.next_obs[-1])
    assert torch.equal(trial.after.prev_reward, last.reward[-1])
    assert not trial.after.first.any()


def test_exploration_falls_linearly_to_its_floor() -> None:
    agent = Amago(Spec(3, 2, 10), AmagoConfig(init_std=0.8, min_std=0.2, exploration_steps=1000))
    for steps, floor in ((0, 0.8), (250, 0.65), (1000, 0.2), (5000, 0.2)):
        agent.obs_moments.count = torch.tensor(float(steps), dtype=torch.float64)
        assert torch.isclose(agent._floor(), torch.tensor(floor))
    at_once = Amago(Spec(3, 2, 10), AmagoConfig(exploration_steps=0, min_std=0.1))
    assert torch.isclose(at_once._floor(), torch.tensor(0.1))


# --- what it learns from --------------------------------------------------------------------------


def test_the_loss_is_that_of_plain_loops_over_steps_discounts_and_critics() -> None:
    agent, worlds = point(critic_weight=2.0, online_weight=0.7, cloning_weight=0.3)
    batch = drawn(agent, worlds)
    shaken(agent)
    batch.going[1, 2] = 0.0
    batch.weight[3, 1] = 0.0
    net, config, gammas = agent.net, agent.config, (0.5, 0.75, 0.99)
    actor, critic, target_actor, target_critic = (
        which.layers(part.detach())
        for which, part in (
            (net.actor_net, net.actor), (net.critic_net, net.critic),
            (net.actor_net, net.target_actor), (net.critic_net, net.target_critic),
        )
    )  # fmt: skip
    scale = list(zip(agent.values.mean.float(), agent.values.std.float(), strict=True))
    total, targets = torch.zeros(()), torch.zeros(3)
    with torch.no_grad():
        features = net(batch.inputs)
        for i, t in enumerate(batch.steps.tolist()):
            for n in range(4):
                here, after, weight = features[t, n], features[t + 1, n], batch.weight[i, n]
                for g, (mean, std) in enumerate(scale):
                    raw = mlp(target_actor, 0, after).view(3, 2, 2)[g]
                    sigma = (raw[1] + torch.tensor(0.5).log()).exp().clamp(0.1, 1.0)
                    action = (raw[0].tanh() + sigma * batch.noise[1, i, n, g]).clamp(-1, 1)
                    asked = [
                        mlp(target_critic, c, torch.cat((after, action)))[g] * std + mean
                        for c in batch.subset.tolist()
                    ]
                    y = batch.reward[i, n] + gammas[g] * batch.going[i, n] * min(asked)
                    raw = mlp(actor, 0, here).view(3, 2, 2)[g]
                    mu = raw[0].tanh()
                    sigma = (raw[1] + torch.tensor(0.5).log()).exp().clamp(0.1, 1.0)
                    own = (mu + sigma * batch.noise[0, i, n, g]).clamp(-1, 1)
                    said, value = (
                        torch.stack([mlp(critic, c, torch.cat((here, a)))[g] for c in range(3)])
                        for a in (batch.action[i, n], own)
                    )
                    error = (said - (y - mean) / std).square().mean()
                    density = torch.distributions.Normal(mu, sigma).log_prob(batch.action[i, n])
                    better = float(said.mean() > value.mean())
                    loss = config.critic_weight * error - 0.7 * value.mean()
                    total += weight / 3 * (loss - 0.3 * better * density.sum())
                    targets[g] += weight * y
    assert batch.subset.tolist() != [0, 1]  # a draw, which the minimum depends on
    loss, sums = agent._loss(batch, torch.arange(4))
    torch.testing.assert_close(loss.detach(), total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums[5:8], targets, rtol=1e-4, atol=1e-5)
    parts = [agent._loss(batch, torch.tensor(ids)) for ids in ([0, 2], [1, 3])]
    torch.testing.assert_close(parts[0][0] + parts[1][0], loss)
    torch.testing.assert_close(parts[0][1] + parts[1][1], sums)


def test_actions_that_beat_the_policys_own_are_cloned_and_no_others() -> None:
    value, own = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, 2.0, -2.0])
    assert cloned(value, own).tolist() == [1.0, 0.0, 0.0]


def test_critics_do_not_learn_to_please_the_actor() -> None:
    """The weight of the policy's own values moves policy and memory, and no critic."""
    agent, worlds = point(online_weight=0.0, cloning_weight=0.0)
    batch, net, found = drawn(agent, worlds), agent.net, []
    for weight in (0.0, 5.0):
        agent.config = replace(agent.config, online_weight=weight)
        loss, _ = agent._loss(batch, torch.arange(4))
        found.append(torch.autograd.grad(loss, (net.critic, net.actor, net.embed.weight)))
    (critic, actor, memory), (again, pushed, shaped) = found
    assert torch.equal(critic, again)
    assert actor.abs().max() == 0
    assert pushed.abs().max() > 0
    assert not torch.allclose(memory, shaped)


def test_what_a_diverged_step_holds_has_no_weight() -> None:
    agent, worlds = point(loss_steps=1000)
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    diverged = torch.zeros_like(trial.rollout.diverged)
    diverged[3, 2] = diverged[5, 4] = True
    action = trial.rollout.action.masked_fill(diverged[..., None], torch.nan)
    wild = trial._replace(rollout=trial.rollout._replace(diverged=diverged, action=action))
    agent.update([wild], Key(3))
    assert all(part.isfinite().all() for part in agent.state_dict().values())
    batch = agent._sample(torch.Generator().manual_seed(0))
    assert torch.isclose(batch.weight.sum(), torch.tensor(1.0))
    assert (batch.weight == 0).any(0).sum() == (batch.weight == 0).sum() > 0


def test_targets_follow_slowly() -> None:
    agent, _ = point()
    net = agent.net
    for part, value in ((net.actor, 1.0), (net.critic, 2.0)):
        part.data.fill_(value)
    net.target_actor.fill_(0.0)
    net.target_critic.fill_(-2.0)
    net.update_targets(0.1)
    net.update_targets(0.1)
    assert torch.allclose(net.target_actor, torch.tensor(0.19))  # 1 - 0.9²
    assert torch.allclose(net.target_critic, torch.tensor(2 - 4 * 0.81))


def test_the_replay_keeps_the_newest_trials_and_goes_on_with_the_run() -> None:
    agent, worlds = point()
    for k in range(3):
        agent.meta_step(worlds, worlds.tasks, Key(1, k))
    assert agent._memory().size.tolist() == [12]
    saved = agent.state_dict()
    assert any(name.startswith("replay.") for name in saved)
    without, _ = point(save_replay=False)
    without.load_state_dict({n: t for n, t in saved.items() if not n.startswith("replay.")})
    assert without._replay is None
    assert not any(name.startswith("replay.") for name in without.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critics": 1}, "target_critics must be at most critics = 1"),
        ({"init_std": 0.1, "min_std": 0.2}, "init_std must be at least min_std"),
        ({"memory": "man"}, "memory must be one of gru.*did you mean 'mann'"),
        ({"horizons": (0,)}, "horizons"),
        ({"target_rate": 2.0}, "target_rate"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AmagoConfig(**settings)


# --- a toy ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_to_use_its_memory() -> None:
    """The best of a policy that is blind to the task is 0, that of one that knows it is 8."""
    worlds = TaskWorlds(Side(), 50, 1)
    distribution = TaskDistribution(worlds.family)
    config = AmagoConfig(
        memory="gru", units=16, embedding=16, hidden=(32,), critics=2, gamma=0.5, horizons=(4,),
        lr=3e-3, target_rate=0.05, exploration_steps=10_000, gradient_steps=20, batch_trials=32,
        shards=1,
    )  # fmt: skip
    agent = Amago(worlds.spec, config)
    tasks = distribution.split("heldout", 50)
    untrained = torch.as_tensor(evaluate(agent, worlds, tasks, episodes=1, seed=0).returns).mean(0)
    for i in range(25):
        agent.meta_step(worlds, distribution.sample(50, Key(0, i).numpy()), Key(1, i))
    first, second = torch.as_tensor(
        evaluate(agent, worlds, tasks, episodes=1, seed=0).returns
    ).mean(0)
    assert untrained.abs().max() < 0.5
    assert second > 7.0
    assert 4.0 < first < second - 0.5  # its first action is a guess
