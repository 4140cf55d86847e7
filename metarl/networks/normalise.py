"""Running statistics that bring inputs, rewards and values to a common scale."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.base.distributed import ALONE, Ranks


class RunningMoments:
    """Mean and variance of all rows seen so far (Chan, Golub and LeVeque 1979).

    They change in `update` alone, so whoever does not call it works with frozen statistics.
    """

    def __init__(
        self, size: int, device: torch.device, clip: float = 10.0, weight: Tensor | None = None
    ) -> None:
        """Start with no rows: mean 0 and variance 1.

        Args:
            size: numbers in a row.
            device: where the statistics live.
            clip: normalised values beyond ± this are cut off.
            weight: (size,) that what has a standard deviation of 1 is multiplied by; default: 1.
        """
        self.weight = torch.ones(size) if weight is None else weight
        self.weight = self.weight.to(device, torch.float64)
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.variance = torch.ones(size, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.clip = clip
        self._scale, self._offset = (torch.zeros(size, device=device) for _ in range(2))
        self._affine()

    def update(self, *parts: Tensor, ranks: Ranks = ALONE) -> None:
        """Take in (N, size) rows; none at all changes nothing.

        Args:
            parts: the rows of each shard that this process owns.
            ranks: whose shards' rows are taken in, in their order.
        """
        for part in ranks.gather([_moments(rows.double()) for rows in parts]):
            if part[0, 0] > 0:
                self._merge(*part)
        self._affine()

    def _merge(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Take in the moments of some rows, (size,) each; their number stands in all of `count`."""
        total = self.count + count[0]
        share, shift = total.reciprocal() * count[0], mean - self.mean
        if self.count == 0:
            self.mean, self.variance = mean, variance
        else:
            self.variance = self.variance + share * (variance - self.variance)
            self.variance = self.variance + share * (1 - share) * shift.square()
            self.mean = self.mean + share * shift
        self.count = total

    def normalise(self, x: Tensor) -> Tensor:
        """Return float32 (…, size): centred, of standard deviation 1 or `weight`, and clipped."""
        return torch.addcmul(self._offset, x, self._scale).clamp_(-self.clip, self.clip)

    def restore(self, x: Tensor) -> Tensor:
        """Return (…, size) of x's type that `normalise` would bring to x, if it did not clip."""
        return x * (self.std / self.weight).to(x) + self.mean.to(x)

    @property
    def std(self) -> Tensor:
        """(size,) float64 standard deviation, at least 1e-4."""
        return self.variance.sqrt().clamp(min=1e-4)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over statistics of the same size."""
        device = self.mean.device
        self.mean, self.variance, self.count = (
            tensors[name].to(device, torch.float64).clone() for name in self.state_dict()
        )
        self._affine()

    def _affine(self) -> None:
        self._scale.copy_(self.weight / self.std)  # in place, for a captured graph to see
        self._offset.copy_(self.weight * (-self.mean / self.std))


class PopArt:
    """Moving mean and spread of value targets, for outputs that keep what they say.

    Networks predict normalised targets. As the statistics move, the last layer is changed so that
    its outputs in units of the targets stay as they were (van Hasselt et al. 2016).
    """

    def __init__(self, size: int, device: torch.device, rate: float) -> None:
        """Start with mean 0 and standard deviation 1.

        Args:
            size: G, numbers in a target, each with statistics of its own.
            device: where they live.
            rate: how far they move to those of a batch; the first batches count alike instead,
                until that is slower.
        """
        self.rate = rate
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.square = torch.ones(size, dtype=torch.float64, device=device)
        self.updates = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def std(self) -> Tensor:
        """(G,) float64 standard deviation, at least 1e-2."""
        return (self.square - self.mean.square()).clamp(min=1e-4).sqrt()

    def normalise(self, target: Tensor) -> Tensor:
        """Return (…, G) targets as the network is to predict them."""
        return (target - self.mean.float()) / self.std.float()

    def restore(self, output: Tensor) -> Tensor:
        """Return (…, G) outputs in units of the targets."""
        return output * self.std.float() + self.mean.float()

    @torch.no_grad()
    def update(self, mean: Tensor, square: Tensor, *layers: tuple[Tensor, Tensor]) -> None:
        """Take in a batch of targets, and change last layers in place by what that changes.

        Args:
            mean: (G,) of the targets.
            square: (G,) mean of their squares.
            layers: weights (…, G) and biases (…, G).
        """
        before, spread = self.mean, self.std
        share = max(self.rate, 1 / (1 + float(self.updates)))
        self.mean = torch.lerp(self.mean, mean.double(), share)
        self.square = torch.lerp(self.square, square.double(), share)
        self.updates = self.updates + 1
        ratio, shift = spread / self.std, (before - self.mean) / self.std
        for weight, bias in layers:
            weight.mul_(ratio.float())
            bias.mul_(ratio.float()).add_(shift.float())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics."""
        return {"mean": self.mean, "square": self.square, "updates": self.updates}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over statistics of the same size."""
        device = self.mean.device
        self.mean, self.square, self.updates = (
            tensors[name].to(device, torch.float64).clone() for name in self.state_dict()
        )


def _moments(rows: Tensor) -> Tensor:
    """Return number, mean and variance of (N, size) rows, (3, size); all 0 without rows."""
    if not len(rows):
        return rows.new_zeros(3, rows.shape[1])
    variance, mean = torch.var_mean(rows, 0, correction=0)
    return torch.stack((torch.full_like(mean, len(rows)), mean, variance))
