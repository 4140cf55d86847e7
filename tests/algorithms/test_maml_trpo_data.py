"""What MAML-TRPO learns from: batches of rollouts, and what divergence leaves of them."""

import itertools

import numpy as np
import torch

from metarl import TaskDistribution, Tasks, TaskWorlds, collect
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.base.keys import Key
from metarl.modules.gradients import inner_loop


def rollout_of(agent: MamlTrpo, worlds: TaskWorlds, tasks: int):
    worlds.set_tasks(
        TaskDistribution(worlds.family).split("train", tasks), worlds.num_worlds // tasks
    )
    worlds.seed(Key(0))
    worlds.reset()
    state = agent.begin(tasks, worlds.worlds_per_task)
    return collect(worlds, agent, state, worlds.spec.horizon, Key(1), explore=True)


def test_advantages_are_normalised_in_each_task() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    rollout, _ = rollout_of(agent, worlds, 3)
    data = agent.inner.batch(rollout)
    assert data.obs.shape == (3, 4 * 20, 4)
    assert torch.allclose(data.advantage.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.advantage.square().mean(1), torch.ones(3), atol=1e-4)
    assert torch.allclose(data.weight.sum(1), torch.ones(3))


def test_diverged_transitions_reach_no_loss() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    rollout, state = rollout_of(agent, worlds, 3)
    rollout.diverged[5, 2] = True
    clean = agent.adapt(state, rollout).params
    rollout.action[5, 2] = 1e6
    assert torch.equal(agent.adapt(state, rollout).params, clean)
    assert clean.isfinite().all()
    weight = agent.inner.batch(rollout).weight.reshape(3, 4, 20)  # task 0, world 2, step 5
    assert (weight == 0).nonzero().tolist() == [[0, 2, 5]]
    torch.testing.assert_close(weight.sum((1, 2)), torch.ones(3))


def test_the_step_before_a_divergence_counts_as_cut_by_a_limit() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    rollout, _ = rollout_of(agent, worlds, 3)
    rollout.diverged[5, 2] = True
    truncated = rollout.truncated.clone()
    truncated[4, 2] = True
    expected = agent.inner.batch(rollout._replace(truncated=truncated)).advantage
    assert torch.equal(agent.inner.batch(rollout).advantage, expected)


def test_each_phase_of_a_meta_step_has_starts_and_noise_of_its_own(monkeypatch) -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,), inner_steps=2))
    starts, keys = [], []

    def spy(*args, **more):
        starts.append(args[0].current.obs)
        keys.append(args[4])
        return collect(*args, **more)

    monkeypatch.setattr(inner_loop, "collect", spy)
    agent.meta_step(worlds, TaskDistribution(worlds.family).split("train", 3), Key(1))
    assert len(set(keys)) == 3
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(starts, 2))


def test_an_action_that_is_not_a_number_reaches_no_loss() -> None:
    """The worlds flag it as diverged, so the rollout holds it."""
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    rollout, state = rollout_of(agent, worlds, 3)
    rollout.diverged[5, 2], rollout.action[5, 2] = True, float("nan")
    assert agent.adapt(state, rollout).params.isfinite().all()


def test_a_meta_step_with_divergence_in_it() -> None:
    """One task's robots explode in every step: its share is empty, and the update goes on."""
    worlds = TaskWorlds("half-cheetah-dynamics", 8, threads=1)
    agent, tasks = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,))), worlds.tasks
    values = TaskDistribution(worlds.family).split("train", 4).values.copy()
    values[2, tasks.names.index("strength")] = 1e12
    before = agent.theta
    metrics = agent.meta_step(worlds, Tasks(tasks.family, tasks.names, values), Key(1))
    assert metrics["diverged"] == 2 * 2 * 200
    assert all(np.isfinite(value) for value in metrics.values())
    assert agent.theta.isfinite().all()
    assert metrics["accepted"]
    assert not torch.equal(agent.theta, before)


def test_adapt_leaves_its_input_alone() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    rollout, state = rollout_of(agent, worlds, 3)
    before = state.params.clone()
    after = agent.adapt(state, rollout)
    assert torch.equal(state.params, before)
    assert not torch.equal(after.params, before)
