"""Small robots of the kinds that people have, written for the tests: no floor, pose or names more
than each kind usually comes with."""

from __future__ import annotations

import torch

from metarl import Interval, Param, TaskFamily

ARM = """<mujoco model="arm"><option integrator="implicitfast" timestep=".004"/>
<default><joint armature=".05" damping=".5" range="-120 120"/>
<position kp="80" kv="8" forcerange="-40 40"/><geom contype="0" conaffinity="0"/></default>
<worldbody><body name="base"><geom type="cylinder" size=".1 .1"/>
<body name="upper" pos="0 0 .2"><joint name="shoulder" axis="0 1 0"/>
<geom type="capsule" size=".04" fromto="0 0 0 0 0 .4" mass="2"/>
<body name="fore" pos="0 0 .4"><joint name="elbow" axis="0 1 0"/>
<geom type="capsule" size=".03" fromto="0 0 0 0 0 .3" mass="1"/><site name="tip" pos="0 0 .3"/>
</body></body></body></worldbody>
<actuator><position name="shoulder" joint="shoulder" ctrlrange="-2 2"/>
<position name="elbow" joint="elbow" ctrlrange="-2 2"/></actuator>
<sensor><jointpos name="angle" joint="shoulder"/>
<framepos name="hand" objtype="site" objname="tip"/></sensor></mujoco>"""

WHEELED = """<mujoco model="wheeled"><option timestep=".004"/><worldbody>
<geom type="plane" size="0 0 .1"/><body name="chassis" pos="0 0 .12"><freejoint/>
<geom type="box" size=".2 .12 .05" mass="4"/><geom type="sphere" size=".05" pos="-.18 0 -.07"
 mass=".2" friction=".01"/>
<body pos=".1 .15 -.02"><joint name="left" axis="0 1 0" damping=".01"/>
<geom type="cylinder" size=".1 .02" quat="1 1 0 0" mass=".5"/></body>
<body pos=".1 -.15 -.02"><joint name="right" axis="0 1 0" damping=".01"/>
<geom type="cylinder" size=".1 .02" quat="1 1 0 0" mass=".5"/></body></body></worldbody>
<actuator><velocity joint="left" kv=".5" ctrlrange="-20 20"/>
<velocity joint="right" kv=".5" ctrlrange="-20 20"/></actuator></mujoco>"""

BASE = """<mujoco model="base"><option timestep=".01"/><worldbody>
<body name="cart"><joint name="x" type="slide" axis="1 0 0" damping="3"/>
<joint name="y" type="slide" axis="0 1 0" damping="3"/><joint name="yaw" axis="0 0 1" damping="1"/>
<geom type="box" size=".3 .2 .1" mass="20"/>
<body name="mast" pos="0 0 .2"><joint name="lift" type="slide" axis="0 0 1" range="0 .5"/>
<geom type="box" size=".05 .05 .2" mass="2"/></body></body></worldbody>
<actuator><motor joint="x" gear="40" ctrlrange="-1 1"/><motor joint="y" gear="40" ctrlrange="-1 1"/>
<motor joint="yaw" gear="5" ctrlrange="-1 1"/><position joint="lift" kp="400" ctrlrange="0 .5"/>
</actuator></mujoco>"""

FINGER = """<mujoco model="finger"><option timestep=".002"/><worldbody><body name="palm">
<geom size=".03"/><body name="proximal" pos=".05 0 0"><joint name="mcp" axis="0 1 0" damping=".01"
 armature=".001" range="-10 90"/><geom type="capsule" size=".01" fromto="0 0 0 .05 0 0" mass=".05"/>
<body name="distal" pos=".05 0 0"><joint name="pip" axis="0 1 0" damping=".01" armature=".001"
 range="0 90"/><geom type="capsule" size=".008" fromto="0 0 0 .04 0 0" mass=".03"/></body></body>
</body></worldbody>
<tendon><fixed name="flexor"><joint joint="mcp" coef="1"/><joint joint="pip" coef=".7"/></fixed>
</tendon><actuator><motor name="flexor" tendon="flexor" gear=".2" ctrlrange="-1 1"/></actuator>
</mujoco>"""

MUSCLE = """<mujoco model="muscle"><option timestep=".004"/><worldbody>
<site name="origin" pos="0 .05 0"/><body name="limb"><joint name="hinge" axis="1 0 0" damping=".1"
 range="-80 80" stiffness="1"/><geom type="capsule" size=".02" fromto="0 0 0 0 0 -.3" mass="1"/>
<site name="insertion" pos="0 .03 -.15"/></body></worldbody>
<tendon><spatial name="flexor"><site site="origin"/><site site="insertion"/></spatial></tendon>
<actuator><muscle name="flexor" tendon="flexor" ctrllimited="true" ctrlrange="0 1"/></actuator>
</mujoco>"""

DRONE = """<mujoco model="drone"><option timestep=".01" density="1.2"/><worldbody>
<body name="frame" pos="0 0 1"><freejoint/><geom type="box" size=".1 .1 .02" mass=".5"/>
<site name="a" pos=".1 .1 0"/><site name="b" pos="-.1 -.1 0"/></body></worldbody>
<actuator><motor site="a" gear="0 0 1 0 0 .02" ctrlrange="0 5"/>
<motor site="b" gear="0 0 1 0 0 -.02" ctrlrange="0 5"/></actuator></mujoco>"""

LEG = """<body name="{0}_hip" pos="{1} {2} 0"><joint name="{0}_hip" axis="0 1 0" range="-60 60"/>
<geom type="capsule" size=".02" fromto="0 0 0 0 0 -.15" mass=".3"/>
<body name="{0}_shank" pos="0 0 -.15"><joint name="{0}_knee" axis="0 1 0" range="-120 -20"/>
<geom type="capsule" size=".015" fromto="0 0 0 0 0 -.15" mass=".1"/>
<geom name="{0}_foot" size=".02" pos="0 0 -.15" mass=".03"/></body></body>"""
DOG = """<mujoco model="dog"><option timestep=".004" integrator="implicitfast"/>
<default><joint armature=".005" damping=".05"/></default><worldbody><body name="trunk" pos="0 0 .3">
<freejoint name="root"/><geom name="trunk" type="box" size=".2 .06 .04" mass="3"/><site name="imu"/>
LEGS</body></worldbody><sensor><gyro name="gyro" site="imu"/></sensor></mujoco>""".replace(
    "LEGS",
    "".join(
        LEG.format(f"{end}_{side}", x, y)
        for end, x in (("front", 0.18), ("rear", -0.18))
        for side, y in (("left", 0.1), ("right", -0.1))
    ),
)
"""No floor, no light, no actuators and no keyframe."""

PENDULUM = """<mujoco model="pendulum"><option timestep=".01" gravity="0 0 0"/><worldbody>
<body name="rod"><joint name="pivot" axis="0 1 0" range="-90 90" damping=".1"/>
<geom type="capsule" size=".02" fromto="0 0 0 0 0 -.3" mass="1"/></body></worldbody></mujoco>"""

ALL = {
    "arm": ARM, "wheeled": WHEELED, "base": BASE, "finger": FINGER, "muscle": MUSCLE,
    "drone": DRONE,
}  # fmt: skip


class Robot(TaskFamily):
    """Any robot, paid for moving forward as its goal says."""

    frame_skip = 5
    horizon = 60
    reset_noise = 0.01
    params = (Param("goal", Interval(-1.0, 1.0)),)

    def reward(self, sim, before, action, task) -> torch.Tensor:
        return task["goal"] * sim.qvel[:, 0]


def robot(mjcf: str, **members: object) -> type[Robot]:
    """The class of a family of the model, with further members."""
    return type("Robot", (Robot,), {"model": mjcf, "name": "robot", **members})
