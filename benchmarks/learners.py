"""How fast a whole meta-iteration of each learner is, beside the bare physics of its steps.

    python benchmarks/learners.py [LEARNER …] --json benchmarks/results/learners.json

Each with its settings and its iteration of the ladder (`metarl presets ladder`), or of the family
that it is for, in CPU time of one thread: `meta_step.py`, one process after the other. Learners
that are given are measured anew, and the rest of the file stays. Not in it: contextual-bc and mil,
which learn from files, and pearl, whose first iterations fill its replay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import environment, write_json

from metarl.runs.presets import presets_of

FAMILY = "half-cheetah-vel"
LADDER = (
    "ppo", "rl2", "mingru", "mann", "hyper", "varibad", "mixture", "contrastive", "prototypes",
    "rma", "distil", "maml-trpo", "meta-sgd", "promp", "cavia", "reptile", "learned-optimizer",
    "ftml", "es-maml", "amago",
)  # fmt: skip
ELSEWHERE = {"grbal": "half-cheetah-crippled", "rebal": "half-cheetah-crippled", "diayn": FAMILY}
"""Learner -> the family with whose preset it is measured."""
GIVEN = {
    "distil": {"teacher": f"{FAMILY}+told-ppo"}, "rma": {"teacher_iterations": 100},
    "grbal": {"random_iterations": 0}, "rebal": {"random_iterations": 0},
}  # fmt: skip
"""Settings that a learner has beside those; of RMA phase 1 is measured, and planning of models."""
ROUNDS = {"grbal": 1, "rebal": 1}
"""Where an iteration takes long, and planning or gradient steps are nearly all of it."""


def measure(name: str) -> dict[str, Any]:
    """Return what `meta_step.py` says of a learner."""
    family = ELSEWHERE.get(name, FAMILY)
    preset = presets_of(ELSEWHERE.get(name, "ladder"))[name]
    train, learner = preset.configs()
    plain = asdict(type(learner)())
    settings = {k: v for k, v in asdict(learner).items() if plain[k] != v} | GIVEN.get(name, {})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            sys.executable, str(Path(__file__).with_name("meta_step.py")), "--json", str(out),
            "--family", family, "--algorithm", preset.algorithm, "--threads", "1", "--cpu-time",
            "--tasks", str(train.tasks_per_iteration), "--rollouts", str(train.rollouts_per_task),
            "--rounds", str(ROUNDS.get(name, 3)), "--settings",
            *(f"{k}={v}" for k, v in settings.items()),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        (row,) = json.loads(out.read_text(encoding="utf-8"))["results"]
    return {"learner": name, "family": family, **row}


def main() -> None:
    """Measure, print, write after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = (*LADDER, *ELSEWHERE)
    parser.add_argument("learners", nargs="*", metavar="LEARNER", help=", ".join(names))
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args()
    if unknown := set(args.learners) - set(names):
        parser.error(f"no such learner: {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {}
    if args.json and args.json.is_file():
        found = {one["learner"]: one for one in json.loads(args.json.read_text())["results"]}
    for name in args.learners or names:
        found[name] = measure(name)
        rows = [found[one] for one in names if one in found]
        about = environment(1) | {"command": "python benchmarks/learners.py"}  # whatever is anew
        write_json(args.json, {"benchmark": "learners", **about, "results": rows})


if __name__ == "__main__":
    main()
