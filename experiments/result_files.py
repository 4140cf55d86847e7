"""The files in experiments/results/, for the scripts that make pages of them."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Results = dict[tuple[str, str], list[dict[str, Any]]]
"""(family, settings) -> one for each seed."""


def load(folder: Path) -> Results:
    """Return the result files by family and algorithm."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        name = result.get("settings", result["algorithm"])
        found[result["family"], name].append(result)
    return dict(found)
