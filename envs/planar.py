"""What gymnasium's planar robots on legs share: how they start, what they sense, their reward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl import TaskFamily
from metarl.base.keys import BatchedRNG
from metarl.simulation.backend import Backend, State

CONTROL_COST = 1e-3
"""Weight of the squared norm of the action."""
SURVIVAL = 1.0
"""Reward for each step in which the robot has not fallen."""


class PlanarWalker(TaskFamily):
    """Start, observation, and the reward v + 1 − 1e-3‖a‖²; a robot adds its model and failure."""

    horizon = 200
    reset_noise = 5e-3

    def initial_state(self, sim: Backend, ids: Tensor, rng: BatchedRNG) -> None:
        """Add U[−0.005, 0.005) to every position and velocity of the upright robot at rest."""
        noise = self.reset_noise
        sim.qpos[ids] += rng.uniform(-noise, noise, sim.qpos.shape[1])
        sim.qvel[ids] = rng.uniform(-noise, noise, sim.qvel.shape[1])

    def observe(self, sim: Backend, task: Mapping[str, Tensor]) -> Tensor:
        """Return (B, O): qpos[1:] (m, rad), then qvel (m/s, rad/s) clipped to ±10."""
        return torch.cat((sim.qpos[:, 1:], sim.qvel.clamp(-10.0, 10.0)), dim=1)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) v + 1 − 1e-3‖a‖², v the forward velocity over the step, in m/s."""
        velocity = (sim.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        return velocity + SURVIVAL - CONTROL_COST * action.square().sum(1)
