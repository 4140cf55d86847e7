"""From the bare model of a robot dog to a family: floor, motors, pose, contacts and a command."""

import torch

from metarl import Contacts, Interval, Param, Root, TaskFamily, contact, pd


class OwnRobot(TaskFamily):
    """Walk forward at the velocity that it is told."""

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
    params = (
        Param("command", Interval(0.0, 0.8), ood=(Interval(0.8, 1.2),), unit="m/s",
              doc="forward velocity to hold; the robot is told"),
    )  # fmt: skip

    def __init__(self):
        """Find the base and the contacts in the compiled model."""
        super().__init__()
        self.root = Root(self.compiled)
        self.feet, self.belly = (Contacts(self.compiled, name) for name in ("feet", "belly"))
        self.pose = torch.from_numpy(self.home_state.qpos[7:])

    def observe(self, sim, task):
        """Return (B, 27): rates, gravity, joints, their speeds, feet on the ground, command."""
        joints, speeds = sim.qpos[:, 7:] - self.pose.to(sim.qpos), 0.1 * sim.qvel[:, 6:]
        feet, command = self.feet.touching(sim), task["command"][:, None]
        return torch.cat(
            (sim.sensor("gyro"), self.root.gravity(sim), joints, speeds, feet, command), dim=1
        )

    def reward(self, sim, before, action, task):
        """Return (B,) exp(−(v − v*)²/0.1) − 0.1 (v_y² + ω²) − 0.02‖a‖², m/s and rad/s."""
        velocity, rates = self.root.linear_velocity(sim), self.root.angular_velocity(sim)
        sway = velocity[:, 1].square() + rates.square().sum(1)
        tracking = (-(velocity[:, 0] - task["command"]).square() / 0.1).exp()
        return tracking - 0.1 * sway - 0.02 * action.square().sum(1)

    def terminated(self, sim):
        """Return (B,) bool: trunk or head touch something."""
        return self.belly.touching(sim).any(1)
