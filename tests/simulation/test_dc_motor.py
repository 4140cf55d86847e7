"""DC motors that `pd` makes: their curve by hand, also where the dynamics of the robot vary."""

from __future__ import annotations

import mujoco
import pytest
from helpers.robots import PENDULUM, robot

from metarl import TaskWorlds, pd, position_targets, torques
from metarl.simulation.model_faults import advice
from metarl.tasks.composition import compose


@pytest.mark.parametrize(
    ("q", "speed", "target", "torque"),
    [
        (0.0, 0.0, 0.1, 2.0),  # 20 · 0.1
        (0.0, 0.0, 1.0, 5.0),  # 20, held at the stall torque
        (0.0, 8.0, 1.0, 3.0),  # 20 - 4, held at 5 (1 - 8/20)
        (0.0, 20.0, 1.0, 0.0),  # no torque at the no-load speed
        (0.2, 3.0, 0.35, 1.5),  # 20 · 0.15 - 0.5 · 3
        (0.0, 8.0, -1.0, -7.0),  # -24, held at -5 (1 + 8/20): a brake
        (0.0, -8.0, -1.0, -3.0),
    ],
)
def test_a_dc_motor_by_hand(q: float, speed: float, target: float, torque: float) -> None:
    """kp 20, kd 0.5, stall torque 5 N·m, no-load speed 20 rad/s."""
    motor = pd(20, 0.5, effort=5, no_load_speed=20)
    model = robot(PENDULUM.replace('damping=".1"', ""), actuators=motor)().compile()
    data = mujoco.MjData(model)
    data.qpos[0], data.qvel[0], data.ctrl[0] = q, speed, target
    mujoco.mj_forward(model, data)
    assert data.qfrc_actuator[0] + data.qfrc_passive[0] == pytest.approx(torque, abs=1e-9)


DC = {"kp": 30.0, "kd": 0.8, "effort": 15.0, "no_load_speed": 25.0}
"""A drag of 0.6 N·m·s/rad, less than kd; with twice the effort it is more."""


@pytest.mark.parametrize("effort", [15.0, 30.0])
@pytest.mark.parametrize(
    "task", [{}, {"damping": 1.4}, {"strength": 0.5}, {"kd": 1.25}, {"kp": 0.8},
             {"kd": 0.8, "strength": 0.7, "damping": 2.0, "kp": 1.1}],
)  # fmt: skip
def test_a_dc_motor_whose_dynamics_vary_keeps_its_curve(task: dict, effort: float) -> None:
    """None at ω₀, at full drive; and as stiff and damped as is said, where nothing is held."""
    motor, joint = pd(**DC | {"effort": effort}, reach=0.8), 0.05
    text = PENDULUM.replace('damping=".1"', f'damping="{joint}"')
    worlds = TaskWorlds(compose(robot(text, actuators=motor), ["dynamics"])(), 1, 1)
    worlds.set_tasks(worlds.family.distribution.make(**task), 1)
    model = worlds.simulator.world_model(0)
    scale = {"damping": 1.0, "strength": 1.0, "kd": 1.0, "kp": 1.0} | task

    def torque(q: float, speed: float, target: float) -> float:
        data = mujoco.MjData(model)
        data.qpos[0], data.qvel[0], data.ctrl[0] = q, speed, target
        mujoco.mj_forward(model, data)
        own = joint * scale["damping"] * speed  # the joint's own damping is beside the motor
        return float(data.qfrc_actuator[0] + data.qfrc_passive[0] + own)

    assert torque(-9.0, 25.0, 0.8) == pytest.approx(0.0, abs=1e-6)
    assert torque(-9.0, 0.0, 0.8) == pytest.approx(effort * scale["strength"])
    assert torque(0.1, 0.0, 0.0) == pytest.approx(-3.0 * scale["kp"] * scale["strength"])
    assert torque(0.0, 1.0, 0.0) == pytest.approx(-0.8 * scale["kd"] * scale["strength"])


def test_a_drag_above_kd_is_no_negative_damping() -> None:
    family = robot(PENDULUM, actuators=pd(**DC | {"effort": 30.0}, reach=0.8))()
    assert family.compiled.actuator_biasprm[0, 2] == pytest.approx(0.4)
    assert "negative" not in advice(family.compile(), 0)


def test_torques_take_the_place_of_a_dc_motor_with_its_drag() -> None:
    motor = pd(20, 0.5, 23.5, no_load_speed=30, reach=1)
    model = robot(
        PENDULUM, actuators=motor, actions=torques(10, 1, 5, position_targets(0.5))
    )().compile()
    assert model.actuator_biasprm[0, :4].tolist() == [0, -10, -1, 0]
    assert model.actuator_damping.tolist() == [0]
