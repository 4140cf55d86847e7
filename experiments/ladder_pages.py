"""The ladder's results of each learner on its own page: ``ladder_pages.py [--write]``.

A page in docs/algorithms/ that has ``<!-- ladder LINE … -->`` gets a table of those lines there,
from experiments/results/ladder/; ``--write`` writes it. What is not trained has no row.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from ladder import Results, dagger, last, load, mean_of, minutes, steps
from result_files import filled
from run_queue import RESULTS, ROOT, lines_of

from metarl.cli import guarded
from metarl.report.text import number

PAGES = ROOT / "docs" / "algorithms"
MARK = re.compile(r"<!-- ladder ([\w -]+) -->")
HEAD = (
    "| setting | family | mean return on held-out tasks | after episodes | blind | env steps "
    "| minutes | seeds |",
    "|---|---|---|---|---|---|---|---|",
)
NOTE = """\
From [the ladder](../ladder.md), which has the oracle's returns, scores, ood tasks and hardware.
*Blind* is `ppo` on that family, with its env steps. *Minutes* are of training, on one thread of a
busy machine. `python experiments/run_queue.py --only 'FAMILY-SETTING-'` trains one. †: of settings
or a test of before."""


def table(results: Results, lines: list[str]) -> str:
    """Return the table of some lines, on every family on which they were trained."""
    rows = [
        (lines.index(line), _row(family, line, found[line], found.get("ppo")))
        for family, found in results.items()
        for line in filter(found.get, lines)
        if line in lines_of(family)
    ]
    ordered = [row for _, row in sorted(rows, key=lambda one: one[0])]
    return "\n".join((*HEAD, *ordered, "", NOTE))


def _row(
    family: str, line: str, seeds: list[dict[str, Any]], blind: list[dict[str, Any]] | None
) -> str:
    rounds = range(last(seeds) + 1)
    beside = f"{number(mean_of(blind, 0))} ({steps(blind)}){dagger(blind)}" if blind else "–"
    cells = (
        f"`{line}`{dagger(seeds)}", family,
        " → ".join(number(mean_of(seeds, k)) for k in rounds),
        ", ".join(str(seeds[0]["experience"][k]) for k in rounds), beside, steps(seeds),
        minutes(seeds), str(len(seeds)),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def pages(results: Results) -> dict[Path, str]:
    """Return what the pages with a mark are to be."""
    found = {}
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for mark in MARK.finditer(text):
            text = filled(text, f"ladder {mark[1]}", table(results, mark[1].split()))
            found[path] = text
    return found


def main(argv: list[str]) -> int:
    """Say which pages differ from the files, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the pages")
    args = parser.parse_args(argv)
    for path, text in pages(load(RESULTS)).items():
        if path.read_text(encoding="utf-8") == text:
            continue
        print(f"{path.name} {'is written' if args.write else 'differs'}")
        if args.write:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
