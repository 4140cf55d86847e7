"""What a family adds to a bare model, where its episodes begin, and what its robot senses."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch
from helpers.float32_backend import Float32Backend
from helpers.refusals import refused
from helpers.robots import ALL, ARM, DOG, PENDULUM, Robot, robot
from helpers.short_checks import checked_in_short

from envs.variations import gymnasium_model
from metarl import Contacts, Ground, HeightScan, Places, Root, TaskWorlds, UserError, contact, pd
from metarl.base.keys import Key
from metarl.check.suite import CHECKS
from metarl.simulation.root import angle_of

POSE = {"root": (0, 0, 0.27), "*_hip": 0.6, "*_knee": -1.2}
FURNISHED = {
    "model": DOG, "floor": True, "home": POSE, "actuators": pd(25, 1, effort=12, reach=0.6),
    "contacts": {"feet": contact("*_foot"), "legs": contact("*_hip", ("trunk", "world"),
                                                            kind="subtree")},
}  # fmt: skip


class Dog(Robot):
    """A bare model with a floor, motors, a pose and contact sensors."""

    name = "dog"
    model, floor, home = FURNISHED["model"], FURNISHED["floor"], FURNISHED["home"]
    actuators, contacts = FURNISHED["actuators"], FURNISHED["contacts"]


# --- floor and actuators -----------------------------------------------------------------------


def test_a_bare_model_becomes_a_sound_family(monkeypatch) -> None:
    family = Dog()
    model = family.compile()
    assert model.geom(0).name == "floor"
    assert (model.nlight, model.nu) == (1, 8)
    np.testing.assert_array_equal(model.key("home").qpos, family.home_state.qpos)
    np.testing.assert_array_equal(model.key("home").ctrl, family.home_state.ctrl)
    front = model.actuator("front_left_hip")
    np.testing.assert_allclose(front.ctrlrange, [0.0, np.pi / 3])  # 0.6 ± 0.6, in the range
    knee = model.actuator("front_left_knee")
    np.testing.assert_allclose(knee.ctrlrange, [-1.8, -0.6])
    np.testing.assert_array_equal(knee.forcerange, [-12.0, 12.0])
    for check in CHECKS:
        if check.__name__ in ("check_plain_loop", "check_repeats", "check_order"):
            checked_in_short(family, check, monkeypatch)


def test_a_floor_meets_every_solid_geom_and_no_second_one_comes() -> None:
    """A robot whose geoms have bits of their own stands; a model with a plane keeps that one."""
    family = robot(
        DOG.replace("<default>", '<default><geom contype="4" conaffinity="0"/>'),
        floor=True, home=POSE, actuators=pd(25, 1, reach=0.5),
    )()  # fmt: skip
    worlds = TaskWorlds(family, 1, 1)
    for _ in range(50):
        worlds.step(torch.zeros(1, 8))
    assert worlds.simulator.qpos[0, 2] > 0.1
    wheeled = robot(ALL["wheeled"], floor=True)().compile()
    assert (wheeled.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)).sum() == 1


# --- home --------------------------------------------------------------------------------------

KEYED = """<mujoco><worldbody><body name="hand" mocap="true" pos="0 0 1"/>
<body name="b" pos="0 0 .5"><freejoint name="root"/><geom size=".1" mass="1"/>
<body name="c"><joint name="ball" type="ball"/><geom size=".05" pos=".2 0 0" mass=".2"/>
<body name="d" pos=".3 0 0"><joint name="hinge" range="-90 90"/><geom size=".05" mass=".1"/></body>
</body></body></worldbody><actuator><general joint="hinge" dyntype="integrator" ctrlrange="-1 1"
 actlimited="true" actrange="-1 1"/></actuator>
<keyframe><key name="rest"/><key name="home" qpos="1 2 3 0 1 0 0 0 0 1 0 .4"
 qvel="0 0 0 0 0 0 0 0 0 .7" act=".3" ctrl=".2" mpos="4 5 6" mquat="0 0 0 1"/></keyframe></mujoco>
"""


@pytest.mark.parametrize("backend", [None, Float32Backend])
def test_a_keyframe_is_where_episodes_begin(backend) -> None:
    """Noise reaches the hinge, and neither the ball joint nor the base unless that is asked."""
    family = robot(KEYED, home="home", reset_noise=0.05, reset_speed_noise=0.0)()
    options = {} if backend is None else {"backend": backend}
    worlds = TaskWorlds(family, 3, 1, **options)
    worlds.simulator.bind("mocap_pos")  # fields that the float32 back end pulls from here on
    worlds.seed(Key(0))
    worlds.reset()
    sim = worlds.simulator
    np.testing.assert_allclose(sim.qpos[:, :11], [[1, 2, 3, 0, 1, 0, 0, 0, 0, 1, 0]] * 3)
    off = (sim.qpos[:, 11] - 0.4).abs()
    assert ((off > 1e-6) & (off <= 0.05)).all()
    assert len(set(off.tolist())) == 3
    np.testing.assert_allclose(sim.qvel[:, 9], 0.7, rtol=1e-6)
    np.testing.assert_allclose(sim.ctrl, 0.2, rtol=1e-6)
    np.testing.assert_allclose(sim.bind("act"), 0.3, rtol=1e-6)
    assert sim.bind("mocap_pos").flatten(1).tolist() == [[4.0, 5.0, 6.0]] * 3
    assert sim.bind("mocap_quat").flatten(1).tolist() == [[0.0, 0.0, 0.0, 1.0]] * 3
    shaken = robot(KEYED, home="home", reset_noise=0.0, reset_base_noise=0.1)()
    worlds = TaskWorlds(shaken, 2, 1)
    qpos = worlds.simulator.qpos
    assert (qpos[:, :3] - torch.tensor([1.0, 2, 3])).abs().max() <= 0.1
    assert not (qpos[:, :3] == torch.tensor([1.0, 2, 3])).any()
    assert qpos[:, 3:].tolist() == [[0, 1, 0, 0, 0, 0, 1, 0, 0.4]] * 2
    assert worlds.simulator.qvel[:, :6].abs().min() > 0


def test_noise_leaves_a_planar_base_where_it_is() -> None:
    family = robot(gymnasium_model("walker2d.xml"), home={"rootz": 1.3, "*_joint": -0.1})()
    worlds = TaskWorlds(family, 3, 1)
    sim = worlds.simulator
    assert sim.qpos[:, :3].tolist() == [[0.0, 1.3, 0.0]] * 3
    assert not sim.qvel[:, :3].any()
    off = (sim.qpos[:, 3:] + 0.1).abs()
    assert ((off > 0) & (off < family.reset_noise)).all()
    assert sim.qvel[:, 3:].all()


def test_a_pose_holds_itself() -> None:
    """Its controls are those of the pose, and of two patterns for a joint the last one counts."""
    home = Dog().home_state
    np.testing.assert_allclose(home.ctrl, [0.6, -1.2] * 4)
    speeds = PENDULUM.replace(
        "</worldbody>",
        """</worldbody><actuator>
    <intvelocity joint="pivot" kp="5" ctrlrange="-1 1" actrange="-1 1"/></actuator>""",
    )
    assert not robot(speeds, home={"pivot": 0.3})().home_state.ctrl  # a speed, no place
    bent = robot(DOG, actuators=pd(1, 0), home={"*_*": -0.5, "*_knee": -1.0, "root": (0, 0, 1)})
    assert bent().home_state.qpos[7:].tolist() == [-0.5, -1.0] * 4


# --- sensing -----------------------------------------------------------------------------------


def landed(backend=None) -> TaskWorlds:
    """Four dogs that fell with random actions, each in its own way."""
    options = {} if backend is None else {"backend": backend}
    worlds = TaskWorlds(Dog(), 4, 1, **options)
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        worlds.step(2 * torch.rand(4, 8, generator=generator) - 1)
    return worlds


def test_contacts_are_those_of_a_loop_over_mujoco_s() -> None:
    worlds = landed()
    sim, family = worlds.simulator, worlds.family
    feet, legs = (Contacts(family.compile(), name) for name in ("feet", "legs"))
    touching, force = feet.touching(sim), feet.force(sim)
    leg_force = legs.force(sim)
    seen = set()
    for world in range(4):
        model, data = sim.world_model(world), sim.batch.get_data(world)
        mujoco.mj_forward(model, data)
        names = [f"{end}_{side}" for end in ("front", "rear") for side in ("left", "right")]
        whole = {name: np.zeros(3) for name in names}
        by_leg, met = {name: np.zeros(3) for name in names}, set()
        for i in range(data.ncon):
            pair, wrench = data.contact[i], np.zeros(6)
            mujoco.mj_contactForce(model, data, i, wrench)
            push = pair.frame.reshape(3, 3).T @ wrench[:3]  # on the second geom
            for geom, sign in ((pair.geom[0], -1), (pair.geom[1], 1)):
                name, body = model.geom(int(geom)).name, int(model.geom_bodyid[geom])
                if name.endswith("_foot"):
                    met.add(name[:-5])
                    whole[name[:-5]] += sign * push
                leg = model.body(body).name.rpartition("_")[0]
                if leg in by_leg:
                    by_leg[leg] += sign * push
        for k, name in enumerate(names):
            assert touching[world, k].item() == (name in met)
            np.testing.assert_allclose(force[world, k], whole[name], atol=1e-6)
            np.testing.assert_allclose(leg_force[world, k], by_leg[name], atol=1e-6)
        seen |= {(name, name in met) for name in names}
    assert len({met for _, met in seen}) == 2  # some touch, some do not


ROWWISE = ("exp", "log", "sin", "cos", "tan", "tanh", "atan", "asin", "acos", "sqrt")


@pytest.mark.parametrize("name", [*ROWWISE, "angle_of", "norm", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_do_not_depend_on_how_many_worlds_there_are(name: str, dtype) -> None:
    """Of a heading, and of the functions that observations and rewards here are made of."""
    ask = {
        "angle_of": lambda x: angle_of(x[:, 0], x[:, 1]), "norm": lambda x: x.norm(dim=1),
        "sum": lambda x: x.sum(1),
    }.get(name, lambda x: getattr(x.abs() if name in ("log", "sqrt") else x, name)())  # fmt: skip
    rows = torch.rand(101, 3, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1
    whole = ask(rows)
    for first, last in ((0, 1), (0, 2), (1, 6), (3, 10), (7, 20), (50, 101)):
        assert torch.equal(ask(rows[first:last].clone()), whole[first:last])


def test_an_angle_is_that_of_atan2() -> None:
    """In all quadrants, on the axes with either zero, and at the origin, where it is 0 or ±π."""
    values = torch.tensor([-2.0, -1.0, -0.3, -0.0, 0.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    y, x = torch.cartesian_prod(values, values).unbind(1)
    apart = (x != 0) | (y != 0)
    torch.testing.assert_close(angle_of(y, x)[apart], torch.atan2(y, x)[apart], rtol=0, atol=2e-15)
    assert (angle_of(y, x)[~apart] == 0).all()


@pytest.mark.parametrize("backend", [None, Float32Backend])
def test_a_sensor_is_a_live_view(backend) -> None:
    """Of its own numbers, the same tensor at each call, with each step's values."""
    worlds = landed(backend)
    sim = worlds.simulator
    gyro = sim.sensor("gyro")
    assert gyro is sim.sensor("gyro")
    assert gyro.data_ptr() == sim.sensordata.data_ptr()  # the first one of the model
    for _ in range(3):
        worlds.step(torch.ones(4, 8))
        np.testing.assert_allclose(gyro, sim.qvel[:, 3:6], atol=1e-9 if backend is None else 1e-5)
    force = Contacts(worlds.family.compile(), "feet").force(sim)
    assert force.dtype == gyro.dtype == sim.dtype
    assert sim.sensor("feet").shape == (4, 4, 4)
    assert sim.sensor("feet/rear_left_foot").shape == (4, 4)


FREE = Dog
PLANAR = type("Walker", (Robot,), {"name": "walker", "model": gymnasium_model("walker2d.xml")})


HOLONOMIC = robot(  # at a place of its own, with a slide and a turn the other way round
    ALL["base"].replace('"cart"', '"cart" pos=".3 -.2 .5"').replace('"0 1 0" d', '"0 -1 0" d')
    .replace('"0 0 1" damping="1"', '"0 0 -1" damping="1" ref=".4" pos="-.2 .1 0"')
)  # fmt: skip
FLOATING = robot(
    """<mujoco><worldbody><body name="trunk" pos="1 2 3"><joint name="z" type="slide" axis="0 0 1"/>
    <joint name="x" type="slide" axis="-1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
    <joint name="turn" type="ball" pos=".1 -.2 .3"/>
    <geom type="box" size=".2 .1 .1" mass="5" pos=".1 0 .1"/></body>
    </worldbody><actuator><motor joint="x"/></actuator></mujoco>"""
)


@pytest.mark.parametrize("backend", [None, Float32Backend])
@pytest.mark.parametrize("cls", [FREE, PLANAR, HOLONOMIC, FLOATING])
def test_the_base_s_frame_is_mujoco_s(cls: type[Robot], backend) -> None:
    """Against MuJoCo's own velocity of the body in its frame, in states of every kind."""
    options = {} if backend is None else {"backend": backend}
    worlds = TaskWorlds(cls(), 5, 1, **options)
    sim, root = worlds.simulator, Root(worlds.family.compile())
    generator = torch.Generator().manual_seed(0)
    sim.qpos.copy_(torch.randn(sim.qpos.shape, generator=generator))
    sim.qvel.copy_(torch.randn(sim.qvel.shape, generator=generator))
    if root.base.kind in ("free", "floating"):  # three places, and then an orientation
        sim.qpos[:, 3:7] /= sim.qpos[:, 3:7].norm(dim=1, keepdim=True)
    model, tolerance = worlds.family.compile(), 1e-9 if backend is None else 1e-5
    body = root.base.body
    for world in range(5):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = sim.qpos[world], sim.qvel[world]
        mujoco.mj_forward(model, data)
        turn = data.xmat[body].reshape(3, 3)
        rates = turn.T @ data.cvel[body, :3]
        arm = data.xpos[body] - data.subtree_com[model.body_rootid[body]]
        speed = turn.T @ (data.cvel[body, 3:] + np.cross(data.cvel[body, :3], arm))
        heading = 0.0 if root.planar else math.atan2(turn[1, 0], turn[0, 0])
        for got, expected in (
            (root.linear_velocity(sim), speed), (root.angular_velocity(sim), rates),
            (root.gravity(sim), turn.T @ [0, 0, -1]), (root.yaw(sim), [heading]),
            *((root.position(sim, k), data.xpos[body][k : k + 1]) for k in range(3)),
        ):  # fmt: skip
            assert got.dtype == sim.dtype
            np.testing.assert_allclose(got[world], expected, atol=tolerance)


HILL = """<asset><hfield name="hill" nrow="3" ncol="3" size="2 1 1 .1"
 elevation="0 0 0 0 1 0 0 0 0"/></asset>"""


def test_heights_over_a_field_of_the_model_s_own() -> None:
    """A pyramid of 1 m at (1, 0.5), 4 m long and 2 m wide: heights by hand, and feet over it."""
    mjcf = DOG.replace("<worldbody>", HILL + "<worldbody>").replace(
        '<body name="trunk"', '<geom name="hill" type="hfield" hfield="hill" pos="1 .5 .2"/>'
        '<body name="trunk"', 1)  # fmt: skip
    family = robot(mjcf, home=POSE, actuators=pd(20, 1, reach=0.5), reset_noise=0.0)()
    worlds = TaskWorlds(family, 2, 1)
    sim, model = worlds.simulator, family.compile()
    ground, root = Ground(model, "hill"), Root(model)
    sim.qpos[:, :2] = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    sim.qpos[1, 3:7] = torch.tensor([0.5**0.5, 0, 0, 0.5**0.5])  # turned to +y
    scan = HeightScan(root, ground, (0.0, 0.75), (0.0, 0.5))(sim)
    np.testing.assert_allclose(scan[0], [1.2, 0.7, 0.825, 0.7], atol=1e-6)
    np.testing.assert_allclose(scan[1], [0.7, 0.45, 0.2, 0.2], atol=1e-6)
    sim.refresh(None)
    feet = Places(model, "*_foot", ground=ground)
    for world in range(2):
        for k, name in enumerate(["front_left", "front_right", "rear_left", "rear_right"]):
            data = sim.batch.get_data(world)
            mujoco.mj_forward(model, data)
            x, y, z = data.geom(f"{name}_foot").xpos
            under = float(ground(sim, *torch.tensor([x, y]).expand(2, 1, 2).unbind(2))[world, 0])
            assert feet(sim)[world, k].tolist() == pytest.approx([x, y, z], abs=1e-12)
            assert feet.heights(sim)[world, k] == pytest.approx(z - under, abs=1e-6)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"model": KEYED, "home": "hom"}, "'robot': the model has no keyframe 'hom' (did you mean"),
        ({"home": {"*_kne": -1.0}}, "no joint '*_kne' (did you mean '*_knee'?)"),
        ({"home": {"root": 0.3}}, "joint 'root' takes 3 or 7 finite numbers, not 0.3"),
        ({"home": {"*_knee": "bent"}}, "takes 1 finite numbers, not 'bent'"),
        ({"actuators": pd(20, 1, joints="*_ankle")}, "no hinge or slide joint '*_ankle'"),
        ({"actuators": (pd(20, 1, joints="*"), pd(9, 1, joints="*_knee"))},
         "joint 'front_left_knee' has an actuator already"),
        ({"actuators": 20.0}, "actuators must be pd(…), or several in a tuple, not 20.0"),
        ({"model": DOG.replace("range=\"-60 60\"", "")}, "has no range that actions could span"),
        ({"home": {"*_hip": 3.0}}, "joint 'front_left_hip' begins outside of its range"),
        ({"contacts": {"feet": contact("*_fot")}}, "no geom '*_fot' (did you mean '*_foot'?)"),
        ({"contacts": {"feet": "*_foot"}}, "contacts: 'feet' must be a contact(…), not '*_foot'"),
        ({"actuators": ()}, "the model has no actuators, so no actions; `actuators = pd(kp, kd"),
    ],
)  # fmt: skip
def test_a_family_is_refused_in_one_line(members, words: str) -> None:
    reach = 1 if "home" in members else None
    whole = {"model": DOG, "actuators": pd(20, 1, reach=reach), **members}
    mjcf = whole.pop("model")
    with refused(words):
        robot(mjcf, **whole)()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda sim, model: sim.sensor("angel"), "no sensor 'angel' (did you mean 'angle'?)"),
        (lambda sim, model: Contacts(model, "feet"), "no contacts 'feet'; it has none: write"),
        (lambda sim, model: Places(model, "*_foot"), "no geom '*_foot'"),
        (lambda sim, model: Places(model, "tip", kind="point"), "kind must be one of geom, body"),
        (lambda sim, model: Root(model), "the robot's base, body 'upper', is fixed"),
        (lambda sim, model: Ground(model), "no geom 'terrain'"),
        (lambda sim, model: pd(0, 1), "pd: kp must be a positive number, not 0"),
        (lambda sim, model: pd(1, -1), "pd: kd must be a number of at least 0, not -1"),
        (lambda sim, model: pd(1, 1, no_load_speed=3), "stall torque: give effort"),
        (lambda sim, model: contact("a", kind="joint"), "kind must be one of geom, body, subtree"),
    ],
)
def test_a_question_is_refused_in_one_line(ask, words: str) -> None:
    worlds = TaskWorlds(robot(ARM)(), 1, 1)
    with pytest.raises(UserError) as caught:
        ask(worlds.simulator, worlds.family.compile())
    assert words in str(caught.value)
