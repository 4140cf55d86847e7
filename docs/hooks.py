"""What `make docs` adds to the site: videos, and the plots and model cards beside their raw files.

A page links to them as they lie in the repository, so the links work there, too. Tables of many
columns are marked, for tables.css to show each row as a list of its cells on a phone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("experiments", "videos")
WANTED = (
    "experiments/results/*.png", "experiments/agents/*/*.md", "experiments/agents/*/*.png",
    "videos/*.gif",
)  # fmt: skip
MANY = 6
"""Columns of a table that is too wide for a phone."""


def on_files(files: Any, config: Any) -> Any:
    """Add the files to the site, under the names that they have in the repository."""
    from mkdocs.structure.files import File

    for pattern in WANTED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links into the repository's folders point to where `on_files` put them."""
    depth = page.file.src_uri.count("/")
    for folder in FOLDERS:
        markdown = markdown.replace(f"]({'../' * depth}../{folder}/", f"]({'../' * depth}{folder}/")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Mark tables of many columns, and name the column of each of their cells."""
    return re.sub(r"<table>.*?</table>", lambda table: _stacked(table[0]), html, flags=re.S)


def _stacked(table: str) -> str:
    heads = [
        re.sub(r"<[^>]+>", "", head) for head in re.findall(r"<th[^>]*>(.*?)</th>", table, re.S)
    ]
    if len(heads) < MANY:
        return table
    columns = iter(range(table.count("<td")))

    def named(cell: re.Match[str]) -> str:
        return f'<td data-of="{heads[next(columns) % len(heads)]}"{cell[1]}>'

    return re.sub(r"<td([^>]*)>", named, table).replace("<table>", "<table data-stack>", 1)
