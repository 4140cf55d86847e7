"""Two robots that say what their actions are: an arm with PD of its own, a gripper on a mocap body."""

import torch

from metarl import Interval, Param, TaskFamily, low_pass, position_targets, scale, shift, torques

ARM = """
<mujoco>
  <option timestep="0.002" gravity="0 0 0"/>
  <worldbody>
    <body name="upper">
      <joint name="shoulder" axis="0 0 1" range="-170 170" damping=".1"/>
      <geom type="capsule" size=".02" fromto="0 0 0 .3 0 0" mass=".5"/>
      <body name="lower" pos=".3 0 0">
        <joint name="elbow" axis="0 0 1" range="-150 150" damping=".1"/>
        <geom type="capsule" size=".02" fromto="0 0 0 .3 0 0" mass=".3"/>
        <site name="hand" pos=".3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder"/><motor joint="elbow"/></actuator>
  <keyframe><key name="home" qpos=".5 -1"/></keyframe>
</mujoco>
"""
TABLE = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="1 1 .1"/>
    <body name="hand" mocap="true" pos="0 0 .1"/>
    <body name="load" pos="0 0 .1">
      <freejoint/>
      <geom type="sphere" size=".03" mass=".2"/>
    </body>
  </worldbody>
  <equality><weld name="grip" body1="hand" body2="load" solref=".05 1"/></equality>
  <actuator><general name="x" body="load"/><general name="y" body="load"/></actuator>
</mujoco>
"""


class MyArm(TaskFamily):
    """Hold the hand at a place that only the reward reveals, with an unknown payload."""

    model = ARM
    frame_skip = 10
    horizon = 60
    actions = low_pass(8.0, torques(kp=12.0, kd=0.6, effort={"shoulder": 4.0, "*": 2.0},
                                    targets=position_targets(1.2, around="home")))  # fmt: skip
    reward_weights = {"effort": -0.01, "speed": -0.02}
    params = (
        Param("payload", Interval(0.0, 0.5), edit=shift("body_mass", "lower"), unit="kg"),
        Param("strength", Interval(0.6, 1.0), edit=scale("actuator_forcerange")),
        Param("goal_x", Interval(0.2, 0.5), unit="m"),
        Param("goal_y", Interval(-0.3, 0.3), unit="m"),
    )

    def reward(self, sim, before, action, task):
        """Return the terms by name; `reward_weights` weights them, and they are added up."""
        goal = torch.stack((task["goal_x"], task["goal_y"]), 1)
        distance = (sim.bind("site_xpos")[:, 0, :2] - goal).norm(dim=1)
        return {
            "reach": 1.0 - (distance / 0.1).tanh(),
            "effort": sim.bind("actuator_force").square().sum(1),
            "speed": sim.qvel.square().sum(1),
        }
