"""Terrain: the bank is frozen, the robot starts on flat ground, and cannot leave the field."""

import hashlib

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused

from metarl import Key, TaskDistribution, Tasks, TaskWorlds, find_family
from metarl.tasks.family import TaskFamily, without_termination
from metarl.tasks.registry import list_families
from metarl.tasks.variations.fields import (
    GROUNDS,
    KINDS,
    SEEDS,
    Terrain,
    _gaps,
    _hills,
    _steps,
    bank,
)
from metarl.tasks.variations.terrain import OnTerrain
from metarl.worlds.task_worlds import TaskWorlds as Worlds

BLIND = sorted(name for name in list_families() if name.endswith("-terrain"))
SMALL = Terrain(height=0.4, length=1.0, reach=6.0, cell=0.2, bump_cell=0.25)
GOLDEN = {
    "half-cheetah-terrain": "901fd3086f03df63",
    "walker2d-terrain": "974dd3da04b701a2",
    "ant-terrain": "280279fdfefefbcb",
    "quadruped-terrain": "88ffc376be398f5a",
}


def tasks_of(worlds: Worlds, grounds: list[int], difficulty: float) -> Tasks:
    family = worlds.family
    make = TaskDistribution(family).make
    rows = [make(ground=g, difficulty=difficulty).values for g in grounds]
    return Tasks(family.name, TaskDistribution(family).names, np.concatenate(rows))


def on_grounds(name: str | TaskFamily, grounds: list[int], difficulty: float) -> Worlds:
    worlds = TaskWorlds(name, len(grounds), 1)
    worlds.set_tasks(tasks_of(worlds, grounds, difficulty), 1)
    worlds.reset()
    return worlds


@pytest.fixture(scope="module", params=BLIND)
def family(request: pytest.FixtureRequest):
    return find_family(request.param)


def test_the_bank_is_frozen(family) -> None:
    """Golden: results of different versions are comparable only while these hold."""
    data = b"".join(field.tobytes() for field in bank(family.terrain))
    assert hashlib.sha256(data).hexdigest()[:16] == GOLDEN[family.name]


def test_the_compiled_model_holds_the_bank_as_it_is(family) -> None:
    model = family.compile()
    assert model.nhfield == GROUNDS
    for ground, field in enumerate(bank(family.terrain)):
        start = model.hfield_adr[ground]
        np.testing.assert_array_equal(model.hfield_data[start : start + field.size], field.ravel())


def test_seeds_are_disjoint() -> None:
    seeds = [set(SEEDS[split]) for split in ("train", "heldout", "ood")]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == GROUNDS // len(KINDS)


def test_splits_draw_from_their_own_seeds_and_every_kind(family) -> None:
    distribution = TaskDistribution(family)
    drawn = {"sample": distribution.sample(2000, np.random.default_rng(0))}
    drawn |= {split: distribution.split(split, 400) for split in ("train", "heldout", "ood")}
    for split, tasks in drawn.items():
        grounds = tasks.column("ground").astype(int)
        assert set(grounds // 4) == set(SEEDS["train" if split == "sample" else split])
        assert set(grounds % 4) == {0, 1, 2, 3}
    assert drawn["ood"].column("difficulty").max() > 0.7


def test_no_two_grounds_are_alike() -> None:
    fields = [field.tobytes() for field in bank(SMALL)]
    assert len(set(fields)) == GROUNDS


@pytest.mark.parametrize("ground", range(12))
def test_fields_are_flat_at_the_start_and_reach_their_height(ground: int) -> None:
    field = SMALL.field(ground)
    x = np.linspace(-6, 6, SMALL.columns(ground))
    assert field.max() == 1.0
    start = field[np.abs(np.linspace(-6, 6, len(field))) <= 1.5][:, np.abs(x) <= 1.5]
    assert (start == -0.1 / 0.4).all()
    if KINDS[ground % 4] != "roughness":
        assert (field == field[0]).all()


def test_profiles_by_hand() -> None:
    """A hill is a parabola whose top is 1; a deck begins with a ramp of grade 1/4."""
    s = np.linspace(0.0, 20.0, 20001)
    hills = _hills(np.random.default_rng(0), s, 1.0)
    assert hills[0] == 0.0
    assert np.abs(np.diff(hills)).max() < 0.0015  # continuous: at most 2/w a metre, w > 1.5
    assert ((hills > 0.999).sum() > 0) & (hills.min() >= 0) & (hills.max() <= 1)
    deck = _gaps(np.random.default_rng(0), s, 1.0, 1.6)
    assert deck[800] == pytest.approx(0.5)
    assert set(deck[s > 1.6]) == {0.0, 1.0}
    widths = np.diff(np.flatnonzero(np.diff(deck == 0.0))) * 0.001
    assert widths[1::2].min() >= 0.399
    assert widths[1::2].max() <= 0.901
    steps = _steps(np.random.default_rng(0), s, 1.0)
    assert np.diff(np.flatnonzero(np.diff(steps))).min() * 0.001 > 0.79
    assert np.median(steps) > 0.6  # more of them high than low


def test_difficulty_zero_is_the_plane_to_the_bit(family) -> None:
    """The field is buried, so only the plane acts."""
    worlds = on_grounds(without_termination(family), [0, 1, 2, 3], 0.0)
    sim = worlds.simulator
    sim.qpos[:], sim.qvel[:] = sim.qpos[0].clone(), sim.qvel[0].clone()
    spec = mujoco.MjSpec.from_file(str(family.model))
    plain = spec.compile()
    data = mujoco.MjData(plain)
    data.qpos[:], data.qvel[:] = sim.qpos[0], sim.qvel[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        worlds.step((2 * torch.rand(1, plain.nu, generator=generator) - 1).expand(4, -1))
        data.ctrl[:] = sim.ctrl[0]
        mujoco.mj_step(plain, data, family.frame_skip)
        np.testing.assert_array_equal(sim.qpos.numpy(), np.tile(data.qpos, (4, 1)))


def test_the_start_is_flat_at_any_difficulty(family) -> None:
    """Whatever the ground, a robot that stays at the start moves as on the plane, to the bit."""
    runs = []
    for difficulty in (0.0, 1.0):
        worlds = on_grounds(family.name, list(range(8)), difficulty)
        for _ in range(20):
            worlds.step(torch.zeros_like(worlds.simulator.ctrl))
        runs.append(worlds.simulator.qpos.clone())
    assert torch.equal(*runs)


def low_points(worlds: Worlds) -> torch.Tensor:
    """(B, K) how far points on the undersides of the robot's capsules and spheres are above ground.

    A capsule's ends and middle; each point is the lowest of a sphere of the capsule's radius.
    """
    model, sim = worlds.family.compile(), worlds.simulator
    clearances = []
    for world in range(worlds.num_worlds):
        data = mujoco.MjData(model)
        data.qpos[:] = sim.qpos[world]
        mujoco.mj_kinematics(model, data)
        found = []
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] == 0 or not model.geom_contype[geom]:
                continue
            radius, half = model.geom_size[geom, :2]
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
                axis = data.geom_xmat[geom].reshape(3, 3)[:, 2]
                ends = [data.geom_xpos[geom] + half * k * axis for k in (-1, 0, 1)]
            elif model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
                ends = [data.geom_xpos[geom]]
            else:
                continue
            found += [(*end[:2], end[2] - radius) for end in ends]
        clearances.append(found)
    x, y, z = torch.tensor(np.array(clearances)).unbind(2)
    return z - worlds.family.ground(sim, x, y)


def test_robots_do_not_sink(family) -> None:
    """Dropped onto each of a few grounds, nothing ends up deep in it."""
    grounds = [0, 1, 2, 3, 5, 7]
    worlds = on_grounds(family.name, grounds, 0.7)
    sim = worlds.simulator
    x = torch.linspace(4, 9, len(grounds), dtype=torch.float64)
    sim.qpos[:, 0] = x
    up = 1 if family.terrain.planar else 2
    heights = family.ground(sim, x[:, None] + torch.linspace(-1, 1, 21), torch.zeros(6, 21))
    sim.qpos[:, up] += heights.max(1).values + 0.05
    for _ in range(60):
        sim.ctrl[:] = 0.0
        sim.step(family.frame_skip)
    deepest = low_points(worlds).min(1).values
    assert (deepest > -0.04).all(), deepest
    assert (deepest < 0.05).all(), deepest


def test_the_field_is_longer_than_the_fastest_run(family) -> None:
    seconds = family.horizon * family.dt
    assert family.terrain.reach >= family.top_speed * seconds + 2
    assert family.compile().geom("floor").type == mujoco.mjtGeom.mjGEOM_PLANE  # and beyond it


@pytest.mark.parametrize("name", [f"{name}-scan" for name in BLIND])
def test_the_scan_equals_mujoco_s_rays(name: str) -> None:
    worlds = on_grounds(name, [0, 1, 2, 3, 61], 0.7)
    family, sim = worlds.family, worlds.simulator
    sim.qpos[:, 0] = torch.tensor([3.0, 7.1, -4.4, 11.0, 20.3])
    if not family.terrain.planar:
        sim.qpos[:, 1] = torch.tensor([0.3, -5.0, 2.0, 1.0, 0.0])
        turned = torch.tensor([0.9, 0.1, -0.1, 0.4], dtype=torch.float64)
        sim.qpos[:, 3:7] = turned / turned.norm()
    heights = family.heights(sim).numpy()
    assert np.ptp(heights, axis=1).min() > 0.01
    obs = family.observe(sim, worlds.task)
    blind = find_family(name.removesuffix("-scan")).observe(sim, worlds.task)
    assert torch.equal(obs[:, : blind.shape[1]], blind)
    assert obs.shape[1] == blind.shape[1] + heights.shape[1]
    for world in range(5):
        model, data = sim.batch.get_model(world), sim.batch.get_data(world)
        mujoco.mj_forward(model, data)
        yaw = 0.0
        if not family.terrain.planar:
            forward = data.xmat[model.jnt_bodyid[0]].reshape(3, 3)[:, 0]
            yaw = np.arctan2(forward[1], forward[0])
        k = 0
        for ahead in family.scan_x:
            for left in family.scan_y or (0.0,):
                x = sim.qpos[world, 0].item() + np.cos(yaw) * ahead - np.sin(yaw) * left
                y = np.sin(yaw) * ahead + np.cos(yaw) * left
                y += 0.0 if family.terrain.planar else sim.qpos[world, 1].item()
                assert heights[world, k] == pytest.approx(ray(model, data, x, y), abs=1e-5)
                k += 1


def ray(model: mujoco.MjModel, data: mujoco.MjData, x: float, y: float) -> float:
    """The height at which a ray from above meets the world's geoms."""
    hit, static = np.zeros(1, np.int32), np.zeros(6, np.uint8)
    static[:] = 1
    from_above, down = np.array([x, y, 5.0]), np.array([0.0, 0.0, -1.0])
    excluded = -1
    low = np.inf
    start = from_above.copy()
    while True:  # go through the robot
        distance = mujoco.mj_ray(model, data, start, down, static, 1, excluded, hit)
        if distance < 0:
            return low
        start = start + distance * down
        if model.geom_bodyid[hit[0]] == 0 or model.geom(int(hit[0])).name == "terrain":
            return float(start[2])
        start[2] -= 1e-9


def test_a_video_names_the_ground() -> None:
    """Ground 34 = 4 × 8 + 2 is the third kind, steps, of seed 8."""
    words = find_family("half-cheetah-terrain").describe({"ground": 34.0, "difficulty": 0.6})
    assert words == ["steps 8", "difficulty 0.6"]


def test_bumps_are_as_fine_as_the_rest_unless_said_otherwise() -> None:
    plain, same = (Terrain(0.4, 1.0, 6.0, cell=0.2, **more) for more in ({}, {"bump_cell": 0.2}))
    for ground in range(4):
        assert np.array_equal(plain.field(ground), same.field(ground))


BALL = """
<mujoco>
  <worldbody>
    <body name="ball" pos="0 0 1"><freejoint/><geom size=".1"/>
      <body><joint name="arm" axis="0 1 0"/><geom size=".05"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="arm"/></actuator>
</mujoco>
"""


def test_a_robot_of_one_s_own_on_terrain_needs_a_plane() -> None:
    """Which it may be given; the heights of the scan are then of the ground around it."""
    robot = type("Rolls", (OnTerrain, TaskFamily), {
        "name": "rolls", "model": BALL, "horizon": 10, "terrain": SMALL, "top_speed": 1.0,
        "params": SMALL.params(), "scan": True, "scan_x": (0.0, 0.5),
        "observe": lambda self, sim, task: self.with_scan(sim, sim.qpos),
        "reward": lambda self, sim, before, action, task: sim.qpos[:, 0],
    })  # fmt: skip
    with refused("family 'rolls': a terrain rises out of a plane, and the model has none named"):
        robot()
    family = type("Floored", (robot,), {"floor": True})()
    worlds = TaskWorlds(family, 1, 1)
    worlds.set_tasks(family.distribution.nominal(), 1)
    worlds.seed(Key(0))
    assert worlds.reset()[0, -2:].tolist() == pytest.approx([-1.0, -1.0], abs=0.1)
