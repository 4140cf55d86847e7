"""The report in Chromium: nothing clipped, faint or wider than the window, no errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import browser, measured
from helpers.html import PROBE, STREAM, made, summary

from metarl.report.page import write_page
from metarl.report.run_summary import RunSummary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser() is None, reason="no Chromium here; METARL_BROWSER names one"),
]

LABEL = "half-cheetah-with-a-long-name-maml-trpo-seed{}"


def runs_of(kind: str, folder: Path) -> list[RunSummary]:
    """Return runs for a page of a kind: one, compared, probed, streamed, overfitting."""
    rng = np.random.default_rng(0)
    tasks = rng.uniform(0, 1, (200, 2)).tolist()
    names = ("goal_velocity", "strength")
    runs = []
    for n in range(1 if kind == "one" else 3):
        report = made(rng.normal(-1e4, 3e3, (200, 2)), tasks, names=names)
        run = summary(LABEL.format(n), replace(report, algorithm=("rl2", "ppo", "ppo")[n]))
        runs.append(run)
    runs[0].checks = {"inner_agreement": [(1.0, 0.5), (2.0, 0.25)]}
    if kind == "compared":
        runs[2].family += "+told"
        runs[2].reports["heldout"] = replace(runs[2].reports["heldout"], family="toy+told")
    if kind == "probed":
        for run in runs:
            run.probe = PROBE
    if kind == "streamed":
        runs[0].stream = STREAM
    if kind == "overfitting":
        one = {"iqm": -1e4, "ci95": [-1.2e4, -9e3], "mean": [-1e4], "tasks": 30}
        rows = [
            {"num_tasks": count, "sets": dict.fromkeys(("train", "heldout", "far ood"), one)}
            for count in (8, 32, 128, None)
        ]
        (folder / "overfitting.json").write_text(json.dumps({"rows": rows}))
        for run in runs:
            run.path = folder / run.label
    return runs


WORDS = {
    "one": "Agreement of inner gradients", "compared": "Does adapting pay?",
    "probed": "Sweep of", "streamed": "Regret against the oracle",
    "overfitting": "Overfitting and shift",
}  # fmt: skip
"""What is on the page of each kind, and on no other that lacks its data."""


def seen(folder: Path, kinds: list[str], dark: bool) -> None:
    """Pages of some kinds fit, can be read, and say nothing in the log."""
    pages = [f"{kind}.html" for kind in kinds]
    rows, said = measured(folder, pages, folder / f"profile-{dark}", dark=dark)
    assert [row for row in rows if row["faults"]] == []
    assert len(rows) == 3 * len(pages)  # two widths, one scheme
    assert all(row["charts"] >= 4 for row in rows if "charts" in row)
    assert said == []


@pytest.mark.slow
def test_pages_of_each_kind_fit_and_can_be_read(tmp_path):
    """On a phone and on a desk, in light and in dark."""
    for kind, said in WORDS.items():
        page = write_page(runs_of(kind, tmp_path), tmp_path / f"{kind}.html").read_text()
        assert said in page
    for dark in (False, True):
        seen(tmp_path, list(WORDS), dark)


def test_a_page_fits_and_can_be_read(tmp_path):
    write_page(runs_of("streamed", tmp_path), tmp_path / "streamed.html")
    seen(tmp_path, ["streamed"], dark=False)
