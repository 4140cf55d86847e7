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
FEW, WORDY = 4, 100
"""Or so many columns, with more than so many letters in a row."""


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
    heads = [_words(head) for head in re.findall(r"<th[^>]*>(.*?)</th>", table, re.S)]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table, re.S)
    wordy = len(heads) >= FEW and sum(len(_words(cell)) for cell in cells) * len(heads) > (
        WORDY * len(cells)
    )
    if len(heads) < MANY and not wordy:
        return table
    columns = iter(range(len(cells)))

    def named(cell: re.Match[str]) -> str:
        name, inside = heads[next(columns) % len(heads)], cell[2]
        return f'<td data-of="{name}"{cell[1]}>{inside and f"<span>{inside}</span>"}</td>'

    table = re.sub(r"<td([^>]*)>(.*?)</td>", named, table, flags=re.S)
    return table.replace("<table>", "<table data-stack>", 1)


def _words(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html).replace('"', "&quot;")
