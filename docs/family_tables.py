"""Fill the tables of the families' pages from the code and the measured reference lines.

    python docs/family_tables.py            # rewrite what differs
    python docs/family_tables.py --check    # exit code 1 if a page differs

A page says where: between ``<!-- parameters -->`` and ``<!-- /parameters -->``, and between
``<!-- reference lines -->`` and ``<!-- /reference lines -->``. Other pages stay as they are.
"""

import json
import sys
from pathlib import Path
from typing import Any

from metarl import find_family

PAGES = Path(__file__).parent / "families"
LINES = PAGES.parents[1] / "experiments" / "results" / "reference-lines.json"


def parameters(name: str) -> str:
    """Return the table of a family's parameters: units, ranges, effect."""
    rows = ["| parameter | unit | train | ood | effect |", "|---|---|---|---|---|"]
    for param in find_family(name).params:
        ood = ", ".join(str(outside) for outside in param.outside) or "none"
        count = f"; {len(param.names)} numbers" if len(param.names) > 1 else ""
        ranges = f"{param.train} | {ood}".replace("-", "−")
        rows.append(f"| `{param.name}` | {param.unit or '1'} | {ranges} | {param.doc}{count} |")
    return "\n".join(rows)


def reference_lines(name: str) -> str:
    """Return the table of a family's reference lines, or that there are none yet."""
    found: dict[str, Any] = json.loads(LINES.read_text())["families"].get(name, {})
    if not found:
        return "Not measured yet: `python experiments/reference_lines.py " + name + "`."
    splits = [split for split in ("heldout", "ood") if split in found]
    rows = [f"| mean return | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    for key, label in (("stand_still", "standing still"), ("random", "random actions")):
        values = " | ".join(number(found[split][key]) for split in splits)
        rows.append(f"| {label} | {values} |")
    if found["blind_constant"] is not None:
        blank = " | " * (len(splits) - 1)
        rows.append(f"| best task-blind constant | {number(found['blind_constant'])}{blank} |")
    count = f"{found['tasks']} tasks, {found['worlds_per_task']} episodes each"
    return "\n".join(rows) + f"\n\n{count}; [how](../protocol.md#reference-lines)."


def number(value: float) -> str:
    """Return a return as the pages print it."""
    return f"{value:.1f}".replace("-", "−").replace("−0.0", "0.0")


def filled(text: str, name: str) -> str:
    """Return a page with its tables filled."""
    for mark, table in (("parameters", parameters), ("reference lines", reference_lines)):
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + f"{begin}\n{table(name)}\n\n{end}" + rest.split(end)[1]
    return text


def main(argv: list[str]) -> int:
    """Rewrite the pages, or name those that differ."""
    stale = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = filled(text, page.stem)
        if new == text:
            continue
        stale.append(page.name)
        if "--check" not in argv:
            page.write_text(new, encoding="utf-8")
    if stale:
        print(", ".join(stale))
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
