"""``metarl check``: the conformance suite, on a family that may be anybody's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from metarl.base.errors import UserError
from metarl.commands.arguments import parse
from metarl.runs.progress import under_way
from metarl.simulation.warp.choice import SimulatorName


@dataclass(frozen=True)
class Check:
    """Run the conformance suite on a task family, a line per check; exit code 1 if one fails."""

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """A registered name, a product such as half-cheetah-vel+dynamics, or file.py:Class."""
    simulator: SimulatorName = "mujoco"
    """With warp: whether the family runs on MuJoCo Warp as it does on native MuJoCo."""


def check(argv: Sequence[str]) -> int:
    """Run the conformance suite on a family."""
    args = parse(Check, argv, prog="metarl check")
    from metarl.check.suite import check_family
    from metarl.tasks.registry import family_class

    # The class, not an instance: a model that does not compile is the first check's to report.
    family = family_class(args.family)
    suite = {}
    if not family.has_model:
        from metarl.check import gymnasium_suite

        suite = {"checks": gymnasium_suite.CHECKS, "gates": gymnasium_suite.GATES}
    if args.simulator == "warp":
        from metarl.check import warp_suite
        from metarl.simulation.warp.install import require_warp

        require_warp()
        if not family.has_model:
            raise UserError(f"'{args.family}' steps itself: it has no --simulator warp")
        suite = {"checks": warp_suite.CHECKS, "gates": warp_suite.GATES}
    with under_way() as (report, begin):
        return 1 if check_family(family, report, **suite, begin=begin) else 0
