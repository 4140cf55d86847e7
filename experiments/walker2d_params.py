"""Walker2d with links, joints and contacts of unknown sizes: ``walker2d_params.py pearl``."""

import sys

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.algorithms.pearl import PearlConfig
from metarl.algorithms.rl2 import Rl2Config
from metarl.commands.experiment import Settings, main
from metarl.runs.config import TrainConfig

SETTINGS = {
    "maml-trpo": Settings(
        train=TrainConfig(
            tasks_per_iteration=10, rollouts_per_task=20, iterations=100, evaluate_every=20
        ),
        learner=MamlTrpoConfig(
            max_kl=0.02, gae_lambda=0.97, action_scale=0.2, fisher_fraction=0.5, cg_damping=0.01
        ),
    ),
    "rl2": Settings(
        train=TrainConfig(
            tasks_per_iteration=100,
            rollouts_per_task=1,
            env_steps=6_000_000,
            evaluate_every=25,
            evaluate_tasks=40,
        ),
        learner=Rl2Config(shards=2),
    ),
    # smaller networks and updates than the authors': for CPUs
    "pearl": Settings(
        train=TrainConfig(
            tasks_per_iteration=10,
            rollouts_per_task=1,
            env_steps=800_000,
            evaluate_every=5,
            evaluate_tasks=10,
            evaluate_episodes=3,
            checkpoint_every=1,
            print_every=1,
        ),
        learner=PearlConfig(
            train_tasks=40,
            hidden=(200, 200, 200),
            lr=5e-4,
            context_next_obs=True,
            meta_batch=10,
            batch_size=128,
            gradient_steps=1000,
            initial_episodes=2,
            posterior_episodes=2,
            replay_capacity=20_000,
        ),
    ),
    # the authors' own: for a GPU
    "pearl-full": Settings(
        algorithm="pearl",
        train=TrainConfig(
            tasks_per_iteration=5,
            rollouts_per_task=1,
            env_steps=1_000_000,
            evaluate_every=10,
            evaluate_tasks=10,
            evaluate_episodes=3,
            checkpoint_every=5,
        ),
        learner=PearlConfig(
            train_tasks=40,
            context_next_obs=True,
            meta_batch=10,
            gradient_steps=4000,
            replay_capacity=30_000,
        ),
    ),
}

if __name__ == "__main__":
    sys.exit(main("walker2d-params", SETTINGS))
