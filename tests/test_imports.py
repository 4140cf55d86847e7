"""Who imports whom: no circles, and no application loaded by what it applies."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("metarl", "envs")
    for path in (ROOT / package).rglob("*.py")
}


def names(node: ast.AST) -> set[str]:
    """The modules that code imports as it runs: also inside functions, not for types alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return set().union(*map(names, node.orelse))
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.module is not None, "a relative import"
        assert node.level == 0, "a relative import"
        inner = {f"{node.module}.{alias.name}" for alias in node.names}
        # Of a package, what is imported may be a module in it or a name of its __init__.
        return {name if name in FILES else node.module for name in inner}
    return set().union(*map(names, ast.iter_child_nodes(node)))


@cache
def imports(module: str) -> set[str]:
    """The files of ours that a module imports; its own package's __init__ is no arrow."""
    found = names(ast.parse(FILES[module].read_text(encoding="utf-8")))
    return {name for name in found if name in FILES and not f"{module}.".startswith(f"{name}.")}


def reachable(module: str) -> set[str]:
    seen, todo = set(), [module]
    while todo:
        new = imports(todo.pop()) - seen
        seen |= new
        todo.extend(new)
    return seen


def test_no_module_imports_itself_on_the_way():
    assert [module for module in FILES if module in reachable(module)] == []


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [("metarl", "envs"), ("metarl.training", "metarl.report"), ("metarl.training", "metarl.video")],
)
def test_what_is_below_does_not_import_what_is_above(importer, forbidden):
    inside = [module for module in FILES if f"{module}.".startswith(f"{importer}.")]
    assert inside
    found = {(module, name) for module in inside for name in imports(module)}
    assert [pair for pair in found if f"{pair[1]}.".startswith(f"{forbidden}.")] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("metarl.evaluation", ("rich", "stable_baselines3")),
        ("metarl.training", ("metarl.report", "metarl.video", "matplotlib")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module, heavy):
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
