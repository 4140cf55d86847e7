"""Advantages against a plain loop and Monte Carlo; the baseline against numbers by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl.base.errors import UserError
from metarl.modules import returns
from metarl.modules.returns import LinearBaseline, generalized_advantages, ridge_weights
from metarl.worlds.rollout import Rollout


def rollout(obs, next_obs, reward, terminated, truncated, tasks: int = 1) -> Rollout:
    steps, worlds = reward.shape
    done = terminated | truncated
    first = torch.cat((torch.ones(1, worlds, dtype=torch.bool), done[:-1]))
    zeros = torch.zeros(steps, worlds, 1)
    return Rollout(
        obs, zeros, reward, next_obs, terminated, truncated, torch.zeros_like(done), first, zeros,
        zeros[..., 0], tasks,
    )  # fmt: skip


def random_flags(seed: int, steps: int, worlds: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 6, (steps, worlds), generator=rng)
    return kind == 0, kind == 1


def plain_gae(r, v, nv, terminated, done, gamma, lam):
    advantage = [[0.0] * r.shape[1] for _ in range(len(r))]
    for b in range(r.shape[1]):
        running = 0.0
        for t in reversed(range(len(r))):
            bootstrap = 0.0 if terminated[t, b] else gamma * float(nv[t, b])
            delta = float(r[t, b]) + bootstrap - float(v[t, b])
            running = delta + (0.0 if done[t, b] else gamma * lam * running)
            advantage[t][b] = running
    return torch.tensor(advantage, dtype=torch.float64)


@given(st.integers(0, 10**6), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_gae_equals_a_plain_loop(seed: int, gamma: float, lam: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    r, v, nv = torch.randn(3, 9, 4, generator=rng, dtype=torch.float64)
    terminated, truncated = random_flags(seed, 9, 4)
    got = generalized_advantages(
        r, v, nv, terminated, terminated | truncated, gamma=gamma, gae_lambda=lam
    )
    expected = plain_gae(r, v, nv, terminated, terminated | truncated, gamma, lam)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(st.integers(0, 10**6))
def test_lambda_one_is_monte_carlo(seed: int) -> None:
    """With consistent values, A_t = Σ γ^k r_{t+k} + γ^n V(end) − V(s_t)."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(8, 2, generator=rng, dtype=torch.float64)
    reward = torch.randn(7, 2, generator=rng, dtype=torch.float64)
    none = torch.zeros(7, 2, dtype=torch.bool)
    done = none.clone()
    done[-1] = True
    got = generalized_advantages(
        reward, values[:-1], values[1:], none, done, gamma=0.9, gae_lambda=1.0
    )
    for t in range(7):
        gain = sum(0.9**k * reward[t + k] for k in range(7 - t)) + 0.9 ** (7 - t) * values[-1]
        torch.testing.assert_close(got[t], gain - values[t])


def test_a_time_limit_bootstraps_and_a_failure_does_not() -> None:
    one = torch.ones(1, 2, dtype=torch.float64)
    terminated = torch.tensor([[True, False]])
    got = generalized_advantages(
        one, 0 * one, 10 * one, terminated, torch.tensor([[True, True]]), gamma=0.5, gae_lambda=1.0
    )
    assert got.tolist() == [[1.0, 6.0]]


def test_the_baseline_finds_a_value_that_is_linear_and_unending() -> None:
    """Reward o at a random o each step: the discounted value is o + γ E[o] / (1 − γ).

    The episodes are cut after 30 steps, so only the bootstrapped fit can see past the cut.
    """
    rng = torch.Generator().manual_seed(0)
    states = torch.rand(31, 4000, 1, generator=rng) + 0.5
    obs, next_obs = states[:-1], states[1:]
    none = torch.zeros(30, 4000, dtype=torch.bool)
    truncated = none.clone()
    truncated[-1] = True
    data = rollout(obs, next_obs, obs[..., 0], none, truncated)
    value, next_value = LinearBaseline(0.9).values(data)
    expected = obs[..., 0].double() + 0.9 / 0.1
    assert float((value - expected).abs().mean()) < 0.15
    assert float((next_value[-1] - next_obs[-1, :, 0].double() - 9.0).abs().mean()) < 0.3
    failed = data._replace(terminated=truncated, truncated=none)
    blind, _ = LinearBaseline(0.9).values(failed)
    assert float((blind[-1] - expected[-1]).mean()) < -8.0


def test_after_a_termination_nothing_follows() -> None:
    """A last step of reward 1 that fails is worth 1, whatever came before."""
    obs = torch.rand(5, 200, 2, generator=torch.Generator().manual_seed(1))
    terminated = torch.zeros(5, 200, dtype=torch.bool)
    terminated[-1] = True
    data = rollout(obs, obs, torch.ones(5, 200), terminated, torch.zeros_like(terminated))
    value, _ = LinearBaseline(0.5).values(data)
    expected = torch.tensor([1.9375, 1.875, 1.75, 1.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(value.mean(1), expected, rtol=0, atol=0.08)


def test_each_task_has_weights_of_its_own() -> None:
    obs = torch.rand(10, 8, 1, generator=torch.Generator().manual_seed(2))
    terminated = torch.zeros(10, 8, dtype=torch.bool)
    terminated[-1] = True
    sign = torch.tensor([1.0] * 4 + [-1.0] * 4)
    data = rollout(obs, obs, sign.expand(10, 8), terminated, ~terminated & False, tasks=2)
    value, _ = LinearBaseline(0.9).values(data)
    torch.testing.assert_close(value[:, :4].mean(1), -value[:, 4:].mean(1), rtol=0.05, atol=0.05)
    assert float(value[0, :4].mean()) > 5.0


def test_a_singular_fit_is_finite() -> None:
    obs = torch.zeros(3, 2, 4)
    flags = torch.zeros(3, 2, dtype=torch.bool)
    value, next_value = LinearBaseline(0.99, ridge=0.0 + 1e-30).values(
        rollout(obs, obs, torch.ones(3, 2), flags, flags)
    )
    assert value.isfinite().all()
    assert next_value.isfinite().all()


@pytest.mark.parametrize("size", [1e6, -1e6])
def test_observations_are_clipped(size: float) -> None:
    flags = torch.zeros(3, 2, dtype=torch.bool)
    features = LinearBaseline(0.9)._features(torch.full((3, 2, 1), size), torch.zeros(3, 2))
    assert features[0, 0].tolist() == [10.0 if size > 0 else -10.0, 100.0, 0.0, 0.0, 0.0, 1.0]
    assert not flags.any()


@given(st.integers(0, 10**6), st.floats(0.5, 1.0))
def test_lambda_one_is_monte_carlo_through_every_kind_of_end(seed: int, gamma: float) -> None:
    """The discounted rewards to the end of the episode, plus the value of where a limit cut it."""
    rng = torch.Generator().manual_seed(seed)
    r, v, nv = torch.randn(3, 12, 3, generator=rng, dtype=torch.float64)
    terminated, truncated = random_flags(seed + 1, 12, 3)
    done = terminated | truncated
    nv[:-1] = torch.where(done[:-1], nv[:-1], v[1:])  # inside an episode V(s') is V of the next s
    got = generalized_advantages(r, v, nv, terminated, done, gamma=gamma, gae_lambda=1.0)
    for b in range(3):
        for t in range(12):
            gain, discount, k = 0.0, 1.0, t
            while True:
                gain += discount * float(r[k, b])
                discount *= gamma
                if done[k, b] or k == 11:
                    break
                k += 1
            gain += 0.0 if terminated[k, b] else discount * float(nv[k, b])
            assert float(got[t, b]) == pytest.approx(gain - float(v[t, b]), abs=1e-10)


def test_an_exactly_linear_value_is_found_exactly() -> None:
    """Rewards r = w·φ − γ w·φ' make V(s) = w·φ(s); nothing follows a failure.

    Episodes end in all three ways (failure, limit, cut by the end of the data), and two tasks have
    weights of their own.
    """
    rng = torch.Generator().manual_seed(4)
    obs = torch.randn(41, 40, 2, generator=rng, dtype=torch.float64)
    terminated, truncated = (flags & (torch.arange(40)[:, None] < 39) for flags in FLAGS)
    data = rollout(obs[:-1], obs[1:], torch.zeros(40, 40), terminated, truncated, tasks=2)
    baseline, time = LinearBaseline(0.9, ridge=1e-12), data.episode_time()
    here, there = baseline._features(data.obs, time), baseline._features(data.next_obs, time + 1)
    weights = torch.randn(2, here.shape[-1], generator=rng, dtype=torch.float64)
    value, after = ((x * weights.repeat_interleave(20, 0)).sum(-1) for x in (here, there))
    data = data._replace(reward=value - 0.9 * after * ~terminated)
    got, got_after = baseline.values(data)
    torch.testing.assert_close(got, value, rtol=0, atol=1e-7)
    torch.testing.assert_close(got_after, after, rtol=0, atol=1e-7)


FLAGS = random_flags(5, 40, 40)


def test_a_task_of_which_everything_diverged_has_value_zero() -> None:
    obs, flags = torch.ones(3, 4, 2), torch.zeros(3, 4, dtype=torch.bool)
    diverged = flags.clone()
    diverged[:, :2] = True
    data = rollout(obs, obs, torch.ones(3, 4), flags, flags, tasks=2)._replace(diverged=diverged)
    value, _ = LinearBaseline(0.9).values(data)
    assert value[:, :2].abs().max() == 0
    assert value[:, 2:].abs().min() > 0.5


def cut_short(*, diverged: bool) -> Rollout:
    """Six steps of rewards −1 in two worlds; world 0 stops after step 2, at a limit or diverged.

    Where it diverged, step 3 is the diverged transition: reward 0, to be used for nothing.
    """
    obs = torch.randn(6, 2, 1, generator=torch.Generator().manual_seed(0))
    next_obs = torch.cat((obs[1:], obs[:1]))
    next_obs[3, 0] = obs[3, 0]
    reward, flags = -torch.ones(6, 2), torch.zeros(6, 2, dtype=torch.bool)
    reward[3, 0] = 0.0
    truncated, bad = flags.clone(), flags.clone()
    bad[3, 0], truncated[2, 0] = True, not diverged
    data = rollout(obs, next_obs, reward, flags, truncated)._replace(diverged=bad)
    first = data.first.clone()
    first[4, 0], first[3, 0] = True, False
    return data._replace(first=first)


def test_a_divergence_tells_the_steps_before_it_nothing() -> None:
    """'Ends its episode without telling anything': those steps see what a time limit shows them."""
    results = []
    for data in (cut_short(diverged=True).before_divergence(), cut_short(diverged=False)):
        value, next_value = LinearBaseline(0.9).values(data)
        advantage = generalized_advantages(
            data.reward.double(), value, next_value, data.terminated | data.diverged, data.done,
            gamma=0.9, gae_lambda=1.0,
        )  # fmt: skip
        results.append(torch.cat((value, advantage))[data.valid.repeat(2, 1)])
    torch.testing.assert_close(*results)


def test_a_fit_of_what_is_not_a_number_ends(monkeypatch) -> None:
    """It may raise or return NaN, but must come back."""
    tries, factorise = [], torch.linalg.cholesky_ex

    def counted(matrix):
        tries.append(1)
        assert len(tries) < 1000
        return factorise(matrix)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counted)
    obs, flags = torch.full((3, 2, 1), float("nan")), torch.zeros(3, 2, dtype=torch.bool)
    LinearBaseline(0.9).values(rollout(obs, obs, torch.ones(3, 2), flags, flags))


# --- observations of many numbers ----------------------------------------------------------------


def wide_rollout(size: int, tasks: int = 2, seed: int = 0) -> Rollout:
    """Twelve steps of three worlds a task; the reward is 1 and twice the first number, and noise.

    It ends there, so that the value is the reward if γ is 0.
    """
    rng = torch.Generator().manual_seed(seed)
    obs = torch.randn(12, 3 * tasks, size, generator=rng)
    reward = 1.0 + 2.0 * obs[..., 0] + torch.randn(12, 3 * tasks, generator=rng)
    never = torch.zeros(12, 3 * tasks, dtype=torch.bool)
    return rollout(obs, obs.roll(-1, 0), reward, never, never, tasks)


def test_ridge_weights_equal_the_normal_equations() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20, 50, generator=rng, dtype=torch.float64) * torch.rand(50, generator=rng)
    x[:, :, 7] = 0.0
    y = torch.randn(3, 20, generator=rng, dtype=torch.float64)
    got = ridge_weights(x, y, tolerance=1e-12)
    scale = x.square().mean(1).sqrt()
    scale = torch.where(scale > 0, 1 / scale, 0.0)
    z = x * scale[:, None]
    exact = torch.linalg.solve(z.mT @ z + 50 * torch.eye(50), (z.mT @ y[..., None])[..., 0])
    torch.testing.assert_close(got, scale * exact, rtol=1e-8, atol=1e-10)


def test_a_wide_baseline_tells_something_and_leaves_something(monkeypatch) -> None:
    """A direct fit of 64 features reproduces 36 returns, and leaves no advantage."""
    data = wide_rollout(30)
    left = {}
    for most in (1024, 16):
        monkeypatch.setattr(returns, "MOST_FEATURES", most)
        value, _ = LinearBaseline(0.0).values(data)
        left[most] = float((data.reward - value).var() / data.reward.var())
    assert left[1024] < 0.01
    assert 0.1 < left[16] < 0.8


def test_a_wide_baseline_of_a_task_does_not_depend_on_the_others() -> None:
    data = wide_rollout(600, tasks=3)
    together = LinearBaseline(0.9).values(data)
    for m in range(3):
        worlds = slice(3 * m, 3 * m + 3)
        parts = [p[:, worlds] if isinstance(p, torch.Tensor) else 1 for p in data]
        alone = LinearBaseline(0.9).values(Rollout(*parts))
        for one, two in zip(alone, together, strict=True):
            torch.testing.assert_close(one, two[:, worlds], rtol=1e-4, atol=1e-4)


def test_a_wide_baseline_is_linear_in_the_observation_and_says_its_memory(capsys) -> None:
    """The square of 40,004 features would take 12.8 GB a task."""
    baseline, data = LinearBaseline(0.99), wide_rollout(20_000)
    for _ in range(2):
        value, next_value = baseline.values(data)
    assert value.shape == next_value.shape == (12, 6)
    assert value.dtype == torch.float64
    assert torch.isfinite(value).all()
    words = "baseline: 2 tasks, 72 steps x 20000 observed numbers, 0.0215 GiB on cpu\n"
    assert capsys.readouterr().err == words  # once


@pytest.mark.parametrize("size", [4, 600])
def test_a_baseline_for_which_memory_is_lacking_is_refused(monkeypatch, size: int) -> None:
    monkeypatch.setattr(returns, "free_memory", lambda device: 1000)
    with pytest.raises(
        UserError, match=f"{size} observed numbers needs .* lower rollouts_per_task"
    ):
        LinearBaseline(0.99).values(wide_rollout(size))
