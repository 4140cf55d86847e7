"""Fill the tables of docs/choosing.md from what was measured and from the families themselves.

    python docs/choosing.py            # rewrite the page
    python docs/choosing.py --check    # exit code 1 if it differs

The numbers are those of metarl/presets/measured.json, which `python experiments/summarise.py
--write` makes from experiments/results/.
"""

import json
import sys
from pathlib import Path
from typing import Any

from metarl.runs.presets import MEASURED

PAGE = Path(__file__).parent / "choosing.md"


def results() -> str:
    """Return the table of what each pair of family and learner reached; the best is bold."""
    rows = ["| family | learner | zero-shot | K-shot | steps |", "|---|---|---|---|---|"]
    measured: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    families: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for pair, found in measured.items():
        family, _, learner = pair.partition("/")
        if family != "ladder" and "return" in found:
            families.setdefault(family, []).append((learner, found))
    for family, pairs in sorted(families.items()):
        best = max(pairs, key=lambda pair: pair[1]["return"][-1])[0]
        for learner, found in pairs:
            first, last = found["return"][0], found["return"][-1]
            name = f"**{learner}**" if learner == best and len(pairs) > 1 else learner
            mark = "" if found["tasks"] == "held-out" else "*"
            rows.append(
                f"| {family}{mark} | {name} | {first:.0f} | {last:.0f} (K = "
                f"{found['episodes'][-1]}) | {found['env_steps'] / 1e6:.2g} M |"
            )
    return "\n".join(rows).replace("-0 ", "0 ")


def filled(text: str) -> str:
    """Return the page with its table filled."""
    begin, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, _, rest = text.partition(begin)
    return before + begin + results() + "\n" + end + rest.partition(end)[2]


def main(argv: list[str]) -> int:
    """Rewrite the page, or with --check say whether it differs."""
    had = PAGE.read_text(encoding="utf-8")
    now = filled(had)
    if "--check" in argv:
        if now != had:
            print(f"{PAGE.name} differs from what was measured: run python docs/choosing.py")
        return int(now != had)
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
