"""Products of a family and its variations: names, clashes, physics, and runs of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.families import every_family
from helpers.refusals import refused
from helpers.short_checks import checked_in_short

from metarl import (
    Interval,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    UserError,
    Variation,
    assign,
    cli,
    find_family,
    scale,
    shift,
    with_params,
)
from metarl.base.keys import Key
from metarl.check.suite import CHECKS
from metarl.check.trajectory import run, worlds_of
from metarl.tasks.composition import compose, variations
from metarl.tasks.registry import family_class

PRODUCTS = [
    "half-cheetah-vel+dynamics",
    "half-cheetah-vel+latency",
    "point-goal+latency+sensor-bias",
    "half-cheetah-dir+dynamics+latency+sensor-bias",
    "ant-goal+crippled+dynamics",
    "walker2d-params+latency",
    "hopper-dynamics+sensor-bias",
    "humanoid-dir+dynamics",
    "half-cheetah-vel+dynamics+latency+terrain",
    "ant-goal+crippled+terrain-scan",
]


DEEPEST = "half-cheetah-vel+dynamics+latency+terrain"
OF_EDITS = {
    "check_model", "check_spaces", "check_plain_loop", "check_idempotent", "check_order",
    "check_parameters", "check_splits",
}  # fmt: skip


SHALLOW = (
    "half-cheetah-vel+dynamics", "half-cheetah-vel+latency", "hopper-dynamics+sensor-bias",
    "humanoid-dir+dynamics",
)  # fmt: skip
"""Products of which each variation is in another one, too."""
CASES = [
    pytest.param(
        name, check, id=f"{name}-{check.__name__}",
        marks=[pytest.mark.slow] if name in SHALLOW else [],
    )
    for name in PRODUCTS for check in CHECKS
    if name == DEEPEST or check.__name__ in OF_EDITS
]  # fmt: skip


@pytest.mark.parametrize(("name", "check"), CASES)
def test_a_product_is_a_sound_family(name, check, monkeypatch) -> None:
    """The deepest product goes through all checks of families, the others through those of edits.

    What a product adds to its family are edits and a part of the observation. How episodes end, and
    that worlds are apart, is the family's.
    """
    checked_in_short(find_family(name), check, monkeypatch)


def test_a_product_has_one_name_and_its_parameters_in_one_order() -> None:
    one = find_family("half-cheetah-vel+sensor-bias+dynamics")
    two = find_family("half-cheetah-vel+dynamics+sensor-bias")
    assert one.name == two.name == "half-cheetah-vel+dynamics+sensor-bias"
    assert type(one) is type(two)
    names = [param.name for param in one.params]
    assert names == ["goal_velocity", "mass", "friction", "damping", "strength", "sensor_bias"]
    assert TaskDistribution(one).split("heldout", 5) == TaskDistribution(two).split("heldout", 5)


def test_splits_of_a_product_are_frozen() -> None:
    tasks = TaskDistribution(find_family("half-cheetah-vel+dynamics")).split("heldout", 20)
    assert Key(*tasks.values.view(np.int64).ravel().tolist()).uint64() == 5599216203095877500


def test_the_nominal_product_is_the_family_to_the_bit() -> None:
    plain = TaskWorlds("half-cheetah-vel", 3, 1)
    for name in ("dynamics", "latency", "sensor-bias", "dynamics+latency+sensor-bias"):
        got, expected = run(TaskWorlds(f"half-cheetah-vel+{name}", 3, 1)), run(plain)
        for one, two in zip(expected, got, strict=True):
            assert torch.equal(one, two), name


def test_dynamics_are_those_of_the_family_of_that_name() -> None:
    """The same physics under the same values, from another reward."""
    alone, product = find_family("half-cheetah-dynamics"), find_family("half-cheetah-dir+dynamics")
    assert alone.params == product.params[1:]
    values = {"mass": 1.7, "friction": 0.5, "damping": 0.6, "strength": 0.7}
    one = run(worlds_of(alone, TaskDistribution(alone).make(**values), 2))
    forward = TaskDistribution(product).make(direction=1.0, **values)
    two = run(worlds_of(product, forward, 2))
    assert torch.equal(one.qpos, two.qpos)
    assert torch.equal(one.reward, two.reward)  # forward: d·v is v


# --- products in Python and in files -----------------------------------------------------------


class Cart(TaskFamily):
    """A cart on a rail."""

    model = (Path(__file__).parents[2] / "docs/examples/my_robot.py").read_text().split('"""')[3]
    params = (Param("goal", Interval(-1.0, 1.0)),)
    variations = {  # noqa: RUF012
        name: Variation((Param(name, Interval(0.5, 2.0), edit=edit),))
        for name, edit in (
            ("payload", shift("body_mass", "cart")),
            ("drag", assign("dof_damping", "slide")),
            ("rail", scale("dof_damping")),
        )
    }

    def reward(self, sim, before, action, task):
        return -(sim.qpos[:, 0] - task["goal"]).abs()


def test_with_params() -> None:
    cart = Cart()
    gravity = Param("gravity", Interval(-11.0, -8.0), edit=assign("opt.gravity", index=2))
    wind = Param("head_wind", Interval(0.0, 1.0))
    one, two = with_params(cart, wind, gravity), with_params(with_params(cart, gravity), wind)
    assert one.name == two.name == "cart+gravity+head-wind"
    assert [param.name for param in one.params] == ["goal", "gravity", "head_wind"]
    assert TaskDistribution(one).split("train", 3) == TaskDistribution(two).split("train", 3)
    assert cart.params == Cart.params


def test_a_family_of_a_file_takes_variations(tmp_path: Path) -> None:
    (tmp_path / "robot.py").write_text(
        "from test_composition import Cart\nclass Mine(Cart): name = 'mine'\n"
    )
    family = find_family(f"{tmp_path}/robot.py:Mine+payload+latency")
    assert family.name == "mine+latency+payload"
    assert [param.name for param in family.params] == ["goal", "latency", "payload"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: find_family("half-cheetah-vel+dynamcs"),
         "'half-cheetah-vel' has no variation 'dynamcs' (did you mean 'dynamics'?); it takes "
         "dynamics, crippled, terrain, terrain-scan, command, history, latency, noise, push, "
         "sensor-bias, skills, switch, varying-latency, told"),
        (lambda: find_family("half-cheetah-vell+dynamics"), "did you mean 'half-cheetah-vel'"),
        (lambda: find_family("half-cheetah-vel+"), "no variation ''"),
        (lambda: find_family("point-goal+latency+latency"), "named twice (latency+latency)"),
        (lambda: find_family("half-cheetah-dynamics+dynamics"),
         "'half-cheetah-dynamics+dynamics': it has a parameter 'mass' already, with range [0.5"),
        (lambda: compose(Cart, ["drag", "rail"]),
         "'cart+drag+rail': parameters 'drag' and 'rail' both change dof_damping"),
        (lambda: with_params(Cart(), Param("goal", Interval(0, 1))),
         "'cart+goal': it has a parameter 'goal' already"),
        (lambda: with_params(Cart(), Param("latency", Interval(0, 1))),
         "'latency' is one of its variations: use find_family('cart+latency')"),
        (lambda: with_params(Cart(), "payload"), "with_params takes Params, not 'payload'"),
        (lambda: with_params(Cart, Param("mass", Interval(0, 1), edit=scale("body_mass", "kart"))),
         "'cart+mass', parameter 'mass': the model has no body 'kart' (did you mean 'cart'?)"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(make, words: str) -> None:
    with refused(words):
        make()


@pytest.mark.parametrize("name", every_family())
def test_every_family_has_its_products(name: str) -> None:
    """Each takes latency and sensor bias, and its own unless its parameters are those already.

    A terrain and commands are for robots that they fit. What goes together runs together, and the
    others, such as the second of two latencies, run after that.
    """
    taken = []
    for key in sorted(k for k, what in variations(family_class(name)).items() if not what.argument):
        try:
            assert family_class(f"{name}+{key}").name == f"{name}+{key}"
            taken.append(key)
        except UserError as error:
            assert "already" in str(error) or key in ("terrain", "command")  # noqa: PT017
    assert {"history", "latency", "noise", "push", "sensor-bias", "switch", "told"} <= {*taken}
    while taken:
        together, others = [], []
        for key in taken:
            try:
                family_class("+".join((name, *together, key)))
                together.append(key)
            except UserError as error:
                assert "already" in str(error)  # noqa: PT017
                others.append(key)
        worlds = TaskWorlds("+".join((name, *together)), 2, 1)
        assert worlds.family.name == "+".join((name, *together))
        assert torch.isfinite(worlds.step(torch.zeros(2, worlds.spec.action_size)).obs).all()
        taken = others


def test_a_leg_is_dead_on_the_way_to_the_goal() -> None:
    """Leg 1's motors have gear 0 in the world whose fault is 1, and 150 in the sound one."""
    family = find_family("ant-goal+crippled")
    assert [param.name for param in family.params] == ["goal_radius", "goal_angle", "fault"]
    distribution = TaskDistribution(family)
    rows = [distribution.make(goal_radius=2.0, fault=f).values for f in (0.0, 1.0)]
    tasks = type(distribution.nominal())(family.name, distribution.names, np.concatenate(rows))
    worlds = worlds_of(family, tasks)
    gears = [worlds.simulator.batch.get_model(i).actuator_gear[:, 0] for i in (0, 1)]
    assert gears[0].tolist() == [150.0] * 8
    assert sorted(gears[1].tolist()) == [0.0] * 2 + [150.0] * 6
    assert worlds.task["goal_radius"].tolist() == [2.0, 2.0]


def test_a_goal_on_terrain_is_that_goal_and_that_terrain() -> None:
    """At difficulty 0 the goal's family runs, without the height in its observation; a robot that
    fell goes on, as on the plane."""
    family = find_family("ant-goal+terrain")
    assert [param.name for param in family.params][2:] == ["ground", "difficulty"]
    task = TaskDistribution(family).make(goal_radius=1.0, difficulty=0.0)
    got = run(worlds_of(family, task, 2))
    plain = find_family("ant-goal")
    expected = run(worlds_of(plain, TaskDistribution(plain).make(goal_radius=1.0), 2))
    assert torch.equal(got.qpos, expected.qpos)
    assert torch.equal(got.reward, expected.reward)
    assert torch.equal(got.obs, torch.cat((expected.obs[..., :2], expected.obs[..., 3:]), dim=2))
    assert not got.terminated.any()
    fails = find_family("ant-dir+terrain")
    worlds = TaskWorlds(fails, 1, 1)
    worlds.simulator.qpos[0, 2] = 9.0
    assert fails.terminated(worlds.simulator).all()


@pytest.mark.parametrize("where", ["nowhere.at.all:RAIN", "metarl.tasks.composition:RAIN", "rain"])
def test_a_variation_that_cannot_be_imported_is_refused_in_one_line(where: str) -> None:
    bad = type("Bad", (Cart,), {"variations": {"rain": where}})
    with pytest.raises(UserError, match="family 'bad': variation 'rain' cannot be imported: "):
        variations(bad)


def test_every_family_takes_the_universal_variations() -> None:
    generic = [
        "command", "dynamics", "history", "latency", "noise", "push", "sensor-bias", "skills",
        "switch", "terrain", "varying-latency", "told",
    ]  # fmt: skip
    assert list(variations(Cart)) == ["payload", "drag", "rail", *generic]


# --- runs --------------------------------------------------------------------------------------

FLAGS = [
    "--tasks-per-iteration", "2", "--rollouts-per-task", "2", "--evaluate-tasks", "2",
    "--threads", "1",
]  # fmt: skip


def test_a_product_trains_resumes_and_is_evaluated(tmp_path, capsys) -> None:
    """What happens within episodes, too, comes to the same bits in a run that was cut."""
    name = "point-goal+sensor-bias+latency+history+noise+push+switch"
    whole, half = tmp_path / "whole", tmp_path / "half"
    start = ["train", name, "maml-trpo", *FLAGS]
    assert cli.main([*start, "--iterations", "2", "--out", str(whole)]) == 0
    assert cli.main([*start, "--iterations", "1", "--out", str(half)]) == 0
    assert cli.main(["train", "--resume", str(half), "--iterations", "2"]) == 0
    one, two = (next(run.glob("checkpoints/step_*2")) for run in (whole, half))
    weights = "weights.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()
    assert cli.main(["evaluate", str(half), "--tasks", "2", "--episodes", "1"]) == 0
    assert "point-goal+history+latency+noise+push+sensor-bias+switch" in capsys.readouterr().out
    assert cli.main(["adapt", str(half), "--set", "latency=0.03", "--episodes", "0"]) == 0
    assert "latency=0.03" in capsys.readouterr().out
    assert cli.main(["adapt", str(half), "--set", "latency=1", "--episodes", "0"]) == 2
    assert "latency must be from 0 to 0.1 s" in capsys.readouterr().err
