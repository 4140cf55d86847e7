"""A small MAML-TRPO for the tests, and random data for it."""

import torch
from torch import Tensor

from metarl.algorithms.maml_trpo import Batch, MamlTrpo, MamlTrpoConfig
from metarl.modules.gradients.inner_loop import Phases
from metarl.worlds.vector import Spec

SPEC = Spec(3, 2, 10)


def learner(**changes: object) -> MamlTrpo:
    """A float64 learner with a policy of few parameters."""
    settings = {"hidden": (5,), "fisher_fraction": 1.0, "cg_damping": 0.0, "action_scale": 0.5}
    agent = MamlTrpo(SPEC, MamlTrpoConfig(**(settings | changes)))
    agent.theta = agent.theta.double()
    spread = 0.3 * torch.randn(len(agent.theta), generator=torch.Generator().manual_seed(7))
    agent.log_lr = agent.log_lr.double() + spread  # read only if step sizes are learned
    return agent


def batch(seed: int, tasks: int = 4, samples: int = 12) -> Batch:
    """Random data in float64; one sample of the first task is masked out."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weight = torch.full((tasks, samples), 1 / samples, dtype=torch.float64)
    weight[0] = 1 / (samples - 1)
    weight[0, 3] = 0.0
    return Batch(draw(tasks, samples, 3), draw(tasks, samples, 2), draw(tasks, samples), weight)


def chunks(agent: MamlTrpo, data: list[Batch], size: int | None = None):
    """The data of 4 tasks, which earned 1, 2, an unknown return and 6, as an update takes it."""
    returns = torch.tensor([1.0, 2.0, torch.nan, 6.0], dtype=torch.float64)
    phases = Phases(data, [returns] * len(data), torch.zeros(4))
    return phases.chunks(size, agent.sum_tasks), 4
