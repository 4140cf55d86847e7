"""A point robot on a plane that must find a goal it cannot see. It trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl import Interval, Param, TaskFamily
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend, State

MJCF = """
<mujoco model="point">
  <option timestep="0.02"><flag contact="disable" gravity="disable"/></option>
  <asset>
    <texture name="floor" type="2d" builtin="checker" width="256" height="256"
             rgb1=".62 .66 .72" rgb2=".70 .74 .80"/>
    <material name="floor" texture="floor" texrepeat="8 8" specular="0"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1" directional="true" diffuse=".4 .4 .4"/>
    <geom name="floor" type="plane" size="4 4 .1" material="floor"/>
    <body name="robot" pos="0 0 .05">
      <joint name="x" type="slide" axis="1 0 0" damping="4"/>
      <joint name="y" type="slide" axis="0 1 0" damping="4"/>
      <geom name="robot" type="sphere" size=".05" mass="1" rgba=".2 .4 .8 1"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="x" joint="x" gear="8" ctrllimited="true" ctrlrange="-1 1"/>
    <motor name="y" joint="y" gear="8" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


class PointGoal(TaskFamily):
    """Go to a goal on the plane that only the reward reveals: −‖xy − g‖ (m)."""

    name = "point-goal"
    model = MJCF
    frame_skip = 5
    horizon = 20
    params = (
        Param("goal_x", Interval(-1.0, 1.0), ood=(Interval(1.0, 1.25),), unit="m",
              doc="goal, forward"),
        Param("goal_y", Interval(-1.0, 1.0), ood=(Interval(1.0, 1.25),), unit="m",
              doc="goal, left"),
    )  # fmt: skip

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Start at rest within 1 cm of the origin."""
        sim.qpos[ids] = rng.uniform(-0.01, 0.01, 2)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) minus the distance to the goal in metres."""
        goal = torch.stack((task["goal_x"], task["goal_y"]), dim=1)
        return -torch.linalg.vector_norm(sim.qpos - goal, dim=1)
