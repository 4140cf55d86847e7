"""A small PEARL for the tests."""

import torch

from metarl.algorithms.pearl import Batch, Pearl, PearlConfig
from metarl.worlds.vector import Spec

SPEC = Spec(observation_size=4, action_size=2, horizon=20)
SMALL = PearlConfig(
    train_tasks=4, hidden=(16, 16), encoder_hidden=(12,), meta_batch=3, batch_size=8,
    context_size=6, gradient_steps=4, initial_episodes=2, replay_capacity=100,
)  # fmt: skip
WEIGHTS = ("encoder.params", "policy.params", "critic.params", "target")


def learner(config: PearlConfig = SMALL, seed: int = 0) -> Pearl:
    """A learner with noise in its replay."""
    made = Pearl(SPEC, config, seed=seed)
    for part in made._replay():
        part.data.normal_(generator=torch.Generator().manual_seed(1))
        part.data[..., -1] = (part.data[..., -1] > 1.5).float()  # terminated
        part.size.fill_(part.capacity)
    return made


def batch(made: Pearl, seed: int = 0) -> Batch:
    return made.sample_batch(*(torch.Generator().manual_seed(seed + k) for k in (0, 100)))


def snapshot(made: Pearl) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}
