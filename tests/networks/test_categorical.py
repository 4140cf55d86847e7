"""Discrete actions: the distribution by hand and by count, and RL² on a hidden arm."""

from __future__ import annotations

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

from metarl import Choices, Param, TaskDistribution, evaluate
from metarl.adapters import GymnasiumFamily
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.networks.categorical import Categorical
from metarl.worlds.factory import make_worlds
from metarl.worlds.vector import Spec


def test_log_prob_and_entropy_by_hand() -> None:
    """Choices of (1/4, 3/4) and of (1/2, 1/4, 1/4)."""
    policy = Categorical(torch.tensor([1.0, 3.0, 2.0, 1.0, 1.0]).log()[None], (2, 3))
    action = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(policy.log_prob(action), torch.tensor([math.log(3 / 16)]))
    first = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(policy.entropy(), torch.tensor([first + 1.5 * math.log(2)]))
    assert policy.sample(None).tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0]]
    assert policy.log_prob(torch.zeros(1, 5)).item() == 0


def test_draws_have_the_probabilities_of_the_choices() -> None:
    """Of 40 000 draws, each share is within 5 standard errors of its probability."""
    logits = torch.tensor([1.0, 3.0, 2.0, 1.0, 1.0]).log().expand(40_000, 5)
    noise = torch.randn(40_000, 5, generator=Key("draws").torch())
    shares = Categorical(logits, (2, 3)).sample(noise).mean(0)
    expected = torch.tensor([0.25, 0.75, 0.5, 0.25, 0.25])
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 40_000).sqrt()).all()


@pytest.mark.parametrize("spec", [Spec(4, 2, 20), Spec(1, 5, 5, (2, 3))])
def test_a_spec_survives_json(spec: Spec) -> None:
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [{"actions": [2, 2]}, {"horizon": 0}, {"actions": [5, 0]}, {"size": 3}, {"action_size": "x"}],
)
def test_a_spec_that_cannot_be_is_refused(change: dict) -> None:
    with pytest.raises((TypeError, ValueError)):
        Spec.from_json(Spec(1, 5, 5, (2, 3)).to_json() | change)


class Arms(gymnasium.Env):
    """Two levers of two and of three positions; one position of the second pays."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = MultiDiscrete([2, 3])

    def set_task(self, task):
        self.arm = task["arm"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[1] == self.arm), False, False, {}


class HiddenArm(GymnasiumFamily):
    env = Arms
    horizon = 5
    params = (Param("arm", Choices((0, 1, 2))),)


@pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")
@pytest.mark.slow
def test_rl2_finds_a_hidden_arm() -> None:
    """A policy that cannot remember is paid 5/3 an episode, one that knows the arm 5."""
    worlds = make_worlds(HiddenArm(), 36, 1)
    learner = Rl2(worlds.spec, Rl2Config(units=32, hidden=32, lr=1e-2), seed=1)
    distribution = TaskDistribution(worlds.family)
    for i in range(25):
        learner.meta_step(worlds, distribution.split("train", 3), Key("arms", i))
    again = Rl2(worlds.spec, learner.config, seed=2)
    again.load_state_dict(learner.state_dict())
    report = evaluate(again, worlds, distribution.split("heldout", 3), episodes=1, seed=0)
    assert report.mean[-1] > 4.5
    worlds.close()
