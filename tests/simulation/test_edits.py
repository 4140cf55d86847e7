"""Model edits: exact, at the named objects only, and from nominal values."""

import re
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.robots import PENDULUM, robot
from hypothesis import given
from hypothesis import strategies as st
from mujoco.batch import MODEL_FIELDS

from metarl import (
    Choices,
    Interval,
    Param,
    TaskDistribution,
    TaskFamily,
    Tasks,
    TaskWorlds,
    UserError,
    assign,
    find_family,
    pd,
    scale,
    shift,
    when,
)
from metarl.check.suite import check_plain_loop
from metarl.simulation.edits import FIELDS, Edit, nominal_value


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return find_family("half-cheetah-vel").compile()


def applied(model: mujoco.MjModel, edit: Edit, value: np.ndarray) -> np.ndarray:
    nominal = nominal_value(model, edit.field)
    values = np.repeat(nominal[None], len(value), axis=0)
    edit.apply(values, edit.rows(model), value)
    return values


def test_scale_of_all_bodies_but_the_world(model: mujoco.MjModel) -> None:
    got = applied(model, scale("body_mass"), np.array([[2.0], [0.5]]))
    np.testing.assert_array_equal(got, model.body_mass * np.array([[2.0], [0.5]]))
    assert scale("body_mass").count(model) == model.nbody - 1


def test_shift_of_one_body(model: mujoco.MjModel) -> None:
    got = applied(model, shift("body_mass", "torso"), np.array([[1.5]]))[0]
    changed = np.flatnonzero(got != model.body_mass)
    assert changed.tolist() == [model.body("torso").id]
    assert got[changed[0]] == model.body("torso").mass[0] + 1.5


def test_assign_a_component_of_named_geoms(model: mujoco.MjModel) -> None:
    got = applied(model, assign("geom_friction", "ffoot", "bfoot", index=0), np.array([[0.7]]))[0]
    expected = model.geom_friction.copy()
    for name in ("ffoot", "bfoot"):
        expected[model.geom(name).id, 0] = 0.7
    np.testing.assert_array_equal(got, expected)


def test_damping_of_a_joint_by_name(model: mujoco.MjModel) -> None:
    got = applied(model, scale("dof_damping", "bshin"), np.array([[3.0]]))[0]
    dof = model.joint("bshin").dofadr[0]
    assert got[dof] == 3 * model.dof_damping[dof]
    assert np.sum(got != model.dof_damping) == 1


def test_one_value_for_each_element(model: mujoco.MjModel) -> None:
    value = np.arange(1.0, 7.0)[None]
    got = applied(model, scale("actuator_gear"), value)[0]
    np.testing.assert_array_equal(got, model.actuator_gear * value[0, :, None])


def test_options(model: mujoco.MjModel) -> None:
    got = applied(model, assign("opt.gravity", index=2), np.array([[-3.7], [-1.6]]))
    np.testing.assert_array_equal(got, [[0, 0, -3.7], [0, 0, -1.6]])
    got = applied(model, assign("opt.density"), np.array([[2.0], [3.0]]))
    assert got.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (scale("body_mas"), "did you mean 'body_mass'"),
        (scale("body_mass", "torsso"), "no body 'torsso' .did you mean 'torso'"),
        (scale("actuator_gear", "knee"), "no actuator 'knee'"),
        (scale("geom_friction", index=3), "no index 3"),
        (scale("body_mass", index=0), "no index 0"),
        (scale("opt.gravity", "torso"), "takes no names"),
        (scale("flex_friction", "rootx"), "no named object"),
        (scale("qpos0", "rotx"), "no joint 'rotx' .did you mean 'rootx'"),
        (scale("body_mass", "*shan"), "no body .[*]shan. .did you mean .[*]fshin"),
        (scale("geom_friction", "ffot"), "no geom 'ffot' .did you mean 'ffoot'"),
        (scale("dof_damping", "bshn"), "no joint 'bshn' .did you mean 'bshin'"),
        (scale("geom_friction", index=-1), "no index -1"),
        (scale("opt.gravity", index=3), "no index 3"),
        (scale("opt.density", index=0), "no index 0"),
        (scale("opt.timestep"), "cannot differ between worlds: the family's dt"),
        (assign("geom_type", "ffoot"), "not a model field that a task can change .did you mean"),
        (assign("body_parentid"), "not a model field that a task can change"),
        (assign("jnt_qposadr"), "not a model field that a task can change"),
        (assign("actuator_trnid"), "not a model field that a task can change"),
        (scale("body_subtreemass"), "not a model field that a task can change"),
        (scale("geom_rgba"), "not a model field that a task can change"),
        (scale("pair_friction", "grip"), "no pair 'grip'; it has none with a name"),
        (scale("eq_data", "weld"), "no equality 'weld'; it has none with a name"),
        (scale("opt.gravty"), "did you mean 'opt.gravity'"),
        (scale("hfield_data"), "not a model field that a task can change"),
        (scale("tendon_stiffness", "rope"), "no tendon 'rope'; it has none with a name"),
        (scale("geom_friction", index=0, each=True), "so no index"),
        (when(1, scale("actuator_gear", "bshn"), 0), "no actuator 'bshn' .did you mean 'bshin'"),
    ],
)
def test_refusals(model: mujoco.MjModel, edit: Edit, words: str) -> None:
    with refused(match=words):
        edit.rows(model)


def test_a_number_for_every_component(model: mujoco.MjModel) -> None:
    edit = scale("geom_friction", "ffoot", "bfoot", each=True)
    assert edit.count(model) == 6
    value = np.arange(1.0, 7.0)[None]
    got = applied(model, edit, value)[0]
    for row, name in enumerate(("ffoot", "bfoot")):
        geom = model.geom(name)
        np.testing.assert_array_equal(got[geom.id], geom.friction * value[0, 3 * row : 3 * row + 3])
    assert np.sum(got != model.geom_friction) == 5  # one of the six numbers is 1
    assert scale("body_mass", each=True).count(model) == model.nbody - 1
    assert scale("opt.gravity", each=True).count(model) == 3
    got = applied(model, assign("opt.gravity", each=True), np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(got, [[1, 2, 3]])


def test_a_discrete_value_selects_objects(model: mujoco.MjModel) -> None:
    """Value 2 weakens one motor to a half, 3 stops two; any other leaves the model as it is."""
    edits = (
        when(2, scale("actuator_gear", "bshin"), 0.5),
        when(3, scale("actuator_gear", "bthigh", "ffoot"), 0.0),
    )
    gear = np.repeat(model.actuator_gear[None], 4, axis=0)
    for edit in edits:
        assert edit.count(model) == 1
        edit.apply(gear, edit.rows(model), np.array([[2.0], [0.0], [3.0], [2.0]]))
    nominal = model.actuator_gear[:, 0]
    scales = np.ones((4, 6))
    scales[[0, 3], model.actuator("bshin").id] = 0.5
    scales[2, [model.actuator("bthigh").id, model.actuator("ffoot").id]] = 0.0
    np.testing.assert_array_equal(gear[:, :, 0], nominal * scales)


def test_an_unnamed_actuator_goes_by_its_joint() -> None:
    ant = find_family("ant-dir").compile()
    assert ant.actuator(2).name == ""
    assert scale("actuator_gear", "hip_1").rows(ant) == [2]
    with pytest.raises(UserError, match=r"no actuator 'hip_5' .did you mean 'hip_"):
        scale("actuator_gear", "hip_5").rows(ant)


def test_the_fields_hold_real_numbers_and_their_objects_have_names() -> None:
    """All but geom_dataid, which chooses a height field, and all are listed in the docs."""
    listed = [name for group in FIELDS.values() for name in group]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(MODEL_FIELDS)
    model = mujoco.MjModel.from_xml_string(GRIPPER)
    whole = [name for name in listed if nominal_value(model, name).dtype.kind != "f"]
    assert whole == ["geom_dataid"]
    docs = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    table = docs.partition("#### Fields that an edit may change")[2].partition("\n#")[0]
    assert re.findall(r"`([a-z_0-9.]+)`", table) == listed


GRIPPER = """
<mujoco><worldbody><geom name="floor" type="plane" size="1 1 .1"/>
<body name="a" pos="0 0 .1"><freejoint/><geom name="a" size=".1"/></body>
<body name="b" pos=".3 0 .1"><freejoint/><geom name="b" size=".1"/><site name="s"/></body>
</worldbody>
<contact><pair geom1="floor" geom2="a"/><pair name="grip" geom1="floor" geom2="b"/></contact>
<equality><connect body1="a" anchor="0 0 0"/><weld name="glue" body1="a" body2="b"/></equality>
<actuator><motor site="s" gear="1 0 0 0 0 0" ctrlrange="-1 1"/></actuator></mujoco>
"""


@pytest.mark.parametrize(
    ("edit", "row"),
    [
        (scale("pair_friction", "grip", index=0), 1),
        (scale("eq_solref", "glue", index=0), 1),
        (scale("eq_data", "glue"), 1),
    ],
)
def test_contact_pairs_and_equalities_go_by_name(edit: Edit, row: int) -> None:
    class Gripper(TaskFamily):
        model = GRIPPER
        params = (Param("hold", Interval(0.5, 2.0), edit=edit),)

        def reward(self, sim, before, action, task) -> torch.Tensor:
            return sim.qpos[:, 0]

    family = Gripper()
    assert edit.rows(family.compile()) == [row]
    check_plain_loop(family)  # where another implementation finds the rows


@pytest.mark.parametrize(
    ("field", "shape", "words"),
    [
        ("body_mass", (2, 2), "MuJoCo derives other fields from it"),
        ("geom_size", (2, 2, 3), "MuJoCo derives other fields from it"),
        ("jnt_qposadr", (2, 1), "is not a model field that a task can change"),
        (
            "actuator_delay",
            (2, 1),
            "ignores actuator_delay where actuator_history is 0",
        ),
        ("dof_damping", (1, 1), "the values must be (2, 1), not (1, 1)"),
        ("opt.gravity", (2,), "the values must be (2, 3), not (2,)"),
    ],
)
def test_what_cannot_vary_within_an_episode_is_refused(field, shape, words) -> None:
    worlds = TaskWorlds(robot(PENDULUM, actuators=pd(9, 1, reach=1))(), 2, 1)
    with refused(words):
        worlds.simulator.vary(field, torch.ones(shape))
    worlds.simulator.vary("dof_damping", torch.tensor([[1.0], [9.0]]).double())
    worlds.step(torch.ones(2, 1))
    assert worlds.simulator.world_model(1).dof_damping.tolist() == [9.0]
    worlds.simulator.vary("dof_damping", np.array([[1.0], [3.0]]))
    assert worlds.simulator.world_model(1).dof_damping.tolist() == [3.0]


def test_an_edit_that_mujoco_refuses_is_one_line() -> None:
    """The ball b has its centre of mass at its origin, so MuJoCo compiled it as simple."""

    class Ball(TaskFamily):
        model = GRIPPER
        params = (Param("lean", Interval(0.0, 0.1), edit=shift("body_ipos", "b", index=0)),)

    worlds = TaskWorlds(Ball(), 1, 1)
    with refused(match=r"MuJoCo refuses an edit of body_ipos: .*simple"):
        worlds.set_tasks(TaskDistribution(worlds.family).make(lean=0.1), 1)


# --- every sort of edit at once, in the physics ---------------------------------------------------

MJCF = """
<mujoco><option timestep="0.005"/>
<asset><hfield name="flat" nrow="2" ncol="2" size="1 1 .1 .1"/>
<hfield name="low" nrow="2" ncol="2" size="1 1 .1 .2"/></asset>
<worldbody>
<geom name="ground" type="hfield" hfield="flat"/>
<body name="egg" pos="0 0 .25"><freejoint name="egg"/>
  <geom name="egg" type="ellipsoid" size=".1 .08 .06" mass="1" friction="1 .01 .001"/>
  <body name="arm" pos=".1 0 0"><joint name="arm" type="ball" damping=".1"/>
    <geom name="arm" type="capsule" fromto="0 0 0 .2 0 0" size=".02" mass=".3"/>
    <body name="hand" pos=".2 0 0"><joint name="hand" axis="0 1 0" damping=".05" armature=".01"/>
      <geom name="hand" size=".03" mass=".1"/></body></body></body>
</worldbody>
<actuator><position name="hand" joint="hand" kp="2"/></actuator></mujoco>
"""


class Egg(TaskFamily):
    """Two edits of one field, vector parameters, options, joints of 6, 3 and 1 dofs, terrain."""

    name = "egg"
    model = MJCF
    frame_skip = 2
    params = (
        Param("links", Interval(0.5, 2), size="model", edit=scale("body_mass")),
        Param("payload", Interval(0, 1), edit=shift("body_mass", "hand")),
        Param("loose", Interval(0.1, 2), size=3, edit=scale("dof_damping", "arm")),
        Param("drag", Interval(0, 0.2), edit=assign("dof_damping", "egg", "hand")),
        Param("slide", Interval(0.2, 1), edit=scale("geom_friction", "egg", "ground", index=0)),
        Param("slope", Interval(-2, 2), edit=assign("opt.gravity", index=0)),
        Param("wind", Interval(0, 5), edit=shift("opt.wind")),
        Param("ground", Choices((0, 1)), edit=assign("geom_dataid", "ground")),
        Param("shape", Interval(0.5, 2), size="model", edit=scale("body_inertia", each=True)),
        Param("fault", Choices((0, 1, 2)), nominal=0,
              edit=(when(1, scale("actuator_gear", "hand"), 0.5),
                    when(2, assign("jnt_stiffness", "hand"), 3.0))),
    )  # fmt: skip

    def reward(self, sim, before, action, task) -> torch.Tensor:
        return sim.qpos[:, 0] - before.qpos[:, 0]


def by_hand(task: np.ndarray) -> mujoco.MjModel:
    """The model of one Egg task, written out number by number."""
    links, payload, loose, (drag, slide, slope, wind, ground), shape, fault = (
        task[:3], task[3], task[4:7], task[7:12], task[12:21], task[21],
    )  # fmt: skip
    model = mujoco.MjModel.from_xml_string(MJCF)
    model.body_mass[1] = 1.0 * links[0]
    model.body_mass[2] = 0.3 * links[1]
    model.body_mass[3] = 0.1 * links[2] + payload
    model.dof_damping[0:6] = drag
    model.dof_damping[6:9] = 0.1 * loose
    model.dof_damping[9] = drag
    model.geom_friction[model.geom("egg").id, 0] *= slide
    model.geom_friction[model.geom("ground").id, 0] *= slide
    model.opt.gravity[0] = slope
    model.opt.wind += wind
    model.geom_dataid[model.geom("ground").id] = int(ground)
    model.body_inertia[1:] *= shape.reshape(3, 3)
    if fault == 1:
        model.actuator_gear[0] *= 0.5
    elif fault == 2:
        model.jnt_stiffness[2] = 3.0
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_every_world_of_edited_models_equals_a_plain_loop_to_the_bit() -> None:
    worlds = TaskWorlds(Egg(), 6, 2)
    tasks = TaskDistribution(worlds.family).split("heldout", 6)
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    assert len({float(v) for v in worlds.task["ground"]}) == 2
    assert len({float(v) for v in worlds.task["fault"]}) == 3
    sim, start = worlds.simulator, worlds.simulator.snapshot()
    rng = np.random.default_rng(0)
    moves = rng.uniform(-1, 1, (80, 6, 1))
    got = []
    for move in moves:
        assert not worlds.step(torch.from_numpy(move)).diverged.any()
        got.append(torch.cat((sim.qpos, sim.qvel), 1).numpy())
    for i, task in enumerate(tasks.values):
        model = by_hand(task)
        data = mujoco.MjData(model)
        data.qpos, data.qvel = start.qpos[i].numpy(), start.qvel[i].numpy()
        for t in range(80):
            data.ctrl = moves[t, i]
            mujoco.mj_step(model, data, 2)
            np.testing.assert_array_equal(np.concatenate((data.qpos, data.qvel)), got[t][i])


@given(st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_whatever_was_set_before_a_task_gives_the_same_models(history: list[int]) -> None:
    tasks = [
        TaskDistribution(EGGS[0].family).split("heldout", 9)[3 * k : 3 * k + 3] for k in range(3)
    ]
    fresh, used = EGGS
    for k in history:
        used.set_tasks(tasks[k], 1)
    fresh.set_tasks(tasks[history[-1]], 1)
    for name in ("body_mass", "dof_damping", "geom_friction", "opt.gravity", "opt.wind",
                 "geom_dataid", "dof_invweight0", "body_subtreemass"):  # fmt: skip
        np.testing.assert_array_equal(
            fresh.simulator.batch.expand(name), used.simulator.batch.expand(name), err_msg=name
        )


EGGS = [TaskWorlds(Egg(), 3, 1) for _ in range(2)]


def test_the_order_of_two_edits_of_one_field_is_that_of_the_parameters() -> None:
    """Mass of the hand: 0.1 · 2 + 0.5, and not (0.1 + 0.5) · 2."""
    worlds = TaskWorlds(Egg(), 1, 1)
    tasks = TaskDistribution(worlds.family)
    worlds.set_tasks(tasks.make(**{"links[2]": 2.0, "payload": 0.5}), 1)
    assert worlds.simulator.batch.expand("body_mass")[0, 3] == 0.1 * 2.0 + 0.5


def test_a_name_given_twice_is_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(UserError, match="names an object twice"):
        scale("body_mass", "torso", "torso").rows(model)


def test_a_scale_of_a_field_of_integers_is_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(UserError, match="geom_dataid"):
        applied(model, scale("geom_dataid"), np.array([[2.0]]))


def test_tasks_of_one_value_each() -> None:
    """Worlds of one task share its model; the next task's begin where its worlds begin."""
    worlds = TaskWorlds("half-cheetah-dynamics", 4, 1)
    names, values = worlds.tasks.names, np.ones((2, 4))
    values[:, 0] = [1.0, 2.0]
    worlds.set_tasks(Tasks("half-cheetah-dynamics", names, values), 2)
    total = worlds.simulator.batch.expand("body_mass").sum(1)
    np.testing.assert_allclose(total, [14.0, 14.0, 28.0, 28.0])
