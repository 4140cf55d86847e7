"""Wide tables of the documentation say the column of each cell; narrow ones stay as they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HOOKS = Path(__file__).resolve().parents[1] / "docs" / "hooks.py"


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", HOOKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(columns: int, cell: str = "1") -> str:
    heads = "".join(f"<th>h{n}</th>" for n in range(columns))
    rows = f"<tr>{f'<td>{cell}</td>' * columns}</tr>" * 2
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def test_a_narrow_table_stays_as_it_is():
    assert hooks().on_page_content(table(5)) == table(5)
    assert hooks().on_page_content(table(3, "many words " * 20)) == table(3, "many words " * 20)


def test_a_wide_one_names_the_column_of_each_cell():
    for made in (table(6, "<b>1</b>"), table(4, "twenty-nine letters in a cell")):
        got = hooks().on_page_content("before" + made + "after")
        assert got.startswith("before<table data-stack>")
        assert got.count('data-of="h0"') == got.count('data-of="h3"') == 2
        assert got.count("<span>") == made.count("<td>")


def test_an_empty_cell_stays_empty():
    assert '<td data-of="h5"></td>' in hooks().on_page_content(table(6, ""))
