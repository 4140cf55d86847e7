"""HalfCheetah with unknown mass, friction, damping and strength: ``… maml-trpo``."""

import sys

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.algorithms.rl2 import Rl2Config
from metarl.commands.experiment import Settings, main
from metarl.runs.config import TrainConfig

SETTINGS = {
    "maml-trpo": Settings(
        train=TrainConfig(
            tasks_per_iteration=10, rollouts_per_task=20, iterations=60, evaluate_every=20
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
}

if __name__ == "__main__":
    sys.exit(main("half-cheetah-dynamics", SETTINGS))
