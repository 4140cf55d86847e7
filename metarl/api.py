"""The short way in Python: `train`, `evaluate` and `load`, as the commands of those names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.base.errors import UserError, refuse_unknown
from metarl.base.threads import using
from metarl.evaluation import protocol
from metarl.learning import checkpoint as checkpoints
from metarl.learning.agents import find_run
from metarl.run import (
    load_run,
    physics_for,
    resolve_device,
    start_run,
    worlds_for,
    worlds_per_task,
)
from metarl.runs.presets import plain, say_tuned, start_from, with_settings
from metarl.worlds.policy import as_policy
from metarl.worlds.vector import VecWorlds

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.evaluation.protocol import Report
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.policy import Policy


@dataclass(frozen=True)
class Run:
    """A run that was trained."""

    path: Path
    """The run folder"""

    @property
    def learner(self) -> Learner:
        """The learner of its newest checkpoint."""
        return load(self.path)

    @property
    def report(self) -> Report:
        """The newest report on held-out tasks that training made. Raises UserError if none."""
        found = sorted((self.path / "evaluation").glob("heldout_step_*.json"))
        if not found:
            raise UserError(f"'{self.path}' has no evaluation yet")
        return protocol.Report.load(found[-1])


def train(
    family: str,
    algorithm: str,
    *,
    preset: str | None = None,
    config: Path | str | None = None,
    **settings: Any,
) -> Run:
    """Meta-train, as ``metarl train FAMILY ALGORITHM`` does.

        run = metarl.train("half-cheetah-vel", "rl2", env_steps=1e6, seed=1)

    Args:
        family: a registered name, a product, or ``file.py:Class``.
        algorithm: a registered name, or ``file.py:Class``.
        preset: tuned settings to start from; None takes those of the family and the algorithm, if
            there are some, and "none" the plain defaults.
        config: a file of settings, which come after those of the preset.
        settings: fields of `TrainConfig` and of the algorithm's Config, which come last; whole
            floats are taken for integers.

    Raises:
        UserError: a setting, preset or file does not exist or cannot be.
    """
    start = start_from(plain(algorithm), family, algorithm, preset, config)
    train_config, learner_config = with_settings(start, settings, algorithm)
    if train_config.progress:
        say_tuned(family, algorithm, preset, 'preset="none"')
    return Run(start_run(family, algorithm, train_config, learner_config))


def evaluate(
    policy: Run | Path | str | Policy | Callable[[Tensor], Tensor],
    worlds: VecWorlds | None = None,
    tasks: Tasks | int = 30,
    *,
    split: str = "heldout",
    episodes: int = 3,
    seed: int = 0,
    rollouts_per_task: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Let a policy adapt to tasks, and score it before and after each round.

        metarl.evaluate(run)                              a run, a run folder, or an agent's name
        metarl.evaluate(learner, worlds, tasks)           a learner, in worlds of one's own
        metarl.evaluate(lambda obs: -obs[:, :2], worlds)  a function of the observation

    Args:
        policy: a run, its folder, a shipped agent's name, a policy, or a function from (B, O)
            observations to (B, A) actions.
        worlds: where a policy acts; a run makes its own.
        tasks: M tasks, or how many of the split.
        split: heldout, ood or train.
        episodes: K, rounds of adaptation.
        seed: of initial states and exploration.
        rollouts_per_task: worlds a task; None takes as many as in training.
        threads: CPU threads of the worlds that a run makes.
        progress: called with (rounds done, rounds in all).
    """
    if isinstance(policy, Run | Path | str):
        path = find_run(policy.path if isinstance(policy, Run) else policy)
        with using(threads):
            checkpoint, family, learner = load_run(str(path), "auto", threads)
            chosen = family.distribution.split(split, tasks) if isinstance(tasks, int) else tasks
            each = worlds_per_task(checkpoint, rollouts_per_task, len(chosen))
            physics = physics_for(checkpoint, None, "auto")
            worlds = worlds_for(family, learner, len(chosen) * each, threads, physics)
            return protocol.evaluate(
                learner, worlds, chosen, episodes=episodes, seed=seed, split=split,
                progress=progress,
            )  # fmt: skip
    if not isinstance(worlds, VecWorlds):
        raise UserError(f"evaluate needs worlds to let a policy act in, not {worlds!r:.80}")
    distribution = worlds.family.distribution
    chosen = distribution.split(split, tasks) if isinstance(tasks, int) else tasks
    return protocol.evaluate(
        as_policy(policy), worlds, chosen, episodes=episodes, seed=seed, split=split,
        progress=progress,
    )  # fmt: skip


def load(
    path: Path | str,
    *,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    family: str | None = None,
    algorithm: str | None = None,
    trust_code: bool = False,
    **unknown: Any,
) -> Learner:
    """Return the learner of a run folder's newest checkpoint, of a checkpoint, or of an agent.

    Args:
        path: a folder, or the name of an agent that ships.
        device: where its weights go.
        settings: of the learner, in place of those that it was trained with, such as
            ``{"adapt_every": 0}``, with which PEARL adapts as its authors have it.
        family: see `metarl.learning.checkpoint.load`, as for the rest.
        algorithm: likewise.
        trust_code: likewise.
        unknown: is refused.

    Raises:
        UserError: there is none that can be read, or it names a file that is not trusted.
    """
    refuse_unknown(
        "metarl.load", unknown, ("device", "settings", "family", "algorithm", "trust_code")
    )
    checkpoint = checkpoints.load(
        checkpoints.newest(find_run(path)),
        family=family, algorithm=algorithm, trust_code=trust_code,
    )  # fmt: skip
    checkpoint = checkpoints.with_settings(checkpoint, settings)
    learner = checkpoints.restore(checkpoint, device=resolve_device(device))
    learner.family = checkpoint.family
    return learner
