"""The tables of GrBAL, MOLe and streams are those of their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def script():
    path = ROOT / "experiments" / "grbal_adaptation.py"
    spec = importlib.util.spec_from_file_location("grbal_adaptation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_have_the_tables_of_the_files():
    """`python experiments/grbal_adaptation.py --write` would change no page."""
    module = script()
    for name, (path, table) in module.pages().items():
        text = path.read_text(encoding="utf-8")
        assert module.filled(text, name, table) == text


def test_a_table_of_streams_by_hand():
    curve = {"mean": [1.0, -4.0], "ci95": [[0, 0], [-7.2, 12]], "iqm": [0, 3.4]}
    one = {"windows": curve, "regret": curve, "recovery": None}
    two = one | {"regret": None, "recovery": {"drop": 0.456, "steps": 7, "low": 5, "high": 9}}
    *_, first, second = script().stream_rows("who", {"a": one, "b": two}).splitlines()
    assert first == "| a | −2 | 3 [−7, 12] | — | — |"
    assert second == "| b | −2 | earns most | 0.46 | 7 steps [5, 9] |"
