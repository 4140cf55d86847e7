"""Which memory RL² should have: what each has learned after so many minutes of one CPU thread.

    python experiments/memories.py [--write]

From the curves of ``experiments/results/ladder/`` and the seconds of an iteration that
``benchmarks/memories.py`` measured, the memories taking turns. ``--write`` puts the table into
docs/algorithms/rl2.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from typing import Any

import numpy as np
from result_files import Results, filled, load
from run_queue import FOUR, MEMORIES, RESULTS, ROOT, outdated

from metarl.cli import guarded

PAGE = ROOT / "docs" / "algorithms" / "rl2.md"
BENCHMARK = ROOT / "benchmarks" / "results" / "memories.json"
NAMES = {"rl2": "gru", **{memory: memory for memory in MEMORIES}}
"""Line of the ladder -> its memory."""
PARTS = (0.25, 0.5, 1.0)
"""Of the minutes that the quickest memory takes for all its environment steps."""
HEAD = (
    "family", "memory", "a quarter of the time", "half", "all of it", "after all env steps",
    "its fourth episode", "minutes for them", "seeds",
)  # fmt: skip
INTRO = """\
Mean returns of the held-out tasks' first episodes, over seeds, with the lowest and the highest.
*The time* is what the quickest memory of the family takes for all its environment steps, on one
CPU thread, measured with the memories taking turns; the others have made fewer steps by then.
Made by `python experiments/memories.py --write` from the curves of [the ladder](../ladder.md).
"""


def seconds_a_step() -> dict[tuple[str, str], float]:
    """Return the CPU seconds of an environment step of training: (family, line) -> seconds."""
    rows = json.loads(BENCHMARK.read_text(encoding="utf-8"))["results"]
    return {(row["family"], row["line"]): row["seconds"] / row["env_steps"] for row in rows}


def at(result: dict[str, Any], env_steps: float) -> float:
    """Return the mean return of held-out first episodes after so many environment steps."""
    curve = np.array([(row["env_steps"], row["mean"][0]) for row in result["curve"]])
    return float(np.interp(env_steps, *curve.T))


def cell(values: list[float]) -> str:
    """Return the mean over seeds, with the lowest and the highest."""
    text = f"{np.mean(values):.0f}"
    return text if len(values) == 1 else f"{text} [{min(values):.0f}, {max(values):.0f}]"


def compared(
    family: str, results: Results, cost: dict[tuple[str, str], float]
) -> dict[str, list[list[float]]]:
    """Return what the seeds of each line that is trained on a family returned: line -> columns.

    After each of `PARTS`, and in the end in the first and in the fourth episode.
    """
    trained = {line: results[family, line] for line in NAMES if results.get((family, line))}
    steps = {
        line: min(minutes(family, each, results, cost) for each in trained) * 60
        / cost[family, line] for line in trained
    }  # fmt: skip
    return {
        line: [[at(one, part * steps[line]) for one in found] for part in PARTS]
        + [[one["mean"][episode] for one in found] for episode in (0, 3)]
        for line, found in trained.items()
    }


def minutes(family: str, line: str, results: Results, cost: dict[tuple[str, str], float]) -> float:
    """Return what a line takes for all its environment steps."""
    return cost[family, line] * results[family, line][0]["curve"][-1]["env_steps"] / 60


def rows(family: str, results: Results, cost: dict[tuple[str, str], float]) -> list[list[str]]:
    """Return the rows of one family: those of the memories that are trained there."""
    return [
        [
            family, NAMES[line], *map(cell, columns),
            f"{minutes(family, line, results, cost):.1f}", str(len(columns[0])),
        ]
        for line, columns in compared(family, results, cost).items()
    ]  # fmt: skip


def best(family: str, results: Results, cost: dict[tuple[str, str], float]) -> str:
    """Return whose mean over seeds is the highest after the time, and after all steps."""
    found = compared(family, results, cost)
    if len(found) < len(NAMES):
        return f"{family}: not all are trained"
    time, steps = (max(found, key=lambda line: np.mean(found[line][k])) for k in (2, 3))
    return f"{family}: {NAMES[time]} and {NAMES[steps]}"


def text() -> str:
    """Return the table of all memories on all four families, and what it shows."""
    cost, every = seconds_a_step(), load(RESULTS)
    results = {name: [one for one in found if not outdated(one)] for name, found in every.items()}
    body = [row for family in FOUR for row in rows(family, results, cost)]
    lines = [f"| {' | '.join(row)} |" for row in (HEAD, ["---"] * len(HEAD), *body)]
    leads = "; ".join(best(family, results, cost) for family in FOUR)
    said = f"Highest mean over seeds after all of the time, and after all steps: {leads}."
    return "\n".join([INTRO, *lines, "", *textwrap.wrap(said, 100, break_on_hyphens=False)])


def main(argv: list[str]) -> int:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write it instead of printing")
    if parser.parse_args(argv).write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), "memories", text()), "utf-8")
    else:
        print(text())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
