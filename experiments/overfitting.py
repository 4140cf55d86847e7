"""What few training tasks cost each learner, and what is left outside the box.

    python experiments/overfitting.py [LINE …]   # train what is left, on one thread
    python experiments/overfitting.py --write    # only write the table of docs/overfitting.md

Each line is a learner with its settings of the ladder, trained on half-cheetah-vel by ``metarl
overfitting``: with 8, 32, 128 and ever new training tasks, all for the same number of environment
steps. Writes experiments/results/overfitting/half-cheetah-vel-LINE-seed1.json as each is done; what
is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from result_files import filled
from run_queue import ROOT

from metarl.base.files import read_json, write_json
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.cli import main as metarl
from metarl.report.text import number
from metarl.runs.presets import presets_of
from metarl.runs.progress import say

FAMILY, SEED, TEST_TASKS = "half-cheetah-vel", 1, 60
RESULTS = ROOT / "experiments" / "results" / "overfitting"
PAGE = ROOT / "docs" / "overfitting.md"
ANY, KEPT = ("8", "32", "128", "inf"), ("8", "32", "128")
THOUSANDS = {
    "rl2": 800, "varibad": 800, "prototypes": 800, "rma": 800, "distil": 400, "ftml": 1200,
    "promp": 1200, "cavia": 1200, "reptile": 1200, "learned-optimizer": 1200, "maml-trpo": 1200,
    "meta-sgd": 1200, "amago": 400, "pearl": 100, "mil": 400, "contextual-bc": 400,
}  # fmt: skip
"""Environment steps of each of a line's runs: enough to have learned, and far from done."""
ORACLE = f"{FAMILY}+told-ppo"
"""It has learned from ever new tasks."""
SHOWN = {
    "--demos": ("train", "128", "5"), "--heldout-demos": ("heldout", str(TEST_TASKS), "2")
}  # fmt: skip
"""For who imitates: an option -> the split, the tasks and the episodes of each to demonstrate."""
IMITATING = (
    "--tasks-per-iteration", "8", "--rollouts-per-task", "1", "--evaluate-tasks", "30",
    "--evaluate-episodes", "1", "--evaluate-every", "20",
)  # fmt: skip
SETS = ("train", "heldout", "near ood", "far ood")
HEAD = (
    "| learner | tasks | own tasks | held-out | near ood | far ood | env steps |",
    "|---|---|---|---|---|---|---|",
)


def train(line: str) -> None:
    """Train and test a line, or go on with it, and write its result."""
    presets = presets_of("ladder")
    imitates = line not in presets
    out = ROOT / "runs" / f"{FAMILY}-{line}-overfitting"
    command = [
        "overfitting", FAMILY, line if imitates else presets[line].algorithm,
        "--num-tasks", *(KEPT if imitates or line == "pearl" else ANY), "--seeds", str(SEED),
        "--test-tasks", str(TEST_TASKS), "--env-steps", str(1000 * THOUSANDS[line]),
        *((*IMITATING, *demonstrations()) if imitates else ("--preset", f"ladder/{line}")),
        *(("--teacher", ORACLE) if line == "distil" else ()),
    ]  # fmt: skip
    if metarl([*command, "--out", str(out), "--jobs", "1", "--threads", "1"]):
        raise SystemExit(2)
    short = [word.replace(f"{ROOT}/", "") for word in command]
    about = {"line": line, "env_steps": 1000 * THOUSANDS[line], "command": short}
    found = read_json(out / "overfitting.json") | about
    write_json(
        RESULTS / f"{FAMILY}-{line}-seed{SEED}.json",
        found | {"versions": versions(), "hardware": hardware()},
    )


def demonstrations() -> list[str]:
    """Return the options that name what the oracle demonstrates, which it does if need be."""
    words = []
    for option, (split, tasks, each) in SHOWN.items():
        file = ROOT / "runs" / "imitation" / f"{FAMILY}-{split}-{tasks}.safetensors"
        words += [option, str(file)]
        if not file.is_file() and metarl((
            "demos", ORACLE, "--split", split, "--tasks", tasks, "--episodes", each,
            "--threads", "1", "--out", str(file),
        )):  # fmt: skip
            raise SystemExit(2)
    return words


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table: for each line a row for each number of training tasks."""
    rows = [
        f"| {line} | {'new' if row['num_tasks'] is None else row['num_tasks']} "
        + "".join(f"| {cell(row['sets'].get(name))} " for name in SETS)
        + f"| {result['env_steps'] / 1e6:.2g} M |"
        for line, result in results.items()
        for row in result["rows"]
    ]
    lacks = ", ".join(line for line in THOUSANDS if line not in results)
    missing = [f"- Not trained yet: {lacks}."] if lacks else []
    return "\n".join((*HEAD, *rows, "", *missing, *findings(results)))


def cell(found: dict[str, Any] | None) -> str:
    """Return an interquartile mean, with its interval over tasks; – if there is none."""
    if found is None:
        return "–"
    low, high = found["ci95"]
    return f"{number(found['iqm'])} [{number(low)}, {number(high)}]"


def findings(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return what the intervals show: which learners lose by few tasks, and by leaving the box."""

    def held(line: str, tasks: int) -> dict[str, Any]:
        rows = results[line]["rows"]
        return next(row["sets"]["heldout"] for row in rows if row["num_tasks"] == tasks)

    lose = [line for line in results if held(line, 8)["ci95"][1] < held(line, 128)["ci95"][0]]
    alike = [line for line in results if line not in lose]
    most = {line: result["rows"][-1]["sets"] for line, result in results.items()}
    tested = {line: sets for line, sets in most.items() if "near ood" in sets}
    outside = [
        line for line, sets in tested.items()
        if sets["near ood"]["ci95"][1] < sets["heldout"]["ci95"][0]
    ]  # fmt: skip

    def named(lines: list[str]) -> str:
        return ", ".join(lines) or "none"

    return [
        f"- On held-out tasks worse with 8 training tasks than with 128, with intervals apart: "
        f"{named(lose)}; not shown: {named(alike)}.",
        f"- With the most tasks, worse near outside of the box than within, with intervals apart: "
        f"{named(outside)}; of {len(tested)}.",
    ]


def load() -> dict[str, dict[str, Any]]:
    """Return the results that there are, by line."""
    paths = {line: RESULTS / f"{FAMILY}-{line}-seed{SEED}.json" for line in THOUSANDS}
    return {k: json.loads(path.read_text("utf-8")) for k, path in paths.items() if path.is_file()}


def main(argv: list[str]) -> int:
    """Train what is left, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", nargs="*", metavar="LINE", help=", ".join(THOUSANDS))
    parser.add_argument("--write", action="store_true", help="only write the table of the page")
    args = parser.parse_args(argv)
    if unknown := set(args.lines) - set(THOUSANDS):
        parser.error(f"no such line: {', '.join(sorted(unknown))}")
    for line in () if args.write else args.lines or THOUSANDS:
        if line not in load():
            train(line)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), "overfitting", table(load())), encoding="utf-8")
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
