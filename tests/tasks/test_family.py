"""Families: models that do not compile, parameters that do not fit, and plug-ins from a file."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused

from metarl import (
    Choices,
    Interval,
    Param,
    TaskFamily,
    TaskWorlds,
    UserError,
    assign,
    find_family,
    scale,
    shift,
    when,
)
from metarl.base.keys import Key
from metarl.tasks.registry import list_families

MJCF = """
<mujoco><option timestep="{step}"/><worldbody><body name="cart">
<joint name="slide" type="slide" axis="1 0 0"/>
<geom name="box" type="box" size=".1 .1 .1" mass="1"/>
</body>{more}</worldbody>
<actuator><motor name="push" joint="slide" ctrlrange="-4 2"/></actuator></mujoco>
"""
CART = MJCF.format(step=0.01, more="")


def family(**attributes: object) -> TaskFamily:
    def reward(self, sim, before, action, task):
        return sim.qvel[:, 0]

    body = {"name": "cart", "model": CART, "reward": reward} | attributes
    return type("Cart", (TaskFamily,), body)()


def test_defaults() -> None:
    cart = family(name="", frame_skip=3)
    assert cart.name == "cart"
    assert cart.dt == pytest.approx(0.03)
    assert cart.params == ()
    assert TaskWorlds(cart, 2, 1).spec[:3] == (2, 1, 200)


def test_actions_map_onto_the_control_range() -> None:
    worlds = TaskWorlds(family(), 5, 1)
    worlds.step(torch.tensor([[-1.0], [-0.5], [0.0], [1.0], [7.0]]))
    assert worlds.simulator.ctrl[:, 0].tolist() == [-4.0, -2.5, -1.0, 2.0, 2.0]


def test_a_vector_parameter_takes_its_size_from_the_model() -> None:
    more = '<body name="b" pos="1 0 0"><geom size=".1"/></body>'
    one = family(
        model=MJCF.format(step=0.01, more=more),
        params=(Param("mass", Interval(0.5, 2), edit=scale("body_mass"), size="model"),),
    )
    assert one.params[0].names == ("mass[0]", "mass[1]")
    worlds = TaskWorlds(one, 2, 1)
    assert worlds.task["mass"].shape == (2, 2)


def test_initial_quaternions_are_unit() -> None:
    free = MJCF.format(
        step=0.01, more='<body name="f" pos="0 0 3"><freejoint/><geom size=".1"/></body>'
    )
    worlds = TaskWorlds(family(model=free, reset_noise=0.5), 16, 1)
    worlds.seed(Key(0))
    worlds.reset()
    norm = worlds.simulator.qpos[:, 4:8].norm(dim=1)
    torch.testing.assert_close(norm, torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"model": "<mujoco><worldbody>"}, "'cart': its MJCF does not compile"),
        ({"model": "<mujoco/>"}, "no actuators"),
        ({"model": "nowhere.xml"}, "no model file nowhere.xml"),
        ({"model": ""}, "no model"),
        ({"model": MJCF.format(step="nan", more="")}, "timestep"),
        ({"frame_skip": 0}, "frame_skip must be a positive integer"),
        ({"horizon": 2.5}, "horizon must be a positive integer"),
        (
            {"params": (Param("m", Interval(1, 2), edit=scale("body_mass", "crat")),)},
            "parameter 'm': the model has no body 'crat' .did you mean 'cart'",
        ),
        (
            {"params": (Param("m", Interval(1, 2), edit=shift("body_mss")),)},
            "parameter 'm': 'body_mss' is not a model field",
        ),
        (
            {"params": (Param("m", Interval(1, 2), edit=scale("body_mass"), size=7),)},
            "parameter 'm': size 7",
        ),
        ({"params": (Param("m", Interval(1, 2), size="model"),)}, "size='model' needs an edit"),
        ({"params": (Param("m", Interval(1, 2)), Param("m", Interval(1, 2)))}, "the same name"),
    ],
)
def test_refusals_name_the_family(attributes: dict, words: str) -> None:
    with refused("cart", match=words):
        family(**attributes)


def test_no_warning_reaches_the_user(capfd, recwarn, tmp_path, monkeypatch) -> None:
    """gymnasium's half_cheetah.xml uses an attribute that MuJoCo calls deprecated."""
    monkeypatch.chdir(tmp_path)
    find_family("half-cheetah-vel")
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_registered_families() -> None:
    assert {"half-cheetah-vel", "half-cheetah-dir", "half-cheetah-dynamics", "point-goal"} <= set(
        list_families()
    )


def test_a_family_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_robot.py"
    file.write_text("from envs.point import PointGoal\nclass Mine(PointGoal):\n    name = 'mine'\n")
    assert find_family(f"{file}:Mine").name == "mine"
    for name, words in (
        (f"{file}:Mina", "did you mean 'Mine'"),
        (f"{file}", "say which class"),
        (f"{tmp_path}/other.py:Mine", "there is no file"),
        ("half-cheeta-vel", "did you mean 'half-cheetah-vel'"),
    ):
        with pytest.raises(UserError, match=words):
            find_family(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("class A:\n  pass", "not a subclass"),
        ("def f(:", "SyntaxError"),
        ("A = 3", "not a subclass"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "robot.py"
    file.write_text(text)
    with refused(match=words):
        find_family(f"{file}:A")


def test_the_nominal_model_is_never_changed() -> None:
    cheetah = find_family("half-cheetah-dynamics")
    mass = cheetah.compile().body_mass.copy()
    worlds = TaskWorlds(cheetah, 4, 1)
    worlds.step(torch.zeros(4, 6))
    np.testing.assert_array_equal(cheetah.compile().body_mass, mass)


def test_a_name_made_from_the_class_does_not_depend_on_who_came_first() -> None:
    class Parent(TaskFamily):
        model = CART

    class ChildOne(Parent):
        pass

    assert Parent().name == "parent"
    assert ChildOne().name == "child-one"


def test_a_size_from_the_model_must_fit_every_edit() -> None:
    """Two bodies, but three geoms."""
    more = '<body><geom size=".1"/><geom size=".2"/></body>'
    both = Param("m", Interval(1, 2), size="model", edit=(scale("body_mass"), scale("geom_size")))
    with pytest.raises(UserError, match="parameter 'm'"):
        TaskWorlds(family(model=MJCF.format(step=0.01, more=more), params=(both,)), 2, 1)


ONE_TO_TWO = Interval(1, 2)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (scale("dof_damping"), "nominal dof_damping is 0, and 0 scaled is 0"),
        (scale("dof_damping", "slide"), "nominal dof_damping of 'slide' is 0"),
        (scale("geom_friction", "box", index=1), ""),
        (scale("opt.gravity", index=0), "nominal opt.gravity is 0"),
        (scale("opt.gravity"), ""),
        ((scale("dof_damping"), scale("dof_armature")), "nominal dof_damping is 0"),
        ((scale("dof_damping"), scale("body_mass")), ""),
        ((shift("dof_damping"), scale("dof_damping")), ""),
        (scale("tendon_stiffness"), "the model has no tendon"),
        (assign("jnt_range", "slide"), "ignores jnt_range of 'slide' where jnt_limited is 0"),
        (scale("actuator_ctrlrange", "push"), ""),
        (assign("actuator_forcerange"), "where actuator_forcelimited is 0"),
        (shift("actuator_delay", "push"), "actuator_history is 0: set it in the model, or use"),
    ],
)
def test_a_parameter_whose_edits_cannot_act_is_refused(edit, words: str) -> None:
    """But a vector, or a tuple of edits, may have parts that do nothing."""
    params = (Param("p", ONE_TO_TWO, edit=edit),)
    if not words:
        assert family(params=params).params == params
        return
    with refused(match=f"'cart', parameter 'p': .*{words}"):
        family(params=params)


def test_a_scale_of_what_an_earlier_parameter_sets_is_no_scale_of_zero() -> None:
    drag = Param("drag", ONE_TO_TWO, edit=assign("dof_damping", "slide"))
    wear = Param("wear", ONE_TO_TWO, edit=scale("dof_damping", "slide"))
    assert len(family(params=(drag, wear)).params) == 2
    with pytest.raises(UserError, match="0 scaled is 0"):
        family(params=(wear, drag))


HILLS = (
    MJCF.format(step=0.01, more='<geom name="ground" type="hfield" hfield="a" pos="0 0 -1"/>')
    .replace("<worldbody>", """<asset><hfield name="a" nrow="2" ncol="2" size="1 1 .1 .1"/>
    <hfield name="b" nrow="2" ncol="2" size="1 1 .1 .1"/></asset><worldbody>""")
)  # fmt: skip


@pytest.mark.parametrize(
    ("train", "edit", "words"),
    [
        (Choices((0, 1)), assign("geom_dataid", "ground"), ""),
        (Choices((0, 1)), (when(1, assign("geom_dataid", "ground"), 1.0),), ""),
        (Choices((0, 2)), assign("geom_dataid", "ground"), "height fields, 0 to 1, not {0.0, 2.0}"),
        (Choices((0, 1), ood=(7,)), assign("geom_dataid", "ground"), "height fields, 0 to 1"),
        (Choices((-1, 0)), assign("geom_dataid", "ground"), "height fields, 0 to 1"),
        (Choices((0.5, 1)), assign("geom_dataid", "ground"), "height fields, 0 to 1"),
        (Choices((0, 1)), (when(1, assign("geom_dataid", "ground"), 9.0),), "height fields"),
        (Interval(0, 1), assign("geom_dataid", "ground"), "needs Choices"),
        (Choices((0, 1)), assign("geom_dataid", "box"), "geoms of type hfield only"),
        (Choices((0, 1)), assign("geom_dataid"), "geoms of type hfield only"),
    ],
)
def test_a_ground_is_a_height_field_that_the_model_has(train, edit, words: str) -> None:
    params = (Param("ground", train, edit=edit, nominal=0),)
    if not words:
        TaskWorlds(family(model=HILLS, params=params), 2, 1)
        return
    with pytest.raises(UserError, match="'cart', parameter 'ground': geom_dataid .*" + words):
        family(model=HILLS, params=params)


def test_a_build_without_a_model_is_named() -> None:
    with pytest.raises(UserError, match=r"'cart': build\(\) must return the model .* not NoneType"):
        family(build=lambda self, spec: None)


def test_a_family_may_have_no_parameters() -> None:
    worlds = TaskWorlds(family(), 3, 1)
    assert worlds.task == {}
    assert worlds.tasks.values.shape == (1, 0)
    worlds.step(torch.zeros(3, 1))


def test_a_motor_without_limits_takes_minus_one_to_one() -> None:
    worlds = TaskWorlds(family(model=CART.replace(' ctrlrange="-4 2"', "")), 3, 1)
    worlds.step(torch.tensor([[-9.0], [0.5], [1.0]]))
    assert worlds.simulator.ctrl[:, 0].tolist() == [-1.0, 0.5, 1.0]


SERVO = """<mujoco><worldbody><body>
<joint name="a" axis="0 1 0" range="-20 170" limited="{limited}" armature=".1"/><geom size=".1"/>
</body></worldbody><actuator><{kind} joint="a" {more}/></actuator></mujoco>"""


@pytest.mark.parametrize(
    ("kind", "limited", "more", "expected"),
    [
        ("position", "true", "", (-np.pi / 9, np.pi * 17 / 18)),
        ("position", "true", 'kp="80" kv="4" timeconst=".1"', (-np.pi / 9, np.pi * 17 / 18)),
        ("position", "true", 'gear="-2"', (-np.pi * 17 / 9, np.pi * 2 / 9)),
        ("position", "true", 'ctrlrange="-1 3"', (-1, 3)),
        ("position", "false", "", (-1, 1)),
        ("velocity", "true", "", (-1, 1)),
        ("intvelocity", "true", 'actrange="-1 1"', (-1, 1)),
        ("motor", "true", "", (-1, 1)),
    ],
)
def test_a_position_actuator_without_a_range_has_that_of_its_limited_joint(
    kind: str, limited: str, more: str, expected: tuple[float, float]
) -> None:
    servo = family(model=SERVO.format(kind=kind, limited=limited, more=more))
    worlds = TaskWorlds(servo, 3, 1)
    worlds.step(torch.tensor([[-1.0], [0.0], [1.0]]))
    low, high = expected
    assert worlds.simulator.ctrl[:, 0].tolist() == pytest.approx([low, (low + high) / 2, high])


def test_models_from_a_path_a_string_and_a_spec_are_one(tmp_path: Path) -> None:
    file = tmp_path / "cart.xml"
    file.write_text(CART)
    models = [CART, file, str(file), mujoco.MjSpec.from_string(CART)]
    masses = [family(model=model).compile().body_mass.tolist() for model in models]
    assert masses == [[0.0, 1.0]] * 4


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("timestep", 'timestep="inf"'),
        ("timestep", 'timestep="0"'),
        ("timestep", 'timestep="-0.01"'),
        ("gravity", 'timestep="0.01" gravity="0 0 nan"'),
    ],
)
def test_options_that_cannot_work_are_named(field: str, text: str) -> None:
    with refused(match=f"'cart'.*{field}"):
        family(model=CART.replace('timestep="0.01"', text))


def test_a_model_that_cannot_be_batched_is_refused_in_one_line() -> None:
    asleep = CART.replace("<option ", '<option><flag sleep="enable"/></option><option ')
    with refused(match="worlds cannot be batched of this model: sleep"):
        TaskWorlds(family(model=asleep), 2, 1)


def test_a_family_without_a_reward_says_so() -> None:
    silent = type("Silent", (TaskFamily,), {"name": "silent", "model": CART})()
    with pytest.raises(UserError, match=r"'silent': reward.. failed: .*Silent must define reward"):
        TaskWorlds(silent, 1, 1).step(torch.zeros(1, 1))


def test_a_relative_model_lies_beside_the_family(tmp_path, monkeypatch) -> None:
    """So that a run goes on wherever the command is given."""
    (tmp_path / "cart.xml").write_text(CART)
    (tmp_path / "robot.py").write_text(
        "from metarl import TaskFamily\n\n"
        "class Robot(TaskFamily):\n    model = 'cart.xml'\n\n"
        "    def reward(self, sim, before, action, task):\n        return sim.qvel[:, 0]\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert find_family("../robot.py:Robot").compile().nu == 1
    assert find_family("../robot.py:Robot+latency").compile().nu == 1
    (elsewhere / "cart.xml").write_text(CART)
    assert family(model="cart.xml").compile().nu == 1  # not beside this file, so from where we are
