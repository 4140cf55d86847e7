"""The files in experiments/results/, for the scripts that make pages of them."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Results = dict[tuple[str, str], list[dict[str, Any]]]
"""(family, settings) -> one for each seed."""


def filled(text: str, name: str, table: str) -> str:
    """Return a page with a table between its markers."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.split(end)[1]}"


def load(folder: Path) -> Results:
    """Return the result files by family and algorithm."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        name = result.get("settings", result["algorithm"])
        found[result["family"], name].append(result)
    return dict(found)


def teacher_steps(result: dict[str, Any]) -> int:
    """Return for how many environment steps a student's teacher was trained; else 0."""
    return int(result.get("teacher_env_steps", 0))
