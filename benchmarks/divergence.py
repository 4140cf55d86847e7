"""How often the physics diverges: a million random steps of every family, inside train and in ood.

    python benchmarks/divergence.py --json benchmarks/results/divergence.json
    python benchmarks/divergence.py --families ant-dynamics --splits ood --steps 100000

Every world takes actions from U[-1, 1) and gets a new task after each horizon. With --json, results
of other families and splits that the file holds already stay in it, so it can be filled bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import environment, write_json
from rich.console import Console
from rich.table import Table

from metarl import TaskDistribution, Tasks, TaskWorlds, UserError, find_family
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.tasks.registry import list_families

SPLITS = ("train", "ood")
EXAMPLES = 5  # tasks of diverged worlds that are written down


def draw(distribution: TaskDistribution, split: str, count: int, part: int) -> Tasks:
    """Return the tasks of one round: fresh training draws, or the next ones of the ood split."""
    if split == "train":
        key = Key("divergence", distribution.family.name, part)
        return distribution.sample(count, key.numpy())
    return distribution.split("ood", (part + 1) * count)[part * count :]


def count_divergences(
    name: str, split: str, steps: int, count: int, threads: int
) -> dict[str, Any]:
    """Run `count` worlds until they have taken `steps` env steps in all."""
    family = find_family(name)
    distribution = TaskDistribution(family)
    worlds = TaskWorlds(family, count, threads)
    worlds.seed(Key("divergence", name, split))
    generator = Key("divergence actions", name, split).torch()
    size = (count, worlds.spec.action_size)
    diverged, ended, examples, part = 0, 0, [], 0
    start = time.perf_counter()
    while worlds.env_steps < steps:
        worlds.set_tasks(draw(distribution, split, count, part), 1)
        worlds.reset()
        part += 1
        for _ in range(family.horizon):
            got = worlds.step(2 * torch.rand(*size, generator=generator) - 1)
            diverged += int(got.diverged.sum())
            ended += int((got.terminated | got.truncated | got.diverged).sum())
            if got.diverged.any():
                examples += [worlds.tasks.label(int(i)) for i in got.diverged.nonzero()[:, 0]]
            if worlds.env_steps >= steps:
                break
    return {
        "family": name,
        "split": split,
        "env_steps": worlds.env_steps,
        "tasks": part * count,
        "episodes": ended,
        "diverged": diverged,
        "per_million_steps": 1e6 * diverged / worlds.env_steps,
        "examples": examples[:EXAMPLES],
        "seconds": round(time.perf_counter() - start, 1),
    }


def earlier_results(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the file holds already, by family and split."""
    if path is None or not path.is_file():
        return {}
    rows = json.loads(path.read_text())["results"]
    return {(row["family"], row["split"]): row for row in rows}


def main() -> None:
    """Parse the flags, count, print, write after each family and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", help="default: all that are registered")
    parser.add_argument("--splits", nargs="*", choices=SPLITS, default=SPLITS)
    parser.add_argument("--steps", type=int, default=1_000_000, help="env steps of each count")
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=None, help="default: every core")
    parser.add_argument("--json", type=Path, default=None, help="add the counts to this file")
    args = parser.parse_args()
    threads = set_threads(args.threads)
    table = Table(title=f"divergences in {args.steps:,} random steps")
    for column in ("family", "split", "diverged", "a million steps", "episodes"):
        table.add_column(column, justify="left" if column in ("family", "split") else "right")
    for name in args.families or list_families():
        for split in args.splits:
            try:
                row = count_divergences(name, split, args.steps, args.worlds, threads)
            except UserError as error:  # no ood ranges: nothing to count
                print(f"{name} {split}: {error}")
                continue
            table.add_row(
                name, split, str(row["diverged"]), f"{row['per_million_steps']:.1f}",
                str(row["episodes"]),
            )  # fmt: skip
            found = {**earlier_results(args.json), (name, split): row}
            rows = [found[key] for key in sorted(found)]
            write_json(
                args.json, {"benchmark": "divergence", **environment(threads), "results": rows}
            )
    Console().print(table)


if __name__ == "__main__":
    main()
