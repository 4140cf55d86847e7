"""What the legs have learned: ``legs.py [--write]``.

From the files of ``run_queue.py --only legs`` in experiments/results/legs/: how well the quadrupeds
follow their commands, and how often they fall. ``--write`` puts the table into the families' pages.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from result_files import filled
from run_queue import LEGS, LONG, ROOT

from metarl.cli import guarded
from metarl.report.text import number

RESULTS = ROOT / "experiments" / "results" / "legs"
PAGES = {family: ROOT / "docs" / "families" / f"{family}.md" for family in LONG}
NAMES = {"legs-rma": "`rma`", "legs-rl2": "`rl2` with a privileged critic"}
MEASURED = ("velocity_error", "turning_error", "failures_per_minute")
HEAD = (
    "| learner | tasks | first episode | after more | velocity error (m/s) | turning error (rad/s) "
    "| falls a minute | env steps | minutes |",
    "|---|---|---|---|---|---|---|---|---|",
)
NOTE = (
    "The errors are means over the steps of the first episodes of 30 tasks, 4 worlds each, of one "
    "seed. *Minutes* are of training, on one thread of a busy machine. Made by `python "
    "experiments/legs.py --write` from `experiments/results/legs/`."
)


def load(family: str) -> dict[str, dict[str, Any]]:
    """Return the results of a family, by line."""
    paths = {line: RESULTS / f"{family}-{line}-seed1.json" for line in LEGS}
    return {k: json.loads(path.read_text("utf-8")) for k, path in paths.items() if path.is_file()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the table of a family, and what is not in it."""
    rows = [
        _row(NAMES[line], split, one["curve"][-1], part)
        for line, one in found.items()
        for split, part in (("held-out", one), ("ood", one["ood"]))
        if part
    ]
    lacks = " and ".join(NAMES[line] for line in LEGS if line not in found)
    missing = [f"Not trained yet, for as long as that: {lacks}."] if lacks else []
    return "\n".join([*HEAD, *rows, "", NOTE, *missing] if rows else missing)


def _row(name: str, split: str, end: dict[str, Any], part: dict[str, Any]) -> str:
    said = part["diagnostics"]
    errors = [f"{np.mean(said[f'measured/{of}'][0]):.2f}" for of in MEASURED]
    cells = (
        name, split, number(part["mean"][0]), number(part["mean"][-1]), *errors,
        f"{end['env_steps'] / 1e6:.0f} M", f"{end['seconds'] / 60:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def pages() -> dict[Path, str]:
    """Return what the families' pages are to be."""
    return {
        path: filled(path.read_text(encoding="utf-8"), "legs", table(load(family)))
        for family, path in PAGES.items()
    }


def main(argv: list[str]) -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the pages")
    args = parser.parse_args(argv)
    for family in PAGES:
        print(f"{family}:\n{table(load(family))}\n")
    if args.write:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
