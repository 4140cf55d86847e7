"""Quadruped on flat ground: follow velocity commands that change within an episode (dt 0.02 s).

The robot of `envs.quadruped` trots open-loop by a clock that it observes, and actions move its
joints about that, as the policies over trajectory generators of Iscen et al. 2018 and Lee et al.
2020 do. It is paid for where its feet should be, lest it shuffle; the other terms are those of
Rudin et al. 2022. Payload, grip, strength of the motors and centre of mass are the tasks, which
have to be found out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import torch
from torch import Tensor

from envs.quadruped import DYNAMICS, FALLEN_TILT, STANCE, Quadruped
from metarl import Interval, Places, Root, dynamics, every, position_targets
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend, State

COMMANDS = ((-0.5, 1.0), (-0.3, 0.3), (-0.8, 0.8))
"""Forward and to the left, m/s, and turning to the left, rad/s."""
STANDING = 0.1
"""Share of the commands that are to stand."""
CADENCE = 2.0
"""Strides a second; in half of each, a foot is in the air."""
TROT = torch.tensor((0.0, 0.5, 0.5, 0.0), dtype=torch.float64)
"""Phases of the feet, in strides: front left, front right, rear left, rear right."""
LIFT, FOOT = 0.05, 0.022
"""How high a foot is to be lifted, and where its middle is on the ground, m."""
PRESSED = 0.02
"""How far below the stance a foot is pressed while two carry the robot, m."""
LINK, BEND = 0.213, 0.9
"""Length of a thigh, and of a shank (m), and how far each is turned in the stance (rad)."""
HIPS = torch.tensor(((0.19, 0.19, -0.19, -0.19), (0.13, -0.13, 0.13, -0.13)), dtype=torch.float64)
"""Where the feet stand, forward of the trunk's middle and to its left, m."""
STRIDE = 1.5
"""How much longer a stride is than without slip and sag."""
WIDTHS = (0.2, 0.25)
"""σ of velocity (m²/s²) and turning (rad²/s²)."""


class QuadrupedVel(Quadruped):
    """Walk as commanded under unknown payload, grip, motor strength and centre of mass."""

    name = "quadruped-vel"
    frame_skip = 4
    horizon = 300
    actions = position_targets({"*_abduction": 0.25, "*_hip_pitch": 0.5, "*_knee": 0.6})
    memory = {"command": (3,), "phase": (1,), "action": (12,)}  # noqa: RUF012
    events = {"command": every(2.0, jitter=0.5)}  # noqa: RUF012
    reward_weights = {  # noqa: RUF012
        "turning": 0.5, "gait": -0.2, "posture": -1.0, "pose": -0.05, "effort": -1e-4,
        "action_rate": -0.01, "velocity_error": 0.0, "turning_error": 0.0,
    }  # fmt: skip
    params = (
        *DYNAMICS,
        *dynamics(
            {"com_x": Interval(-0.05, 0.05), "com_y": Interval(-0.03, 0.03)},
            com_x="trunk", com_y="trunk",
        ),
    )  # fmt: skip

    def __init__(self) -> None:
        """Find the base and the feet."""
        super().__init__()
        self.root, self.feet = Root(self.compiled), Places(self.compiled, "*_foot")
        self._range = torch.from_numpy(self.compiled.actuator_ctrlrange.copy()).unbind(1)

    def build(self, spec: mujoco.MjSpec) -> mujoco.MjModel:
        """Return the compiled model, with contacts that are half as dear, and do on flat ground.

        Pyramidal friction cones without torsion, and 4 physics steps of 5 ms.
        """
        spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_PYRAMIDAL, 1.0
        spec.option.timestep = 0.005
        for geom in spec.geoms:
            geom.condim = min(geom.condim, 3)
        return super().build(spec)

    # --- what happens in an episode ------------------------------------------------------------

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Begin in the stance, with a command, anywhere in a stride."""
        super().initial_state(sim, ids, rng)
        sim.memory["phase"][ids] = rng.uniform(0.0, 1.0, 1)
        self.event("command", sim, ids, {}, rng)

    def event(
        self, name: str, sim: Backend, ids: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Draw another command."""
        parts = [rng.uniform(low, high, 1) for low, high in COMMANDS]
        moving = rng.uniform(0.0, 1.0, 1) >= STANDING
        sim.memory["command"][ids] = torch.cat(parts, 1) * moving

    def act(self, sim: Backend, action: Tensor, task: Mapping[str, Tensor]) -> None:
        """Add the strides to the targets that the action stands for."""
        super().act(sim, action, task)
        low, high = map(sim.constant, self._range)
        sim.ctrl.copy_((sim.ctrl + self.strides(sim)).clamp(low, high))

    def strides(self, sim: Backend) -> Tensor:
        """Return (B, 12) angles from the stance (rad) that step as the command asks, open-loop.

        A foot in the air comes forward, one on the ground is pressed down and goes back as fast as
        the ground under it should.
        """
        at, wave = (sim.memory["phase"] + sim.constant(TROT)) % 1.0, self.wave(sim)
        command, (ahead, left) = sim.memory["command"][:, :, None], sim.constant(HIPS)
        half = STRIDE * (0.25 / CADENCE) * torch.where(at < 0.5, 4 * at - 1, 3 - 4 * at)
        x = half * (command[:, 0] - command[:, 2] * left)
        y = half * (command[:, 1] + command[:, 2] * ahead)
        height = 1.3 * LIFT * wave.clamp(min=0.0) + PRESSED * (2 * wave).clamp(-1.0, 0.0)
        down = 2 * LINK * math.cos(BEND) - height * self.moving(sim)[:, None]
        out = (y.square() + down.square()).sqrt()
        bend = torch.acos(((x.square() + out.square()).sqrt() / (2 * LINK)).clamp(max=1.0))
        hip = bend - (x / out).atan() - BEND  # atan2's bits depend on how many worlds there are
        return torch.stack(((y / down).atan(), hip, 2 * (BEND - bend)), 2).flatten(1)

    def remember(
        self, sim: Backend, action: Tensor, task: Mapping[str, Tensor], rng: BatchedRNG
    ) -> None:
        """Note the action, and let the clock run while the robot is to move."""
        sim.memory["action"] = action
        phase = sim.memory["phase"]
        later = (phase + CADENCE * self.dt) % 1.0
        sim.memory["phase"] = torch.where(self.moving(sim)[:, None], later, phase)

    # --- what it senses ------------------------------------------------------------------------

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 47): what such a robot measures, its command, and the clock.

        Rates of the trunk in its own frame (3, rad/s), gravity's direction in it (3), the command
        (3), joint angles from the stance (12, rad), joint velocities (12, tenths of rad/s), the
        last action (12), sine and cosine of the clock (2, both 0 where it is to stand).
        """
        rates, down = self.root.angular_velocity(sim), self.root.gravity(sim)
        joints = sim.qpos[:, 7:] - sim.constant(self._stance)
        speeds = 0.1 * sim.qvel[:, 6:]
        clock = 2 * torch.pi * sim.memory["phase"]
        clock = torch.cat((clock.sin(), clock.cos()), 1) * self.moving(sim)[:, None]
        memory = sim.memory["command"], sim.memory["action"]
        return torch.cat((rates, down, memory[0], joints, speeds, memory[1], clock), dim=1)

    def privileged(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 7): the trunk's velocity in its frame (m/s), and how high its feet are."""
        return torch.cat((self.root.linear_velocity(sim), self.foot_heights(sim) / LIFT), 1)

    def moving(self, sim: Backend) -> Tensor:
        """Return (B,) bool: which robots are to move."""
        return sim.memory["command"].any(1)

    def foot_heights(self, sim: Backend) -> Tensor:
        """Return (B, 4) how far its feet are above the ground, m."""
        return self.feet(sim)[..., 2] - FOOT

    def lifts(self, sim: Backend) -> Tensor:
        """Return (B, 4) how high its feet should be now, m."""
        return LIFT * self.wave(sim).clamp(min=0.0) * self.moving(sim)[:, None]

    def wave(self, sim: Backend) -> Tensor:
        """Return (B, 4) a sine for each foot, which is positive while it should be in the air."""
        return (2 * torch.pi * (sim.memory["phase"] + sim.constant(TROT))).sin()

    # --- what it is paid for -------------------------------------------------------------------

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what following and stepping earn and what bad manners cost, (B,) each.

        exp(−‖v_xy − c_xy‖²/0.2) + 0.5 exp(−(ω_z − c_yaw)²/0.25) − 0.2 Σ |z − z*|/0.05
        − 0.5 v_z² − 0.02 ‖ω_xy‖² − 0.5 ‖g_xy‖² − 0.05 ‖q − q_0‖² − 1e-4 ‖τ‖² − 0.01 ‖a − a'‖²,
        with z and z* of the feet, and q_0 the stance; the rest as in quadruped-terrain. The errors
        of both velocities, m/s and rad/s, are measured and not paid.
        """
        velocity = self.root.linear_velocity(sim)
        rates, down = self.root.angular_velocity(sim), self.root.gravity(sim)
        off, command = self.foot_heights(sim) - self.lifts(sim), sim.memory["command"]
        linear = (velocity[:, :2] - command[:, :2]).square().sum(1)
        turning = (rates[:, 2] - command[:, 2]).square()
        posture = 0.5 * velocity[:, 2].square() + 0.02 * rates[:, :2].square().sum(1)
        return {
            "velocity": (-linear / WIDTHS[0]).exp(),
            "turning": (-turning / WIDTHS[1]).exp(),
            "gait": off.abs().sum(1) / LIFT,
            "posture": posture + 0.5 * down[:, :2].square().sum(1),
            "pose": (sim.qpos[:, 7:] - sim.constant(self._stance)).square().sum(1),
            "effort": self.torques(sim, task["strength"]).square().sum(1),
            "action_rate": (action - sim.memory["action"]).square().sum(1),
            "velocity_error": linear.sqrt(),
            "turning_error": turning.sqrt(),
        }

    def terminated(self, sim: Backend) -> Tensor:
        """Return (B,) bool: it has fallen; tilted by more than 60 degrees, or on its belly."""
        low = sim.qpos[:, 2] < 0.5 * STANCE["root"][2]
        return low | (self.root.gravity(sim)[:, 2] > -FALLEN_TILT)
