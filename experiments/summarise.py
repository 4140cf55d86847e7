"""Make the README's results table from experiments/results/: ``summarise.py [--write]``."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"


def main(argv: list[str]) -> int:
    """Print the table, or put it between the README's marks."""
    table = "\n".join(rows(load(HERE / "results")))
    if "--write" not in argv:
        print(table)
        return 0
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    return 0


def load(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the result files by family and algorithm."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        found[result["family"], result["algorithm"]].append(result)
    return dict(found)


def rows(results: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a Markdown table, a row for each family, algorithm and split."""
    lines = [
        "| family | algorithm | split | stand still | before | after 1 step | after 2 | after 3 "
        "| env steps | minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (family, algorithm), seeds in sorted(results.items()):
        steps = np.mean([whole(seed, "env_steps") for seed in seeds]) / 1e6
        minutes = np.mean([whole(seed, "seconds") for seed in seeds]) / 60
        for split in ("heldout", "ood"):
            reports = [seed if split == "heldout" else seed["ood"] for seed in seeds]
            if None in reports:
                continue
            curve = " | ".join(spread([r["mean"][k] for r in reports]) for k in range(4))
            still = np.mean([report["stand_still"] for report in reports])
            lines.append(
                f"| {family} | {algorithm} | {split} | {still:.0f} | {curve} "
                f"| {steps:.0f} M | {minutes:.0f} | {len(seeds)} |"
            )
    return lines


def whole(result: dict[str, Any], what: str) -> float:
    """Return the cost of all iterations, where the curve may end a few before the last one."""
    last = result["curve"][-1]
    return last[what] * result["config"]["train"]["iterations"] / last["iteration"]


def spread(values: list[float]) -> str:
    """Return the mean over seeds, and the lowest and highest."""
    return f"{np.mean(values):.0f} [{min(values):.0f}, {max(values):.0f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
