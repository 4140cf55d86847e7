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


def stored(page: str) -> list[dict]:
    return json.loads((DOCS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]


PAGES = pytest.mark.parametrize("page", ["tutorial", "colab"])


@PAGES
def test_the_notebook_is_made_from_its_page(page):
    """After a change of the page: `python docs/make_notebook.py PAGE`."""
    wanted = maker().cells(page)
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in stored(page)] == wanted
    assert maker().PAGES.keys() == {"tutorial", "colab"}


@PAGES
def test_the_stored_output_is_whole_and_of_no_machine(page):
    outputs = [output for cell in stored(page) for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = json.dumps(outputs)
    assert ("stand still" if page == "tutorial" else "not trained on") in text
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert str(Path.home()) not in text
    assert "/tmp" not in text
    assert all(cell["execution_count"] for cell in stored(page) if cell["cell_type"] == "code")


def test_the_first_cell_installs_only_what_is_not_there(monkeypatch):
    """Where metarl is, nothing; where nothing is, torch for CPUs and then metarl."""
    first = next(source for kind, source in maker().cells("colab") if kind == "code")
    said: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda words, check: said.append(words[4:]))
    exec(first, {})
    assert said == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(first, {})
    assert [words[1] for words in said] == ["torch>=2.8", "metarl-toolkit"]
    assert "https://download.pytorch.org/whl/cpu" in said[0]


@pytest.mark.slow  # test_docs.py runs the code of its page
@PAGES
def test_the_notebook_runs(page, tmp_path, monkeypatch):
    """In a small form: 1 iteration of 2 tasks, in a kernel of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    module = maker()
    small = []
    for kind, source in module.cells(page):
        changed = source.replace("tasks_per_iteration=20", "tasks_per_iteration=2")
        changed = changed.replace("    iterations=100", "    iterations=1")
        changed = changed.replace("    iterations=10", "    iterations=1")
        small.append((kind, changed.replace("num_worlds=20 * 10", "num_worlds=20")))
    trainings = sum("iterations=1," in source for _, source in small)
    assert trainings == (2 if page == "tutorial" else 1)
    done = module.execute(module.notebook(small), tmp_path)
    folder = "tutorial" if page == "tutorial" else "first"
    assert (tmp_path / "runs" / folder / "report.html").is_file()
    pictures = [
        output for cell in done.cells for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(pictures) == (1 if page == "tutorial" else 2)
