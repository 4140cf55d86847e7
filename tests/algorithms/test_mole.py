"""MOLe: its posterior, its steps and its new models by hand, and tasks that come back."""

import math

import pytest
import torch

from metarl import Spec, UserError
from metarl.algorithms import Mole, MoleConfig
from metarl.base.keys import Key
from metarl.modules.model_based.transitions import Window
from metarl.worlds.rollout import Rollout

SPEC = Spec(2, 1, 12)
SMALL = {
    "hidden": (8,), "past": 4, "future": 3, "batch_size": 16, "components": 3,
    "learn_inner_lr": False, "lr": 1e-3,
}  # fmt: skip


def learner(**settings) -> Mole:
    return Mole(SPEC, MoleConfig(**SMALL | settings))


def transitions(worlds: int, gain: torch.Tensor, seed: int = 0) -> Rollout:
    """Each observation changes by `gain` (T, worlds) times the action, which is rewarded."""
    draws = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(12, worlds, 1, generator=draws) - 1
    change = torch.cat((gain[..., None] * action, -0.5 * action), -1)
    obs = 0.1 * torch.randn(12, worlds, 2, generator=draws)
    none = torch.zeros(12, worlds, dtype=torch.bool)
    return Rollout(
        obs, action, change[..., 0], obs + change, none, none, none, none, action, none.float(),
        tasks=worlds,
    )  # fmt: skip


def window(rows: torch.Tensor) -> Window:
    return Window(rows, torch.full((len(rows),), rows.shape[1]), torch.zeros(len(rows), 2))


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, 6, generator=torch.Generator().manual_seed(seed))


def test_the_posterior_is_a_plain_sum_over_transitions() -> None:
    agent = learner(likelihood_std=0.7, concentration=2.0)
    mixture, data = agent.begin(1, 2).mixture, rows(2)
    mixture = mixture._replace(
        params=mixture.params + 0.3 * torch.randn(mixture.params.shape),
        counts=torch.tensor([[3.0, 0.5, 0.0], [1.0, 0.0, 0.0]]),
    )  # fmt: skip
    found = agent.posterior(mixture, window(data))
    for i in range(2):
        weight = []
        for k in range(4):
            theta = agent.model.theta if k == 3 else mixture.params[i, k]
            count = 2.0 if k == 3 else float(mixture.counts[i, k])
            total = 0.0
            for row in data[i]:
                out = agent.model.net.mean(theta[None], row[None, None, :3])[0, 0]
                total += float((out - row[3:]).square().sum())
            weight.append(count * math.exp(-total / (2 * 0.7**2)))
        expected = torch.tensor(weight) / sum(weight)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-6)


def test_each_model_steps_by_its_probability_and_a_new_one_from_the_prior() -> None:
    agent = learner(online_share=0.5, inner_lr=0.2)
    mixture, data = agent.begin(1, 1).mixture, rows(1)
    all_new = torch.ones(1, dtype=torch.bool)
    first = agent.learned(mixture, window(data), all_new)
    step = agent.model.adapted(agent.model.theta[None], data, torch.ones(1, 4))
    assert (int(first.chosen), first.counts.tolist()) == (0, [[1, 0, 0]])
    torch.testing.assert_close(first.params[0, 0], step[0])
    assert torch.equal(first.params[0, 1], agent.model.theta)
    posterior = agent.posterior(first, window(data))[0]
    second = agent.learned(first, window(data), all_new)
    assert posterior[0] == posterior.max()
    old = first.params[0, :1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(agent.model.error(old, data, torch.ones(1, 4)), old)
    torch.testing.assert_close(
        second.params[0, 0], first.params[0, 0] - 0.5 * 0.2 * posterior[0] * gradient[0]
    )
    torch.testing.assert_close(second.counts[0, 0], 1 + posterior[0])
    for unlike in (window(data)._replace(known=torch.tensor([3])), window(data)):
        news = unlike.full & False if bool(unlike.full) else all_new
        assert agent.learned(first, unlike, news) is first


def test_a_full_mixture_gives_up_its_least_used_model() -> None:
    agent = learner()
    mixture = agent.begin(1, 1).mixture
    far = mixture.params + 3.0  # explains nothing: a new one is likelier
    mixture = mixture._replace(params=far, counts=torch.tensor([[5.0, 2.0, 9.0]]))
    after = agent.learned(mixture, window(rows(1)), torch.ones(1, dtype=torch.bool))
    assert int(after.chosen) == 1
    assert after.counts[0].tolist() == pytest.approx([5, 1, 9], abs=1e-3)


def test_worlds_learn_alone() -> None:
    agent, data = learner(), rows(3)
    news = torch.tensor([True, True, False])
    together = agent.learned(agent.begin(1, 3).mixture, window(data), news)
    alone = agent.learned(agent.begin(1, 1).mixture, window(data[1:2]), news[1:2])
    torch.testing.assert_close(together.params[1], alone.params[0])
    assert together.chosen.tolist() == [0, 0, -1]
    assert torch.equal(agent.likeliest(together)[2], agent.model.theta)


def test_settings_that_cannot_work_are_refused() -> None:
    for name in ("components", "concentration", "likelihood_std"):
        with pytest.raises(UserError, match=name):
            learner(**{name: 0})
    with pytest.raises(UserError, match="inner_lr to start from"):
        learner(learn_inner_lr=True, inner_lr=0.0)


@pytest.mark.slow
def test_a_task_that_comes_back_finds_its_model_again() -> None:
    """Actuators turn one way, then the other, then the first way again: two models, used anew."""
    agent = learner(updates=1500, hidden=(32,), lr=3e-3, inner_lr=0.3, likelihood_std=0.5)
    sign = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0).expand(12, 200)
    errors = agent.update([transitions(200, sign)], Key(0))
    assert errors["error_adapted"] < 0.5 * errors["error_prior"]
    blocks = [1.0, -1.0, 1.0, -1.0]
    mixture, chosen, wrong = agent.begin(1, 8).mixture, [], {"mixture": [], "prior": []}
    for n, gain in enumerate(blocks):
        data = transitions(8, torch.full((12, 8), gain), seed=10 + n)
        parts = data.obs, data.action, data.next_obs - data.obs, data.reward[..., None]
        one = torch.cat(parts, -1).transpose(0, 1)
        for t in range(4, 12):
            past, ones = window(one[:, t - 4 : t]), torch.ones(8, 1)
            mixture = agent.learned(mixture, past, torch.ones(8, dtype=torch.bool))
            if n >= 2:  # both have been met
                for name, model in (
                    ("mixture", agent.likeliest(mixture)),
                    ("prior", agent.model.theta.expand(8, -1)),
                ):
                    wrong[name].append(agent.model.error(model, one[:, t : t + 1], ones)[:, None])
        chosen.append(mixture.chosen.clone())
    assert ((mixture.counts > 1).sum(1) == 2).float().mean() > 0.8
    assert (chosen[0] == chosen[2]).float().mean() > 0.8
    assert (chosen[1] == chosen[3]).float().mean() > 0.8
    assert (chosen[0] != chosen[1]).float().mean() > 0.8
    found = {name: torch.cat(values[:-1], 1).mean() for name, values in wrong.items()}
    assert found["mixture"] < 0.5 * found["prior"]
