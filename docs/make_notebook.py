"""Make the notebooks from their pages and execute them: ``python docs/make_notebook.py [PAGE …]``.

The page is the source: its Python blocks become code cells, the text between them Markdown, and a
comment ``<!-- notebook: Image("x.png") -->`` a cell that shows a picture. A notebook begins at a
heading of its page: tutorial.md at "The same as a library", colab.md at "Install".
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TUTORIAL = """\
# metarl in a notebook

From task distribution to an adapted policy on `point-goal`, a point robot that must find a goal it
cannot see. It trains in seconds on a laptop's CPU. Install with `make install`, or with
`pip install -e .` in an environment of your own. The page that this is made from, with the command
line, is [tutorial.md](tutorial.md).
"""
COLAB = """\
# metarl, from nothing

Installs metarl, shows a trained agent adapt to a task that nobody tells it, and trains one in about
two minutes. Made from the page colab.md of the documentation.
"""
PAGES = {
    "tutorial": ("## The same as a library", TUTORIAL), "colab": ("## Install", COLAB),
}  # fmt: skip
"""A page and its notebook, without suffix -> the heading before the first cell, and the title."""
PIECE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n|^<!-- notebook: (?P<show>.*?) -->\n", re.M | re.S
)


def cells(page: str) -> list[tuple[str, str]]:
    """Return (kind, source) of a page's notebook's cells, kind being code or markdown."""
    start, title = PAGES[page]
    markdown = (HERE / f"{page}.md").read_text(encoding="utf-8")
    body = markdown[markdown.index(start) :].partition("\n")[2]
    found: list[tuple[str, str]] = [("markdown", title.strip())]
    at = 0
    for piece in PIECE.finditer(body):
        found.append(("markdown", body[at : piece.start()].strip()))
        if piece["code"] is not None:
            found.append(("code", piece["code"].strip()))
        else:
            found.append(("code", f"from IPython.display import Image\n\n{piece['show']}"))
        at = piece.end()
    found.append(("markdown", body[at:].strip()))
    return [(kind, source) for kind, source in found if source]


def notebook(sources: list[tuple[str, str]]) -> Any:
    """Return an unexecuted notebook of the cells."""
    from nbformat import v4

    made = v4.new_notebook(metadata={"language_info": {"name": "python"}})
    make = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell}
    for n, (kind, source) in enumerate(sources):
        made.cells.append(make[kind](source, id=f"cell-{n}"))
    return made


def execute(made: Any, folder: Path) -> Any:
    """Run a notebook's cells in `folder`, and return it with their output."""
    from nbclient import NotebookClient

    client = NotebookClient(
        made, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        record_timing=False, coalesce_streams=True,
    )  # fmt: skip
    return client.execute()


def main(argv: list[str]) -> int:
    """Write the notebooks with the output of this machine."""
    import nbformat

    for page in argv or PAGES:
        made = notebook(cells(page))
        with tempfile.TemporaryDirectory() as folder:
            execute(made, Path(folder))
        for key in [key for key in made.metadata if key != "language_info"]:
            del made.metadata[key]
        made.metadata["language_info"] = {"name": "python"}
        nbformat.validate(made)
        (HERE / f"{page}.ipynb").write_text(nbformat.writes(made) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
