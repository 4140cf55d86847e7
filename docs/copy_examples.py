"""Write the example files into the pages that show them: `python docs/copy_examples.py`.

A page marks a copy with a comment that names the file, above a fenced block. Pages are read on code
hosts as well as on the site, so the copies are real text; a test compares them with their files.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = re.compile(r"(?P<head><!-- file: (?P<file>\S+) -->\n```python\n).*?^```", re.M | re.S)


def main() -> None:
    """Rewrite every page whose copies differ from their files."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = page.read_text(encoding="utf-8")
        new = COPY.sub(lambda found, page=page: _block(page, found), old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(f"updated {page.relative_to(ROOT)}")


def _block(page: Path, found: re.Match[str]) -> str:
    file = page.parent / found["file"]
    if not file.is_file():
        print(f"{page.relative_to(ROOT)}: there is no {found['file']}")
        return found[0]
    return f"{found['head']}{file.read_text(encoding='utf-8')}```"


if __name__ == "__main__":
    main()
