"""What the tests of videos share: a small recording, and a family that has all there is to draw."""

from __future__ import annotations

from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.tasks.distribution import TaskDistribution
from metarl.video.film import VideoConfig
from metarl.video.recording import Recording, record
from metarl.worlds.task_worlds import TaskWorlds

CONFIG = MamlTrpoConfig(hidden=(8,), cg_iterations=2, inner_lr=0.1)
SMALL = VideoConfig(size=160, fps=4, speed=1.0)

LIFT = """
from metarl import Choices, Interval, Param, TaskFamily, assign, scale
import torch

class Lift(TaskFamily):
    '''A ball that is lifted, over one of two grounds; too high is the end.'''
    model = '''<mujoco>
      <asset>
        <hfield name="low" nrow="2" ncol="2" size="2 2 1 .1" elevation="0 0 0 1"/>
        <hfield name="hill" nrow="2" ncol="2" size="2 2 1 .1" elevation="1 1 1 0"/>
      </asset>
      <worldbody>
        <geom name="ground" type="hfield" hfield="low" pos="0 3 -1" rgba="0 1 0 1"
              contype="0" conaffinity="0"/>
        <body name="ball" pos="0 0 1"><joint name="z" type="slide" axis="0 0 1" damping="1"/>
          <joint name="x" type="slide" axis="1 0 0"/>
          <geom name="ball" size=".2" mass="1" rgba="1 0 0 1"/></body>
      </worldbody>
      <actuator><motor joint="z" gear="40" ctrllimited="true" ctrlrange="0 1"/></actuator>
    </mujoco>'''
    horizon = 40
    params = (Param("radius", Interval(0.5, 2.0), edit=scale("geom_size", "ball")),
              Param("ground", Choices((0.0, 1.0)), edit=assign("geom_dataid", "ground")))

    def reward(self, sim, before, action, task):
        return sim.qpos[:, 0]

    def terminated(self, sim):
        return sim.qpos[:, 0] > 0.3
"""


def recorded(family, tasks=None, worlds_per_task=3, episodes=2) -> Recording:
    tasks = TaskDistribution(family).split("heldout", 2) if tasks is None else tasks
    worlds = TaskWorlds(family, len(tasks) * worlds_per_task, 1)
    return record(MamlTrpo(worlds.spec, CONFIG), worlds, tasks, episodes=episodes, seed=5)
