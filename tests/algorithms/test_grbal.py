"""GrBAL: its inner step, its model, its planning against known optima, and a toy that drifts."""

from dataclasses import replace

import pytest
import torch

from metarl import Spec, UserError
from metarl.algorithms import Grbal, GrbalConfig
from metarl.base.keys import BatchedRNG, Key
from metarl.modules.model_based.planning import plan
from metarl.modules.replay import TaskReplay
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Step

SPEC = Spec(2, 1, 12)
SMALL = {
    "hidden": (8,), "past": 4, "future": 3, "batch_size": 16, "learn_inner_lr": False, "lr": 1e-3,
    "inner_lr": 0.05, "updates": 50,
}  # fmt: skip


def learner(seed: int = 0, **settings) -> Grbal:
    return Grbal(SPEC, GrbalConfig(**SMALL | settings), seed=seed)


def transitions(worlds: int, gain: torch.Tensor, seed: int = 0) -> Rollout:
    """A linear toy: each observation changes by `gain` times the action, and that is rewarded."""
    draws = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(12, worlds, 1, generator=draws) - 1
    change = torch.cat((gain[:, None] * action, -0.5 * action), -1)
    obs = torch.cumsum(change, 0) - change
    none = torch.zeros(12, worlds, dtype=torch.bool)
    return Rollout(
        obs, action, change[..., 0], obs + change, none, none, none, none, action, none.float(),
        tasks=worlds,
    )  # fmt: skip


def test_the_inner_step_is_finite_differences_of_the_error_in_each_world_alone() -> None:
    agent = learner(inner_lr=0.3)
    draws = torch.Generator().manual_seed(0)
    params = agent.model.theta.repeat(3, 1) + 0.1 * torch.randn(
        3, agent.model.theta.numel(), generator=draws
    )
    rows, valid = torch.randn(3, 4, 6, generator=draws), torch.ones(3, 4)
    valid[1, 2] = 0
    after = agent.model.adapted(params, rows, valid)
    wild = rows.clone()
    wild[1, 2] = 50.0
    assert torch.equal(after, agent.model.adapted(params, wild, valid))
    for i in range(3):
        kept = valid[i] > 0
        alone = params[i : i + 1].clone().requires_grad_()
        x, y = rows[i, kept, :3], rows[i, kept, 3:]
        error = (agent.model.net.mean(alone, x[None]) - y).square().mean()
        (gradient,) = torch.autograd.grad(error, alone)
        torch.testing.assert_close(after[i], params[i] - 0.3 * gradient[0])
    for k in (0, 7, 30):
        bump = torch.zeros_like(params)
        bump[:, k] = 1e-2
        up, down = (agent.model.error(params + s * bump, rows, valid) for s in (1, -1))
        slope = (params - after)[:, k] / 0.3
        torch.testing.assert_close(slope, (up - down) / 2e-2, atol=2e-3, rtol=2e-2)


def test_the_meta_gradient_goes_through_the_inner_step() -> None:
    agent = learner(inner_lr=0.3)
    rows = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(1))
    loss, _ = agent.model.loss(rows, torch.ones(5, 7), 5, adapt=True)
    (gradient,) = torch.autograd.grad(loss, agent.model.adam.params)
    direction = gradient / gradient.norm()
    sides = []
    for sign in (1, -1):
        other = learner(inner_lr=0.3)
        with torch.no_grad():
            other.model.adam.params += sign * 1e-2 * direction
        sides.append(other.model.loss(rows, torch.ones(5, 7), 5, adapt=True)[0])
    slope = (sides[0] - sides[1]) / 2e-2
    torch.testing.assert_close(slope.detach(), gradient.norm(), rtol=1e-2, atol=1e-4)
    first_order = agent.model.error(
        moved := agent.model.adapted(agent.model.theta.expand(5, -1), rows[:, :4], torch.ones(5, 4))
        .requires_grad_(), rows[:, 4:], torch.ones(5, 3),
    ).mean()  # fmt: skip
    (plain,) = torch.autograd.grad(first_order, moved)
    assert not torch.allclose(plain.sum(0), gradient, rtol=1e-2)


def test_the_model_learns_a_linear_toy() -> None:
    agent = learner(adapt="none", updates=600, lr=1e-2, hidden=(16,))
    metrics = agent.update([transitions(40, torch.ones(40))], Key(0))
    assert metrics["error_prior"] == metrics["error_adapted"]
    data = transitions(40, torch.ones(40), seed=1)
    out = agent.model.predict(
        agent.model.theta[None], data.obs.flatten(0, 1)[None], data.action.flatten()[None, :, None]
    )
    target = torch.cat((data.next_obs - data.obs, data.reward[..., None]), -1).flatten(0, 1)
    wrong = out[0] - agent.data.target_moments.normalise(target)
    assert wrong.square().mean() < 1e-3  # of a variance of 1


@pytest.mark.parametrize(
    ("planner", "tolerance"), [("shooting", 0.25), ("cem", 0.05), ("mppi", 0.1)]
)
def test_planning_finds_a_known_optimum(planner: str, tolerance: float, monkeypatch) -> None:
    """Rewarded is −(a − 0.6 o)² in each step: the best first action is 0.6 times what is seen."""
    agent = learner(planner=planner, candidates=256, plan_steps=2, plan_rounds=6)

    def known(params, obs, action):
        reward = -(action - 0.6 * obs[..., :1]).square()
        return torch.cat((torch.zeros_like(obs), reward), -1)

    monkeypatch.setattr(agent.model, "predict", known)
    obs = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.5, 1.0], [1.0, 0.0]])
    index = torch.arange(4).numpy()
    rng = BatchedRNG(Key(0), *[index] * 3, dtype=torch.float32)
    action = plan(
        agent.config, lambda tried: agent.model.returns(agent.model.theta.repeat(4, 1), obs, tried),
        torch.zeros(4, 2, 1), rng,
    )[:, 0]  # fmt: skip
    torch.testing.assert_close(action, 0.6 * obs[:, :1], atol=tolerance, rtol=0)


def test_a_predicted_return_is_a_plain_loop_over_the_model() -> None:
    agent = learner()
    agent.update([transitions(6, torch.linspace(0.5, 2, 6))], Key(0))
    params, obs = agent.model.theta.repeat(2, 1), torch.tensor([[0.3, -0.2], [1.0, 0.0]])
    actions = torch.rand(2, 3, 4, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = agent.model.returns(params, obs, actions)
    mean, std = agent.data.target_moments.mean.float(), agent.data.target_moments.std.float()
    for i in range(2):
        for c in range(3):
            here, total = obs[i], 0.0
            for t in range(4):
                out = agent.model.predict(
                    params[i : i + 1], here[None, None], actions[i, c, t][None, None]
                )
                total += float(out[0, 0, 2])
                here = here + out[0, 0, :2] * std[:2] + mean[:2]
            assert float(found[i, c]) == pytest.approx(total, abs=1e-4)


def test_the_draws_of_planning_belong_to_a_world_and_a_step() -> None:
    """Whatever worlds are planned with, and in whatever part of the tasks they are."""
    agent = learner(candidates=16, plan_steps=2)
    obs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    step = Step(obs, torch.zeros(6, 1), torch.zeros(6), torch.ones(6, dtype=torch.bool))
    state = agent.begin_seeded(3, 2, seed=4)
    whole, later = agent.act(step, state, explore=False, noise=None)
    part = Step(*(field[4:] for field in step))
    alone, _ = agent.act(part, agent.begin_seeded(1, 2, 4, first_task=2), explore=False, noise=None)
    torch.testing.assert_close(whole[4:], alone)
    again, _ = agent.act(step, later, explore=False, noise=None)
    other, _ = agent.act(step, agent.begin_seeded(3, 2, seed=5), explore=False, noise=None)
    assert not torch.allclose(whole, again)
    assert not torch.allclose(whole, other)


def test_the_window_holds_the_last_transitions_but_not_the_end_of_an_episode() -> None:
    agent = learner(candidates=4, plan_steps=1, inner_lr=0.5)
    state, seen = agent.begin(1, 1), []
    for t in range(7):
        obs, last = torch.tensor([[float(t), -1.0]]), torch.tensor([[0.1 * t]])
        first = torch.tensor([t in (0, 3)])
        step = Step(obs, last, torch.tensor([10.0 * t]), first)
        if not first:
            seen.append([t - 1.0, -1.0, 0.1 * t, 1.0, 0.0, 10.0 * t])
        _, state = agent.act(step, state, explore=False, noise=None)
        full = len(seen) >= 4
        model = agent.adapted_params(state.window)[0]
        assert torch.equal(model, agent.model.theta) is not full
    assert state.window.known.tolist() == [4]
    torch.testing.assert_close(state.window.rows[0], torch.tensor(seen[-4:]))


def test_windows_are_successive_steps_of_one_world() -> None:
    agent = learner()
    agent.update([transitions(6, torch.linspace(0.5, 2, 6))], Key(0))
    assert isinstance(agent.data.replay, TaskReplay)
    rows, valid = agent.data.windows(50, 7, Key(1).torch())
    assert rows.shape == (50, 7, 6)
    assert bool(valid.all())
    torch.testing.assert_close(rows[:, 1:, :2], rows[:, :-1, :2] + rows[:, :-1, 3:5])


def test_settings_that_cannot_work_are_refused() -> None:
    for name, value in (("planner", "ilqr"), ("candidates", 0), ("elites", 10**4), ("past", 0)):
        with pytest.raises(UserError, match=name):
            replace(GrbalConfig(planner="cem"), **{name: value})
    with pytest.raises(UserError, match="past must be less than"):
        learner(past=12)


def test_a_learned_step_size_begins_as_set_and_is_learned_for_each_parameter() -> None:
    """Nothing but the prior adapts by it, and its gradient is that of finite differences."""
    agent, plain = learner(inner_lr=0.3, learn_inner_lr=True), learner(inner_lr=0.3)
    draws = torch.Generator().manual_seed(1)
    rows, ones = torch.randn(5, 7, 6, generator=draws), torch.ones(5, 7)
    prior = plain.model.theta.expand(5, -1)
    torch.testing.assert_close(
        agent.model.adapted(prior, rows, ones), plain.model.adapted(prior, rows, ones)
    )
    size, sides = agent.model.size, []
    (gradient,) = torch.autograd.grad(
        agent.model.loss(rows, ones, 5, adapt=True)[0], agent.model.adam.params
    )
    for sign in (1, -1):
        other = learner(inner_lr=0.3, learn_inner_lr=True)
        with torch.no_grad():
            other.model.adam.params[size + 3 : size + 9] += sign * 3e-2
        sides.append(float(other.model.loss(rows, ones, 5, adapt=True)[0].detach()))
    slope = float(gradient[size + 3 : size + 9].sum())
    assert (sides[0] - sides[1]) / 6e-2 == pytest.approx(slope, rel=0.05, abs=1e-5)
    before = agent.model.step_size.detach().clone()
    agent.update([transitions(40, torch.ones(40))], Key(0))
    assert (agent.model.step_size != before).float().mean() > 0.5


@pytest.mark.slow
def test_one_inner_step_tells_which_way_an_actuator_turns() -> None:
    """Gains of either sign: the prior cannot know which, and the adapted model predicts."""
    agent = learner(updates=1500, hidden=(32,), lr=3e-3, inner_lr=0.3, batch_size=32)
    gain = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0)
    metrics = agent.update([transitions(200, gain)], Key(0))
    assert metrics["error_adapted"] < 0.5 * metrics["error_prior"]
    fresh = transitions(50, gain[:50], seed=3)
    change = fresh.next_obs - fresh.obs
    rows = torch.cat((fresh.obs, fresh.action, change, fresh.reward[..., None]), -1).transpose(0, 1)
    prior, ones = agent.model.theta.expand(50, -1), torch.ones(50, 12)
    after = agent.model.adapted(prior, rows[:, :4], ones[:, :4])
    future = rows[:, 4:], ones[:, 4:]
    assert agent.model.error(after, *future).mean() < 0.5 * agent.model.error(prior, *future).mean()
