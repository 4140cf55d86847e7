"""Adapting to one demonstration: ``imitation.py FAMILY``, some twenty minutes of a thread.

An oracle (``run_queue.py --only FAMILY-oracle-seed1``) demonstrates training
and held-out tasks; MIL and contextual cloning learn from the former, and are shown the latter.
Writes results/imitation/FAMILY-seed1.json, and the table on the page of MIL (``--write``: only
that). What was stopped goes on with the same command.
"""

from __future__ import annotations

import json
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from result_files import filled
from run_queue import ROOT, Item

from metarl.base.errors import UserError
from metarl.base.files import read_json, write_json
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.cli import main as metarl
from metarl.learning.demonstrations import Demonstrations
from metarl.report.text import number
from metarl.runs.progress import say

RESULTS = ROOT / "experiments" / "results" / "imitation"
PAGE = ROOT / "docs" / "algorithms" / "mil.md"
LEARNERS = {"mil": "MIL", "contextual-bc": "contextual cloning"}
SPLITS = {"train": (60, 5), "heldout": (30, 2)}
"""Tasks that are demonstrated, and how often each."""
SEED = 1
HEAD = (
    "| family | learner | oracle | before | after one demonstration | IQM, 95 % interval "
    "| standing still | env steps | minutes |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main(argv: list[str]) -> int:
    """Record, train, test, and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", nargs="?", help="on which there is an oracle of the ladder")
    parser.add_argument("--iterations", type=int, default=80, help="of a training")
    parser.add_argument("--write", action="store_true", help="only write the table of the page")
    args = parser.parse_args(argv)
    if not args.write:
        if not args.family:
            raise UserError("give a FAMILY, or --write")
        measure(args.family, args.iterations)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), "imitation", table()), encoding="utf-8")
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def measure(family: str, iterations: int) -> None:
    """Do all of it for a family, as a user would by the command line, and write the result."""
    oracle = Item(family, "oracle", SEED).run
    if not oracle.is_dir():
        stem = Item(family, "oracle", SEED).result.stem
        raise UserError(
            f"no oracle in {oracle.relative_to(ROOT)}: first run "
            f"`python experiments/run_queue.py --only {stem}`"
        )
    work = ROOT / "runs" / "imitation" / family
    work.mkdir(parents=True, exist_ok=True)
    commands: list[str] = []

    def call(*words: str, run: Path | None = None) -> None:
        commands.append(shlex.join(("metarl", *words)).replace(f"{ROOT}/", ""))
        begun = run is not None and run.is_dir()
        if metarl(("train", "--resume", str(run)) if begun else words):
            raise SystemExit(2)

    files = {split: work / f"{split}.safetensors" for split in SPLITS}
    for split, (tasks, each) in SPLITS.items():
        call(
            "demos", str(oracle), "--split", split, "--tasks", str(tasks), "--episodes", str(each),
            "--threads", "1", "--out", str(files[split]),
        )  # fmt: skip
    shown = {split: described(Demonstrations.load(path)) for split, path in files.items()}
    results = {}
    for learner in LEARNERS:
        run, report = work / learner, work / f"{learner}.json"
        call(
            "train", family, learner, "--iterations", str(iterations),
            "--demos", str(files["train"]), "--heldout-demos", str(files["heldout"]),
            "--tasks-per-iteration", "20", "--rollouts-per-task", "1", "--evaluate-tasks", "30",
            "--evaluate-episodes", "1", "--evaluate-every", "20", "--seed", str(SEED),
            "--threads", "1", "--out", str(run), run=run,
        )  # fmt: skip
        call(
            "evaluate", str(run), "--tasks", "30", "--rollouts-per-task", "2", "--episodes", "1",
            "--threads", "1", "--demos", str(files["heldout"]), "--json", str(report),
        )  # fmt: skip
        results[learner] = {**read_json(report), **trained(run)}
    about = {"demonstrations": shown, "commands": commands, "results": results}
    path = RESULTS / f"{family}-seed{SEED}.json"
    write_json(path, about | {"versions": versions(), "hardware": hardware()})
    say(f"wrote {path.relative_to(ROOT)}")


def described(found: Demonstrations) -> dict[str, Any]:
    """Return what there is to say of demonstrations."""
    mean = float(found.returns.mean())
    return {
        "sha256": found.digest, "tasks": len(found.tasks), "each": found.per_task,
        "mean_return": mean, "about": dict(found.about),
    }  # fmt: skip


def trained(run: Path) -> dict[str, Any]:
    """Return curve and settings of a run, with files by their names alone."""
    config = read_json(run / "config.json")
    learner = config["learner"]
    learner |= {name: Path(learner[name]).name for name in ("demos", "heldout_demos")}
    settings = {"train": config["train"] | {"out": None}, "learner": learner}
    return {"curve": read_json(run / "curve.json"), "config": settings}


def table() -> str:
    """Return the table: a row for each family and learner."""
    rows = []
    for path in sorted(RESULTS.glob(f"*-seed{SEED}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        held = found["demonstrations"]["heldout"]
        for learner, name in LEARNERS.items():
            one = found["results"][learner]
            low, high = one["ci95"][1]
            end = one["curve"][-1]
            cells = (
                one["family"], name, number(held["mean_return"]), number(one["mean"][0]),
                number(one["mean"][1]),
                f"{number(one['iqm'][1])} [{number(low)}, {number(high)}]",
                number(one["stand_still"]), f"{end['env_steps'] / 1e6:.2f} M",
                f"{end['seconds'] / 60:.0f}",
            )  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join((*HEAD, *rows))


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
