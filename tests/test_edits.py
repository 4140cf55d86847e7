"""Model edits: exact, at the named objects only, and from nominal values."""

import mujoco
import numpy as np
import pytest

from metarl import UserError, assign, find_family, scale, shift
from metarl.edits import Edit, nominal_value


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
    got = applied(model, scale("opt.timestep"), np.array([[2.0], [3.0]]))
    assert got.ravel() == pytest.approx([0.02, 0.03])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (scale("body_mas"), "did you mean 'body_mass'"),
        (scale("body_mass", "torsso"), "no body 'torsso' .did you mean 'torso'"),
        (scale("actuator_gear", "knee"), "no actuator 'knee'"),
        (scale("geom_friction", index=3), "no index 3"),
        (scale("body_mass", index=0), "no index 0"),
        (scale("opt.gravity", "torso"), "takes no names"),
        (scale("qpos0", "rootx"), "no named object"),
    ],
)
def test_refusals(model: mujoco.MjModel, edit: Edit, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        edit.rows(model)
    assert "\n" not in str(caught.value)
