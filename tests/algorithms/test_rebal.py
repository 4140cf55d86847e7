"""ReBAL: its memory step by step and at once, its returns by a plain loop, and a toy that turns."""

import pytest
import torch

from metarl import Spec
from metarl.algorithms import Rebal, RebalConfig
from metarl.base.keys import Key
from metarl.modules.model_based.transitions import packed_episodes
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Step

SPEC = Spec(2, 1, 12)
SMALL = {"units": 8, "hidden": (8,), "bptt": 12, "candidates": 8, "plan_steps": 2}


def learner(**settings) -> Rebal:
    return Rebal(SPEC, RebalConfig(**SMALL | {"random_iterations": 0} | settings))


def transitions(worlds: int, gain: torch.Tensor, seed: int = 0) -> Rollout:
    """Each observation changes by `gain` times the action, and that is rewarded."""
    draws = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(12, worlds, 1, generator=draws) - 1
    change = torch.cat((gain[:, None] * action, -0.5 * action), -1)
    obs = torch.cumsum(change, 0) - change
    none = torch.zeros(12, worlds, dtype=torch.bool)
    return Rollout(
        obs, action, change[..., 0], obs + change, none, none, none, none, action, none.float(),
        tasks=worlds,
    )  # fmt: skip


def rows(rollout: Rollout) -> torch.Tensor:
    """(B, T, W)"""
    return packed_episodes(rollout).view(rollout.obs.shape[1], 12, -1)[..., :-1]


def test_acting_remembers_what_learning_unrolls() -> None:
    """The prediction of each step, with the noise in what was done and the last reward."""
    agent = learner(explore_std=0.4)
    agent.update([transitions(6, torch.linspace(-2, 2, 6))], Key(0))
    obs = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1))
    reward = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(3))
    state, action = agent.begin(1, 3), torch.zeros(3, 1)
    done, seen = [], []
    for t in range(5):
        step = Step(obs[t], action, reward[t], torch.full((3,), t in (0, 3)))
        before = state.memory
        action, state = agent.act(step, state, explore=True, noise=noise[t])
        action = action.clamp(-1, 1)
        last = agent._normalised(reward[t][:, None]) * (t > 0)  # also of the episode before
        seen.append(torch.cat((agent.data.inputs(obs[t], action), last), -1))
        done.append(agent.net.step(seen[-1], before)[0])
    torch.testing.assert_close(torch.stack(done), agent.net.unroll(torch.stack(seen)))
    assert state.world[:, 2].tolist() == [5] * 3


@torch.no_grad()
def test_a_predicted_return_is_a_plain_loop_over_the_memory() -> None:
    agent = learner()
    agent.update([transitions(6, torch.linspace(0.5, 2, 6))], Key(0))
    draws = torch.Generator().manual_seed(0)
    memory = tuple(torch.randn(2, 8, generator=draws) for _ in range(2))
    obs, reward = torch.tensor([[0.3, -0.2], [1.0, 0.0]]), torch.tensor([[0.5], [-1.0]])
    tried = torch.rand(2, 3, 4, 1, generator=draws) * 2 - 1
    found = agent.returns(obs, reward, memory, tried)
    mean, std = agent.data.target_moments.mean.float(), agent.data.target_moments.std.float()
    for i in range(2):
        for c in range(3):
            here, last, total = obs[i : i + 1], reward[i : i + 1], 0.0
            now = tuple(part[i : i + 1] for part in memory)
            for t in range(4):
                x = torch.cat((agent.data.inputs(here, tried[i, c, t][None]), last), -1)
                out, now = agent.net.step(x, now)
                last, total = out[:, 2:], total + float(out[0, 2])
                here = here + out[:, :2] * std[:2] + mean[:2]
            assert float(found[i, c]) == pytest.approx(total, abs=1e-4)


def test_the_loss_is_the_mean_over_valid_steps_and_counts_early_and_late_ones() -> None:
    agent, data = learner(), rows(transitions(4, torch.linspace(0.5, 2, 4)))
    valid = torch.ones(4, 12)
    valid[0, 5:] = 0
    loss, errors = agent.loss(data, valid, 8)
    inputs, target = agent.data.split(data)
    last = torch.cat((torch.zeros(4, 1, 1), target[:, :-1, -1:]), 1)
    out = agent.net.unroll(torch.cat((inputs, last), -1).transpose(0, 1)).transpose(0, 1)
    wrong = (out - target).square().mean(-1)
    each = [wrong[0, :5].mean(), *(wrong[i].mean() for i in (1, 2, 3))]
    torch.testing.assert_close(loss, torch.stack(each).sum() / 8)
    torch.testing.assert_close(errors[0], wrong[:, 0].sum() / 8)
    torch.testing.assert_close(errors[1], wrong[1:, 6:].mean(1).sum() / 8)


@pytest.mark.slow
def test_the_memory_tells_which_way_an_actuator_turns() -> None:
    """Gains of either sign: the first step cannot know which, and later ones predict."""
    agent = learner(updates=600, units=16, hidden=(32,), lr=1e-2)
    gain = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0)
    agent.update([transitions(200, gain)], Key(0))
    _, errors = agent.loss(rows(transitions(50, gain[:50], seed=3)), torch.ones(50, 12), 50)
    assert errors[1] < 0.1 * errors[0]
