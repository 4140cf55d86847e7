"""What training says of diverged physics, and of weights and metrics that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.base.errors import UserError
from metarl.learning.learner import nonfinite
from metarl.worlds.reward_terms import PREFIX

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.runs.config import Position
    from metarl.worlds.vector import VecWorlds

WARN_ABOVE = 0.01
"""Share of an iteration's transitions that may diverge before it is worth a line."""


class DivergenceWatch:
    """Counts the transitions that diverge in a run."""

    def __init__(self, position: Position) -> None:
        """Count in `position.diverged`, which is saved with the run."""
        self.position = position
        self.why = ""
        """Of the first iteration that was worth a line."""

    def note(self, diverged: float, steps: int, worlds: VecWorlds) -> Iterator[str]:
        """Count an iteration's transitions; yield a line if it is the first with too many.

        Args:
            diverged: how many of them diverged.
            steps: how many there were.
            worlds: that they were collected in.

        Raises:
            UserError: all of them did, so that nothing can be learned.
        """
        iteration = self.position.iteration + 1
        if 0 < steps <= diverged:
            raise UserError(
                f"iteration {iteration}: all of its {steps} transitions diverged, so there is "
                f"nothing to learn from: {worlds.why_diverged()}"
            )
        self.position.diverged += int(diverged)
        if diverged > WARN_ABOVE * steps and not self.why:
            self.why = worlds.why_diverged()
            yield (
                f"warning: iteration {iteration}: {percent(diverged, steps)} of the transitions "
                f"diverged and teach nothing: {self.why}"
            )

    def closing(self) -> Iterator[str]:
        """Yield a line on the whole run, if anything diverged in it."""
        diverged, steps = self.position.diverged, self.position.env_steps
        if diverged:
            why = f": {self.why}" if self.why else ""
            yield f"{percent(diverged, steps)} of the training transitions diverged{why}"


def refuse_nonfinite(learner: Learner, worlds: VecWorlds, iteration: int, saved: Path) -> None:
    """Raise UserError before a NaN spreads to checkpoints: one in a weight is one in every action.

    Args:
        learner: has just made its meta-update.
        worlds: in which the data were collected.
        iteration: of the update.
        saved: the folder of the checkpoints that are good.
    """
    if problem := nonfinite(learner.state_dict()):
        large = worlds.large_reward
        cure = f"{large}: scale it" if large else "smaller learning rates are the usual cure"
        raise UserError(
            f"iteration {iteration}: {problem}; the last good state is in '{saved}'; {cure}"
        )


def nonfinite_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of metrics that are not finite; means are NaN where all diverged."""
    diverged = ("return_before", "return_after", PREFIX) if metrics.get("diverged", 0) else ()
    return [n for n, v in metrics.items() if not abs(v) < math.inf and not n.startswith(diverged)]


def percent(part: float, whole: float) -> str:
    """Return a share with two digits, and never 0 % or 100 % of what is neither."""
    share = 100 * part / whole
    if part < whole:
        share = min(share, 99.9)
    return f"{share:.3g} %" if share >= 10 else f"{share:.2g} %"
