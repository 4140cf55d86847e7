"""How often the 95 % interval of a gain holds the truth: ``interval_coverage.py [--write]``.

Gains over tasks are drawn from known distributions, and the interval is computed of each draw.
``--write`` puts the table into docs/protocol.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from metarl.cli import guarded
from metarl.evaluation.statistics import gain_interval, iqm

PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"
BEGIN, END = "<!-- coverage -->\n", "<!-- /coverage -->"
DRAWS = ("normal", "exponential", "lognormal")
ROWS = [(8, 1), (15, 1), (30, 1), (16, 2), (30, 2), (32, 8)]
"""Evaluations, and how many different tasks they are of if these repeat; 1: all are different."""
EXPERIMENTS = 2000


def covered(draws: str, count: int, strata: int, experiments: int, seed: int) -> float:
    """Return the share of experiments whose interval holds the interquartile mean.

    Args:
        draws: a method of numpy's generator; lognormal has σ = 1.
        count: gains in an experiment.
        strata: different tasks that they are of, each equally often; 1: all are different.
        experiments: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    truth = float(iqm(getattr(np.random.default_rng(1), draws)(size=10**6)))
    tasks = np.arange(float(count))[:, None] % (strata if strata > 1 else count)
    held = 0
    for n in range(experiments):
        _, low, high = gain_interval(getattr(rng, draws)(size=count), tasks, n)
        held += low <= truth <= high
    return held / experiments


def table() -> str:
    """Return the coverages as a Markdown table."""
    lines = [f"| gains | {' | '.join(DRAWS)} |", "|---|" + "---|" * len(DRAWS)]
    for count, strata in ROWS:
        what = f"{count} tasks" if strata == 1 else f"{strata} tasks, {count // strata} rows each"
        shares = [covered(draws, count, strata, EXPERIMENTS, seed=0) for draws in DRAWS]
        lines.append(f"| {what} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print the table, or write it into docs/protocol.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write it instead of printing")
    if not parser.parse_args(argv).write:
        print(table())
        return 0
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
