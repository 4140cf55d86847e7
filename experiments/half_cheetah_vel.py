"""HalfCheetah at a velocity that only the reward reveals: ``half_cheetah_vel.py maml-trpo``."""

import sys

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.algorithms.pearl import PearlConfig
from metarl.algorithms.rl2 import Rl2Config
from metarl.algorithms.varibad import VaribadConfig
from metarl.commands.experiment import Settings, main
from metarl.runs.config import TrainConfig

SETTINGS = {
    "maml-trpo": Settings(
        train=TrainConfig(
            tasks_per_iteration=10, rollouts_per_task=20, iterations=80, evaluate_every=20
        ),
        learner=MamlTrpoConfig(
            max_kl=0.02, gae_lambda=0.97, action_scale=0.2, fisher_fraction=0.5, cg_damping=0.01
        ),
    ),
    "rl2": Settings(
        train=TrainConfig(
            tasks_per_iteration=100,
            rollouts_per_task=1,
            env_steps=8_000_000,
            evaluate_every=25,
            evaluate_tasks=40,
        ),
        learner=Rl2Config(shards=2),
    ),
    "varibad": Settings(
        train=TrainConfig(
            tasks_per_iteration=25,
            rollouts_per_task=1,
            env_steps=3_000_000,
            evaluate_every=25,
            evaluate_tasks=40,
        ),
        learner=VaribadConfig(),
    ),
    # 400 initial steps a task where the authors take 2000, and smaller updates: for CPUs
    "pearl": Settings(
        train=TrainConfig(
            tasks_per_iteration=10,
            rollouts_per_task=1,
            env_steps=300_000,
            evaluate_every=3,
            evaluate_tasks=30,
            evaluate_episodes=3,
            checkpoint_every=1,
            print_every=1,
        ),
        learner=PearlConfig(
            hidden=(200, 200, 200),
            lr=5e-4,
            meta_batch=10,
            batch_size=128,
            gradient_steps=1000,
            initial_episodes=2,
            posterior_episodes=2,
            replay_capacity=8000,
        ),
    ),
    # the authors' own: for a GPU
    "pearl-full": Settings(
        algorithm="pearl",
        train=TrainConfig(
            tasks_per_iteration=5,
            rollouts_per_task=1,
            env_steps=800_000,
            evaluate_every=10,
            evaluate_tasks=30,
            evaluate_episodes=3,
            checkpoint_every=5,
        ),
        learner=PearlConfig(),
    ),
}

if __name__ == "__main__":
    sys.exit(main("half-cheetah-vel", SETTINGS))
