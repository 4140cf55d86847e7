"""What public models bring: loose objects, tendons, grippers of 0 to 255, names of their own."""

from __future__ import annotations

import warnings

import mujoco
import numpy as np
import pytest
from helpers.robots import ALL, DOG, robot

from metarl import UserError, increments, pd, position_targets
from metarl.simulation.model_faults import advice
from metarl.simulation.root import Root, find_base
from metarl.tasks.composition import compose

BOX = '<body name="box" pos="3 0 .1"><freejoint/><geom name="box" size=".1"/></body>'
GRIPPER = """<mujoco model="gripper"><compiler angle="radian"/><worldbody><body name="hand">
<joint name="lift" type="slide" axis="0 0 1" range="0 1"/><geom size=".05" mass="1"/>
<body name="left" pos="0 .1 0"><joint name="left" axis="1 0 0" range="0 .8"/>
<geom size=".02" mass=".1"/></body><body name="right" pos="0 -.1 0">
<joint name="right" axis="1 0 0" range="0 .8"/><geom size=".02" mass=".1"/></body></body>
</worldbody>
<tendon><fixed name="split"><joint joint="left" coef=".5"/><joint joint="right" coef=".5"/></fixed>
</tendon><actuator><position name="lift" joint="lift" kp="100" ctrlrange="0 1"/>
<general name="fingers" tendon="split" ctrlrange="0 255" biastype="affine"
 gainprm="0.3137255 0 0" biasprm="0 -100 -10"/></actuator></mujoco>"""
POSE = {"lift": 0.5, "left": 0.4, "right": 0.4}
FLOATING = """<mujoco><worldbody><body name="trunk"><joint name="x" type="slide" axis="1 0 0"/>
<joint name="y" type="slide" axis="0 1 0"/><joint name="z" type="slide" axis="0 0 1"/>
<joint name="turn" type="ball"/><geom type="box" size=".2 .1 .1" mass="5"/></body></worldbody>
<actuator><motor joint="x"/></actuator></mujoco>"""


def beside_a_box(name: str) -> str:
    """A robot of the helpers after a loose box."""
    return ALL[name].replace("<worldbody>", f"<worldbody>{BOX}", 1)


@pytest.mark.parametrize(
    ("name", "kind", "body"),
    [
        ("drone", "free", "frame"),  # by a site
        ("finger", "fixed", "proximal"),  # by a fixed tendon
        ("muscle", "fixed", "limb"),  # by a tendon from the world to a site
        ("arm", "fixed", "upper"),  # by its joints
    ],
)
def test_the_robot_is_what_actuators_drive_and_no_loose_object(name, kind, body) -> None:
    model = mujoco.MjModel.from_xml_string(beside_a_box(name))
    base = find_base(model)
    assert (base.kind, model.body(base.body).name) == (kind, body)


def test_what_is_pushed_of_a_fixed_robot_is_its_own() -> None:
    """Not the box, which comes last."""
    mjcf = ALL["arm"].replace("</worldbody>", f"{BOX}</worldbody>")
    family = compose(robot(mjcf), ["push"])()
    assert family.compiled.body(family._pushed).name == "fore"


def test_a_base_on_a_ball_joint_feels_where_its_mass_is() -> None:
    names = {param.name for param in compose(robot(FLOATING), ["dynamics"])().params}
    assert {"com_x", "com_y", "com_z", "payload"} <= names


def test_a_base_without_a_name_is_called_so() -> None:
    model = mujoco.MjModel.from_xml_string(ALL["arm"].replace('name="upper"', ""))
    with pytest.raises(UserError, match="the robot's base, a body without a name, is fixed"):
        Root(model)


# --- grippers whose control is no position ------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "rest", "scale"),
    [  # 255 is 0.8 rad: 318.75 each; the pose of 0.4 rad is 127.5
        (position_targets({"*": 0.2, "fingers": 0.1}), [0.5, 127.5], [0.2, 31.875]),
        (position_targets(0.1, around=(0.2, 0.6)), [0.2, 191.25], [0.1, 31.875]),
        (increments({"*": 0.1, "fingers": 20.0}), [0.5, 127.5], [0.1, 20.0]),
    ],
)
def test_targets_of_a_gripper_are_positions_too(actions, rest, scale) -> None:
    commands = robot(GRIPPER, home=POSE, actions=actions)().command_map
    np.testing.assert_allclose(commands.rest, rest, rtol=1e-6)
    np.testing.assert_allclose(commands.scale, scale, rtol=1e-6)
    np.testing.assert_array_equal(commands.high, [1.0, 255.0])


def test_a_gripper_holds_its_pose() -> None:
    family = robot(GRIPPER, home=POSE)()
    data = mujoco.MjData(family.compiled)
    data.qpos[:], data.ctrl[:] = family.home_state.qpos, family.home_state.ctrl
    mujoco.mj_forward(family.compiled, data)
    np.testing.assert_allclose(data.actuator_force, 0.0, atol=1e-9)


def test_what_holds_no_position_is_told_what_would_do() -> None:
    """`torques` is no help to a tendon."""
    with pytest.raises(UserError, match=r"'flexor' does not: increments\(\) takes any with a con"):
        robot(ALL["finger"], actions=position_targets(0.1))()
    with pytest.raises(UserError, match=r"'left' does not: torques\(\) makes such ones"):
        robot(ALL["wheeled"], actions=position_targets(0.1))()


# --- names that are taken, and what MuJoCo says ------------------------------------------------


def test_what_is_added_finds_a_name() -> None:
    """A box called floor stays, and so does a motor that has the name of another joint."""
    table = '<geom name="floor" type="box" size="1 1 .1" pos="5 0 0"/>'
    mjcf = DOG.replace("<worldbody>", f"<worldbody>{table}", 1).replace(
        "</mujoco>",
        '<actuator><motor name="rear_left_knee" joint="front_left_hip"/></actuator></mujoco>',
    )
    model = robot(mjcf, floor=True, actuators=pd(25, 1, joints="*_knee"))().compiled
    kinds = {model.geom(i).name: int(model.geom_type[i]) for i in range(model.ngeom)}
    assert kinds["floor"] == int(mujoco.mjtGeom.mjGEOM_BOX)
    assert kinds["floor of metarl"] == int(mujoco.mjtGeom.mjGEOM_PLANE)
    joint = model.actuator("rear_left_knee of metarl").trnid[0]
    assert model.joint(joint).name == "rear_left_knee"


def test_a_terrain_of_the_model_s_own_is_told_in_one_line() -> None:
    mjcf = ALL["wheeled"].replace("<geom type=", '<geom name="terrain" type=', 1)
    with pytest.raises(UserError) as caught:
        compose(robot(mjcf), ["terrain"])
    assert "+terrain adds a geom 'terrain', and the model has one of that name" in str(caught.value)


def test_what_mujoco_says_of_a_model_comes_once_and_in_one_line() -> None:
    """Each variation compiles the model again."""

    class Carrier(robot(ALL["arm"])):
        def build(self, spec):
            other = mujoco.MjSpec.from_string(
                '<mujoco model="other"><option timestep=".001"/><worldbody><body name="b">'
                '<geom size=".1"/></body></worldbody></mujoco>'
            )
            spec.attach(other, frame=spec.worldbody.add_frame(), prefix="other/")
            return super().build(spec)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compose(Carrier, ["dynamics", "noise", "push"])()
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1
    assert "Attach conflict" in said[0]
    assert "\n" not in said[0]


def test_a_task_of_many_numbers_leaves_room_for_what_is_said_of_it() -> None:
    """A dog's masses alone are nine; what is wrong with a task comes after it."""
    family = compose(robot(DOG, floor=True, actuators=pd(25, 1, reach=0.6)), ["dynamics"])()
    nominal = family.distribution.nominal()
    words = nominal.label(0).split(", ")
    assert words[:2] == ["goal=0", "mass[0]=1"]
    assert len(words) == 12
    assert words[-1] == f"and {nominal.values.shape[1] - 11} more numbers"


def test_a_constraint_that_does_not_hold_is_thought_of() -> None:
    """A gripper that a weld pulls to where its hand was put explodes, with a sound model."""
    mjcf = ALL["arm"].replace(
        "</mujoco>", '<equality><weld name="grip" body1="fore"/></equality></mujoco>'
    )
    says = advice(mujoco.MjModel.from_xml_string(mjcf), 0)
    assert "so begin episodes where equality 'grip' holds, lower its timestep" in says
    assert "equality" not in advice(mujoco.MjModel.from_xml_string(ALL["arm"]), 0)
