"""A metric on trials: an embedding in which a task is near its like, and prototypes in it.

A memory embeds what was seen of a trial, at every step, as a point q. K prototypes are points c_k
of the same space (Snell et al. 2017), and what is known of the task is how near q is to each:

    p_k(q) = exp(−‖q − c_k‖² / τ) / Σ_l exp(−‖q − c_l‖² / τ)

Which points should be near is told by the tasks e themselves, known in training, through a Gaussian
kernel of bandwidth h on their P numbers:

    w_j(e) ∝ exp(−‖e − e_j‖² / 2 P h²),    Σ_j w_j = 1
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.networks.memories.backbone import Memory, MemoryState

FAR = -1e9
"""A logit that takes part in no softmax; finite, so that a row of nothing else has a gradient."""


class PrototypeEncoder(nn.Module):
    """From what was seen of a trial to a point, and the prototypes that it is compared with."""

    def __init__(
        self, inputs: int, hidden: int, memory: Memory, size: int, prototypes: int,
        temperature: float,
    ) -> None:  # fmt: skip
        """Initialise; torch's global generator decides the weights.

        Args:
            inputs: I, size of an input.
            hidden: width of its embedding.
            memory: from embeddings to what is remembered.
            size: D, numbers of a point.
            prototypes: K.
            temperature: τ.
        """
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.memory = memory
        self.head = nn.Linear(memory.outputs, size)
        self.prototypes = nn.Parameter(0.1 * temperature**0.5 * torch.randn(prototypes, size))
        self.temperature = temperature

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Return the points, (B, D), and the new state, given (B, I)."""
        remembered, state = self.memory.step(torch.tanh(self.embed(x)), state)
        return self.head(remembered), state

    def forward(self, x: Tensor) -> Tensor:
        """Return the points at each step, (T, B, D), given whole trials (T, B, I)."""
        return self.head(self.memory.unroll(torch.tanh(self.embed(x))))

    def log_posterior(self, points: Tensor) -> Tensor:
        """Return (…, K) logarithms of p, given points (…, D)."""
        return self._logits(points, self.prototypes).log_softmax(-1)

    def _logits(self, points: Tensor, others: Tensor) -> Tensor:
        return -squared_distances(points, others) / self.temperature

    def loss(
        self, trials: EmbeddedTrials, ids: Tensor, steps: Tensor, places: Tensor, *,
        bandwidth: float, contrast_weight: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the part of the trials `ids` in the loss, and metrics that add up likewise.

        Two terms, each the mean over trials and steps of a divergence in nats, KL(w ‖ p):

        - of the posterior over prototypes, with w by the distance of the task from theirs;
        - of the same softmax over how the other trials are remembered at their ends (Khosla et al.
          2020, with w in place of an equal label), times `contrast_weight`. Those points are
          constants here, as the keys of a dictionary are.

        Args:
            trials: n of T steps.
            ids: which of them.
            steps: (S,) int64, whose points are compared.
            places: (K, P) tasks that the prototypes stand for.
            bandwidth: h.
            contrast_weight: of the second term.

        Returns:
            The loss; and (2,) the two divergences.
        """
        weight = trials.valid[steps]
        weight = weight[:, ids] / weight.sum().clamp(min=1.0)
        points, tasks = self(trials.inputs[:, ids])[steps], trials.task[steps][:, ids]
        wanted = log_kernel(tasks, places, bandwidth)
        found = self.log_posterior(points)
        near = (divergence(wanted, found) * weight).sum()
        keys = torch.arange(trials.keys.shape[0], device=ids.device)
        out = (keys == ids[:, None]) | (trials.valid[-1] == 0)
        wanted = log_kernel(tasks, trials.task[-1], bandwidth, out)
        logits = self._logits(points, trials.keys).masked_fill(out, FAR)
        alike = (divergence(wanted, logits.log_softmax(-1)) * weight).sum()
        return near + contrast_weight * alike, torch.stack((near, alike)).detach()


class EmbeddedTrials(NamedTuple):
    """Trials of T steps, n of them, scaled as networks see them."""

    inputs: Tensor
    """(T, n, I) what the encoder sees at each step"""
    task: Tensor
    """(T, n, P) the task's vector at each step"""
    valid: Tensor
    """(T, n) 1, or 0 where the physics diverged"""
    keys: Tensor
    """(n, D) the points at the last step"""


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Return (…, N) squared distances of points (…, D) from N others, (N, D)."""
    return (points[..., None, :] - others).square().sum(-1)


def log_kernel(
    tasks: Tensor, others: Tensor, bandwidth: float, out: Tensor | None = None
) -> Tensor:
    """Return (…, N) logarithms of w: how near tasks (…, P) are to N others, (N, P).

    Distances are per number of a task, so that a bandwidth means the same for tasks of any size.

    Args:
        tasks: the tasks.
        others: those that they are compared with.
        bandwidth: h.
        out: (…, N) bool, those of no weight.
    """
    logits = squared_distances(tasks, others) / (-2 * bandwidth**2 * tasks.shape[-1])
    return (logits if out is None else logits.masked_fill(out, FAR)).log_softmax(-1)


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Return (…) KL divergences in nats, given logarithms of probabilities (…, N) each."""
    return (wanted.exp() * (wanted - found)).sum(-1)


class Places:
    """The tasks that K prototypes stand for: means of the tasks nearest to each (Sculley 2010)."""

    def __init__(self, prototypes: int, task_size: int, seed: int, device: torch.device) -> None:
        """Spread them evenly over [-1, 1], by a scrambled Sobol sequence.

        Args:
            prototypes: K.
            task_size: P.
            seed: of the scrambling.
            device: where they are.
        """
        sobol = torch.quasirandom.SobolEngine(task_size, scramble=True, seed=seed)
        self.places = (2 * sobol.draw(prototypes) - 1).to(device)
        """(K, P)"""
        self.counts = torch.ones(prototypes, device=device)
        """(K,) tasks that each is the mean of, where it began one of them"""

    def update(self, tasks: Tensor) -> None:
        """Take in (N, P) tasks: each moves the place nearest to it."""
        nearest = squared_distances(tasks, self.places).argmin(-1)
        one_hot = torch.nn.functional.one_hot(nearest, len(self.places)).to(self.places)
        new = one_hot.sum(0)
        total = self.counts + new
        moved = one_hot.t() @ tasks - new[:, None] * self.places
        self.places = self.places + moved / total[:, None]
        self.counts = total

    def state_dict(self) -> dict[str, Tensor]:
        """Return both."""
        return {"places": self.places, "counts": self.counts}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.places = tensors["places"].to(self.places).clone()
        self.counts = tensors["counts"].to(self.counts).clone()
