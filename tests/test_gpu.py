"""Runs on_gpu.py in processes of their own: torch counts devices once, at the first backward."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("which", ["learns and rl2", "learns and not rl2", "not learns"])
def test_on_a_gpu_or_its_stand_in(which: str) -> None:
    file = Path(__file__).parent / "helpers" / "on_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which, file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
