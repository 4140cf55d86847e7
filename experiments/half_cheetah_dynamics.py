"""HalfCheetah with unknown mass, friction, damping and strength: ``… maml-trpo``."""

import sys

from metarl.algorithms.maml_trpo import MamlTrpoConfig
from metarl.experiment import Settings, main
from metarl.train_config import TrainConfig

SETTINGS = {
    "maml-trpo": Settings(
        train=TrainConfig(tasks_per_iteration=10, rollouts_per_task=20, iterations=200),
        learner=MamlTrpoConfig(),
    ),
}

if __name__ == "__main__":
    sys.exit(main("half-cheetah-dynamics", SETTINGS))
