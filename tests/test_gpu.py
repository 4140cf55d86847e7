"""Runs on_gpu.py in a process of its own: torch counts devices once, at the first backward."""

import subprocess
import sys
from pathlib import Path


def test_on_a_gpu_or_its_stand_in() -> None:
    file = Path(__file__).parent / "helpers" / "on_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
