"""Plots: written whole, of the right size, with a line for every split."""

from pathlib import Path

import pytest

from metarl.errors import UserError
from metarl.evaluation import Report
from metarl.report.plots import plot_adaptation, plot_results


def report(split: str = "heldout") -> Report:
    return Report(
        "point-goal", "maml-trpo", split, 0, 20, ["x"], [[0.0], [1.0]], [[-9.0, -4.0]] * 2,
        [0, 20], [-9.0, -4.0], [[-10.0, -8.0], [-5.0, -3.0]], [-9.0, -4.0], -12.0, 1, 1.0,
    )  # fmt: skip


def result(seed: int) -> dict:
    curve = [{"env_steps": n * 1e5, "before": -9.0 - seed, "after": -9.0 + n} for n in range(4)]
    return {**report().to_json(), "ood": report("ood").to_json(), "curve": curve}


def test_plots_are_png(tmp_path: Path) -> None:
    one = plot_adaptation([report(), report("ood")], tmp_path / "a" / "adaptation.png")
    two = plot_results([result(1), result(2)], tmp_path / "run.png")
    for path in (one, two):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert 5_000 < path.stat().st_size < 200_000


def test_a_family_without_ood(tmp_path: Path) -> None:
    plot_results([result(1) | {"ood": None}], tmp_path / "run.png")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation"):
        plot_adaptation([], tmp_path / "x.png")


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plot_adaptation([report()], tmp_path / "file" / "x.png")
