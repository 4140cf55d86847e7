"""Adapting a trained learner to one task, and the file that holds the adapted policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.files import (
    as_path,
    check_writable,
    file_errors,
    refuse_special,
    standing,
    whole_folder,
    write_json,
)
from metarl.base.keys import Key
from metarl.base.trust import admitted, located
from metarl.base.untrusted import read_object, refusing, regular_size
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import nonfinite
from metarl.modules.settings import for_others
from metarl.worlds import MAX_EPISODES
from metarl.worlds.rollout import OnStep, Rollout, collect, mean_of_finished

if TYPE_CHECKING:
    from metarl.learning.checkpoint import Checkpoint
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.policy import Policy
    from metarl.worlds.vector import VecWorlds


FORMAT = 2
WEIGHTS = "adapted.safetensors"
HEADER = "adapted.json"


Watch = Callable[[str, int], OnStep]
"""Called as each phase of an evaluation begins; see `adaptation_rounds`."""


class Round(NamedTuple):
    """One round of an adaptation: what the policy is worth by then, and the policy."""

    experience: int
    """Episodes of the task that the learner had seen."""
    returns: Tensor
    """(E,) float64, the return of each world; NaN where it diverged."""
    state: Any
    """The learner's state that earned them."""
    diverged: int = 0
    """Worlds whose physics diverged in a scored episode."""
    exploring: bool = False
    """Whether the policy explored, and used nothing of what it had seen."""

    @property
    def mean(self) -> float:
        """The mean return of the worlds that did not diverge; NaN if all did."""
        return float(mean_of_finished(self.returns))


@torch.no_grad()
def adapt_to(
    policy: Policy, worlds: VecWorlds, task: Tasks, *, episodes: int, seed: int
) -> Iterator[Round]:
    """Adapt to one task in `episodes` rounds, by the protocol of `metarl.evaluate` to the bit.

    Args:
        policy: a learner or another policy; it is left as it is, and a state of its own adapts.
        worlds: E worlds, all of which run the task.
        task: one task.
        episodes: K rounds of adaptation, so K + 1 results.
        seed: of initial states and exploration.

    Yields:
        The rounds, the first of them before any data.
    """
    check_episodes(episodes)
    worlds.set_tasks(task, worlds.num_worlds)
    per_round = worlds.num_worlds if policy.adapts_per_task else 1
    for k, (state, scored) in enumerate(adaptation_rounds(policy, worlds, 1, episodes, seed)):
        diverged = int(scored.first_episode_diverged().sum())
        returns, exploring = scored.first_episode_return().cpu(), k < policy.exploring_rounds
        yield Round(k * per_round, returns, state, diverged, exploring)


def check_episodes(episodes: int) -> None:
    """Raise UserError for what is no number of rounds of adaptation."""
    if not isinstance(episodes, int) or not 0 <= episodes <= MAX_EPISODES:
        raise UserError(
            f"episodes must be a whole number of at least 0 and at most {MAX_EPISODES}, "
            f"not {episodes!r:.40}"
        )


def adaptation_rounds(
    policy: Policy,
    worlds: VecWorlds,
    tasks: int,
    episodes: int,
    seed: int,
    watch: Watch | None = None,
) -> Iterator[tuple[Any, Rollout]]:
    """Score and adapt in turns, in worlds that have their tasks: what every evaluation does.

    Args:
        policy: a learner or another policy, which is left as it is.
        worlds: E of them for each task.
        tasks: M.
        episodes: K, rounds of adaptation.
        seed: of initial states and exploration.
        watch: called with the phase ("score" or "explore") and the round once its episodes have
            begun; returns what to call with each step.

    Yields:
        K + 1 times the state and the rollout, without exploration, that it is scored by.
    """
    key = Key(seed, "evaluate")
    each = worlds.num_worlds // tasks
    state = policy.begin_seeded(tasks, each, seed, worlds.tasks.first)

    def play(phase: str, k: int, *, explore: bool) -> tuple[Rollout, Any]:
        name = key.fold(phase, k)
        worlds.seed(name)
        worlds.reset()
        on_step = None if watch is None else watch(phase, k)
        steps = worlds.spec.horizon
        with worlds.pairing():
            got = collect(worlds, policy, state, steps, name, explore=explore, on_step=on_step)
        worlds.settle()
        return got

    for k in range(episodes + 1):
        data, after = play("score", k, explore=False)
        yield state, data
        if k == episodes:
            return
        if policy.adapts_on_exploration:
            data, after = play("explore", k, explore=True)
        state = policy.adapt(after, data)


def best_round(rounds: Sequence[Round]) -> int:
    """Return the round that scored best, the first of equals; the last one if all diverged."""
    scores = [one.mean for one in rounds]
    known = [score for score in scores if score == score]
    return scores.index(max(known)) if known else len(rounds) - 1


def check_place(folder: Path) -> None:
    """Raise UserError if an adapted policy cannot be put there: for before the work."""
    with file_errors(folder):
        if not folder.is_dir():
            refuse_special(folder)
        check_writable(folder.resolve(), folder=True)
        if folder.exists() and {path.name for path in folder.iterdir()} - {WEIGHTS, HEADER}:
            raise UserError(f"'{folder}' holds something else than a policy: choose another --out")


def save_adapted(
    folder: Path, checkpoint: Checkpoint, learner: Learner, task: Tasks, rounds: Sequence[Round]
) -> Path:
    """Write the policy of the best round: adapted.safetensors, and adapted.json about it.

    Args:
        folder: where to; a policy that is there already is replaced.
        checkpoint: what was adapted.
        learner: likewise.
        task: to which task.
        rounds: how it went; see `best_round`.

    Returns:
        The folder.
    """
    best = best_round(rounds)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in learner.adapted_state_dict(rounds[best].state).items()
    }
    if problem := nonfinite(tensors):
        raise UserError(f"the adapted policy is not saved: {problem}")
    weights = safetensors.torch.save(tensors)
    names = {"family": checkpoint.family, "algorithm": checkpoint.algorithm}
    about = {
        "format": FORMAT,
        **names,
        "files": located(folder, names),
        "spec": learner.spec.to_json(),
        "learner_config": for_others(learner.config),
        "step": checkpoint.step,
        "task": task.to_json(),
        "round": best,
        "experience": [one.experience for one in rounds],
        "returns": [one.mean for one in rounds],
        "sha256": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    check_place(folder)
    with file_errors(folder), whole_folder(folder.resolve()) as draft:
        (draft / WEIGHTS).write_bytes(weights)
        write_json(draft / HEADER, about)
    return folder


def load_adapted(
    folder: Path | str,
    *,
    device: str = "cpu",
    family: str | None = None,
    algorithm: str | None = None,
    trust_code: bool = False,
) -> tuple[Learner, Any]:
    """Read what `save_adapted` wrote.

    Args:
        folder: with the two files.
        device: where the learner computes.
        family: see `metarl.learning.checkpoint.load`, as for the rest.
        algorithm: likewise.
        trust_code: likewise.

    Returns:
        The learner, and the state in which it is adapted: what `Learner.act` and `collect` take.
        It has the worlds that it was adapted in; where a learner pools them, it fits any number.

    Raises:
        UserError: a file is missing, changed, not ours, or of another version of its algorithm, or
            the policy names code that nobody said may be run.
    """
    folder = standing(as_path(folder))
    with refusing(folder / WEIGHTS, "policy"):
        regular_size(folder / WEIGHTS)
        weights = (folder / WEIGHTS).read_bytes()
    with refusing(folder / HEADER, "policy"):
        about = read_object(folder / HEADER, FORMAT)
        if about["sha256"] != {WEIGHTS: hashlib.sha256(weights).hexdigest()}:
            raise ValueError(f"{WEIGHTS} was changed after it was written (sha256)")
        family, algorithm = admitted(
            folder, about, family=family, algorithm=algorithm, trust_code=trust_code
        )
        tensors = safetensors.torch.load(weights)
        checkpoint = checkpoints.Checkpoint(
            folder, about["step"], family, algorithm, about["spec"], about["learner_config"], {},
            tensors,
        )  # fmt: skip
        if problem := nonfinite(tensors):
            raise UserError(f"'{folder / WEIGHTS}' cannot be used: {problem}")
        learner = checkpoints.fresh(checkpoint, device=device)
        learner.family = family
        rounds = about.get("round", len(about["experience"]) - 1)
        tensors = learner.upgrade_adapted(tensors, rounds)
        return learner, learner.load_adapted_state_dict(tensors)
