"""+dynamics of any robot: what is found in a model, that it is physics, and that none idles."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from helpers.refusals import refused
from helpers.robots import ALL, ARM, DOG, PENDULUM, robot
from helpers.short_checks import checked_in_short

from envs.variations import gymnasium_model
from metarl import Interval, Param, TaskDistribution, TaskWorlds, assign, dynamics, pd
from metarl.check.plain_physics import edited_model
from metarl.check.suite import CHECKS
from metarl.tasks.composition import compose
from metarl.tasks.registry import find_family
from metarl.tasks.variations.dynamics import dynamics_of
from metarl.worlds.model_probe import inert_parameter

FOUND = {
    "arm": "mass:2 damping:2 armature:2 strength:2 kp:2 kd:2 joint_zero:2",
    "wheeled": "mass:3 friction damping:2 strength:2 com_x com_y com_z joint_zero:2 payload",
    "base": "mass:2 damping:3 strength:4 kp com_x com_y payload",
    "finger": "mass:2 damping:2 armature:2 strength",
    "muscle": "mass damping muscle joint_zero",
    "drone": "mass strength:2 com_x com_y com_z payload",
}
"""What each robot has, worked out by hand from its model. The base has no kd, since its servo has
none, and feels no com_z, since it turns about z alone; joints under a tendon have no encoders."""


def found(params: tuple[Param, ...]) -> str:
    sizes = [f"{p.name}:{len(p.names)}" if len(p.names) > 1 else p.name for p in params]
    return " ".join(sizes)


@pytest.mark.parametrize("name", ALL)
def test_a_robot_varies_in_what_its_model_has(name: str, monkeypatch) -> None:
    family = compose(robot(ALL[name]), ["dynamics"])()
    assert found(family.params[1:]) == FOUND[name]
    for check in CHECKS:
        if check.__name__ in ("check_model", "check_plain_loop", "check_idempotent"):
            checked_in_short(family, check, monkeypatch)
    assert inert_parameter(family, 60) == ""


@pytest.mark.parametrize(
    "file", ["ant.xml", "half_cheetah.xml", "hopper.xml", "humanoid.xml", "walker2d.xml",
             "swimmer.xml", "reacher.xml", "pusher.xml", "inverted_pendulum.xml"],
)  # fmt: skip
def test_no_parameter_of_a_public_model_idles(file: str) -> None:
    """Without the families that know these robots, whose own +dynamics would win."""
    family = compose(robot(gymnasium_model(file)), ["dynamics"])()
    assert {"mass", "strength"} <= {param.name for param in family.params}
    assert inert_parameter(family, 60) == ""


def test_a_family_s_own_parameters_stay_its_own() -> None:
    """The quadruped varies payload, friction and strength already; friction by an `assign`."""
    names = [param.name for param in dynamics_of(find_family("quadruped-terrain"))]
    assert names == ["mass", "damping", "armature", "kp", "kd", "com_x", "com_y", "com_z",
                     "joint_zero"]  # fmt: skip
    slippery = Param("grip", Interval(0.1, 1.0), edit=assign("geom_friction", index=0))
    wheels = robot(ALL["wheeled"], params=(slippery,))()
    assert "friction" not in {param.name for param in dynamics_of(wheels)}


def fixed_values(family, **values: float) -> mujoco.MjModel:
    return edited_model(family, TaskDistribution(family).make(**values).values[0])


def inertia_about_origin(model: mujoco.MjModel) -> np.ndarray:
    """The rotational part of a free body's mass matrix, by MuJoCo."""
    data, full = mujoco.MjData(model), np.zeros((model.nv, model.nv))
    mujoco.mj_forward(model, data)
    mujoco.mj_fullM(model, data, full)
    return full[3:6, 3:6]


def cloud(model: mujoco.MjModel) -> list[tuple[float, np.ndarray]]:
    """Six point masses with the mass and the moments of inertia of body 1, about its middle."""
    mass, (xx, yy, zz) = float(model.body_mass[1]), model.body_inertia[1]
    squares = np.array([yy + zz - xx, xx + zz - yy, xx + yy - zz]) / 2 * 3 / mass
    return [
        (mass / 6, sign * np.sqrt(squares[k]) * np.eye(3)[k]) for k in range(3) for sign in (-1, 1)
    ]


@pytest.mark.parametrize(
    ("values", "scale", "shift", "load"),
    [
        ({"com_x": 0.02, "com_z": -0.01}, 1.0, (0.02, 0, -0.01), 0.0),
        ({"mass": 1.7, "com_y": 0.03}, 1.7, (0, 0.03, 0), 0.0),
        ({"payload": 0.1, "com_x": 0.02, "mass": 0.8}, 0.8, (0.02, 0, 0), 0.1),
    ],
)
def test_inertia_is_that_of_the_matter(values, scale, shift, load) -> None:
    """Against a plain loop over point masses: scaled, moved together, with a payload among them."""
    family = compose(robot(ALL["drone"]), ["dynamics"])()
    points = [(scale * m, p + np.array(shift)) for m, p in cloud(family.compile())]
    points.append((load, np.array(shift)))
    expected = np.zeros((3, 3))
    for mass, place in points:
        expected += mass * (place @ place * np.eye(3) - np.outer(place, place))
    got = fixed_values(family, **values)
    np.testing.assert_allclose(inertia_about_origin(got), expected, rtol=1e-9, atol=1e-12)
    assert got.body_mass[1] == pytest.approx(sum(mass for mass, _ in points))


@pytest.mark.parametrize("name", ["arm", "wheeled", "muscle"])
def test_strength_scales_every_force_and_its_limit(name: str) -> None:
    family = compose(robot(ALL[name]), ["dynamics"])()
    word = "muscle" if name == "muscle" else "strength"
    column = next(p for p in family.params if p.name == word).names[0]
    forces = []
    for model in (family.compile(), fixed_values(family, **{column: 0.6})):
        data = mujoco.MjData(model)
        rng, rows = np.random.default_rng(0), []
        for _ in range(20):
            data.qpos[:], data.qvel[:] = model.qpos0, rng.normal(size=model.nv)
            data.act[:] = rng.uniform(size=model.na)
            data.ctrl[:] = rng.uniform(-30, 30, model.nu)
            mujoco.mj_forward(model, data)
            rows.append(data.actuator_force[0])
        forces.append(np.array(rows))
    assert np.ptp(forces[0]) > 1
    np.testing.assert_allclose(forces[1], 0.6 * forces[0], rtol=1e-9, atol=1e-9)


def test_an_encoder_that_is_off_leaves_the_robot_as_it_is() -> None:
    """It stands where it stood, reads 0.04 rad, and its stops and its servo are off by as much."""
    family = compose(robot(ARM, reset_noise=0.0), ["dynamics"])()
    worlds = TaskWorlds(family, 2, 1)
    places = worlds.simulator.bind("xpos").clone()
    worlds.set_tasks(TaskDistribution(family).make(**{"joint_zero[1]": 0.04}), 2)
    worlds.reset()
    sim = worlds.simulator
    assert sim.qpos.tolist() == [[0.0, 0.04]] * 2
    np.testing.assert_allclose(sim.bind("xpos"), places, atol=1e-12)
    model = sim.world_model(0)
    np.testing.assert_allclose(np.diff(model.jnt_range), np.diff(family.compile().jnt_range))
    np.testing.assert_allclose(model.jnt_range[1], np.radians([-120, 120]) + 0.04)


# --- declared ----------------------------------------------------------------------------------


def test_patterns_choose_the_objects() -> None:
    params = dynamics(
        mass="*_shank", payload="trunk", joint_zero=("front_*_knee",),
        ranges={"payload": Interval(0, 2), "mass": Interval(0.9, 1.1)},
    )  # fmt: skip
    family = robot(
        DOG, params=params, actuators=pd(20, 1, effort=9, reach=0.5), home={"*_knee": -1.2}
    )()
    assert found(family.params) == "mass:4 payload joint_zero:2"
    nominal, model = family.compile(), fixed_values(family, **{"mass[2]": 1.5, "payload": 1.0})
    changed = [nominal.body(int(i)).name
               for i in np.flatnonzero(model.body_mass != nominal.body_mass)]  # fmt: skip
    assert changed == ["trunk", "rear_left_shank"]
    ratio = model.body_inertia / np.where(nominal.body_inertia == 0, 1, nominal.body_inertia)
    np.testing.assert_allclose(ratio[nominal.body("rear_left_shank").id], 1.5)
    assert family.params[0].train == Interval(0.9, 1.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dynamics(mas="*"), "dynamics has no argument 'mas' (did you mean 'mass'?)"),
        (lambda: dynamics(payload="trunk"), "payload has a unit, kg, so give its range"),
        (lambda: dynamics(mass="*", ranges={"mas": Interval(0, 1)}),
         "a range of 'mas' (did you mean 'mass'?)"),
        (lambda: robot(ARM, params=dynamics(mass="*_calf"))(), "the model has no body '*_calf'"),
        (lambda: robot(ARM, params=dynamics(mass="upper*", kp="shoulde"))(),
         "no actuator 'shoulde' (did you mean 'shoulder'?)"),
        (lambda: robot(ALL["muscle"], params=dynamics(armature="hinge"))(),
         "no dof_armature of 'hinge' to vary: it is 0, or nothing that the physics uses"),
        (lambda: robot(PENDULUM.replace('damping=".1"', ""), params=dynamics(damping="pivot"),
                       actuators=pd(1, 0.1))(), "no dof_damping of 'pivot' to vary"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(make, words: str) -> None:
    with refused(words):
        make()
