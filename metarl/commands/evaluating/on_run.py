"""What the commands on a trained run share: flags, one task in words, demonstrations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metarl.base.errors import UserError
from metarl.commands.arguments import Said, check_counts
from metarl.simulation.warp.choice import SimulatorName

if TYPE_CHECKING:  # torch is imported when there is something to compute, not for --help
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.worlds.policy import Policy


@dataclass(frozen=True)
class OnRun(Said):
    """What the commands that open a trained run share."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder (its newest checkpoint is used), a checkpoint folder, or the name of an agent
    that comes with metarl, such as half-cheetah-vel-pearl."""
    episodes: int = 3
    """Adaptation rounds K; the curve has K + 1 points, the first one before any data."""
    rollouts_per_task: int | None = None
    """Worlds of each task; the default is what the run was trained with."""
    seed: int = 0
    """Of initial states and exploration."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes, and the simulator warp."""
    simulator: SimulatorName | None = None
    """What computes the physics: mujoco or warp; the default is what the run was trained on."""
    threads: int | None = None
    """CPU threads; the default is every core."""
    setting: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """One of the learner's settings, in place of the one that it was trained with, such as
    adapt_every=0, with which PEARL adapts between episodes alone, as its authors have it."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        check_counts(self, episodes=0, rollouts_per_task=1, seed=0, threads=1)

    def said(self) -> dict[str, Any]:
        """Return what was said, as arguments of `metarl.run.load_run`."""
        settings: dict[str, Any] = {}
        for name, text in named_values(self.setting, "--setting", "adapt_every=0"):
            with contextlib.suppress(ValueError):  # what is no JSON is a string
                text = json.loads(text)
            settings[name] = text
        return super().said() | {"settings": settings}


def with_demonstrations(
    learner: Learner, tasks: Tasks, file: str | None
) -> tuple[Policy, dict[str, Any]]:
    """Return a learner that is shown the demonstrations of a file, if one is named; and about it.

    Raises UserError if the learner does not adapt to demonstrations, or the tasks have none.
    """
    if file is None:
        return learner, {}
    from metarl.learning.demonstrations import Demonstrations
    from metarl.learning.imitation import Shown

    found = Demonstrations.load(file)
    about = {"agent": found.about.get("agent"), "sha256": found.digest, "each": found.per_task}
    return Shown(learner, found, tasks), {"demonstrations": about}


def parse_task(family: TaskFamily, settings: Sequence[str]) -> Tasks:
    """Turn ``name=value`` words into one task. Raises UserError naming the first bad one."""
    from metarl.tasks.distribution import TaskDistribution

    values: dict[str, float] = {}
    for name, text in named_values(settings, "--set", "mass=1.5"):
        try:
            values[name] = float(text)
        except ValueError:
            raise UserError(f"--set {name}={text}: '{text}' is not a number") from None
    return TaskDistribution(family).make(**values)


def named_values(words: Sequence[str], option: str, example: str) -> list[tuple[str, str]]:
    """Return the names and the values of ``name=value`` words. Raises UserError on a bad one."""
    found: dict[str, str] = {}
    for word in words:
        name, mark, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not mark or not name:
            raise UserError(f"{option} {word}: write it as NAME=VALUE, such as {option} {example}")
        if name in found:
            raise UserError(f"{option} {word}: '{name}' is set twice")
        found[name] = text
    return list(found.items())
