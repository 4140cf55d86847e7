"""The ladder's table and page from experiments/results/ladder/: ``ladder.py [--write]``.

For each family: what a blind policy gets, what an oracle gets, and where each learner stands
between the two. ``--write`` writes docs/ladder.md; `run_queue.py` makes the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from run_queue import LINES, MILLIONS, RESULTS, ROOT

from metarl.cli import guarded
from metarl.learning.score import Score, adaptation_score
from metarl.learning.statistics import iqm

PAGE = ROOT / "docs" / "ladder.md"
INTRO = """\
# Does adapting pay?

Every learner beside the *blind* policy (PPO over all tasks: domain randomisation) and the
*oracle* (the same PPO on `FAMILY+told`, which observes the task's parameters), on the same held-
out tasks. The adaptation score is (X − blind) / (oracle − blind), of mean returns: 0 is domain
randomisation, 1 is as good as being told the task; in brackets the 95 % interval of a bootstrap
over tasks and seeds. With one seed, what another one would give is not in the interval. *No
score*: the oracle is not shown to be better than the blind policy, so that there is nothing to be
gained by knowing the task, or the training was too short to show it. *Episodes* is how many of
the task the learner had seen. Empty cells were not trained.

Made by `python experiments/ladder.py --write` from the files that `make results` wrote. All of it
ran on CPUs, one thread each, on a machine that was busy with other work: minutes are wall-clock
time of training, and no more than a hint.
"""

AFTER = """\
Interquartile means over the families that have a score, after the last round, and how many of those
families are above a score."""

Results = dict[str, dict[str, list[dict[str, Any]]]]


def load(folder: Path) -> Results:
    """Read the results: family -> line -> one for each seed."""
    found: Results = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["family"].replace("+told", "")][result["line"]].append(result)
    return found


def column(result: dict[str, Any], episode: int) -> np.ndarray:
    """Return (M,) returns of a round, NaN where all worlds of a task diverged."""
    return np.array([row[episode] for row in result["returns"]], np.float64)


def score(lines: dict[str, list[dict[str, Any]]], line: str, episode: int) -> Score | None:
    """Return the adaptation score of a line, or None without a blind policy or an oracle."""
    if line in ("ppo", "oracle") or not lines.get("ppo") or not lines.get("oracle"):
        return None
    below, above = ([column(r, 0) for r in lines[name]] for name in ("ppo", "oracle"))
    mine = [column(r, episode) for r in lines[line]]
    return adaptation_score(mine, below, above, lines[line][0]["tasks"])


def rows(results: Results) -> list[str]:
    """Return the table: a row for each family, line, and first and last round."""
    table = [
        "| family | line | episodes | held-out | ood | score | env steps | minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family in MILLIONS:
        for line in LINES:
            found = results.get(family, {}).get(line, [])
            if not found:
                table.append(f"| {family} | {line} | | | | | | | not trained |")
                continue
            last = len(found[0]["experience"]) - 1
            table += [_row(family, line, results[family], k) for k in sorted({0, last})]
    return table


def _row(family: str, line: str, lines: dict[str, list[dict[str, Any]]], episode: int) -> str:
    found, got = lines[line], score(lines, line, episode)
    ood = [r["ood"]["mean"][episode] for r in found if r["ood"]]
    last = [r["curve"][-1] for r in found]
    return (
        f"| {family} | {line} | {found[0]['experience'][episode]} "
        f"| {np.mean([r['mean'][episode] for r in found]):.1f} "
        f"| {f'{np.mean(ood):.1f}' if ood else 'none'} "
        f"| {got.words if got else ''} | {np.mean([e['env_steps'] for e in last]) / 1e6:.1f} M "
        f"| {np.mean([e['seconds'] for e in last]) / 60:.0f} | {len(found)} |"
    )


def summary(results: Results) -> list[str]:
    """Return, for each learner, the IQM over families of its score after the last round."""
    lines = []
    for line in LINES:
        got = {}
        for family, found in results.items():
            if line in found:
                one = score(found, line, len(found[line][0]["experience"]) - 1)
                if one is not None and one.value == one.value:
                    got[family] = one.value
        if got:
            values = np.array(list(got.values()))
            above = ", ".join(f"{np.mean(values > t):.0%} above {t:g}" for t in (0.25, 0.5, 0.75))
            centre, count = float(iqm(values)), len(values)
            many = "1 family" if count == 1 else f"{count} families"
            lines.append(f"- `{line}`: {centre:.2f} over {many} with a score; {above}")
    return lines or ["- no family has a score yet"]


def page(results: Results) -> str:
    """Return docs/ladder.md."""
    table, over = "\n".join(rows(results)), "\n".join(summary(results))
    return f"{INTRO}\n## By family\n\n{table}\n\n## Over families\n\n{AFTER}\n\n{over}\n"


def main(argv: list[str]) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/ladder.md")
    text = page(load(RESULTS))
    if parser.parse_args(argv).write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
