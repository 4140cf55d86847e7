"""Quadruped: a robot dog of 13.4 kg with twelve motors that follows velocity commands (dt 0.02 s).

The model is our own, from primitive shapes, with dimensions, masses and torque limits that makers
of such robots publish. An action moves the target angles of the joints around a standing pose;
PD control (60 N·m/rad, 2 N·m·s/rad) tracks them within the motors' torque limits. It observes what
such a robot measures: no position, no velocity of the base. The reward has the terms that are usual
for legged robots (Rudin et al. 2022, "Learning to walk in minutes").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metarl import Interval, Param, TaskFamily, assign, scale, shift
from metarl.simulation.backend import Backend, State
from metarl.tasks.variations.fields import Terrain
from metarl.tasks.variations.terrain import OnTerrain

STANCE = {"root": (0, 0, 0.287), "*_abduction": 0.0, "*_hip_pitch": 0.9, "*_knee": -1.8}
"""Where it stands, in m, 2 · 0.213 · cos 0.9 + 0.022 high, and its joints, in rad."""
KP, KD = 60.0, 2.0
"""Gains of the joints' position control, in N·m/rad and N·m·s/rad, at motor strength 1."""
TRACKING_WIDTH = 0.25
"""σ of the tracking terms, in (m/s)² and (rad/s)²."""
FALLEN_TILT = 0.5
"""Cosine of the trunk's inclination below which it has fallen: more than 60 degrees."""
FALLEN_HEIGHT = 0.1
"""Height of the trunk's middle over the ground below which it has fallen, in m."""

COMMANDS = (
    Param("command_x", Interval(-0.5, 1.0), ood=(Interval(1.0, 1.5),), unit="m/s",
          doc="forward velocity to hold; the robot is told"),
    Param("command_y", Interval(-0.4, 0.4), unit="m/s", doc="velocity to the left; it is told"),
    Param("command_yaw", Interval(-0.8, 0.8), unit="rad/s", doc="rate of turn; it is told"),
)  # fmt: skip
DYNAMICS = (
    Param("payload", Interval(0.0, 4.0), ood=(Interval(4.0, 6.0),),
          edit=shift("body_mass", "trunk"), unit="kg", doc="mass added to the trunk"),
    Param("friction", Interval(0.4, 1.2), ood=(Interval(0.2, 0.4),), nominal=0.8,
          edit=assign("geom_friction", "*_foot", index=0), doc="sliding friction of the feet"),
    Param("strength", Interval(0.7, 1.1), ood=(Interval(0.5, 0.7),),
          edit=(scale("actuator_gainprm"), scale("actuator_biasprm"),
                scale("actuator_forcerange")),
          doc="scale of the motors' gains and torque limits"),
)  # fmt: skip


class Quadruped(TaskFamily):
    """The robot of all quadruped families: its model, its stance, and the torques of its motors."""

    model = Path(__file__).with_name("quadruped.xml")
    frame_skip = 5
    home = STANCE
    reset_noise = 0.05
    reset_speed_noise = 0.0

    def __init__(self) -> None:
        """Compile the model, and read the motors' limits."""
        super().__init__()
        self._stance = torch.from_numpy(self.home_state.ctrl)
        self._limits = torch.from_numpy(self.compiled.actuator_forcerange[:, 1].copy())

    def torques(self, sim: Backend, strength: Tensor) -> Tensor:
        """Return (B, 12) the motors' torques in N·m, as the controller computes them."""
        limits = sim.constant(self._limits)
        wanted = KP * (sim.ctrl - sim.qpos[:, 7:]) - KD * sim.qvel[:, 6:]
        return strength[:, None] * wanted.clamp(-limits, limits)


class QuadrupedTerrain(OnTerrain, Quadruped):
    """Follow a velocity command under unknown payload, friction, motor strength and ground."""

    name = "quadruped-terrain"
    horizon = 250
    keep = ("ctrl",)
    reward_weights = {  # noqa: RUF012
        "turning": 0.5, "posture": -1.0, "effort": -5e-5, "action_rate": -0.01,
        "velocity_error": 0.0, "turning_error": 0.0,
    }  # fmt: skip
    top_speed = 3.5
    terrain = Terrain(height=0.2, length=0.6, reach=20.0, cell=0.1, bump_cell=0.15, flat=0.5)
    params = (*COMMANDS, *DYNAMICS, *terrain.params())
    scan_x = tuple(0.1 * k for k in range(-4, 9))
    scan_y = (-0.2, 0.0, 0.2)

    def __init__(self) -> None:
        """Compile the model, and read the motors' ranges."""
        super().__init__()
        low, high = torch.from_numpy(self.compiled.actuator_ctrlrange.copy()).unbind(1)
        self._half = (high - low) / 2

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 45), with the scan (B, 84).

        Rates of the trunk in its own frame (3, rad/s), gravity's direction in it (3), the command
        (3), joint angles from the stance (12, rad), joint velocities (12, tenths of rad/s), the
        last action (12); then 39 heights of the ground relative to the trunk (m).
        """
        command = torch.stack((task["command_x"], task["command_y"], task["command_yaw"]), dim=1)
        stance, half = sim.constant(self._stance), sim.constant(self._half)
        joints, action = sim.qpos[:, 7:] - stance, (sim.ctrl - stance) / half
        rates, down = self.root.angular_velocity(sim), self.root.gravity(sim)
        blind = torch.cat((rates, down, command, joints, 0.1 * sim.qvel[:, 6:], action), dim=1)
        return self.with_scan(sim, blind)

    def privileged(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 42): the trunk's velocity in its frame (m/s), and the heights of the scan."""
        return torch.cat((self.root.linear_velocity(sim), self.scanned(sim)), dim=1)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what tracking earns and what bad manners cost, (B,) each, to be weighted.

        exp(−‖v_xy − c_xy‖²/σ) + 0.5 exp(−(ω_z − c_yaw)²/σ) − 0.5 v_z² − 0.02 ‖ω_xy‖² − 0.5 ‖g_xy‖²
        − 5e-5 ‖τ‖² − 0.01 ‖a − a'‖², in the trunk's frame: v its velocity (m/s), ω its rates
        (rad/s), g gravity's direction, τ the torques (N·m) at the end of the step, a' the action
        before. The three in the middle are one term, `posture`. The errors of both velocities, m/s
        and rad/s, are measured and not paid.
        """
        velocity = self.root.linear_velocity(sim)
        rates, down = self.root.angular_velocity(sim), self.root.gravity(sim)
        command = torch.stack((task["command_x"], task["command_y"]), dim=1)
        linear = (velocity[:, :2] - command).square().sum(1)
        turning = (rates[:, 2] - task["command_yaw"]).square()
        posture = 0.5 * velocity[:, 2].square() + 0.02 * rates[:, :2].square().sum(1)
        change = (sim.ctrl - before.kept["ctrl"]) / sim.constant(self._half)
        return {
            "velocity": (-linear / TRACKING_WIDTH).exp(),
            "turning": (-turning / TRACKING_WIDTH).exp(),
            "posture": posture + 0.5 * down[:, :2].square().sum(1),
            "effort": self.torques(sim, task["strength"]).square().sum(1),
            "action_rate": change.square().sum(1),
            "velocity_error": linear.sqrt(),
            "turning_error": turning.sqrt(),
        }

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: it has fallen; tilted by more than 60 degrees, or on its belly."""
        return (self.root.gravity(sim)[:, 2] > -FALLEN_TILT) | (self.clearance(sim) < FALLEN_HEIGHT)


class QuadrupedTerrainScan(QuadrupedTerrain):
    """quadruped-terrain for a robot that sees the ground 0.8 m ahead."""

    name = "quadruped-terrain-scan"
    scan = True
