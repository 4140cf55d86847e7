"""What is said of a model's numbers, and of the joint that blew up."""

from dataclasses import dataclass

import mujoco
import pytest
import torch

from metarl import Interval, Param, TaskWorlds, UserError, shift
from metarl.check.suite import CheckError, check_finite, check_model
from metarl.simulation.model_faults import advice, explain, nonfinite
from metarl.simulation.simulator import Simulator
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family, list_families

ARM = """<mujoco>{extra}<worldbody><body name="link"><joint name="a" axis="0 1 0" {joint}/>
<geom name="rod" type="capsule" fromto="0 0 0 0 0 {length}" size=".02" mass="{mass}" {geom}/></body>
</worldbody><actuator>{motor}</actuator></mujoco>"""


@dataclass
class Arm:
    """An arm of 1 kg and 0.5 m whose torque is at most 1 N m, unless a part is given otherwise."""

    motor: str = '<motor joint="a"/>'
    joint: str = ""
    geom: str = ""
    extra: str = ""
    mass: str = "1"
    length: str = ".5"

    def model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(ARM.format(**vars(self)))


TENDON = '<tendon><fixed name="t"><joint joint="a" coef="1e6"/></fixed></tendon>'


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm(), "nothing in the model stands out, so lower its timestep (now 0.002 s)"),
        (Arm('<motor joint="a" ctrlrange="-2e6 2e6"/>'), "joint 'a' has ctrlrange ±2e+06"),
        (Arm('<motor name="m" joint="a" ctrlrange="0 2e6"/>'), "actuator 'm' has ctrlrange 0 to"),
        (Arm('<motor joint="a" gear="1e7" ctrlrange="-1 1"/>'), "has gear 1e+07"),
        (Arm('<motor tendon="t" ctrlrange="-1 1"/>', extra=TENDON), "has gear 1e+06"),
        (Arm('<position joint="a" kp="80" kv="4"/>', mass=".001", length=".01"),
         "has kp 80 and kv 4 on an inertia of"),
        (Arm('<position joint="a" kp="80"/>', mass=".001", length=".01"), "armature 0"),
        (Arm('<velocity joint="a" kv="1e4"/>'), "has kv 10000 on"),
        (Arm('<position joint="a" kp="-5"/>'), "negative kp (-5)"),
        (Arm(joint='damping="-3"'), "joint 'a' has a negative damping (-3)"),
        (Arm(joint='stiffness="1e7"'), "joint 'a' has stiffness 1e+07"),
        (Arm(mass="1e-6", length=".001"), "moves an inertia of only"),
        (Arm(geom='solref="-1e9 -10"'), "geom 'rod' has solref -1e+09 -10"),
        (Arm(extra='<option gravity="0 0 -9810"/>'), "gravity is 9810"),
        (Arm(extra='<option timestep="0.5"/>'), "the timestep is 0.5 s: lower it"),
    ],
)  # fmt: skip
def test_what_stands_out_is_named(arm: Arm, words: str) -> None:
    assert words in advice(arm.model(), 0)


@pytest.mark.parametrize(
    "arm",
    [
        Arm('<motor joint="a" ctrlrange="-2e6 2e6" forcelimited="true" forcerange="-5 5"/>'),
        Arm('<position joint="a" kp="80" kv="4"/>', joint='armature="0.1"', mass=".001"),
        Arm('<velocity joint="a" kv="1e4"/>', extra='<option integrator="implicitfast"/>'),
    ],
)
def test_what_is_sound_is_not_blamed(arm: Arm) -> None:
    """A force range, armature and an implicit integrator make each of the above harmless."""
    assert "nothing in the model stands out" in advice(arm.model(), 0)


def test_the_robots_that_come_with_metarl_are_sound() -> None:
    for family in map(find_family, list_families()):
        model = family.compile()
        assert nonfinite(model) == ""
        assert all("nothing" in advice(model, joint) for joint in range(model.njnt)), family.name


def test_another_joint_is_looked_at_if_the_one_that_moved_is_sound() -> None:
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body><joint name="a"/><geom size=".1"/><body><joint name="b" '
        'damping="-1"/><geom size=".1"/></body></body></worldbody></mujoco>'
    )
    assert "joint 'b' has a negative damping" in advice(model, 0)


W = mujoco.mjtWarning


@pytest.mark.parametrize(
    ("warning", "info", "words"),
    [
        (W.mjWARN_BADQACC, 0, "joint 'root' has an acceleration"),
        (W.mjWARN_BADQVEL, 6, "joint 'hip' has a velocity"),
        (W.mjWARN_BADQPOS, 7, "joint 'hip' has a position"),
        (W.mjWARN_INERTIA, 7, "the joint of body 'foot' has an inertia"),
        (W.mjWARN_BADCTRL, 1, "the actuator of joint 'hip' was given a control"),
        (W.mjWARN_CONTACTFULL, 3, "<size memory=…>"),
    ],
)
def test_what_mujoco_warns_of_in_words(warning: int, info: int, words: str) -> None:
    """The free joint has degrees of freedom 0 to 5 and positions 0 to 6."""
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body><freejoint name="root"/><geom size=".1"/><body pos="0 0 1">'
        '<joint name="hip"/><geom size=".1"/><body name="foot"><joint/><geom size=".1"/></body>'
        '</body></body></worldbody><actuator><motor name="m" joint="hip"/><motor joint="hip"/>'
        "</actuator></mujoco>"
    )
    assert words in explain(model, int(warning), info)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm('<motor joint="a" gear="nan"/>'), "actuator_gear of the actuator of joint 'a'"),
        (Arm('<motor name="m" joint="a" gear="inf"/>'), "actuator_gear of actuator 'm' is not"),
        (Arm('<motor joint="a" ctrlrange="-inf inf" ctrllimited="true"/>'), "actuator_ctrlrange"),
        (Arm('<position joint="a" kp="nan"/>'), "actuator_biasprm of"),
        (Arm(joint='damping="nan"'), "dof_damping of joint 'a' is not finite (nan)"),
        (Arm(joint='armature="inf"'), "dof_armature of joint 'a' is not finite (inf)"),
        (Arm(joint='stiffness="nan"'), "jnt_stiffness of joint 'a'"),
        (Arm(joint='ref="nan"'), "qpos0 of joint 'a'"),
        (Arm(joint='range="0 inf" limited="true"'), "jnt_range of joint 'a'"),
        (Arm(geom='friction="nan 0 0"'), "geom_friction of geom 'rod'"),
        (Arm(geom='solref="nan 1"'), "geom_solref of geom 'rod'"),
        (Arm(extra='<option wind="0 0 nan"/>'), "opt.wind"),
        (Arm(extra='<option density="inf"/>'), "opt.density"),
    ],
)  # fmt: skip
def test_a_number_that_is_not_finite_is_named(arm: Arm, words: str) -> None:
    assert words in nonfinite(arm.model())


def test_a_simulator_counts_what_is_to_blame() -> None:
    class Light(TaskFamily):
        model = ARM.format(**vars(Arm('<position joint="a" kp="80"/>', mass=".001", length=".01")))

    sim = Simulator(Light().compile(), 3)
    sim.ctrl[1] = 1.0
    sim.qpos[1] = 1e-3
    for _ in range(50):
        diverged = sim.step(1)
        if diverged.any():
            break
    assert diverged.tolist() == [False, True, False]
    (((warning, info), (count, world)),) = sim.blame.items()
    assert (warning, info, count, world) == (int(W.mjWARN_BADQACC), 0, 1, 1)
    sim.reset(torch.tensor([1]))
    sim.qvel[2] = 1e12
    sim.step(1)
    assert sim.blame[int(W.mjWARN_BADQVEL), 0] == (1, 2)


BOXES = """<mujoco><size memory="{memory}"/><worldbody><geom type="plane" size="5 5 .1"/>
<body name="one" pos="0 0 .3"><freejoint/><geom type="box" size=".1 .1 .1" mass="1"/>
<site name="s"/></body><body pos="0 0 .6"><freejoint/>
<geom type="box" size=".1 .1 .1" mass="1"/></body></worldbody>
<actuator><motor site="s" gear="1 0 0 0 0 0"/></actuator></mujoco>"""


def boxes(memory: str, *params: Param) -> TaskFamily:
    """Two boxes that fall on each other, in an arena of that size."""
    body = {
        "name": "boxes", "model": BOXES.format(memory=memory), "horizon": 40,
        "params": params or (Param("goal", Interval(-1, 1)),),
        "reward": lambda self, sim, before, action, task: sim.qpos[:, 0],
    }  # fmt: skip
    return type("Boxes", (TaskFamily,), body)()


@pytest.mark.parametrize(("memory", "size"), [("6K", 6144), ("20K", 20480)])
def test_an_arena_that_is_full_is_no_matter_of_the_timestep(memory: str, size: int) -> None:
    words = f"the arena of MuJoCo, {size} bytes, is too small"
    with pytest.raises(CheckError, match=f"diverged at step .*{words}.*give the model a larger"):
        check_finite(boxes(memory))


def test_an_arena_that_is_too_small_to_compile_in_is_named() -> None:
    with pytest.raises(UserError, match="does not compile: the arena of MuJoCo, 1024 bytes"):
        boxes("1K")


def test_an_edit_that_mujoco_refuses_is_told_of_the_body_by_name() -> None:
    family = boxes("1M", Param("com", Interval(-0.05, 0.05), edit=shift("body_ipos", "one")))
    words = "MuJoCo refuses an edit.*: body 'one' is compiled as simple.* write simple='false'"
    with pytest.raises(CheckError, match=words):
        check_model(family)
    with pytest.raises(UserError, match=words):
        TaskWorlds(family, 1, 1).set_tasks(family.distribution.make(com=0.05), 1)
