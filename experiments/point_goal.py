"""A point robot and a goal that only the reward reveals: ``point_goal.py varibad``. Minutes."""

import sys

from metarl.algorithms.pearl import PearlConfig
from metarl.algorithms.varibad import VaribadConfig
from metarl.commands.experiment import Settings, main
from metarl.runs.config import TrainConfig

SETTINGS = {
    "pearl": Settings(
        train=TrainConfig(
            tasks_per_iteration=20, rollouts_per_task=1, iterations=45, evaluate_every=5,
            evaluate_tasks=30, evaluate_episodes=3, checkpoint_every=5, print_every=5,
        ),
        learner=PearlConfig(
            hidden=(64, 64), encoder_hidden=(64, 64), lr=2e-3, gamma=0.9, target_rate=0.02,
            automatic_temperature=True, kl_weight=0.002, meta_batch=8, batch_size=64,
            context_size=40, gradient_steps=200, initial_episodes=3, replay_capacity=2000,
        ),
    ),
    # without the bonus the robot stops to move about before the belief has learned from it
    "varibad": Settings(
        train=TrainConfig(
            tasks_per_iteration=100, rollouts_per_task=1, iterations=100, evaluate_every=25,
            evaluate_tasks=30, print_every=25,
        ),
        learner=VaribadConfig(
            gamma=0.9, entropy_weight=0.03, vae_lr=3e-3, vae_trials=50, vae_updates=6
        ),
    ),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main("point-goal", SETTINGS))
