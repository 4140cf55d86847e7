"""A cart that must find out where to stop, with an unknown payload and unknown grip."""

from metarl import Interval, Param, TaskFamily, scale, shift

MJCF = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 1 .1"/>
    <body name="cart" pos="0 0 .1">
      <joint name="slide" type="slide" axis="1 0 0" damping="2"/>
      <geom name="box" type="box" size=".2 .1 .05" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="slide" gear="10" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class MyRobot(TaskFamily):
    """Stop at a place that only the reward reveals."""

    model = MJCF
    frame_skip = 5
    horizon = 40
    params = (
        Param("payload", Interval(0.0, 2.0), ood=(Interval(2.0, 3.0),),
              edit=shift("body_mass", "cart"), unit="kg", doc="mass on the cart"),
        Param("drag", Interval(0.5, 2.0, log=True), edit=scale("dof_damping", "slide"),
              doc="scale of the rolling resistance"),
        Param("goal", Interval(-1.0, 1.0), unit="m", doc="where to stop"),
    )  # fmt: skip

    def reward(self, sim, before, action, task):
        """Return minus the distance to the goal, in metres."""
        return -(sim.qpos[:, 0] - task["goal"]).abs()
