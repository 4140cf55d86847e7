"""MuJoCo Warp on its CPU device: every verb of a back end, and parity with native MuJoCo.

The first run compiles Warp's kernels, some 20 s for each robot, into Warp's cache.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import sys

import mujoco
import numpy as np
import pytest
import torch
from simulation import test_backend as common

from metarl import TaskDistribution, TaskWorlds, UserError, find_family, make_worlds
from metarl.base.keys import Key
from metarl.check.warp_suite import CHECKS, GATES, parity, with_round_friction
from metarl.simulation.simulator import Simulator
from metarl.simulation.warp import install
from metarl.simulation.warp.buffers import Buffers, measure
from metarl.simulation.warp.choice import Physics
from metarl.simulation.warp.install import refuse
from metarl.tasks.registry import list_families
from metarl.worlds.factory import backend_of

pytestmark = pytest.mark.skipif(  # importing it takes seconds, also of those who run no slow test
    importlib.util.find_spec("mujoco_warp") is None, reason="no mujoco_warp here"
)

PILE = """
<mujoco><option timestep="0.01"/><worldbody><geom type="plane" size="5 5 .1"/>{balls}</worldbody>
<actuator><motor joint="j0"/></actuator>{more}</mujoco>
"""
BALL = (
    '<body pos="{x} 0 .09"><joint name="j{i}" type="slide" axis="0 0 1"/>'
    '<geom size=".1" mass="1"/></body>'
)


def pile(balls: int, more: str = "") -> mujoco.MjModel:
    """Balls on a plane, which touch it and nothing else."""
    parts = "".join(BALL.format(x=i, i=i) for i in range(balls))
    return mujoco.MjModel.from_xml_string(PILE.format(balls=parts, more=more))


NAMES = [name for name in list_families() if not name.endswith(("-sparse", "-literature"))]
"""The families but for those that have the physics of another one, with other rewards or ranges."""


@pytest.fixture(scope="module")
def warp():
    from helpers.warp import on_warp

    return on_warp


# --- parity --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_native_mujoco(name: str, warp) -> None:
    """A hundred single steps along native MuJoCo's trajectories, of four tasks.

    Of every family but the ant's, whose upright capsules Warp gives other friction pyramids, all
    steps are within a few ten-thousandths, but for one of quadruped-vel at a thousandth. With round
    cones the ant's are, too, but for steps in which a foot lands a physics step earlier or later.
    Of rough ground under an ant more steps are others: Warp counts the margin of its geoms into the
    depth of contacts with a height field.
    """
    family = find_family(name)
    ant = name.startswith("ant")
    backend = with_round_friction(warp) if ant else warp
    got = parity(family, backend, native=with_round_friction(Simulator) if ant else Simulator)
    assert float(got.start.max()) < 1e-5
    assert got.ends <= ant
    assert got.median() < 1e-4
    least = 0.93 if ant and "terrain" in name else 0.95 if ant else 0.98
    assert got.within(1e-3) >= least, (got.median(), got.worst())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half-cheetah-dir+latency", "hopper-params+push+sensor-bias"])
def test_so_are_those_of_products(name: str, warp) -> None:
    """Commands that arrive late are among them."""
    got = parity(find_family(name), warp)
    assert got.within(1e-3) >= 0.98
    assert float(got.start.max()) < 1e-4


@pytest.mark.slow
def test_a_free_trajectory_stays_near_for_a_hundred_physics_steps(warp) -> None:
    """Where both begin alike and go on alone the difference grows, as it must with contacts."""
    ready = functools.partial(common.ready, "half-cheetah-dynamics")
    worlds, native = ready(warp), ready(Simulator)
    for t, action in enumerate(common.moves(native, 20)):
        got, expected = worlds.step(action), native.step(action)
        bound = 1e-3 if t < 4 else 0.05 if t < 8 else 1.0
        assert float((got.next_obs - expected.next_obs).abs().max()) < bound, t


def without_margin(backend):
    """Return a back end whose geoms have no margin, and round friction cones."""

    def made(model, num_worlds, threads):
        model = copy.copy(model)
        model.geom_margin[:] = 0.0
        return backend(model, num_worlds, threads)

    return with_round_friction(made)


@pytest.mark.slow
def test_without_a_margin_rough_ground_is_that_of_native_mujoco(warp) -> None:
    family = find_family("ant-terrain")
    got = parity(family, without_margin(warp), native=without_margin(Simulator))
    assert got.within(1e-3) >= 0.98, (got.median(), got.worst())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ant-terrain", "half-cheetah-terrain"])
def test_the_ground_is_where_its_task_puts_it(name: str, warp) -> None:
    """Warp computes once where geoms are that hang on the world; tasks put them elsewhere."""
    worlds = common.ready(name, warp)
    places, turns = (worlds.simulator.bind(part) for part in ("geom_xpos", "geom_xmat"))
    heights = set()
    for world in range(common.WORLDS):
        model = worlds.simulator.world_model(world)
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        ground = np.flatnonzero(model.body_weldid[model.geom_bodyid] == 0)
        np.testing.assert_allclose(places[world][ground], data.geom_xpos[ground], atol=1e-6)
        turned = turns[world][ground].reshape(len(ground), 9)
        np.testing.assert_allclose(turned, data.geom_xmat[ground], atol=1e-6)
        heights |= set(data.geom_xpos[ground, 2].round(3).tolist())
    assert len(heights) > 1


# --- what every back end must do -----------------------------------------------------------------


@pytest.mark.slow
def test_it_does_what_every_back_end_does(warp) -> None:
    common.test_task_values_and_fields_are_those_of_the_tasks(warp)
    common.test_some_worlds_begin_anew_and_the_others_go_on(warp)
    common.test_one_worlds_task_changes_alone(warp)
    common.test_fields_have_names(warp)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12])
def test_a_world_that_diverges_begins_anew_and_harms_no_other(bad: float, warp) -> None:
    common.test_a_world_that_diverges_begins_anew_and_harms_no_other(bad, warp)


@pytest.mark.slow
def test_what_diverged_is_said_in_words(warp) -> None:
    worlds = common.ready("half-cheetah-vel", warp)
    worlds.simulator.qvel[2, 4] = torch.nan
    worlds.step(common.moves(worlds, 1)[0])
    words = worlds.why_diverged()
    assert "velocity" in words
    assert "task" in words
    worlds.simulator.ctrl[:] = torch.nan
    assert worlds.simulator.step(1).all()


@pytest.mark.slow
def test_a_masked_reset_leaves_the_others_to_the_bit(warp) -> None:
    """Also in what comes after, for hidden state such as warm starts counts."""
    one, other = (common.ready("half-cheetah-vel", warp) for _ in range(2))
    moves, rest = common.moves(one, 12), torch.tensor([0, 2, 3, 5])
    for t, action in enumerate(moves):
        if t == 6:
            one.reset(torch.tensor([1, 4]))
        got, expected = one.step(action), other.step(action)
        assert torch.equal(got.next_obs[rest], expected.next_obs[rest]), t
        assert torch.equal(got.reward[rest], expected.reward[rest])
    assert not torch.equal(got.next_obs[1], expected.next_obs[1])


@pytest.mark.slow
def test_a_mass_that_changes_later_changes_the_trajectory(warp) -> None:
    """After steps were taken: what holds the address of an old array would not notice."""
    family = find_family("half-cheetah-dynamics")
    ends = [common.ready(family.name, warp) for _ in range(2)]
    action = common.moves(ends[0], 1)[0]
    for worlds in ends:
        worlds.step(action)
    heavy = TaskDistribution(family).make(mass=2.0)
    ends[1].set_tasks(heavy, common.WORLDS)
    for worlds in ends:
        worlds.seed(Key(0))
        worlds.reset()
    a, b = (worlds.step(action).next_obs for worlds in ends)
    assert float((a - b).abs().max()) > 1e-3
    mass = ends[1].simulator.model_field("body_mass")
    nominal = torch.from_numpy(ends[1].simulator.model.body_mass).float()
    torch.testing.assert_close(mass[0][1:], 2 * nominal[1:])


@pytest.mark.slow
def test_derived_constants_follow_edits(warp) -> None:
    """Those that MuJoCo itself computes of the edited model: weights of constraints, above all."""
    worlds = common.ready("half-cheetah-dynamics", warp)
    sim = worlds.simulator
    for field in ("body_subtreemass", "dof_invweight0", "body_invweight0", "actuator_acc0"):
        live = sim._wp.to_torch(getattr(sim._models.mjw_model, field))
        for world in (0, common.WORLDS - 1):
            expected = torch.from_numpy(getattr(sim.world_model(world), field)).float()
            mine = live[world].reshape(expected.shape)
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_fields_are_exchanged_on_the_device_as_they_are_set_by_the_host(warp) -> None:
    """In the worlds of a mask, with what is derived of them, and what the host reads back."""
    sims = [warp(pile(3), 2, None) for _ in range(2)]
    heavy = np.array([[0.0, 1.0, 4.0, 1.0], [0.0, 2.0, 1.0, 7.0]])
    fields = {"body_mass": heavy, "opt.impratio": np.array([4.0, 9.0])}
    for sim in sims:
        sim.set_fields({name: np.ones_like(values) for name, values in fields.items()})
    wanted, sim = sims
    wanted.set_fields({name: values[1:] for name, values in fields.items()}, torch.tensor([1]))
    given = {name: torch.from_numpy(values) for name, values in fields.items()}
    sim.exchange_fields(torch.tensor([False, True]), given)
    for name in fields:
        assert torch.equal(sim.model_field(name), wanted.model_field(name)), name
    for name in ("body_subtreemass", "body_invweight0", "dof_invweight0"):
        mine, theirs = (getattr(one._models.mjw_model, name).numpy() for one in sims)
        assert np.array_equal(mine, theirs), name
        assert not np.array_equal(mine[0], mine[1]), name
    for world in (0, 1):
        mine, theirs = sim.world_model(world), wanted.world_model(world)
        assert np.array_equal(mine.body_mass, theirs.body_mass)
        assert mine.opt.impratio == theirs.opt.impratio


@pytest.mark.slow
def test_the_state_of_a_world_goes_to_the_host_as_a_whole(warp) -> None:
    worlds = common.ready("half-cheetah-dynamics", warp)
    worlds.step(common.moves(worlds, 1)[0])
    sim = worlds.simulator
    model = sim.world_model(3)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, sim.world_state(3), mujoco.mjtState.mjSTATE_INTEGRATION)
    np.testing.assert_array_equal(data.qpos.astype(np.float32), sim.qpos[3].numpy())
    np.testing.assert_array_equal(data.ctrl.astype(np.float32), sim.ctrl[3].numpy())
    assert data.time == pytest.approx(float(sim.time[3]))


# --- room ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_too_little_room_is_an_error_and_not_a_contact_less(warp) -> None:
    from metarl.simulation.warp.simulator import WarpSimulator

    model = pile(6)
    for few in (Buffers(contacts=3, rows=100), Buffers(contacts=30, rows=8)):
        sim = WarpSimulator(model, 2, device="cpu", buffers=few)
        with pytest.raises(UserError, match=r"no room .*--simulator-room 3"):
            sim.step(1)
    assert not WarpSimulator(model, 2, device="cpu", buffers=Buffers(8, 40)).step(1).any()


@pytest.mark.slow
def test_what_there_is_room_for_is_measured() -> None:
    """Six balls on the ground: a contact each, with four rows."""
    model = pile(6)
    qpos = np.zeros((3, model.nq))
    qpos[1] = 5.0  # in the air
    got = measure(model, qpos, {}, room=2.0, device="cpu")
    assert got == Buffers(contacts=12, rows=48)


@pytest.mark.slow
def test_a_family_is_measured_at_the_ends_of_its_parameters() -> None:
    backend = backend_of(find_family("half-cheetah-dynamics"), Physics("warp", device="cpu"))
    buffers = backend.keywords["buffers"]  # type: ignore[attr-defined]
    assert 8 <= buffers.contacts <= 40
    assert 24 <= buffers.rows <= 120


# --- learners and checks -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml-trpo", "rl2"])
def test_a_whole_training_and_what_becomes_of_it(name: str, tmp_path, capsys, monkeypatch) -> None:
    """Two iterations by the command, then the agent on native MuJoCo, with the difference."""
    from envs.point import PointGoal
    from metarl.cli import main

    monkeypatch.setattr(PointGoal, "horizon", 6)
    small = ["--hidden", "8"] if name == "maml-trpo" else ["--units", "8", "--hidden", "8"]
    run = str(tmp_path / "run")
    sizes = {"iterations": 2, "tasks-per-iteration": 2, "rollouts-per-task": 2}
    sizes |= {"evaluate-tasks": 2, "evaluate-episodes": 1}
    words = [word for size, n in sizes.items() for word in (f"--{size}", str(n))]
    words += ["--simulator", "warp", "--device", "cpu", "--out"]
    assert main(["train", "point-goal", name, *small, *words, run]) == 0
    assert "physics by warp" in capsys.readouterr().out
    look = ["--tasks", "4", "--episodes", "1", "--device", "cpu"]
    assert main(["evaluate", run, *look, "--simulator", "mujoco"]) == 0
    said = capsys.readouterr().out
    assert "on mujoco instead of warp" in said
    assert "a difference of " in said
    assert main(["adapt", run, "--set", "goal_x=0.5", "--episodes", "1", "--device", "cpu"]) == 0
    assert main(["train", "--resume", run, "--iterations", "3"]) == 0


@pytest.mark.slow
def test_a_family_is_checked_on_warp(capsys: pytest.CaptureFixture) -> None:
    from metarl.cli import main

    assert main(["check", "point-goal", "--simulator", "warp"]) == 0
    said = capsys.readouterr().out
    assert said.count("ok ") == len(CHECKS) > len(GATES)


# --- without the packages, and without the flag --------------------------------------------------


def test_without_the_packages_a_line_says_what_to_install(monkeypatch, tmp_path, capsys) -> None:
    from metarl.cli import main

    found = install.importlib.util.find_spec
    monkeypatch.setattr(
        install.importlib.util, "find_spec", lambda name: None if "warp" in name else found(name)
    )
    words = ["--simulator", "warp", "--out", str(tmp_path / "run"), "--iterations", "1"]
    assert main(["train", "point-goal", "maml-trpo", *words]) == 2
    said = capsys.readouterr().err
    assert "pip install 'metarl-toolkit[gpu-sim]'" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert main(["check", "point-goal", "--simulator", "warp"]) == 2


def test_without_the_flag_nothing_of_it_is_imported(after_torch) -> None:
    code = (
        "import sys, metarl, metarl.run; metarl.make_worlds('point-goal', 2, 1)\n"
        "print([n for n in sys.modules if n == 'warp' or 'mujoco_warp' in n\n"
        "       or n.endswith(('warp.simulator', 'warp.watch'))])"
    )
    assert after_torch(code).strip() == "[]"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('<sensor><jointpos joint="j0" delay=".02" nsample="4"/></sensor>', "sensors with a delay"),
        ('<option><flag sleep="enable"/></option>', "sleeping bodies"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(more: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        refuse(pile(1, more))


def test_an_unknown_simulator_is_one_line() -> None:
    with pytest.raises(UserError, match="did you mean 'warp'"):
        Physics("wrap")
    with pytest.raises(UserError, match="from 1 to 1000"):
        Physics("warp", room=0.5)


@pytest.mark.slow
def test_fields_that_warp_has_not_in_each_world_are_refused_by_name(warp) -> None:
    sim = warp(pile(2, '<sensor><jointpos joint="j0" cutoff="1"/></sensor>'), 2)
    with pytest.raises(UserError, match="sensor_cutoff of its own"):
        sim.set_fields({"sensor_cutoff": np.ones((2, 1))})
    assert sys.modules["warp"] is not None


@pytest.mark.slow
def test_worlds_of_others_have_no_warp() -> None:
    worlds = make_worlds("point-goal", 2, 1, Physics("warp", device="cpu"))
    assert isinstance(worlds, TaskWorlds)
    assert worlds.physics.simulator == "warp"
