"""Adapting a trained learner to one task, and the file that holds the adapted policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from metarl.errors import UserError
from metarl.keys import Key
from metarl.rollout import collect
from metarl.run_folder import disk_errors, write_bytes, write_json

if TYPE_CHECKING:
    from metarl.checkpoint import Checkpoint
    from metarl.learner import Learner
    from metarl.tasks import Tasks
    from metarl.worlds import TaskWorlds


class Round(NamedTuple):
    """One round of an adaptation: what the policy is worth by then, and the policy."""

    experience: int
    """Episodes of the task that the learner had seen."""
    returns: Tensor
    """(E,) float64, the return of each world."""
    state: Any
    """The learner's state that earned them."""
    diverged: int = 0
    """Worlds whose physics diverged in a scored episode, which ended it."""


@torch.no_grad()
def adapt_to(
    learner: Learner, worlds: TaskWorlds, task: Tasks, *, episodes: int, seed: int
) -> Iterator[Round]:
    """Adapt to one task in `episodes` rounds, by the protocol of `metarl.evaluate` to the bit.

    Args:
        learner: is left as it is; what adapts is a state of its own.
        worlds: E worlds, all of which run the task.
        task: one task.
        episodes: K rounds of adaptation, so K + 1 results.
        seed: of initial states and exploration.

    Yields:
        The rounds, the first of them before any data.
    """
    worlds.set_tasks(task, worlds.num_worlds)
    horizon = worlds.spec.horizon
    state = learner.begin_seeded(1, worlds.num_worlds, seed)
    key = Key(seed, "evaluate")
    per_round = worlds.num_worlds if learner.pools_worlds else 1
    for k in range(episodes + 1):
        score, explore = key.fold("score", k), key.fold("explore", k)
        worlds.seed(score)
        worlds.reset()
        scored, after = collect(worlds, learner, state, horizon, score, explore=False)
        diverged = int(scored.first_episode_diverged().sum())
        yield Round(k * per_round, scored.first_episode_return().cpu(), state, diverged)
        if k == episodes:
            return
        if learner.explores_to_adapt:
            worlds.seed(explore)
            worlds.reset()
            data, after = collect(worlds, learner, state, horizon, explore, explore=True)
            state = learner.adapt(after, data)
        else:
            state = learner.adapt(after, scored)


def save_adapted(
    folder: Path, checkpoint: Checkpoint, learner: Learner, task: Tasks, rounds: Sequence[Round]
) -> Path:
    """Write the policy of the last round: adapted.safetensors, and adapted.json which describes it.

    Args:
        folder: where to; made if needed.
        checkpoint: what was adapted.
        learner: likewise.
        task: to which task.
        rounds: how it went; the last one holds the adapted state.

    Returns:
        The folder.
    """
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in learner.adapted_state_dict(rounds[-1].state).items()
    }
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"the adapted '{name}' is not finite, so it is not saved")
    weights = save(tensors)
    about = {
        "format": 1,
        "family": checkpoint.family,
        "algorithm": checkpoint.algorithm,
        "spec": learner.spec._asdict(),
        "learner_config": asdict(learner.config),
        "step": checkpoint.step,
        "task": task.to_json(),
        "experience": [one.experience for one in rounds],
        "returns": [float(one.returns.mean()) for one in rounds],
        "sha256": {"adapted.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "adapted.safetensors", weights)
        write_json(folder / "adapted.json", about)
    return folder
