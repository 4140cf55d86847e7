"""+terrain of any robot: measured by the robot, on the plane at difficulty 0, and who it fits."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.robots import ALL, DOG, robot

from envs.variations import gymnasium_model
from metarl import Interval, Key, Param, Places, TaskDistribution, pd, scale
from metarl.check.trajectory import run, worlds_of
from metarl.tasks.composition import compose
from metarl.worlds.model_probe import inert_parameter

POSE = {"root": (0, 0, 0.27), "*_hip": 0.6, "*_knee": -1.2}
DOGGED = robot(
    DOG, floor=True, actuators=pd(25, 1, effort=12, reach=0.6), home=POSE, horizon=200
)  # fmt: skip
FITTING = {
    "dog": DOGGED,
    **{
        file: robot(gymnasium_model(f"{file}.xml"), horizon=200)
        for file in ("hopper", "half_cheetah", "walker2d", "ant", "humanoid")
    },
}


@pytest.mark.parametrize("name", FITTING)
def test_a_robot_meets_its_terrain_and_starts_on_the_plane(name: str) -> None:
    family = compose(FITTING[name], ["terrain"])()
    assert inert_parameter(family, 200) == ""
    flat = TaskDistribution(family).make(difficulty=0.0, goal=0.5)
    got = run(worlds_of(family, flat, 2))
    plain = FITTING[name]()
    expected = run(worlds_of(plain, TaskDistribution(plain).make(goal=0.5), 2))
    for one, two in zip(got, expected, strict=True):
        assert torch.equal(one, two)


def test_a_terrain_is_measured_by_its_robot() -> None:
    """The dog is 0.4 m long and 0.36 m high: 0.8 of the longer side, a third of that, and so on.

    It ends where a run of 9.4 m/s times the root of its length would, after 4 s.
    """
    terrain = compose(DOGGED, ["terrain"])().terrain
    assert terrain.length == pytest.approx(0.8 * 0.4, abs=0.01)
    assert terrain.height == pytest.approx(terrain.length / 3)
    assert terrain.reach == np.ceil(
        min(9.4 * terrain.length**0.5 * 4 + 2 * terrain.length, 60 * terrain.length)
    )
    assert 0.2 < terrain.flat < 0.35  # half of its length, and a little
    assert not terrain.planar


def test_a_floor_keeps_its_name() -> None:
    """What edits the floor by name still finds it."""
    grip = Param("grip", Interval(0.5, 1.5), edit=scale("geom_friction", "ground"))
    named = ALL["wheeled"].replace('type="plane"', 'name="ground" type="plane"')
    model = compose(robot(named, params=(grip,)), ["terrain"])().compile()
    assert model.geom("ground").type == int(mujoco.mjtGeom.mjGEOM_PLANE)
    assert model.geom("terrain").type == int(mujoco.mjtGeom.mjGEOM_HFIELD)


TURNS_FIRST = ALL["base"].replace(
    '<joint name="x" ', '<joint name="roll" axis="1 0 0"/><joint name="x" '
)
TILTED = ALL["wheeled"].replace('type="plane"', 'type="plane" euler="0 10 0"')


@pytest.mark.parametrize(
    ("mjcf", "words"),
    [
        (ALL["arm"], "+terrain: the robot's base, body 'upper', is fixed: this needs"),
        (ALL["base"], "+terrain: the robot's base, body 'cart', slides along x and y, and cannot"),
        (TURNS_FIRST, "+terrain: the robot's base, body 'cart', slides or turns in another way"),
        (ALL["drone"], "+terrain rises out of a floor, which the model lacks: write floor = True"),
        (TILTED, "+terrain needs the model's first plane to be z = 0"),
    ],
)
def test_who_does_not_fit_is_told_in_one_line(mjcf: str, words: str) -> None:
    with refused(words):
        compose(robot(mjcf), ["terrain"])


def test_heights_of_feet_are_over_the_terrain_that_a_variation_added() -> None:
    """And over z = 0 without it, and where the terrain does not stand out of the plane."""

    def measured(family) -> tuple[torch.Tensor, torch.Tensor]:
        places = Places(family.compiled, "*_foot")
        worlds = worlds_of(family, TaskDistribution(family).sample(8, Key(1).numpy()))
        worlds.reset()
        sim = worlds.simulator
        sim.qpos[:, 0] += 5.0  # far from the flat ground around the start
        sim.refresh(None)
        return places.heights(sim), places(sim)[..., 2]

    plain = DOGGED()
    heights, z = measured(plain)
    assert torch.equal(heights, z)
    heights, z = measured(compose(DOGGED, ["terrain"])())
    assert (heights - z).abs().amax(1).gt(0.01).any()
    assert (heights <= z + 1e-9).all()  # the terrain is never below the plane
