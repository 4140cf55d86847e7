"""Fill the table of docs/deprecations.md with the modules that were moved.

python docs/deprecation_table.py            # rewrite the page
python docs/deprecation_table.py --check    # exit code 1 if it differs
"""

from __future__ import annotations

import sys
from pathlib import Path

from metarl._moved import _MOVED

PAGE = Path(__file__).parent / "deprecations.md"
BEGIN, END = "<!-- moved -->\n", "<!-- /moved -->"


def filled(text: str) -> str:
    """Return the page with its table filled."""
    rows = ["| below `metarl.`, in 0.1 | from 0.2 on |", "|---|---|"]
    rows += [f"| `{old}` | `{new}` |" for old, new in sorted(_MOVED.items())]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(rows) + "\n" + END + rest.partition(END)[2]


def main(argv: list[str]) -> int:
    """Rewrite the page, or with --check say whether it differs."""
    had = PAGE.read_text(encoding="utf-8")
    if "--check" in argv:
        return int(filled(had) != had)
    PAGE.write_text(filled(had), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
