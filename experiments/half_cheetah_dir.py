"""HalfCheetah forward or backward, as the reward reveals: ``half_cheetah_dir.py maml-trpo``."""

import sys

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.algorithms.pearl import PearlConfig
from metarl.algorithms.rl2 import Rl2Config
from metarl.commands.experiment import Settings, main
from metarl.runs.config import TrainConfig

SETTINGS = {
    "maml-trpo": Settings(
        train=TrainConfig(
            tasks_per_iteration=10,
            rollouts_per_task=20,
            iterations=240,
            evaluate_every=20,
            evaluate_tasks=10,
        ),
        learner=MamlTrpoConfig(
            inner_lr=0.2,
            max_kl=0.02,
            gae_lambda=0.97,
            action_scale=0.4,
            fisher_fraction=0.5,
            cg_damping=0.01,
        ),
    ),
    "rl2": Settings(
        train=TrainConfig(
            tasks_per_iteration=100,
            rollouts_per_task=1,
            env_steps=12_000_000,
            evaluate_every=25,
            evaluate_tasks=40,
        ),
        learner=Rl2Config(shards=2),
    ),
    # five worlds of each of the two tasks; a quarter of the authors' gradient steps: for CPUs
    "pearl": Settings(
        train=TrainConfig(
            tasks_per_iteration=2,
            rollouts_per_task=5,
            env_steps=500_000,
            evaluate_every=10,
            evaluate_tasks=2,
            evaluate_episodes=3,
            checkpoint_every=5,
            print_every=5,
        ),
        learner=PearlConfig(
            train_tasks=2,
            meta_batch=4,
            context_size=256,
            gradient_steps=500,
            prior_episodes=5,
            posterior_episodes=5,
            replay_capacity=100_000,
        ),
    ),
    # the authors' own: for a GPU
    "pearl-full": Settings(
        algorithm="pearl",
        train=TrainConfig(
            tasks_per_iteration=2,
            rollouts_per_task=5,
            env_steps=1_500_000,
            evaluate_every=10,
            evaluate_tasks=2,
            evaluate_episodes=3,
            checkpoint_every=5,
        ),
        learner=PearlConfig(
            train_tasks=2,
            meta_batch=4,
            context_size=256,
            prior_episodes=5,
            posterior_episodes=5,
            replay_capacity=1_000_000,
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(main("half-cheetah-dir", SETTINGS))
