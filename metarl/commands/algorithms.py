"""``metarl algorithms``: the registered learners and their settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from metarl.base.plugins import first_line
from metarl.commands.arguments import parse
from metarl.runs.progress import say


@dataclass(frozen=True)
class Algorithms:
    """List the registered algorithms and their settings."""

    json: bool = False
    """Print JSON."""


def algorithms(argv: Sequence[str]) -> int:
    """List the algorithms."""
    args = parse(Algorithms, argv, prog="metarl algorithms")
    from metarl.learning.registry import find_learner, list_learners

    rows = []
    for name in list_learners():
        cls = find_learner(name)
        rows.append({"name": name, "doc": first_line(cls), "settings": asdict(cls.Config())})
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        for line in (f"{row['name']}   {row['doc']}", f"  {settings}", ""):
            say(line)
    say("`metarl train FAMILY ALGORITHM --help` explains an algorithm's settings.")
    return 0
