"""From the bare model of a robot dog to a family: floor, motors, pose, contacts, manners."""

import torch

from metarl import Contacts, Places, Root, TaskFamily, contact, pd


class OwnRobot(TaskFamily):
    """Keep upright and calm; `+command` pays for following a velocity."""

    model = "own_robot.xml"
    frame_skip = 5
    horizon = 250
    floor = True
    home = {"root": (0, 0, 0.275), "*_hip": 0.75, "*_knee": -1.5}  # noqa: RUF012
    reset_noise = 0.05
    actuators = (
        pd(30, 0.8, effort=15, no_load_speed=25, joints="*_hip", reach=0.6),
        pd(30, 0.8, effort=20, no_load_speed=20, joints="*_knee", reach=0.8),
    )
    contacts = {"feet": contact("*_foot"), "belly": contact(("trunk", "head"))}  # noqa: RUF012
    memory = {"action": (8,)}  # noqa: RUF012
    observation_scale = (1.0,) * 3 + (0.5,) * 3 + (0.3,) * 8 + (0.5,) * 8 + (1.0,) * 12
    reward_weights = {"sway": -0.1, "tilt": -0.5, "action_rate": -0.01}  # noqa: RUF012

    def __init__(self):
        """Find the base, the feet and the contacts in the compiled model."""
        super().__init__()
        self.root, self.soles = Root(self.compiled), Places(self.compiled, "*_foot")
        self.feet, self.belly = (Contacts(self.compiled, name) for name in ("feet", "belly"))
        self.pose = torch.from_numpy(self.home_state.qpos[7:])

    def observe(self, sim, task):
        """Return (B, 34): rates, gravity, joints, their speeds, feet on the ground, last action."""
        joints, speeds = sim.qpos[:, 7:] - self.pose.to(sim.qpos), 0.1 * sim.qvel[:, 6:]
        sensed = sim.sensor("gyro"), self.root.gravity(sim), joints, speeds
        return torch.cat((*sensed, self.feet.touching(sim), sim.memory["action"]), dim=1)

    def privileged(self, sim, task):
        """Return (B, 7): velocity of the base, m/s, and heights of the feet, dm, for critics."""
        return torch.cat((self.root.linear_velocity(sim), 10 * self.soles.heights(sim)), dim=1)

    def reward(self, sim, before, action, task):
        """Return the terms: vertical speed and roll and pitch rates, tilt, change of the action."""
        velocity, rates = self.root.linear_velocity(sim), self.root.angular_velocity(sim)
        change = action - sim.memory["action"]
        return {
            "sway": velocity[:, 2].square() + 0.2 * rates[:, :2].square().sum(1),
            "tilt": self.root.gravity(sim)[:, :2].square().sum(1),
            "action_rate": change.square().sum(1),
        }

    def remember(self, sim, action, task, rng):
        """Note the action."""
        sim.memory["action"] = action

    def terminated(self, sim):
        """Return (B,) bool: trunk or head touch something."""
        return self.belly.touching(sim).any(1)
