"""Who imports whom: no circles, and no application loaded by what it applies."""

from __future__ import annotations

import ast
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


ROOMS = (
    "base", "simulation", "tasks", "curriculum", "worlds", "networks", "modules", "learning",
    "evaluation", "algorithms", "runs", "report", "video", "adapters", "check", "callbacks", "run",
    "api", "cli", "commands",
)  # fmt: skip
"""Each imports only what stands before it: folders of metarl, and the modules beside them."""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_imports_go_one_way():
    inside = [m for m in FILES if m.startswith("metarl.") and room(m) not in ("__main__", "_moved")]
    wrong = [
        f"{module} imports {name}"
        for module in inside
        for name in imports(module)
        if room(name) not in ROOMS or ROOMS.index(room(name)) > ROOMS.index(room(module))
    ]
    assert wrong == []


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_sizes_stay_readable():
    """A file has at most 400 lines, a function 50, a folder a dozen modules."""
    assert [p for p in FILES.values() if len(p.read_text().splitlines()) > 400] == []
    assert [name for p in FILES.values() for name, lines in functions(p) if lines > 50] == []
    folders = {path.parent for path in FILES.values()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    modules = {f: [p for p in f.glob("*.py") if p.name != "__init__.py"] for f in folders}
    catalogue = ROOT / "metarl" / "algorithms"  # a file a learner, none of which imports another
    assert [f for f, found in modules.items() if len(found) > 12 and f != catalogue] == []


def test_a_moved_module_is_found_by_its_old_name(after_torch):
    """It is the same module; the warning says the new name."""
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import metarl.runs.runner as new\n"
        "try: import metarl.training\n"
        "except DeprecationWarning as w: print(w)\n"
        "warnings.simplefilter('ignore'); import metarl.training as old; print(old is new)\n"
        "from metarl.evaluation import Report, evaluate\n"
        "import metarl._moved as m, importlib\n"
        "for name in m._MOVED: importlib.import_module('metarl.' + name)"
    )
    assert after_torch(code).splitlines() == [
        "metarl.training is metarl.runs.runner now; the old name goes in 0.4.0", "True",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("metarl.evaluation.protocol", ("rich", "stable_baselines3")),
        ("metarl.cli", ("optuna", "sqlalchemy", "metarl.commands")),
        ("metarl.runs.runner", ("metarl.report", "metarl.video", "matplotlib")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module, heavy, after_torch):
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    assert after_torch(code).split() == []
