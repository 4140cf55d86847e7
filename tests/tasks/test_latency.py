"""What delays and biases: `+latency` and `+sensor-bias`."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch
from helpers.short_checks import checked_in_short

from metarl import (
    Interval,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    UserError,
    Variation,
    find_family,
    shift,
)
from metarl.base.keys import Key
from metarl.check.plain_loop import check_plain_loop
from metarl.check.suite import CHECKS, check_alone, check_repeats, check_threads
from metarl.check.trajectory import hurried, run, worlds_of
from metarl.tasks.composition import compose
from metarl.tasks.variations.latency import LONGEST_LATENCY

# --- latency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.0, 0.005, 0.015, 0.035, 0.055])
def test_latency_equals_a_queue_of_commands_before_a_plain_loop(latency: float) -> None:
    """0.015 s are 1.5 physics steps of 0.01 s: each command is obeyed 2 steps late."""
    family = find_family("half-cheetah-vel+latency")
    late = math.ceil(latency / 0.01)
    worlds = worlds_of(family, TaskDistribution(family).make(latency=latency), 2)
    worlds.reset()
    model = find_family("half-cheetah-vel").compile()  # knows nothing of delays
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = worlds.simulator.qpos[1], worlds.simulator.qvel[1]
    commands = [np.zeros(6)] * late
    for action in 2 * torch.rand(40, 2, 6, generator=Key(1).torch()) - 1:
        worlds.step(action)
        for _ in range(5):
            commands.append(action[1].double().numpy())
            data.ctrl[:] = commands.pop(0)
            mujoco.mj_step(model, data)
        assert np.array_equal(worlds.simulator.qpos[1].numpy(), data.qpos)
        assert np.array_equal(worlds.simulator.qvel[1].numpy(), data.qvel)


def test_a_varying_latency_equals_commands_looked_up_by_their_age() -> None:
    """Each physics step obeys the newest command that is old enough by the delay of the time."""
    family = hurried(find_family("half-cheetah-vel+varying-latency"))
    task = TaskDistribution(family).make(latency=0.01, latency_jitter=0.08)
    worlds = worlds_of(family, task, 3)
    worlds.reset()
    model, commands, seen = find_family("half-cheetah-vel").compile(), [], []
    sim, data = worlds.simulator, [mujoco.MjData(model) for _ in range(3)]
    for i in range(3):
        data[i].qpos[:], data[i].qvel[:] = sim.qpos[i], sim.qvel[i]
    for action in 2 * torch.rand(40, 3, 6, generator=Key(1).torch()) - 1:
        worlds.step(action)
        delay = sim.model_field("actuator_delay").clone()
        seen.append(delay[:, 0])
        assert torch.equal(delay, delay[:, :1].expand(-1, 6))
        for _ in range(5):
            commands.append(action.double().numpy())
            for i in range(3):
                at = len(commands) - 1 - math.ceil(float(delay[i, 0]) / 0.01 - 1e-9)
                data[i].ctrl[:] = commands[at][i] if at >= 0 else 0.0
                mujoco.mj_step(model, data[i])
        for i in range(3):
            assert np.array_equal(sim.qpos[i].numpy(), data[i].qpos)
    seen = torch.stack(seen)
    assert 0.01 <= float(seen.min()) < 0.03 < 0.07 < float(seen.max()) < 0.09
    changes = (seen.diff(dim=0) != 0).sum(0)
    assert (changes >= 6).all()
    assert (changes <= 20).all()
    assert len(torch.unique(seen[-1])) == 3


def test_a_varying_latency_is_sound_and_does_not_outlast_the_family() -> None:
    """The plain loop follows it, with a switch too; a set of tasks begins with its own delay."""
    family = find_family("half-cheetah-vel+switch+varying-latency")
    for check in (check_plain_loop, check_threads, check_alone, check_repeats):
        check(family)
    worlds = worlds_of(family, TaskDistribution(family).make(latency=0.03, switch_at=0.05), 2)
    worlds.reset()
    worlds.step(torch.zeros(2, 6))
    worlds.step(torch.zeros(2, 6))
    worlds.set_tasks(worlds.tasks, 2)
    assert (worlds.simulator.model_field("actuator_delay") == 0.03).all()
    with pytest.raises(UserError, match=r"latency must be from 0 to 0\.1 s, not 0\.11"):
        worlds.set_tasks(TaskDistribution(family).make(latency=0.06, latency_jitter=0.05), 2)


class BuiltCart(TaskFamily):
    """A cart whose motor is added in Python, and whose damping is set after the compilation."""

    name = "built-cart"
    model = """<mujoco><worldbody><body><joint name="slide" type="slide" axis="1 0 0"/>
    <geom size=".1" mass="1"/></body></worldbody></mujoco>"""
    params = (Param("goal", Interval(-1.0, 1.0)),)

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        spec.add_actuator(name="m", target="slide", trntype=mujoco.mjtTrn.mjTRN_JOINT)
        model = super().build(spec)
        model.dof_damping[:] = 2.0
        return model

    def reward(self, sim, before, action, task) -> torch.Tensor:
        return -(sim.qpos[:, 0] - task["goal"]).abs()


class CompiledCart(BuiltCart):
    """The same without `super`, so that no variation can come before the compilation."""

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        spec.add_actuator(name="m", target="slide", trntype=mujoco.mjtTrn.mjTRN_JOINT)
        return spec.compile()


class Geared(TaskFamily):
    """Edits every motor that there is by then."""

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        for actuator in spec.actuators:
            actuator.gear[0] *= 3.0
        return super().build(spec)


GEARED = type("Gears", (BuiltCart,), {"variations": {
    "gears": Variation((Param("wind", Interval(0.5, 1.0), edit=shift("qpos_spring")),), Geared),
}})  # fmt: skip


@pytest.mark.parametrize("names", [("latency",), ("gears",), ("gears", "latency")])
def test_a_variation_changes_what_build_adds(names: tuple[str, ...]) -> None:
    model = compose(GEARED, names)().compile()
    assert model.actuator_gear[0, 0] == (3.0 if "gears" in names else 1.0)
    assert bool(model.actuator_history[0, 0]) == ("latency" in names)
    assert model.dof_damping[0] == 2.0


def test_a_latency_of_motors_added_in_python_delays_them(monkeypatch) -> None:
    family = compose(BuiltCart, ["latency"])()
    assert family.dt == pytest.approx(0.01)
    late = run(worlds_of(family, TaskDistribution(family).make(latency=0.01), 2))
    prompt = run(worlds_of(family, TaskDistribution(family).make(latency=0.0), 2))
    assert not torch.equal(late.qvel, prompt.qvel)
    for check in CHECKS:
        checked_in_short(family, check, monkeypatch)


def test_a_build_that_no_variation_can_reach_is_refused() -> None:
    assert CompiledCart().compile().nu == 1
    words = r"must end with super\(\).build\(spec\) .* or '\+latency' cannot change the model"
    with pytest.raises(UserError, match=words):
        compose(CompiledCart, ["latency"])()


def test_commands_of_an_episode_do_not_reach_the_next() -> None:
    family = find_family("point-goal+latency")
    worlds = worlds_of(family, TaskDistribution(family).make(latency=0.06), 2)
    for action in (0.0, 1.0):  # the queue is full of these at the reset
        for _ in range(5):
            worlds.step(torch.full((2, 2), action))
        worlds.seed(Key(3))
        worlds.reset()
        start = worlds.simulator.qpos.clone()
        worlds.step(torch.zeros(2, 2))
        assert torch.equal(worlds.simulator.qpos, start)


@pytest.mark.parametrize("value", [-0.01, 0.11])
def test_a_latency_that_cannot_be_is_refused(value: float) -> None:
    family = find_family("point-goal+latency")
    worlds = TaskWorlds(family, 1, 1)
    assert LONGEST_LATENCY == 0.1
    with pytest.raises(UserError, match=r"latency must be from 0 to 0\.1 s, not"):
        worlds.set_tasks(TaskDistribution(family).make(latency=value), 1)


# --- sensor bias -------------------------------------------------------------------------------


def test_sensor_bias_moves_the_observation_alone() -> None:
    """Element 16 is a joint velocity of typical size 6 rad/s, so 0.05 is 0.3 rad/s."""
    family = find_family("half-cheetah-vel+sensor-bias")
    bias = {"sensor_bias[0]": -0.1, "sensor_bias[16]": 0.05}
    off = run(worlds_of(family, TaskDistribution(family).make(**bias), 2))
    true = run(TaskWorlds("half-cheetah-vel", 2, 1))
    expected = true.obs.double()
    expected[..., 0] -= 0.01
    expected[..., 16] += 0.3
    torch.testing.assert_close(off.obs.double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(off.qpos, true.qpos)
    assert torch.equal(off.reward, true.reward)


def test_a_scale_of_the_wrong_length_is_named() -> None:
    class Wrong(type(find_family("point-goal"))):
        observation_scale = (1.0, 2.0)

    with pytest.raises(UserError, match=r"observation_scale has 2 numbers, and the observation 4"):
        TaskWorlds(compose(Wrong, ["sensor-bias"])(), 1, 1)
