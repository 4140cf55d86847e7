"""Bonuses for novelty: the distillation by plain loops, what is added, and its fading."""

import math

import pytest
import torch

from metarl import UserError
from metarl.base.distributed import Ranks
from metarl.base.keys import Key
from metarl.modules.novelty import Bonus, BonusSettings, Visits
from metarl.modules.ppo import discounted_sums
from metarl.worlds.rollout import Rollout

STEPS, WORLDS = 5, 4
CPU = torch.device("cpu")


def bonus(**changes: object) -> Bonus:
    settings = {"bonus_novelty": 0.5, "bonus_steps": 1000, "bonus_inputs": (2, 0)}
    return Bonus(BonusSettings(**(settings | changes)), (3, 2), 0.9, Key(1), CPU)


def rollout(seed: int = 0, worlds: int = WORLDS) -> Rollout:
    draws = torch.Generator().manual_seed(seed)
    wide = [torch.randn(STEPS, worlds, 3, generator=draws) for _ in range(4)]
    flags = [torch.zeros(STEPS, worlds, dtype=torch.bool) for _ in range(4)]
    reward = torch.randn(STEPS, worlds, generator=draws)
    obs, action, after, before = wide
    return Rollout(obs, action, reward, after, *flags, before, reward, worlds)


def visits(data: Rollout) -> Visits:
    return Visits(data.next_obs, data.action[..., :2])


def by_hand(net, state: list[float], belief: list[float]) -> list[float]:
    """The output of a network of one state and one belief, number by number."""

    def layer(linear, x: list[float]) -> list[float]:
        rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        return [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in rows]

    x = [*layer(net.embed[0], state), *layer(net.embed[1], belief)]
    for linear in (net.layers[1], net.layers[3], net.layers[5]):
        x = layer(linear, [max(0.0, v) for v in x])
    return x


def test_novelty_is_the_mean_squared_error_of_the_prediction() -> None:
    """Of the chosen numbers of the successor's observation, in the order given, and the belief."""
    made, data = bonus(), rollout()
    found = made.novelty(visits(data))
    assert found.shape == (STEPS, WORLDS)
    after, belief = data.next_obs[3, 1].tolist(), data.action[3, 1, :2].tolist()
    pairs = zip(
        *(by_hand(net, [after[2], after[0]], belief) for net in (made.target, made.predictor)),
        strict=True,
    )
    errors = [(a - b) ** 2 for a, b in pairs]
    assert found[3, 1].item() == pytest.approx(sum(errors) / 128, rel=1e-4)


def test_a_place_is_new_until_it_is_known() -> None:
    """Seen often, it is new no more; elsewhere, and with another belief, it is as new as before."""
    made, data = bonus(bonus_updates=1, bonus_scale=1.0), rollout()
    target = [param.clone() for param in made.target.parameters()]
    far = Visits(data.next_obs + 4.0, data.action[..., :2])
    other = Visits(data.next_obs, data.action[..., :2] - 4.0)
    before = [made.novelty(where).mean().item() for where in (visits(data), far, other)]
    for i in range(60):
        made.learn([data], [visits(data)], Key(i))
    after = [made.novelty(where).mean().item() for where in (visits(data), far, other)]
    assert after[0] < 0.1 * before[0]
    assert after[1] > 5 * after[0]
    assert after[2] > 5 * after[0]
    assert all(torch.equal(a, b) for a, b in zip(target, made.target.parameters(), strict=True))


def test_what_is_added_by_hand() -> None:
    """Half a standard deviation of novelty's sums, in units of the rewards', a quarter faded."""
    made, data = bonus(), rollout()
    with torch.no_grad():
        novelty = made.novelty(visits(data))
    spread = discounted_sums(novelty, 0.9).double().std(correction=0).item()
    std = torch.tensor([3.0], dtype=torch.float64)
    (paid,) = made.added([data], [visits(data)], 250.0, std)
    expected = data.reward + 0.75 * 0.5 * 3.0 / spread * novelty
    torch.testing.assert_close(paid.reward, expected)
    assert torch.equal(paid.obs, data.obs)
    assert made.means["novelty"] == pytest.approx(novelty.mean().item(), rel=1e-5)
    added = (paid.reward - data.reward).mean().item() / 3.0
    assert made.means["bonus"] == pytest.approx(added, rel=1e-3)


def test_the_bonus_fades_to_nothing() -> None:
    made, data = bonus(), rollout()
    assert [made.share(n) for n in (0, 400, 1000, 5000)] == [1.0, 0.6, 0.0, 0.0]
    (paid,) = made.added([data], [visits(data)], 1000.0, torch.ones(1, dtype=torch.float64))
    assert torch.equal(paid.reward, data.reward)


def test_errors_have_a_weight_and_a_scale_of_their_own() -> None:
    class Both(BonusSettings):
        bonus_error = 2.0

    settings = Both(bonus_novelty=0.0, bonus_steps=1000)
    made, data = Bonus(settings, (3, 2), 0.9, Key(1), CPU), rollout()
    error = data.obs[..., 0].square()
    where = visits(data)._replace(error=error)
    (paid,) = made.added([data], [where], 0.0, torch.ones(1, dtype=torch.float64))
    spread = discounted_sums(error, 0.9).double().std(correction=0).item()
    torch.testing.assert_close(paid.reward, data.reward + 2.0 / spread * error)


def test_a_diverged_step_is_paid_nothing_and_teaches_nothing() -> None:
    data, found = rollout(), []
    diverged = torch.zeros_like(data.diverged)
    diverged[2, 1] = True
    for wild in (7.0, math.nan, math.inf):
        held = data._replace(
            diverged=diverged, next_obs=data.next_obs.masked_fill(diverged[..., None], wild)
        )
        made = bonus()
        made.learn([held], [visits(held)], Key(2))
        (paid,) = made.added([held], [visits(held)], 0.0, torch.ones(1))
        assert paid.reward[2, 1] == data.reward[2, 1]
        assert math.isfinite(made.means["bonus"])
        found.append(torch.cat([param.flatten() for param in made.predictor.parameters()]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_two_shards_are_one_sum() -> None:
    """Their spreads are those of all steps, and the predictor learns from both."""
    shards = [rollout(1), rollout(2)]
    whole = Rollout.joined(shards, dim=1)
    ranks = Ranks(2)
    made, one = bonus(), bonus()
    std = torch.ones(1, dtype=torch.float64)
    paid = made.added(shards, [visits(part) for part in shards], 0.0, std, ranks)
    (all_paid,) = one.added([whole], [visits(whole)], 0.0, std)
    torch.testing.assert_close(Rollout.joined(paid, dim=1).reward, all_paid.reward)
    assert made.means == pytest.approx(one.means)
    before = [made.novelty(visits(part)).mean() for part in shards]
    for i in range(40):
        made.learn(shards, [visits(part) for part in shards], Key(i), ranks)
    after = [made.novelty(visits(part)).mean() for part in shards]
    assert all(a < 0.8 * b for a, b in zip(after, before, strict=True))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="a bonus needs bonus_steps"):
        BonusSettings(bonus_novelty=0.1)
    with pytest.raises(UserError, match="the observation has 3 numbers, 0 to 2, so none is 3"):
        bonus(bonus_inputs=(0, 3))
    with pytest.raises(UserError, match="bonus_inputs must name at least one place"):
        bonus(bonus_inputs=())
    assert not BonusSettings().explores
