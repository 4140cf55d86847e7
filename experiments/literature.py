"""Our results beside those that files of others state: ``literature.py [--write]``.

Theirs are in experiments/literature.toml; ours are the files that docs/results.md and
docs/ladder.md are made from. ``--write`` writes docs/literature.md.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from ladder import load as load_ladder
from result_files import load as load_results
from result_files import teacher_steps
from run_queue import RESULTS as LADDER

from metarl import find_family
from metarl.base.text import counted, si
from metarl.cli import guarded
from metarl.report.text import number

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "literature.md"
INTRO = """\
# Beside the literature

What others have stored of their runs, beside ours on the family that is nearest. A return means
something only with its definition, horizon and number of env steps: where these differ, so do the
numbers, whatever the learner. None of theirs was run here. "±" is the standard deviation over
runs, brackets are our lowest and highest seed. Ours are means over held-out tasks with
deterministic actions; *first episode* is an episode that the learner begins without knowing the
task. Families that stand here with theirs alone have not been trained yet.

Made by `python experiments/literature.py --write`.
"""


def main(argv: list[str]) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/literature.md")
    if parser.parse_args(argv).write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())
    return 0


def page() -> str:
    """Return the page."""
    stored = tomllib.loads((HERE / "literature.toml").read_text(encoding="utf-8"))
    mine = ours()
    parts = [INTRO]
    for name, about in stored["families"].items():
        horizon = find_family(name).horizon
        parts += [
            f"## {name}\n",
            f"Theirs: {about['theirs']}. Ours: {about['ours']}; episodes of {horizon} steps.\n",
            "| whose | learner | horizon | env steps | runs | returns |",
            "|---|---|---|---|---|---|",
            *(their_row(one) for one in stored["results"] if one["family"] == name),
            *(our_row(line, runs, horizon) for line, runs in mine.get(name, [])),
            "",
        ]
    words = [" ".join(source["words"].split()) for source in stored["sources"].values()]
    return "\n".join([*parts, "## Sources\n", *(f"- {line}" for line in words), ""])


def their_row(one: dict[str, Any]) -> str:
    """Return a row of the table of a family."""
    learner = {"varibad": "VariBAD", "pearl": "PEARL"}[one["source"]]
    returns = "; ".join(f"{value} {when}" for when, value in one["after"].items())
    return (
        f"| theirs | {learner} | {one['horizon']} | {si(one['env_steps'])} | {one['runs']} "
        f"| {returns} |"
    )


def ours() -> dict[str, list[tuple[str, list[dict[str, Any]]]]]:
    """Return the runs of each learner, by family; those of the ladder are marked so."""
    found: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {}
    for (family, name), runs in sorted(load_results(HERE / "results").items()):
        found.setdefault(family, []).append((name, runs))
    for family, lines in load_ladder(LADDER).items():
        for line, runs in lines.items():
            found.setdefault(family, []).append((f"{line} ([ladder](ladder.md))", runs))
    return found


def our_row(line: str, runs: list[dict[str, Any]], horizon: int) -> str:
    """Return a row: the means over seeds in the first round, and in the last that all have."""
    last = min(len(run["mean"]) for run in runs) - 1
    seen = runs[0]["experience"][last]
    words = [f"{spread(runs, 0)} first episode"]
    if last:
        words.append(f"{spread(runs, last)} after {counted(seen, 'episode')}")
    steps = np.mean([run["curve"][-1]["env_steps"] + teacher_steps(run) for run in runs])
    return f"| ours | {line} | {horizon} | {si(steps)} | {len(runs)} | {'; '.join(words)} |"


def spread(runs: list[dict[str, Any]], k: int) -> str:
    """Return the mean over runs in round k, with the lowest and the highest."""
    means = [run["mean"][k] for run in runs]
    if len(means) == 1:
        return number(round(means[0]))
    low, high = (number(round(pick(means))) for pick in (min, max))
    return f"{number(round(np.mean(means)))} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
