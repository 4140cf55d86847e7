"""dm_control by shimmy and CARL over the bridge, where an interpreter has them.

That is the one that METARL_TEST_SHIMMY or METARL_TEST_CARL names, or else this one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from metarl import find_family
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv", "ignore:.*desired_goal")
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "carl_pendulum.py"


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("shimmy", "gymnasium:shimmy:dm_control/cartpole-swingup-v0"),
        ("carl", f"{EXAMPLE}:CarlPendulum"),
    ],
)
def test_a_suite_steps(package, name, monkeypatch):
    python = os.environ.get(f"METARL_TEST_{package.upper()}")
    if python is None:
        pytest.importorskip(package)
        if package == "shimmy":
            pytest.importorskip("dm_control")
    monkeypatch.setenv("METARL_BRIDGE_PYTHON", python or sys.executable)
    family = find_family(name)
    worlds = make_worlds(family, 2, 1)  # which finds that every parameter changes something
    got = worlds.step(torch.full((2, worlds.spec.action_size), 0.5))
    worlds.close()
    assert worlds.spec.observation_size == {"shimmy": 5, "carl": 3}[package]
    assert torch.isfinite(got.next_obs).all()
    assert torch.isfinite(got.reward).all()
