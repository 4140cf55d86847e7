"""Simulator: live state, derived fields that are current, per-world models, and its own resets."""

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused
from torch import Tensor

from metarl.simulation.simulator import Simulator

MJCF = """
<mujoco><option timestep="0.01"/><worldbody><geom type="plane" size="5 5 .1"/>
<body name="ball" pos="0 0 .3"><joint name="up" type="slide" axis="0 0 1"/>
<joint name="along" type="slide" axis="1 0 0" damping="1"/>
<geom name="ball" size=".1" mass="1"/><site name="skin" size=".11"/></body></worldbody>
<actuator><motor name="push" joint="along"/></actuator>
<sensor>{sensors}</sensor></mujoco>
"""
SMOOTH = (
    '<jointpos joint="along"/><velocimeter site="skin"/><framepos objtype="site" objname="skin"/>'
)
FORCE = '<touch site="skin"/><accelerometer site="skin"/><actuatorfrc actuator="push"/>'


def make(worlds: int = 4, *, sensors: str = SMOOTH, threads: int = 2) -> Simulator:
    sim = Simulator(mujoco.MjModel.from_xml_string(MJCF.format(sensors=sensors)), worlds, threads)
    place(sim)
    return sim


def place(sim: Simulator, ids: Tensor | None = None) -> None:
    """Reset, and drop each ball from a height of its own; the first ones touch the ground."""
    sim.reset(ids)
    which = torch.arange(sim.num_worlds) if ids is None else ids
    sim.qpos[which, 0] = 0.05 * which.double() - 0.21
    sim.qvel[which, 1] = 0.1 * which.double()
    sim.refresh(ids)


def forwarded(sim: Simulator, world: int) -> mujoco.MjData:
    """MuJoCo's own full forward pass at the state of one world."""
    data = mujoco.MjData(sim.model)
    data.qpos, data.qvel = sim.qpos[world].numpy(), sim.qvel[world].numpy()
    data.ctrl = sim.ctrl[world].numpy()
    mujoco.mj_forward(sim.model, data)
    return data


def test_state_is_live_and_a_snapshot_is_not() -> None:
    sim = make()
    sim.qvel[:, 1] = 2.0
    before = sim.snapshot()
    assert not sim.step(1).any()
    moved = sim.qpos[:, 1] - before.qpos[:, 1]
    assert (moved[1:] > 0.019).all()  # ball 0 rubs on the ground
    assert (before.qvel[:, 1] == 2.0).all()
    assert sim.time.flatten().tolist() == [0.01] * 4


def test_derived_fields_are_those_of_a_forward_pass_after_every_step_and_reset() -> None:
    sim = make()
    fields = {name: sim.bind(name) for name in ("sensordata", "xpos", "site_xmat", "cvel", "ncon")}

    def check() -> None:
        for world in range(sim.num_worlds):
            data = forwarded(sim, world)
            for name, got in fields.items():
                expected = np.asarray(getattr(data, name)).reshape(got[world].shape)
                np.testing.assert_array_equal(got[world].numpy(), expected, err_msg=name)

    check()
    for t in range(12):
        sim.ctrl[:, 0] = 0.3 * t
        sim.step(2)
        check()
        if t % 4 == 3:
            place(sim, torch.tensor([0, 3]))
            check()


def test_sensors_of_force_and_acceleration_are_current_too() -> None:
    sim = make(sensors=FORCE)
    got = sim.sensordata
    for _ in range(3):
        sim.ctrl[:, 0] = 0.5
        sim.step(2)
    place(sim, torch.tensor([0, 1]))
    expected = np.stack([forwarded(sim, world).sensordata for world in range(4)])
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("sensors", [SMOOTH, FORCE])
def test_binding_derived_fields_does_not_change_the_physics(sensors: str) -> None:
    plain, watched = make(sensors=sensors), make(sensors=sensors)
    for t in range(30):
        if t == 10:
            watched.bind("xpos")
            watched.bind("sensordata")
        for sim in (plain, watched):
            sim.ctrl[:, 0] = np.sin(t)
            sim.step(3)
        assert torch.equal(plain.qpos, watched.qpos)
        assert torch.equal(plain.qvel, watched.qvel)


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_thread_count_does_not_matter(threads: int) -> None:
    one, other = make(7, threads=1), make(7, threads=threads)
    for t in range(40):
        for sim in (one, other):
            sim.ctrl[:, 0] = 0.1 * t
            sim.step(2)
    assert torch.equal(one.qpos, other.qpos)
    assert torch.equal(one.qvel, other.qvel)


def test_a_masked_reset_leaves_the_other_worlds_paths_to_the_bit() -> None:
    """State that nobody sees, such as the solver's warm start, is left alone as well."""
    calm, disturbed = (make(6, sensors=FORCE, threads=threads) for threads in (1, 3))
    for sim in (calm, disturbed):
        sim.bind("xpos")
        sim.bind("sensordata")
    for t in range(30):
        for sim in (calm, disturbed):
            sim.step(2)
        if t % 7 == 0:
            place(disturbed, torch.tensor([1, 4]))
        rest = [0, 2, 3, 5]
        for name in ("qpos", "qvel", "time", "xpos", "sensordata"):
            assert torch.equal(calm.bind(name)[rest], disturbed.bind(name)[rest])


def test_a_reset_clears_applied_forces() -> None:
    sim = make()
    sim.bind("xfrc_applied")[1, 1, 0] = 5.0
    sim.bind("qfrc_applied")[2, 1] = 5.0
    sim.reset(None)
    assert not sim.bind("xfrc_applied").any()
    assert not sim.bind("qfrc_applied").any()


def test_per_world_fields_and_what_mujoco_derives_from_them() -> None:
    sim = make(3)
    nominal = sim.model.body_mass.copy()
    mass = np.repeat(nominal[None], 3, axis=0)
    mass[:, 1] = [1.0, 2.0, 4.0]
    sim.set_fields({"body_mass": mass})
    np.testing.assert_array_equal(sim.batch.expand("body_subtreemass")[:, 0], [1.0, 2.0, 4.0])
    along = sim.model.joint("along").dofadr[0]
    np.testing.assert_allclose(sim.batch.expand("dof_M0")[:, along], [1.0, 2.0, 4.0])
    sim.set_fields({})
    np.testing.assert_array_equal(sim.batch.expand("body_mass"), np.repeat(nominal[None], 3, 0))
    np.testing.assert_array_equal(sim.batch.expand("body_subtreemass")[:, 0], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(sim.model.body_mass, nominal)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e11])
@pytest.mark.parametrize("field", ["qpos", "qvel", "ctrl", "qfrc_applied"])
def test_a_bad_number_anywhere_in_the_state_is_reported_at_once(field: str, bad: float) -> None:
    sim = make(8)
    sim.bind(field)[[2, 5], -1] = bad
    diverged = sim.step(2)
    assert diverged.any()
    assert diverged.nonzero()[:, 0].tolist() == [2, 5]
    place(sim, torch.tensor([2, 5]))
    assert not sim.step(2).any()
    assert sim.qpos.isfinite().all()


def test_divergence_is_reported_each_time_that_it_happens() -> None:
    sim = make(3)
    for world in (1, 1, 0, 1, 2, 2):
        sim.qvel[world, world % 2] = 1e12
        diverged = sim.step(1)
        assert diverged.any()
        assert diverged.nonzero()[:, 0].tolist() == [world]
        place(sim, torch.tensor([world]))
        assert not sim.step(1).any()


def test_divergence_writes_nothing_to_the_terminal_or_the_working_folder(
    capfd, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sim = make()
    sim.qpos[1, 0] = float("nan")
    assert sim.step(1).any()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [("sensor_data", "did you mean 'sensordata'"), ("qqpos", "did you mean 'qpos'"), ("", "''")],
)
def test_an_unknown_field_is_one_line(name: str, words: str) -> None:
    with refused(match=words):
        make().bind(name)
