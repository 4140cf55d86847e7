"""The files in experiments/results/, for the scripts that make pages of them."""

import json
import re
from collections import defaultdict
from html import unescape
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


def drawn_numbers(picture: Path) -> Any:
    """Return the JSON that an SVG of matplotlib's has for its description; {} if it has none."""
    text = picture.read_text("utf-8")
    found = re.search(r"<dc:description>(.*?)</dc:description>", text, re.S)
    return json.loads(unescape(found[1])) if found else {}
