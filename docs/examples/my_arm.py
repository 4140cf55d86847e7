"""Two robots that say what actions are: an arm with a PD of its own, a hand without motors."""

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
HAND = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="2 2 .1"/>
    <body name="hand" mocap="true" pos="0 0 .3"/>
    <body name="load" pos="0 0 .3"><freejoint/><geom size=".05" mass=".2"/></body>
  </worldbody>
  <equality><connect body1="hand" body2="load" anchor="0 0 0"/></equality>
</mujoco>
"""


class MyArm(TaskFamily):
    """Hold the hand at a place that only the reward reveals, with an unknown payload."""

    model = ARM
    frame_skip = 10
    horizon = 60
    targets = position_targets(1.2, around="home")
    actions = low_pass(8.0, torques(kp=12.0, kd=0.6, effort={"*": 2.0, "shoulder": 4.0},
                                    targets=targets))  # fmt: skip
    reward_weights = {"effort": -0.01, "speed": -0.02}  # noqa: RUF012
    params = (
        Param("payload", Interval(0.0, 0.5), edit=shift("body_mass", "lower"), unit="kg"),
        Param("strength", Interval(0.2, 1.0), edit=scale("actuator_forcerange")),
        Param("goal_x", Interval(0.2, 0.5), unit="m"),
        Param("goal_y", Interval(-0.3, 0.3), unit="m"),
    )

    def reward(self, sim, before, action, task):
        """Return the terms by name; they are added, each times its weight or 1."""
        goal = torch.stack((task["goal_x"], task["goal_y"]), 1)
        distance = (sim.bind("site_xpos")[:, 0, :2] - goal).norm(dim=1)
        return {
            "reach": 1.0 - (distance / 0.1).tanh(),
            "effort": sim.bind("actuator_force").square().sum(1),
            "speed": sim.qvel.square().sum(1),
        }


class MyHand(TaskFamily):
    """Carry a load of unknown mass to a place; actions are velocities of a hand without motors."""

    model = HAND
    frame_skip = 4
    horizon = 50
    action_size = 3
    params = (
        Param("mass", Interval(0.5, 4.0, log=True), edit=scale("body_mass", "load")),
        Param("goal", Interval(-0.3, 0.3), unit="m", size=2, doc="where to carry it"),
    )

    def initial_state(self, sim, ids, rng):
        """Hang the load at rest, at one place or another."""
        place = rng.uniform(-0.2, 0.2, 2)
        sim.qpos[ids, :2] = place
        sim.bind("mocap_pos")[ids, 0, :2] = place

    def act(self, sim, action, task):
        """Move the hand by up to 1 m/s, above the ground."""
        hand = sim.bind("mocap_pos")[:, 0]
        hand += self.dt * action
        hand[:, 2] = hand[:, 2].clamp(0.1, 0.5)

    def reward(self, sim, before, action, task):
        """Return minus the load's distance from the goal, in m."""
        return -(sim.qpos[:, :2] - task["goal"]).norm(dim=1)
