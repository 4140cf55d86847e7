"""Episodes begin at a pose that the motors hold, in the joints' ranges and not in the ground."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.robots import DOG, robot

from metarl import Root, TaskDistribution, TaskWorlds, pd, position_targets
from metarl.check.notes import notes
from metarl.tasks.composition import compose

ARM = """<mujoco><option gravity="0 0 0" timestep=".004"/><worldbody>
<body><joint name="s" axis="0 1 0" range="-180 180"/>
<geom type="capsule" size=".03" fromto="0 0 0 .4 0 0" mass="1"/>
<body pos=".4 0 0"><joint name="e" axis="0 1 0" range="-180 180"/>
<geom type="capsule" size=".03" fromto="0 0 0 .4 0 0" mass="1"/></body></body></worldbody>
<actuator>{s}{e}</actuator><keyframe><key name="bent" qpos=".8 -1.2"/>
<key name="told" qpos=".8 -1.2" act=".5" ctrl=".6 -1.2"/></keyframe></mujoco>"""
PLAIN = '<position joint="{}" kp="100" kv="5" ctrlrange="-3 3"/>'
SLOW = PLAIN.replace("/>", ' timeconst=".05"/>')
FILTERED = """<general joint="{}" dyntype="filter" dynprm=".05" gainprm="100" biastype="affine"
 biasprm="0 -100 -5" ctrlrange="-3 3"/>"""
BENT = {"s": 0.8, "e": -1.2}


def arm(motor: str, home, **members):
    """The class of an arm with such a motor, beside a plain one, that begins without noise."""
    mjcf = ARM.format(s=motor.format("s"), e=PLAIN.format("e"))
    if motor == PLAIN:  # no keyframe has an activation of it
        mjcf = mjcf.replace('act=".5"', "")
    return robot(mjcf, home=home, reset_noise=0.0, **members)


@pytest.mark.parametrize("motor", [PLAIN, SLOW, FILTERED], ids=["plain", "exact filter", "filter"])
@pytest.mark.parametrize("home", [BENT, "bent"], ids=["pose", "keyframe"])
def test_motors_hold_the_home_whatever_their_dynamics(motor, home) -> None:
    worlds = TaskWorlds(arm(motor, home, actions=position_targets(0.4))(), 2, 1)
    for _ in range(6):
        worlds.step(torch.zeros(2, 2))
    np.testing.assert_allclose(worlds.simulator.qpos, [[0.8, -1.2]] * 2, atol=1e-9)


def test_a_keyframe_s_own_activation_counts() -> None:
    home = arm(SLOW, "told")().home_state
    assert (home.act.tolist(), home.ctrl.tolist()) == ([0.5], [0.6, -1.2])


def test_motors_that_obey_late_hold_the_home_until_then() -> None:
    """As if they had been told so before; actions stand for the control range, -3 to 3."""
    family = compose(arm(PLAIN, BENT), ["latency"])()
    worlds = TaskWorlds(family, 1, 1)
    worlds.set_tasks(TaskDistribution(family).make(latency=0.03), 1)
    worlds.reset()
    for _ in range(4):
        worlds.step(torch.tensor([[0.8, -1.2]]) / 3)
    np.testing.assert_allclose(worlds.simulator.qpos, [[0.8, -1.2]], atol=1e-6)


# --- quaternions -------------------------------------------------------------------------------

BALLS = DOG.replace(
    '<geom name="trunk"',
    '<body name="head"><joint name="neck" type="ball" range="0 60"/>'
    '<geom size=".03" pos=".3 0 0" mass=".1"/></body><geom name="trunk"',
)
MOTORS = {"actuators": pd(20, 1, joints="*_hip"), "reset_noise": 0.0}
KNEES = {"*_knee": -1.2}


def test_a_quaternion_of_any_length_is_a_rotation() -> None:
    home = {**KNEES, "root": (0, 0, 0.4, 1, 1, 0, 0), "neck": (3, 0.3, 0, 0)}
    worlds = TaskWorlds(robot(BALLS, home=home, **MOTORS)(), 1, 1)
    sim = worlds.simulator
    np.testing.assert_allclose(sim.qpos[0, 3:7], [0.5**0.5, 0.5**0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(sim.qpos[0, 7:11].norm(), 1.0)
    gravity = Root(worlds.family.compile()).gravity(sim)
    np.testing.assert_allclose(gravity, [[0, -1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    "home",
    [{"root": (0, 0, 0.4, 0, 0, 0, 0)}, {"neck": (0, 0, 0, 0)}, {"neck": (1e200, 1e200, 0, 0)}],
)
def test_a_quaternion_without_a_direction_is_refused(home) -> None:
    with refused("family 'robot': joint", "takes a quaternion of a length that is not 0, such as"):
        robot(BALLS, home=home, **MOTORS)()


# --- ranges, and what stands in the way --------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ({"*_knee": 1.5}, "'front_left_knee' begins outside of its range: at 1.5, and it takes "
                          "-2.094 to -0.3491 rad: write a home within it"),
        ({"rear_right_hip": -1.1}, "'rear_right_hip' begins outside of its range: at -1.1"),
        ({"neck": (0.5, 0, 0.5, 0)}, "'neck' begins outside of its range: at 1.571, and it takes "
                                     "0 to 1.047 rad"),
    ],
)  # fmt: skip
def test_a_home_out_of_a_joint_s_range_is_refused(home, words: str) -> None:
    with refused("family 'robot': joint ", words):
        robot(BALLS, home=home, **MOTORS)()


def test_a_rounded_end_of_a_range_is_a_home() -> None:
    """And where MuJoCo ignores limits, anything."""
    rounded = robot(DOG, home={"*_knee": -2.0945, "*_hip": 1.0473}, **MOTORS)()
    assert rounded.home_state.qpos[8] == -2.0945
    free = DOG.replace("<default>", '<option><flag limit="disable"/></option><default>', 1)
    assert robot(free, home={"*_knee": 1.5}, **MOTORS)().home_state.qpos[8] == 1.5


STANDING = {"root": (0, 0, 0.27), "*_hip": 0.6, "*_knee": -1.2}
KEY = """<keyframe><key name="straight" qpos="0 0 1 1 0 0 0 0 0 0 0 0 0 0 0"/></keyframe></mujoco>
"""


@pytest.mark.parametrize(
    ("home", "said"),
    [
        (STANDING, []),
        (STANDING | {"root": (0, 0, 0.26)}, []),  # the feet are 8 mm deep
        (STANDING | {"root": (0, 0, 0.1)},
         ["geom 'floor' and geom 'front_left_foot' begin 17 cm inside each other: see home"]),
        ({"root": (0, 0, 1)}, ["joint 'front_left_knee' begins outside of its range: at 0, and it "
                               "takes -2.094 to -0.3491 rad: see home"]),
        ("straight", ["joint 'front_left_knee' begins outside of its range: at 0, and it "
                      "takes -2.094 to -0.3491 rad: see home"]),
    ],
)  # fmt: skip
def test_a_check_notes_a_home_that_the_physics_throws_the_robot_out_of(home, said) -> None:
    """Noise aside."""
    mjcf = DOG.replace("</mujoco>", KEY)
    family = robot(mjcf, home=home, floor=True, actuators=pd(20, 1, joints="*"), reset_noise=0.3)()
    assert [note for note in notes(family) if "see home" in note] == said


def test_what_has_no_name_is_noted_by_its_body() -> None:
    mjcf = DOG.replace(' name="front_left_foot"', "")
    low = {**STANDING, "root": (0, 0, 0.1, math.cos(0.1), 0, math.sin(0.1), 0)}
    family = robot(mjcf, home=low, floor=True, actuators=pd(20, 1))()
    assert any("and a geom of body 'front_left_shank' begin" in note for note in notes(family))
