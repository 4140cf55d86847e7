"""What a forge, a citation and a container read of the project is well-formed and true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from metarl.video.opengl import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
MAKE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: Path | str):
    yaml = pytest.importorskip("yaml")  # comes with mkdocs
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKE, re.M))


def test_the_workflow_checks_what_the_project_promises():
    workflow = read(".github/workflows/check.yml")
    job = workflow["jobs"]["check"]
    matrix = job["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    assert matrix["python"][0] in PROJECT["requires-python"]
    assert matrix["python"][-1] == "3.14"
    assert {row["dependencies"] for row in matrix["include"]} == {"lowest", "newest"}
    lines = [step.get("run", "") for step in job["steps"]]
    assert "make check" in lines
    called = {word for line in lines for word in re.findall(r"\bmake ([a-z]+)", line)}
    assert called <= targets()
    assert "CONSTRAINTS" in MAKE


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_an_issue_form_has_what_a_forge_needs(form):
    found = read(form)
    assert {"name", "description", "body"} <= found.keys()
    for part in found["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert part["attributes"]["label"]


def test_the_citation_is_of_this_version():
    found = read("CITATION.cff")
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= found.keys()
    assert (found["version"], found["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_targets_that_are_named_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^make ([a-z]+)", text, re.M)) <= targets()
    for path in re.findall(r"\]\(([^)#:]+)", text):
        assert (ROOT / path).exists(), path


def test_the_container_has_the_tested_torch():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch = re.search(r"^torch==\S+", pins, re.M)[0]
    assert torch in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    ["docs/installing.md", "Dockerfile", "docs/videos.md", "docs/faq.md", "docs/colab.md",
     ".github/workflows/check.yml", ".ci/run"],
)  # fmt: skip
def test_whoever_installs_egl_gets_all_that_drawing_needs(path):
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
    installed = [set(line.split()) for line in re.findall(r"install -[^`#&]*libegl1[^`#&]*", text)]
    needed = set(re.findall(r"lib[\w-]+", PACKAGES["egl"][0]))
    assert needed == {"libegl1", "libopengl0", "libgl1-mesa-dri"}
    assert installed
    assert all(needed <= names for names in installed)
