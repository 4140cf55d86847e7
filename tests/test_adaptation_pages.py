"""The tables of GrBAL, MOLe, FTML, ES-MAML and streams are those of their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(name: str = "grbal_adaptation"):
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
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


@pytest.mark.parametrize(
    ("name", "mark"),
    [("ftml_stream", "ftml streams"), ("es_damage", "es damage"), ("imitation", "imitation")],
)
def test_a_page_has_the_table_of_its_files(name: str, mark: str) -> None:
    """`python experiments/NAME.py --write` would not change it."""
    module = script(name)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.filled(text, mark, module.table()) == text


def test_the_page_of_overfitting_has_the_table_of_its_files():
    """`python experiments/overfitting.py --write` would not change it."""
    module = script("overfitting")
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.filled(text, "overfitting", module.table(module.load())) == text


def test_the_pages_of_the_quadrupeds_have_what_their_legs_learned():
    """`python experiments/legs.py --write` would change neither."""
    module = script("legs")
    for path, text in module.pages().items():
        assert path.read_text(encoding="utf-8") == text
    assert module.table({}) == (
        "Not trained yet, for as long as that: `rma` and `rl2` with a privileged critic."
    )


def test_what_few_training_tasks_cost_is_said_of_intervals_that_are_apart():
    def row(tasks, held, near):
        sets = {"train": (0, 0), "heldout": held, "near ood": near, "far ood": (0, 0)}
        return {
            "num_tasks": tasks,
            "sets": {k: {"iqm": sum(v) / 2, "ci95": list(v)} for k, v in sets.items()},
        }

    found = {
        "a": {"env_steps": 8e5, "rows": [row(8, (1, 2), (0, 9)), row(128, (3, 4), (0, 2))]},
        "b": {"env_steps": 8e5, "rows": [row(8, (1, 3), (0, 9)), row(128, (2, 4), (0, 2.5))]},
    }
    *_, few, outside = script("overfitting").table(found).splitlines()
    assert few.endswith("with intervals apart: a; not shown: b.")
    assert outside.endswith("with intervals apart: a; of 2.")


def test_the_pages_of_learners_have_the_ladder_s_results():
    """`python experiments/ladder_pages.py --write` would change none of them."""
    module = script("ladder_pages")
    pages = module.pages(module.load(module.RESULTS))
    assert {"promp.md", "cavia.md", "rl2.md", "varibad.md"} <= {path.name for path in pages}
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, path
    rows = module.table(module.load(module.RESULTS), ["e-rl2", "promp"]).splitlines()[2:6]
    assert [row.split("`")[1] for row in rows] == ["e-rl2"] * 2 + ["promp"] * 2


def test_a_seed_joins_those_of_the_same_settings(tmp_path, monkeypatch):
    """And replaces itself; differences are paired, stream by stream. Other settings begin anew."""
    module = script("ftml_stream")
    monkeypatch.setattr(module, "RESULT", tmp_path / "found.json")
    args = module.Namespace(write=False, seeds=[1], streams=2)

    def found(seed, *online):
        returns = {name: [-1.0, -3.0] for name in module.WORDS} | {"online": list(online)}
        return {"seed": seed, "curve": [], "returns": returns}

    for one in (found(2, -9.0, -9.0), found(1, -2.0, -4.0), found(2, -2.0, -4.0)):
        module.add(one, args)
    about = module.json.loads(module.RESULT.read_text())
    assert [one["seed"] for one in about["seeds"]] == [1, 2]
    assert about["mean"]["online"] == -3.0
    assert about["against_frozen"]["online"] == [-1.0, -1.0, -1.0]
    module.add(found(5, -1.0, -3.0), module.Namespace(write=False, seeds=[5], streams=3))
    assert [one["seed"] for one in module.json.loads(module.RESULT.read_text())["seeds"]] == [5]
