"""The tutorial notebook is its page, and runs from the first cell to the last."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def maker():
    spec = importlib.util.spec_from_file_location("make_notebook", DOCS / "make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored() -> list[dict]:
    return json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_made_from_its_page():
    """After a change of tutorial.md: `python docs/make_notebook.py`."""
    wanted = maker().cells((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in stored()] == wanted


def test_the_stored_output_is_whole_and_of_no_machine():
    outputs = [output for cell in stored() for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = json.dumps(outputs)
    assert "stand still" in text
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert str(Path.home()) not in text
    assert "/tmp" not in text
    assert all(cell["execution_count"] for cell in stored() if cell["cell_type"] == "code")


@pytest.mark.slow  # test_docs.py runs the code of its page
def test_the_notebook_runs(tmp_path, monkeypatch):
    """In a small form: 1 iteration of 2 tasks, in a kernel of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    module = maker()
    sources = module.cells((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    small = []
    for kind, source in sources:
        changed = source.replace("tasks_per_iteration=20", "tasks_per_iteration=2")
        changed = changed.replace("    iterations=10", "    iterations=1")
        small.append((kind, changed.replace("num_worlds=20 * 10", "num_worlds=20")))
    assert sum("iterations=1," in source for _, source in small) == 2  # both ways to train
    done = module.execute(module.notebook(small), tmp_path)
    assert (tmp_path / "runs" / "tutorial" / "report.html").is_file()
    pictures = [
        output for cell in done.cells for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(pictures) == 1
