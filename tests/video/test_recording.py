"""What is drawn is what was evaluated: the returns, the states and the rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recording import CONFIG, recorded

from metarl.algorithms.maml_trpo import MamlTrpo
from metarl.evaluation.protocol import evaluate
from metarl.learning.adaptation import adapt_to
from metarl.learning.registry import find_learner
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.registry import find_family
from metarl.video.recording import record
from metarl.worlds.task_worlds import TaskWorlds

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("algorithm", ["maml-trpo", f"{ROOT}/docs/examples/my_learner.py"])
def test_returns_are_those_of_evaluate(algorithm):
    family = find_family("point-goal")
    tasks = TaskDistribution(family).split("heldout", 2)
    cls = find_learner(algorithm + (":ConstantAction" if algorithm.endswith(".py") else ""))
    plain, watched = TaskWorlds(family, 6, 1), TaskWorlds(family, 6, 1)
    learner = cls(plain.spec, cls.Config())
    expected = evaluate(learner, plain, tasks, episodes=2, seed=3)
    got = record(learner, watched, tasks, episodes=2, seed=3)
    assert got.report.returns == expected.returns
    assert got.report.experience == expected.experience
    assert got.explores == learner.adapts_on_exploration


def test_with_one_world_the_running_return_ends_at_the_reported_one():
    got = recorded(find_family("point-goal"), worlds_per_task=1)
    for k in range(3):
        for m, episode in enumerate(got.episodes["score", k]):
            assert episode.running[-1] == got.report.returns[m][k]


def test_the_first_world_is_drawn(recording):
    """Its returns are those of the first world in `adapt_to`, which `metarl adapt` prints."""
    family = recording.family
    one = recorded(family, recording.tasks[:1])
    worlds = TaskWorlds(family, 3, 1)
    learner = MamlTrpo(worlds.spec, CONFIG)
    for k, got in enumerate(adapt_to(learner, worlds, one.tasks, episodes=2, seed=5)):
        assert one.episodes["score", k][0].running[-1] == got.returns[0]


def test_states_and_rewards_belong_together(recording):
    """−‖xy − g‖ of the state after each step is the reward of that step, the last one included."""
    goals = recording.tasks.values
    for row in recording.episodes.values():
        for goal, episode in zip(goals, row, strict=True):
            assert episode.qpos.shape == (21, 2)
            distance = np.linalg.norm(episode.qpos[1:] - goal, axis=1)
            assert np.allclose(-distance, episode.reward, rtol=1e-6)


def test_an_episode_that_fails_ends_there(lift):
    got = recorded(lift, worlds_per_task=2)
    for episode in got.episodes["explore", 0]:
        assert episode.ended == "terminated"
        assert len(episode.qpos) == len(episode.reward) + 1 < 41
        assert episode.qpos[-1, 0] > 0.3 >= episode.qpos[-2, 0]


def test_a_state_that_is_not_finite_is_not_drawn(recording):
    from metarl.video.recording import _episode, _Segment
    from metarl.worlds.vector import Transition

    no, yes = torch.tensor([False]), torch.tensor([True])
    nan = torch.full((1, 2), torch.nan, dtype=torch.float64)
    segment = _Segment(qpos=[torch.ones(1, 2, dtype=torch.float64), nan], mocap=[nan, nan])
    segment.steps = [Transition(nan, torch.zeros(1), no, no, nan, yes)]
    episode = _episode(segment, 0)
    assert episode.ended == "diverged"
    assert episode.qpos.tolist() == [[1.0, 1.0], [1.0, 1.0]]
