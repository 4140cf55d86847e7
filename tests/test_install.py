"""What pip makes of the project: an editable install and a wheel, used from outside the clone."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = """
import os, sys
from setuptools import build_meta
os.chdir(sys.argv[1])
print(getattr(build_meta, sys.argv[2])(sys.argv[3]))
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSIDE = {"imageio-ffmpeg": "imageio_ffmpeg", "mujoco-warp": "mujoco_warp", "pillow": "PIL",
          "scikit-learn": "sklearn", "warp-lang": "warp",
          "stable-baselines3": "stable_baselines3"}  # fmt: skip
"""What is imported of a distribution that goes by another name."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone in a folder that has the name of the package, as git makes it."""
    folder = tmp_path_factory.mktemp("parent") / "metarl"
    folder.mkdir()
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("metarl", "envs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(clone: Path, how: str, out: Path) -> Path:
    """Have setuptools build a wheel, as pip does."""
    out.mkdir()
    words = [sys.executable, "-c", BUILD, str(clone), how, str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "experimental" not in done.stderr
    return out / done.stdout.splitlines()[-1]


def test_a_script_above_the_clone_finds_the_package(clone, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(built(clone, "build_editable", tmp_path / "wheels")) as wheel:
        wheel.extractall(site)
    (clone.parent / "script.py").write_text(
        f"import site; site.addsitedir({str(site)!r}); import importlib.util as util\n"
        "print(util.find_spec('metarl').origin, util.find_spec('envs').origin)"
    )
    # without the packages, and the PYTHONPATH, of the environment that runs the tests
    for how in (["script.py"], ["-c", (clone.parent / "script.py").read_text()]):
        done = subprocess.run(
            [sys.executable, "-ES", *how], cwd=clone.parent, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.stdout.split() == [
            str(clone / "metarl" / "__init__.py"), str(clone / "envs" / "__init__.py"),
        ], done.stderr  # fmt: skip


def test_the_wheel_has_every_module_and_agent_once(clone, tmp_path):
    with zipfile.ZipFile(built(clone, "build_wheel", tmp_path / "wheels")) as wheel:
        names = wheel.namelist()
        size = sum(item.compress_size for item in wheel.infolist())
    assert len(names) == len(set(names))
    for package in ("metarl", "envs"):
        ours = {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
        assert ours <= set(names)
    agents = (ROOT / "experiments" / "agents").glob("*/*")
    assert {f"metarl/agents/{p.parent.name}/{p.name}" for p in agents} <= set(names)
    presets = (ROOT / "metarl" / "presets").iterdir()
    assert {f"metarl/presets/{path.name}" for path in presets} <= set(names)
    assert not any(name.startswith("experiments/") for name in names)
    assert size < 10e6


def test_dependencies_are_those_imported():
    project = PROJECT["project"]
    declared = {re.split(r"[>=<!;\[ ]", word)[0] for word in project["dependencies"]}
    imported = set()
    for file in [*(ROOT / "metarl").rglob("*.py"), *(ROOT / "envs").rglob("*.py")]:
        for line in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(line, ast.Import):
                imported |= {one.name.partition(".")[0] for one in line.names}
            elif isinstance(line, ast.ImportFrom):
                imported.add(str(line.module).partition(".")[0])
    strangers = imported - set(sys.stdlib_module_names) - {"metarl", "envs"}
    strangers -= {"metaworld"}  # imported in another interpreter, by the worker of the bridge
    optional = {
        re.split(r"[>=<!;\[ ]", word)[0]
        for extra, words in project["optional-dependencies"].items() for word in words
        if extra != "dev"
    }  # fmt: skip
    needed = {INSIDE.get(name, name) for name in declared}
    assert needed <= strangers
    assert strangers - needed <= {INSIDE.get(name, name) for name in optional}
    assert "cluster" not in project["optional-dependencies"]
