"""Every simulator back end through one suite: the worlds of any family run on it as on MuJoCo's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.float32_backend import Float32Backend
from torch import Tensor

from metarl import TaskDistribution, TaskWorlds, UserError, collect, find_family
from metarl.algorithms import MamlTrpo, MamlTrpoConfig, Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.simulation.simulator import Simulator

TASKS, EACH, STEPS = 3, 2, 25
WORLDS = TASKS * EACH
FAMILIES = (
    "half-cheetah-vel", "hopper-params", "ant-goal+crippled", "humanoid-dir", "point-goal",
    "walker2d-terrain-scan", "half-cheetah-dir+latency+sensor-bias+told",
    "ant-goal+command+history+noise+push+switch",
)  # fmt: skip
"""What families use: early ends, kept fields, grounds and scans, choices, variations, events."""


@pytest.fixture(params=[Simulator, Float32Backend], ids=lambda backend: backend.__name__)
def backend(request: pytest.FixtureRequest):
    return request.param


def ready(family: str, backend, **options) -> TaskWorlds:
    worlds = TaskWorlds(find_family(family), WORLDS, 1, backend=backend, **options)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), EACH)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


def moves(worlds: TaskWorlds, steps: int = STEPS) -> Tensor:
    shape = steps, WORLDS, worlds.spec.action_size
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_worlds_go_the_way_that_they_go_on_mujoco(family: str, backend) -> None:
    """Within what rounding to float32 at each step makes of it, where nothing touches yet."""
    worlds, reference = ready(family, backend), ready(family, Simulator)
    assert worlds.spec == reference.spec
    torch.testing.assert_close(worlds.current.obs, reference.current.obs, rtol=1e-4, atol=1e-4)
    for t, action in enumerate(moves(worlds, 6)):
        got, expected = worlds.step(action), reference.step(action)
        assert got.reward.dtype == worlds.simulator.dtype
        assert got.obs.dtype == worlds.current.prev_reward.dtype == torch.float32
        assert torch.equal(got.terminated, expected.terminated), t
        torch.testing.assert_close(got.next_obs, expected.next_obs, rtol=0.02, atol=0.02)
        torch.testing.assert_close(got.reward.double(), expected.reward, rtol=0.02, atol=0.02)


def test_task_values_and_fields_are_those_of_the_tasks(backend) -> None:
    worlds = ready("half-cheetah-dynamics", backend)
    sim = worlds.simulator
    for name, value in worlds.task.items():
        assert (value.dtype, value.device) == (sim.dtype, sim.device), name
    nominal = torch.from_numpy(sim.model.geom_friction).to(sim.dtype)
    friction = sim.model_field("geom_friction")
    assert friction.shape == (WORLDS, *nominal.shape)
    assert not torch.equal(friction[0], friction[EACH])
    for i in range(WORLDS):
        np.testing.assert_allclose(
            sim.world_model(i).geom_friction, friction[i].double().numpy(), rtol=1e-6
        )


def test_some_worlds_begin_anew_and_the_others_go_on(backend) -> None:
    worlds = ready("half-cheetah-vel", backend)
    for action in moves(worlds, 3):
        worlds.step(action)
    before = worlds.simulator.snapshot()
    chosen, rest = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5])
    obs = worlds.reset(chosen)
    torch.testing.assert_close(worlds.simulator.qpos[rest], before.qpos[rest], rtol=0, atol=0)
    assert not torch.equal(worlds.simulator.qpos[chosen], before.qpos[chosen])
    assert worlds.current.first.tolist() == [False, True, False, False, True, False]
    assert torch.equal(obs, worlds.current.obs)


@pytest.mark.parametrize("bad", [np.nan, 1e12])
def test_a_world_that_diverges_begins_anew_and_harms_no_other(bad: float, backend) -> None:
    worlds, other = ready("half-cheetah-vel", backend), ready("half-cheetah-vel", backend)
    actions = moves(worlds, 4)
    worlds.step(actions[0]), other.step(actions[0])
    worlds.simulator.qvel[2, 4] = bad
    got, expected = worlds.step(actions[1]), other.step(actions[1])
    assert got.diverged.tolist() == [i == 2 for i in range(WORLDS)]
    assert worlds.current.first.tolist() == got.diverged.tolist()
    rest = ~got.diverged
    assert torch.equal(got.next_obs[rest], expected.next_obs[rest])
    assert torch.equal(got.reward[rest], expected.reward[rest])
    assert float(got.reward[2]) == 0.0
    assert "task" in worlds.why_diverged()
    assert worlds.step(actions[2]).next_obs.isfinite().all()


def test_one_worlds_task_changes_alone(backend) -> None:
    family = find_family("half-cheetah-dynamics")
    worlds = TaskWorlds(family, 3, 1, backend=backend)
    worlds.set_tasks(TaskDistribution(family).split("train", 3), 1)
    before = worlds.simulator.model_field("body_mass").clone()
    worlds.change_tasks(torch.tensor([1]), TaskDistribution(family).split("heldout", 1))
    after = worlds.simulator.model_field("body_mass")
    assert (after != before).any(1).tolist() == [False, True, False]


def test_fields_have_names(backend) -> None:
    with pytest.raises(UserError, match="did you mean 'xpos'"):
        ready("point-goal", backend).simulator.bind("xposs")


def test_a_rollout_holds_what_the_worlds_gave(backend) -> None:
    """More steps than are written together, compared with a plain loop."""
    worlds, other = ready("hopper-params", backend), ready("hopper-params", backend)
    learner = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
    state = learner.begin(TASKS, EACH)
    rollout, _ = collect(worlds, learner, state, 37, Key(1), explore=True)
    for t in range(37):
        for name, part in other.current._asdict().items():
            assert torch.equal(getattr(rollout, name)[t], part), (t, name)
        got = other.step(rollout.action[t])
        for name in ("next_obs", "terminated", "truncated", "diverged"):
            assert torch.equal(getattr(rollout, name)[t], getattr(got, name)), (t, name)
        assert torch.equal(rollout.reward[t], got.reward.float())


@pytest.mark.parametrize("cls", [MamlTrpo, Rl2])
def test_a_whole_iteration(cls, backend) -> None:
    worlds = ready("point-goal", backend)
    config = MamlTrpoConfig(hidden=(8,)) if cls is MamlTrpo else Rl2Config(units=8, hidden=8)
    learner = cls(worlds.spec, config)
    metrics = learner.meta_step(worlds, worlds.tasks, Key(2))
    assert np.isfinite(list(metrics.values())).all()
