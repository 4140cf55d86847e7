"""From action to control: by hand, against a loop of mj_step, and from episode to episode."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from helpers.refusals import refused

from metarl import (
    Interval,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    UserError,
    find_family,
    increments,
    low_pass,
    position_targets,
    torques,
)
from metarl.adapters import GymEnv, GymVectorEnv, SB3VecEnv
from metarl.check.plain_loop import check_plain_loop
from metarl.check.plain_physics import first_difference
from metarl.check.suite import CheckError, check_family, check_repeats
from metarl.simulation.actions import Controller

ROBOT = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="hip" axis="0 1 0" range="-60 60" armature=".01"/>
      <geom type="capsule" size=".02" fromto="0 0 0 0 0 -.3" mass="1"/>
      <body pos="0 0 -.3">
        <joint name="left_knee" axis="0 1 0" range="-150 0" armature=".01"/>
        <geom type="capsule" size=".02" fromto="0 0 0 0 0 -.3" mass=".5"/>
      </body>
    </body>
  </worldbody>
  <actuator>{actuators}</actuator>
  <keyframe><key name="home" qpos=".3 -1"/><key name="low" qpos="0 -2"/></keyframe>
</mujoco>
"""
MOTORS = '<motor joint="hip" gear="30" ctrlrange="-1 1"/><motor name="knee" joint="left_knee"/>'
SERVOS = '<position joint="hip" kp="9" kv="1"/><position name="knee" joint="left_knee" kp="9"/>'
PASSIVE = '<damper joint="hip" kv="1" ctrlrange="0 1"/><motor joint="left_knee" ctrlrange="-2 2"/>'
PD = torques(9.0, (0.5, 0.25), {"*": 4.0, "k*": 2.0}, position_targets(0.5))


def robot(actuators: str, **members: object) -> type[TaskFamily]:
    """A leg whose tasks differ in a goal that pays for the hip's angle."""

    def reward(self, sim, before, action, task):
        return -(sim.qpos[:, 0] - task["goal"]).abs()

    fixed = {"name": "leg", "model": ROBOT.format(actuators=actuators), "frame_skip": 5}
    fixed |= {"horizon": 20, "params": (Param("goal", Interval(-1.0, 1.0)),), "reward": reward}
    return type("Leg", (TaskFamily,), {**fixed, **members})


def controls(family: type[TaskFamily], *actions: float) -> list[list[float]]:
    """The controls of one world in each step, rounded; every actuator has the same action."""
    worlds, told = TaskWorlds(family(), 1, 1), []
    for action in actions:
        worlds.step(torch.full((1, worlds.spec.action_size), action))
        told.append([round(float(u), 9) for u in worlds.simulator.ctrl[0]])
    return told


HIP, KNEE = math.pi / 3, math.pi * 5 / 6
ALPHA = 1 - math.exp(-2 * math.pi * 4.0 * 0.05)


@pytest.mark.parametrize(
    ("actuators", "declared", "expected"),
    [
        (SERVOS, position_targets(0.5), [[0.3, -1.0], [0.8, -0.5], [-0.2, -1.5]]),
        (SERVOS, position_targets({"*": 1.0, "hip": 0.1}), [[0.3, -1], [0.4, 0], [0.2, -2]]),
        (SERVOS, position_targets((2.0, 0.1), "low"), [[0, -2], [HIP, -1.9], [-HIP, -2.1]]),
        (SERVOS, position_targets(1.0, (0.1, -2.0)), [[0.1, -2], [HIP, -1], [-0.9, -KNEE]]),
        (SERVOS, increments(0.4), [[0.3, -1.0], [0.7, -0.6], [0.3, -1.0]]),
        (PASSIVE, increments(0.3), [[0.5, 0.0], [0.8, 0.3], [0.5, 0.0]]),
        (MOTORS, low_pass(4.0), [[0, 0], [ALPHA] * 2, [ALPHA - ALPHA * (1 + ALPHA)] * 2]),
        (MOTORS, torques(9, 1, 3), [[0, -KNEE / 2], [HIP, 0], [-HIP, -KNEE]]),
        (MOTORS, low_pass(4.0, PD), [[0.3, -1], [0.3 + 0.5 * ALPHA, -1 + 0.5 * ALPHA],
                                     [0.3 - 0.5 * ALPHA**2, -1 - 0.5 * ALPHA**2]]),
    ],
    ids=["targets", "by-name", "keyframe", "around", "increments", "middle", "filter", "range",
         "all"],
)  # fmt: skip
def test_commands_of_actions_by_hand(actuators, declared, expected) -> None:
    """Of the actions 0, 1 and -1 in turn; the joints' ranges are 60 and 150 degrees."""
    got = controls(robot(actuators, actions=declared), 0.0, 1.0, -1.0)
    np.testing.assert_allclose(got, expected, atol=2e-9)


@pytest.mark.parametrize(
    ("home", "expected"), [({"hip": 0.5, "*_knee": -0.2}, [0.5, -0.2]), ("low", [0.0, -2.0])]
)
def test_targets_are_around_the_home_of_the_family(home, expected) -> None:
    """Also where the model has a keyframe of that name; the plain loop agrees."""
    family = robot(SERVOS, actions=position_targets(0.5), home=home, reset_noise=0.0)
    assert controls(family, 0.0) == [expected]
    check_plain_loop(family())


def test_a_filter_s_step_response_is_an_exponential_of_time() -> None:
    got = controls(robot(MOTORS, actions=low_pass(2.0)), *[1.0] * 12)
    expected = [1 - math.exp(-2 * math.pi * 2.0 * 0.05 * n) for n in range(1, 13)]
    np.testing.assert_allclose([u for u, _ in got], expected, atol=2e-9)


def test_torques_compile_to_the_actuators_of_a_model_that_says_so() -> None:
    """Field by field, with what MuJoCo derives of them."""
    written = "".join(
        f'<general {what} biastype="affine" gainprm="9" biasprm="0 -9 -{kd}" '
        f'forcerange="-{effort} {effort}"/>'
        for what, kd, effort in (
            ('joint="hip"', 0.5, 4), ('joint="left_knee" name="knee"', 0.25, 2)
        )
    )  # fmt: skip
    expected = mujoco.MjModel.from_xml_string(ROBOT.format(actuators=written))
    assert first_difference(robot(MOTORS, actions=PD)().compiled, expected) == ""


def test_torques_are_a_pd_at_the_physics_rate() -> None:
    """Against motors of gear 1 that a loop in Python tells their torque before each mj_step."""
    family = robot(MOTORS, actions=PD, frame_skip=7, reset_noise=0.3)()
    worlds = TaskWorlds(family, 3, 1)
    plain = ROBOT.format(actuators='<motor joint="hip"/><motor joint="left_knee"/>')
    model = mujoco.MjModel.from_xml_string(plain)
    loops = [mujoco.MjData(model) for _ in range(3)]
    worlds.reset()
    for data, qpos, qvel in zip(loops, worlds.simulator.qpos, worlds.simulator.qvel, strict=True):
        data.qpos[:], data.qvel[:] = qpos.numpy(), qvel.numpy()
    generator, limited = torch.Generator().manual_seed(0), 0
    for _ in range(15):
        action = 2 * torch.rand(3, 2, generator=generator) - 1
        worlds.step(action)
        for i, data in enumerate(loops):
            target = np.array([0.3, -1.0]) + 0.5 * action[i].double().numpy()
            target = np.clip(target, np.radians([-60, -150]), np.radians([60, 0]))
            for _ in range(7):
                torque = 9 * (target - data.qpos) - np.array([0.5, 0.25]) * data.qvel
                data.ctrl[:] = torque.clip([-4, -2], [4, 2])
                limited += (data.ctrl != torque).sum()
                mujoco.mj_step(model, data)
            np.testing.assert_allclose(worlds.simulator.qpos[i], data.qpos, atol=1e-9)
    assert limited > 10


def test_memory_begins_anew_with_the_episode_of_each_world() -> None:
    family = robot(SERVOS, actions=low_pass(4.0, increments(0.1)), horizon=3)()
    worlds, one = TaskWorlds(family, 3, 1), torch.ones(3, 2)
    for _ in range(2):
        worlds.step(one)
    worlds.reset(torch.tensor([1]))
    assert worlds.simulator.ctrl[1].tolist() == pytest.approx([0.3, -1.0])
    seen = [worlds.step(one) and worlds.simulator.ctrl[:, 0].clone() for _ in range(4)]
    once = 0.3 + 0.1 * ALPHA
    assert seen[0][1] == pytest.approx(once)
    assert seen[0][0] == pytest.approx(0.3)  # the horizon came: at rest again
    assert seen[1][[0, 2]].tolist() == pytest.approx([once] * 2)
    assert seen[3][1] == pytest.approx(once)  # its horizon came two steps later
    bad = one.clone()
    bad[2] = torch.nan
    assert worlds.step(bad).diverged.tolist() == [False, False, True]
    worlds.step(one)
    assert worlds.simulator.ctrl[2, 0] == pytest.approx(once)


def test_views_show_what_worlds_do() -> None:
    """gymnasium's and SB3's, through three episodes and a reset of one world."""
    family = robot(SERVOS, actions=low_pass(4.0, increments(0.3)), horizon=7, reset_noise=0.0)()
    worlds, task = TaskWorlds(family, 2, 1), {"goal": 0.5}
    worlds.set_tasks(TaskDistribution(family).make(**task), 2)
    worlds.reset()
    many, sb3 = GymVectorEnv(family, 2, task), SB3VecEnv(family, 2, task)
    one = GymEnv(family, task)
    for env in (many, sb3, one):
        env.reset()
    rng = np.random.default_rng(0)
    for t in range(20):
        action = np.repeat(rng.uniform(-1, 1, (1, 2)), 2, 0).astype(np.float32)
        got = worlds.step(torch.from_numpy(action))
        for obs in (many.step(action)[0], sb3.step(action)[0]):
            assert obs.tobytes() == got.obs.numpy().tobytes()
        obs, _, _, over, _ = one.step(action[0])
        assert obs.tobytes() == got.next_obs[0].numpy().tobytes()
        if over:
            one.reset()
        if t == 9:
            mask = np.array([False, True])
            worlds.reset(torch.from_numpy(mask))
            many.reset(options={"reset_mask": mask})
            sb3.env.reset(options={"reset_mask": mask})


def test_late_motors_hold_the_pose_until_the_first_command_comes() -> None:
    family = find_family(f"{ARM}+latency")
    worlds = TaskWorlds(family, 1, 1)
    worlds.set_tasks(TaskDistribution(family).make(latency=0.04), 1)
    worlds.reset()
    sim = worlds.simulator
    sim.qpos[:], sim.qvel[:] = torch.tensor([0.5, -1.0]), 0.0
    moved = []
    for _ in range(3):  # of 0.02 s
        worlds.step(torch.ones(1, 2))
        moved.append(float(sim.qvel.abs().max()))
    assert moved[0] < 1e-12  # and to the motors 0 would have been half a radian away
    assert moved[2] > 0.1


# --- a method of the family's own ---------------------------------------------------------------

ARM = f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'my_arm.py'}:MyArm"


def pushing(self, sim, action, task):
    sim.bind("qfrc_applied")[:, 0] = 2.0 * action[:, 1] + task["goal"]
    sim.ctrl[:, 1] = -sim.ctrl[:, 0]


def moving(self, sim, action, task):
    sim.qpos[:, 0] += 0.01 * action[:, 0]


class Counted:
    calls = 0


def counting(self, sim, action, task):
    Counted.calls += 1
    sim.ctrl[:] = 0.01 * Counted.calls


def test_act_drives_the_step_to_come() -> None:
    """It sees the controls that `actions` set, and the physics what it made of them."""
    worlds = TaskWorlds(robot(MOTORS, act=pushing, actions=low_pass(4.0))(), 2, 1)
    sim = worlds.simulator
    data = mujoco.MjData(sim.model)
    data.qpos[:], data.qvel[:] = sim.qpos[0].numpy(), sim.qvel[0].numpy()
    worlds.step(torch.tensor([[0.5, 1.0], [0.0, 0.0]]))
    data.ctrl[:] = 0.5 * ALPHA, -0.5 * ALPHA
    data.qfrc_applied[0] = 2.0 + float(worlds.task["goal"][0])
    mujoco.mj_step(sim.model, data, 5)
    np.testing.assert_allclose(sim.qpos[0], data.qpos, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "members",
    [
        {"actions": low_pass(3.0, increments(0.2, (0.1, -1))), "act": pushing},
        {"actions": low_pass(3.0, low_pass(4.0, PD))},
    ],
    ids=["increments", "torques"],
)
def test_a_family_passes_every_check(members) -> None:
    """So its bits are those of any number of threads, of a second run, and of the plain loop."""
    lines: list[str] = []
    assert check_family(robot(SERVOS, **members), lines.append) == 0, lines


@pytest.mark.parametrize(
    ("act", "check", "says"),
    [(moving, check_plain_loop, "left a plain mj_step loop at step 1"),
     (counting, check_repeats, "a second run from the same seed differs")],
    ids=["moving", "counting"],
)  # fmt: skip
def test_an_act_that_does_more_fails_a_check(act, check, says) -> None:
    with pytest.raises(CheckError, match=says):
        check(robot(SERVOS, act=act)())


@pytest.mark.parametrize("member", ["reset", "__call__"])
def test_the_plain_loop_finds_a_controller_at_fault(member, monkeypatch) -> None:
    """One that remembers the episode before, and one whose filters come in another order."""
    own = getattr(Controller, member)

    def wrong(self, given):
        if member == "__call__":
            own(self, given)
            self._held[-1].mul_(0.999)

    monkeypatch.setattr(Controller, member, wrong)
    with pytest.raises(CheckError, match="has controls"):
        check_plain_loop(robot(SERVOS, actions=low_pass(4.0, increments(0.3)), horizon=9)())


# --- what cannot be -----------------------------------------------------------------------------

TENDON = '<motor joint="hip"/><general name="knee" joint="left_knee" dyntype="integrator"/>'


@pytest.mark.parametrize(
    ("actuators", "members", "says"),
    [
        (SERVOS, {"actions": 0.3}, "actions must be position_targets(…), increments(…)"),
        (MOTORS, {"actions": position_targets(0.3)}, "'hip' does not: torques() makes such ones"),
        (SERVOS, {"actions": position_targets((1, 2, 3))}, "scale: 3 numbers for 2 actuators"),
        (SERVOS, {"actions": position_targets("x")}, "scale must be a number, one for each"),
        (SERVOS, {"actions": position_targets({"hop": 1})}, "'hop' matches no actuator (did"),
        (SERVOS, {"actions": position_targets({"h*": 1})}, "no pattern matches actuator 'knee'"),
        (SERVOS, {"actions": position_targets(math.inf)}, "scale must be a number"),
        (SERVOS, {"actions": position_targets(1, "hom")}, "'hom' (did you mean 'home'?)"),
        (SERVOS, {"actions": position_targets(1, (2, 0))}, "around: 2 is outside the control"),
        (MOTORS, {"actions": increments(0.1)}, "a control range, and actuator 'knee'"),
        (MOTORS, {"actions": torques(0, 1, 1)}, "torques(): kp must be positive, not 0"),
        (MOTORS, {"actions": torques(1, -1, 1)}, "torques(): kd must be 0 or more, not -1"),
        (MOTORS, {"actions": torques(1, 1, (1, 0))}, "torques(): effort must be positive, not 0"),
        (TENDON, {"actions": torques(1, 1, 1)}, "one hinge or slide joint each, without dynamics"),
        (MOTORS, {"actions": low_pass(-1.0)}, "above 0 and below 10 Hz, half the rate"),
        (MOTORS, {"actions": low_pass(10.0)}, "above 0 and below 10 Hz"),
        (MOTORS, {"actions": low_pass("5")}, "not '5'"),
        (MOTORS, {"action_size": 2}, "its action_size needs an act() that uses it"),
        (MOTORS, {"action_size": 0, "act": pushing}, "must be from 1 to 10000, not 0"),
        (MOTORS, {"action_size": 2, "act": pushing, "actions": PD}, "act() alone says"),
        (MOTORS, {"act": lambda self, sim: None}, "act must take (self, sim, action, task)"),
    ],
    ids=range(21),
)  # fmt: skip
def test_a_bad_declaration_is_one_line(actuators, members, says) -> None:
    with refused(says) as error:
        robot(actuators, **members)()
    assert str(error.value).startswith("family 'leg'")


def test_torques_are_not_nested() -> None:
    with pytest.raises(UserError, match="cannot be within"):
        torques(1, 1, 1, low_pass(3.0, PD))
