"""What `make docs` adds to the site: the plots and model cards, which lie beside their raw files.

A page links to them as they lie in the repository, so the links work there, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
PREFIX = "../experiments/"
WANTED = ("results/*.png", "agents/*/*.md", "agents/*/*.png")


def on_files(files: Any, config: Any) -> Any:
    """Add the files to the site, under experiments/."""
    from mkdocs.structure.files import File

    for pattern in WANTED:
        for path in sorted(EXPERIMENTS.glob(pattern)):
            name = f"experiments/{path.relative_to(EXPERIMENTS).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links into the repository's experiments/ point to where `on_files` put them."""
    depth = page.file.src_uri.count("/")
    return markdown.replace(f"]({'../' * depth}{PREFIX}", f"]({'../' * depth}experiments/")
