"""MIL and contextual cloning: the equations, what is refused, and learnable toys."""

import pytest
import torch
from helpers.demonstrations import demonstrated, demonstrations_file
from torch.autograd import grad

from envs.point import PointGoal
from metarl import Key, Spec, TaskWorlds, UserError, evaluate, find_learner
from metarl.algorithms import ContextualBc, ContextualBcConfig, Mil, MilConfig
from metarl.learning.imitation import Lessons, Shown, Steps, steps_of
from metarl.tasks.sampler import task_sampler


def steps(tasks: int = 3, length: int = 6, seed: int = 0) -> Steps:
    rng = Key(seed).torch()
    obs, action, then = (
        torch.randn(tasks, length, n, generator=rng, dtype=torch.float64) for n in (3, 2, 3)
    )
    weight = torch.full((tasks, length), 1 / length, dtype=torch.float64)
    weight[0] = torch.tensor([0.5, 0.5, 0, 0, 0, 0])  # an episode of two steps
    return Steps(obs, action, then, weight)


def mil(**settings) -> Mil:
    return Mil(Spec(3, 2, 6), MilConfig(hidden=(4,), bias_size=2, **settings))


@pytest.mark.parametrize(
    "settings",
    [{}, {"two_heads": False}, {"inner_steps": 2, "inner_clip": 0.05}],
    ids=["two heads", "one head", "two steps, clipped"],
)
def test_the_meta_gradient_is_that_of_finite_differences(settings: dict) -> None:
    agent, a, b = mil(inner_lr=0.02, **settings), steps(seed=1), steps(seed=2)
    theta = agent.learned.params.detach().double()

    def loss(params: torch.Tensor, *, second_order: bool = False) -> torch.Tensor:
        start = params.expand(3, -1).clone().requires_grad_()
        phi = agent.inner(start, a, second_order=second_order)
        return (agent.loss(agent.outputs(phi, b.obs)[0], b).sum(), start)

    value, start = loss(theta, second_order=True)
    (rows,) = grad(value, start)
    directions, eps = torch.eye(len(theta), dtype=torch.float64), 1e-6
    found = [(loss(theta + eps * d)[0] - loss(theta - eps * d)[0]) / (2 * eps) for d in directions]
    torch.testing.assert_close(rows.sum(0), torch.stack(found).detach(), atol=1e-5, rtol=1e-5)
    value, start = loss(theta)
    (first_order,) = grad(value, start)
    assert not torch.allclose(first_order.sum(0), rows.sum(0), atol=1e-3)


def test_the_loss_is_a_plain_sum_and_the_step_a_clipped_gradient() -> None:
    agent, a = mil(inner_lr=0.1, inner_clip=0.3, two_heads=False), steps()
    theta = agent.learned.params.detach().double()[None].requires_grad_()
    action = agent.outputs(theta, a.obs[:1])[0]
    plain = sum(((action[0, t] - a.action[0, t]) ** 2).mean() for t in range(2)) / 2
    one = Steps(*(part[:1] for part in a))
    torch.testing.assert_close(agent.loss(action, one)[0], 50.0 * plain)
    (gradient,) = grad(50.0 * plain, theta)
    assert (gradient.abs() > 0.3).any()
    expected = theta - 0.1 * gradient.clamp(-0.3, 0.3)
    torch.testing.assert_close(agent.inner(theta, one, second_order=False), expected)


def test_the_adapting_head_changes_only_what_both_share() -> None:
    agent, a = mil(), steps()
    theta = agent.learned.params.detach().double().expand(3, -1).clone().requires_grad_()
    change = agent.inner(theta, a, second_order=False) - theta
    *_, weight, bias, _ = agent.net.split(change[:, : agent.net.num_params])
    assert not weight[..., :2].any()
    assert not bias[..., :2].any()
    assert (weight[..., 2:] != 0).all()
    assert (change[:, -2:] != 0).all()  # b shifts the biases


@pytest.mark.parametrize("name", ["mil", "contextual-bc"])
def test_the_order_of_demonstrations_does_not_matter(name: str, monkeypatch) -> None:
    """One gradient step on each and their mean is a step on all of them; so is the embedding."""
    monkeypatch.setattr(PointGoal, "horizon", 8)
    found, cls = demonstrated("heldout", 2, 2), find_learner(name)
    agent = cls(TaskWorlds("point-goal", 1, 1).spec, cls.Config())
    one, two = (found.rollout([0, 1], torch.full((2, 1), k)) for k in range(2))
    there, back = (
        agent.adapt(agent.adapt(agent.begin(2, 1), a), b) for a, b in ((one, two), (two, one))
    )
    torch.testing.assert_close(there[0], back[0])
    assert not torch.allclose(agent.adapt(agent.begin(2, 1), one)[0], there[0])
    assert agent.adapt(there, one._replace(extras={})) is there


def test_an_embedding_is_the_mean_over_the_steps_of_the_episode() -> None:
    agent, a = ContextualBc(Spec(3, 2, 6), ContextualBcConfig(context_size=4)), steps()
    params = agent.learned.params.detach().double().expand(3, -1)
    whole = agent.embed(params, a)
    short = Steps(*(part[:1, :2] for part in a))
    torch.testing.assert_close(agent.embed(params[:1], short), whole[:1])
    turned = Steps(*(part.flip(1) for part in a))
    torch.testing.assert_close(agent.embed(params, turned), whole)
    every = [agent.embed(params, Steps(*(p[:, t : t + 1] for p in a))) / a.weight[:, t : t + 1]
             for t in range(6)]  # fmt: skip
    torch.testing.assert_close(torch.stack(every)[:, 1:].mean(0), whole[1:])


def test_the_gradient_of_contextual_cloning_is_that_of_finite_differences() -> None:
    config = ContextualBcConfig(context_size=2, hidden=(3,), encoder_hidden=(3,))
    agent, a, b = ContextualBc(Spec(3, 2, 6), config), steps(seed=1), steps(seed=2)
    theta = agent.learned.params.detach().double()

    class Two(Lessons):
        def steps(self, ids, which):
            return a if which[0] == 0 else b

    agent.lessons = Two(agent, config)
    agent.learned.params = theta.clone()
    told = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)
    ids, pair = torch.arange(3), torch.tensor([[0, 1]] * 3)
    rows, losses = agent._gradient(ids, pair, told)

    def loss(params: torch.Tensor) -> torch.Tensor:
        every = params.expand(3, -1)
        error = agent.actions(every, agent.embed(every, a) * told, b.obs) - b.action
        return (error.square().mean(-1) * b.weight).sum()

    eps, directions = 1e-6, torch.eye(len(theta), dtype=torch.float64)
    found = [(loss(theta + eps * d) - loss(theta - eps * d)) / (2 * eps) for d in directions]
    torch.testing.assert_close(rows.sum(0), torch.stack(found), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(losses[2, 0] + losses[:2, 1].sum(), loss(theta))


def test_what_is_behind_an_end_is_in_no_loss(monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 8)
    data = demonstrated("heldout", 2, 2).rollout([0, 1], torch.zeros(2, 1, dtype=torch.int64))
    data.diverged[3:, 0] = True
    data.obs[3:, 0] = torch.nan
    found = steps_of(data)
    assert found is not None
    assert found.weight[0].tolist() == pytest.approx([1 / 3] * 3 + [0] * 5)
    assert found.obs.isfinite().all()


def test_the_demonstrations_of_a_run_are_scaled_and_cannot_change(monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 8)
    worlds = TaskWorlds("point-goal", 6, 1)
    config = MilConfig(hidden=(8,), updates=1, demos=demonstrations_file("train", 3, 3))
    agent = Mil(worlds.spec, config)
    tasks = task_sampler(worlds.family.distribution, 3, agent.num_train_tasks).sample(0, Key(0))
    agent.meta_step(worlds, tasks, Key(0))
    obs = demonstrated("train", 3, 3).obs[:, :, :-1].flatten(0, 2)
    torch.testing.assert_close(agent.lessons.moments["obs_mean"], obs.mean(0))
    torch.testing.assert_close(agent.lessons.moments["obs_std"], obs.std(0, correction=0))
    other = MilConfig(hidden=(8,), updates=1, demos=demonstrations_file("train", 3, 2))
    again = Mil(worlds.spec, other)
    again.load_state_dict(agent.state_dict())
    with pytest.raises(UserError, match="this run began with other demonstrations"):
        again.plan(worlds, 1, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: {}, "mil learns from demonstrations: give --demos FILE"),
        (lambda: {"demos": "nowhere"}, "'nowhere' is missing"),
        (lambda: {"demos": demonstrations_file("heldout", 2, 2)}, "demonstrations of heldout task"),
        (lambda: {"demos": demonstrations_file("train", 2, 1)}, "one demonstration of each task"),
    ],
)
def test_demonstrations_that_do_not_do_are_refused(settings, message: str, monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 8)
    worlds = TaskWorlds("point-goal", 2, 1)
    with pytest.raises(UserError, match=message):
        Mil(worlds.spec, MilConfig(**settings())).plan(worlds, 1, None)
    cheetah = TaskWorlds("half-cheetah-vel", 1, 1)
    wrong = MilConfig(demos=demonstrations_file("train", 3, 2))
    with pytest.raises(UserError, match="--demos: these demonstrations are of point-goal"):
        Mil(cheetah.spec, wrong).plan(cheetah, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mil", "contextual-bc"])
def test_one_demonstration_of_a_new_goal_is_enough(name: str) -> None:
    """Standing still pays −16.5 and the expert −2.5 on the held-out goals."""
    cls, worlds = find_learner(name), TaskWorlds("point-goal", 20, 1)
    config = cls.Config(hidden=(64, 64), demos=demonstrations_file("train", 40, 6))
    agent = cls(worlds.spec, config)
    sampler = task_sampler(worlds.family.distribution, 20, agent.num_train_tasks)
    for i in range(12):
        agent.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
    found, test = demonstrated("heldout", 20, 2), TaskWorlds("point-goal", 40, 1)
    report = evaluate(Shown(agent, found, found.tasks), test, found.tasks, episodes=1, seed=0)
    assert report.mean[0] < -14
    assert report.mean[1] > -7
    assert report.difference()[1] > 0
