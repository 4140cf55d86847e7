"""Charts: written whole, true to their numbers, and harmless in a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from metarl.base.errors import UserError
from metarl.evaluation.protocol import Report
from metarl.report.charts import (
    PALETTE,
    Group,
    draw_adaptation,
    draw_learning,
    draw_map,
    draw_points,
    panel,
    plot_adaptation,
    plot_results,
)


def report(split: str = "heldout", experience: tuple[int, ...] = (0, 20)) -> Report:
    n = len(experience)
    mean = [-9.0, *[-4.0] * (n - 1)]
    return Report(
        "point-goal", "maml-trpo", split, 0, 20, ["x"], [[0.0], [1.0]], [mean] * 2,
        list(experience), mean, [[m - 1, m + 1] for m in mean], mean, -12.0, 1, 1.0,
    )  # fmt: skip


def curve(seed: int = 0) -> list[dict]:
    return [{"env_steps": n * 1e6, "before": -9.0 - seed, "after": -9.0 + n} for n in range(4)]


def result(seed: int) -> dict:
    return {**report().to_json(), "ood": report("ood").to_json(), "curve": curve(seed)}


# --- files -------------------------------------------------------------------------------------


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


# --- numbers -----------------------------------------------------------------------------------


def lines(axes) -> dict[str, list[list[float]]]:
    return {line.get_label(): np.asarray(line.get_data()).tolist() for line in axes.lines}


def test_a_learning_curve_is_the_mean_of_its_seeds_over_millions_of_steps():
    """Seeds 0 and 2 before adaptation: the mean of −9 and −11."""
    axes = Figure().subplots()
    draw_learning(axes, {"": [curve(0), curve(2)]})
    found = lines(axes)
    assert found["task-blind (before adaptation)"] == [[0, 1, 2, 3], [-10] * 4]
    assert found["after"] == [[0, 1, 2, 3], [-9, -8, -7, -6]]
    several = Figure().subplots()
    draw_learning(several, {"a": [curve()], "b": [curve()]})
    assert list(lines(several)) == ["a, after", "b, after"]


def test_a_learner_that_adapts_within_it_has_a_first_episode():
    axes, over_training = Figure().subplots(1, 2)
    within = replace(report(), adapts_within=True)
    draw_adaptation(axes, [Group("rl2", "after", [within])], task_blind=True)
    draw_learning(over_training, {"": [curve()]}, report=within)
    for found in (lines(axes), lines(over_training)):
        assert "first episode" in found
        assert not any("before" in label for label in found)


def test_a_few_episodes_stand_apart_from_many():
    """On log(1 + n), 0 → 1 takes as much room as 1 → 3; one schedule has an even axis."""
    few, many = (
        Group("rl2", "after", [report(experience=(0, 1, 3))]),
        report(experience=(0, 20, 40)),
    )
    axes = Figure().subplots()
    draw_adaptation(axes, [few, Group("maml", "ood", [many])])
    at = [axes.transData.transform((k, 0))[0] for k in (0, 1, 3)]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1])
    assert axes.get_xticks().tolist() == [0, 1, 3, 20, 40]
    even = Figure().subplots()
    draw_adaptation(even, [few, few])
    assert even.get_xscale() == "linear"


def test_a_map_has_the_value_of_the_nearest_task():
    """Two tasks, left and right: each half of the map has the value of one."""
    axes = Figure().subplots()
    draw_map(axes, np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([-1.0, 1.0]), (-1, 1), "v",
             diverging=True, cells=4)  # fmt: skip
    assert axes.images[0].get_array().tolist() == [[-1, -1, 1, 1]] * 4


# --- in the page -------------------------------------------------------------------------------


def odd(axes) -> None:
    axes.axhline(0.5, ls="--", color=PALETTE["still"], label="still & calm $x$")
    draw_points(axes, np.array([0.0, 1.0]), np.array([0.0, 1.0]), "after", "<script>")
    axes.set(xlabel="x< $y$", ylabel='y"')


def test_a_chart_is_xml_in_which_names_are_text():
    chart = panel("<b>&", odd, points=["<low>", "high"])
    root = ET.fromstring(chart.svg)
    assert root.get("aria-label") == "<b>&"
    assert {"x< $y$", 'y"'} <= {text.text for text in root.iter("text")}
    marks = [use for use in root.iter("use") if use.find("title") is not None]
    assert [mark.find("title").text for mark in marks] == ["<low>", "high"]
    assert [label for _, label in chart.legend] == ["still & calm $x$", "<script>"]


def test_colours_are_the_pages_and_ids_are_of_one_chart():
    """Equal charts of other titles share no id, and the same call gives the same bytes."""
    one, two = panel("one", odd), panel("two", odd)
    assert panel("one", odd).svg == one.svg
    ids = [set(re.findall(r' id="([^"]*)"', chart.svg)) for chart in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "var(--after)" in one.svg
    assert not set(re.findall(r"#[0-9a-f]{6}", one.svg)) & set(PALETTE.values())


def test_one_value_and_nothing_at_all_can_be_drawn():
    for draw in (lambda axes: None, lambda axes: draw_learning(axes, {"": [curve()[:1]]})):
        assert "nan" not in panel("t", draw).svg
