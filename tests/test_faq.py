"""The messages of docs/faq.md are those of the code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.+)`$", FAQ, re.M)


def template(node: ast.AST) -> str | None:
    """A string of the code with … for each value in it; strings side by side are one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) or "…" for value in node.values)
    return None


@pytest.fixture(scope="module")
def said() -> set[str]:
    files = [*(ROOT / "metarl").rglob("*.py"), *(ROOT / "envs").rglob("*.py")]
    found = {
        text for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (text := template(node))
    }  # fmt: skip
    return {re.sub(r"…+", "…", " ".join(text.split())) for text in found}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_exists_in_the_code(message, said):
    parts = [part for part in message.split("…") if part.strip()]
    pattern = re.compile(re.escape(message).replace("…", ".*?"))
    assert any(pattern.search(text) for text in said if parts[0] in text), message


def test_there_are_many_and_each_stands_once():
    assert len(MESSAGES) > 15
    assert len(set(MESSAGES)) == len(MESSAGES)


def test_every_extra_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in set(project["optional-dependencies"]) - {"dev"}:
        assert f"`{extra}`" in FAQ, extra
