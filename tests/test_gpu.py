"""Runs helpers/on_gpu*.py in processes of their own: torch counts devices once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["on_gpu", "on_gpu_worlds"])
def test_on_a_gpu_or_its_stand_in(name: str) -> None:
    file = Path(__file__).parent / "helpers" / f"{name}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
