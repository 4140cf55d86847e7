"""Curves over seeds: their means, their intervals, and no line where there are no data.

What is drawn is read back from the SVG: data in, data out.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.html import check, made, summary

from metarl.base.keys import Key
from metarl.evaluation.protocol import Report
from metarl.evaluation.statistics import centre_over_seeds, iqm, mean_over_seeds
from metarl.report.bands import adaptation_band, learning_band
from metarl.report.charts import Group, draw_adaptation, draw_learning, panel
from metarl.report.page import render
from metarl.report.sections.seeds import by_experiment, seed_panels

NAN = float("nan")


def report(returns, experience=(0, 1, 2), tasks=None) -> Report:
    """One of as many tasks as there are rows."""
    array = np.array(returns, float)
    centre = [float(iqm(column[np.isfinite(column)])) for column in array.T]
    return Report(
        "point-goal", "rl2", "heldout", 0, 1, ["x"],
        [[float(m)] for m in range(len(array))] if tasks is None else tasks, array.tolist(),
        list(experience), centre, [[c - 1, c + 1] for c in centre], array.mean(0).tolist(), -99.0,
        1, 1.0,
    )  # fmt: skip


def curve(*points: tuple[float, float]) -> list[dict]:
    return [{"env_steps": x * 1e6, "before": -1.0, "after": y} for x, y in points]


class Drawn:
    """A chart, and what its SVG says in the units of the axes."""

    def __init__(self, draw) -> None:
        def keep(axes) -> None:
            draw(axes)
            self.axes = axes

        self.svg = panel("t", keep).svg
        width, height = (
            float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', self.svg).groups()
        )
        figure = self.axes.figure
        self._to_data = self.axes.transData.inverted()
        self._scale = figure.bbox.width / width, figure.bbox.height / height

    def data(self, path: str, down: float = 0.0) -> list[list[tuple[float, float]]]:
        """Return the places of each stroke of a path: a new one begins with each M."""
        strokes = []
        for command, x, y in re.findall(r"([ML]) (\S+) (\S+)", path):
            if command == "M":
                strokes.append([])
            strokes[-1].append(self.place(float(x), float(y) + down))
        return strokes

    def place(self, x: float, y: float) -> tuple[float, float]:
        height = self.axes.figure.bbox.height
        at = self._to_data.transform((x * self._scale[0], height - y * self._scale[1]))
        return round(float(at[0]), 2), round(float(at[1]), 2)

    def lines(self, colour: str) -> list[list[tuple[float, float]]]:
        """Return the strokes of the solid lines of a colour that have more than a point."""
        found = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--{colour}\);'
                           r'[^"]*stroke-linecap: square"', self.svg)  # fmt: skip
        return [stroke for path in found for stroke in self.data(path) if len(stroke) > 1]

    def bands(self) -> list[list[tuple[float, float]]]:
        """Return the corners of the shaded areas."""
        uses = re.findall(r'<use href="#(\S+)" x="0" y="(\S+)" style="[^"]*fill-opacity: 0.17',
                          self.svg)  # fmt: skip
        paths = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*fill-opacity: 0.17', self.svg)
        strokes = [stroke for path in paths for stroke in self.data(path)]
        for name, down in uses:
            path = re.search(rf'<path id="{name}" d="([^"]*)"', self.svg)[1]
            strokes += self.data(path, float(down))
        return strokes


# --- what is drawn -----------------------------------------------------------------------------


def test_a_line_of_several_seeds_is_their_mean_in_the_svg():
    seeds = [curve((0, -9), (1, -7), (2, -2)), curve((0, -7), (1, -3), (2, -1))]
    drawn = Drawn(lambda axes: draw_learning(axes, {"a": seeds, "b": [curve((0, 0), (2, 1))]}))
    assert drawn.lines("after") == [[(0, -8), (1, -5), (2, -1.5)]]
    assert drawn.lines("ood") == [[(0, 0), (2, 1)]]


def test_a_learning_band_is_the_interval_over_seeds():
    """Of two seeds four resamples: both of one, both of the other, and twice one of each."""
    seeds = [curve((0, -9), (1, -7)), curve((0, -7), (1, -3))]
    band = learning_band(seeds, "after")
    low, high = np.percentile([-9, -8, -8, -7], [2.5, 97.5])
    assert (band.low[0], band.high[0]) == pytest.approx((low, high))
    drawn = Drawn(lambda axes: draw_learning(axes, {"a": seeds, "b": [curve((0, 0), (1, 0))]}))
    corners = {place for stroke in drawn.bands() for place in stroke}
    ends = sorted({y for x, y in corners if x == 0 and y < -1})
    assert ends == pytest.approx([low, high], abs=0.01)


def test_no_line_is_drawn_to_rounds_that_a_seed_lacks():
    """One seed was tested in four rounds, the other in two: the line ends with the second."""
    long = report([[0, 4, 6, 8]] * 8, (0, 1, 2, 3))
    short = report([[2, 6]] * 8, (0, 1))
    group = [Group("a", "after", [long, short])]
    drawn = Drawn(lambda axes: draw_adaptation(axes, group))
    assert drawn.lines("after") == [[(0, 1), (1, 5)]]
    band = adaptation_band([long, short])
    assert band.partial.tolist()[2:] == [6, 8]
    assert np.isnan(band.y[2:]).all()
    hollow = [line for line in drawn.axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata().tolist() for line in hollow] == [[2, 3]]
    assert hollow[0].get_linestyle() == "None"


def test_no_line_leads_over_episodes_after_which_nothing_was_measured():
    """Rounds of 20 episodes are points with their intervals; those of one are a line."""
    far = replace(report([[0, 4, 6]] * 8, (0, 20, 40)), ci95=[[-1, 2], [3, 5], [5.5, 6.5]])
    near = report([[1, 2, 3]] * 8, (0, 1, 2))
    groups = [Group("far", "after", [far]), Group("near", "ood", [near])]
    drawn = Drawn(lambda axes: draw_adaptation(axes, groups))
    assert drawn.lines("after") == []
    assert drawn.lines("ood") == [[(0, 1), (1, 2), (2, 3)]]
    whiskers = drawn.axes.collections[1].get_segments()
    assert [w.tolist() for w in whiskers] == [
        [[0, -1], [0, 2]], [[20, 3], [20, 5]], [[40, 5.5], [40, 6.5]]]  # fmt: skip
    points = drawn.axes.lines[0].get_xydata()
    assert points[np.isfinite(points[:, 1])].tolist() == [[0, 0], [20, 4], [40, 6]]
    widths = [np.ptp([x for x, _ in stroke]) for stroke in drawn.bands()]
    assert sorted(widths)[-2:] == [0, 2]


def test_no_line_crosses_a_round_in_which_everything_diverged():
    holed = report([[0, 4, 6, 8, 9]] * 8, (0, 1, 2, 3, 4))
    holed = replace(holed, iqm=[0, 4, NAN, 8, 9], ci95=[[0, 1], [3, 5], [NAN, NAN], [7, 9], [8, 9]])
    drawn = Drawn(lambda axes: draw_adaptation(axes, [Group("a", "after", [holed])]))
    assert drawn.lines("after") == [[(0, 0), (1, 4)], [(3, 8), (4, 9)]]
    places = [[place[0] for place in stroke] for stroke in drawn.bands()]
    assert len(places) == 2
    assert max(places[0]) == 1
    assert min(places[1]) == 3


def test_evaluations_at_other_steps_are_not_taken_for_each_other():
    """Only where both seeds were evaluated is there a mean."""
    band = learning_band([curve((0, 0), (1, 2), (2, 4)), curve((0, 2), (2, 6))], "after")
    assert band.x.tolist() == [0, 1, 2]
    assert np.nan_to_num(band.y, nan=-1).tolist() == [1, -1, 5]
    assert np.nan_to_num(band.partial, nan=-1).tolist() == [-1, 2, -1]


# --- intervals ---------------------------------------------------------------------------------


def test_the_band_of_one_report_is_its_own():
    one = report(np.random.default_rng(0).normal(size=(12, 3)))
    band = adaptation_band([one])
    assert np.stack([band.low, band.high], 1).tolist() == one.ci95
    assert band.y.tolist() == one.iqm


@pytest.mark.parametrize("centre", ["iqm", "mean"])
def test_seeds_that_differ_widen_the_band(centre):
    """The same tasks; seeds that are 10 apart have a band that is about as wide."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20, 3))
    near = adaptation_band([report(rows), report(rows + 0.01)], centre=centre)
    far = adaptation_band([report(rows), report(rows + 10)], centre=centre)
    assert ((far.high - far.low) > 9).all()
    assert ((near.high - near.low) < 3).all()
    assert ((far.low < far.y) & (far.y < far.high)).all()
    assert far.y.tolist() == pytest.approx((near.y + 4.995).tolist())


def test_the_interval_over_seeds_covers():
    """Of 100 experiments of 8 seeds on 10 tasks, about 95 in 100 hold the true mean of zero."""
    rng, held = np.random.default_rng(2), 0
    for n in range(100):
        values = rng.normal(size=(8, 1)) + 0.5 * rng.normal(size=(8, 10))
        tasks = [[float(m)] for m in range(10)]
        _, low, high = centre_over_seeds(values, tasks, Key("test", n).numpy(), mean=True)
        held += low < 0 < high
    assert 0.85 <= held / 100 <= 0.99


def test_few_seeds_are_resampled_in_every_way():
    values = np.array([[0.0, 1.0], [3.0, 1.0], [9.0, 1.0]])
    mean, low, high = mean_over_seeds(values, np.random.default_rng(0))
    every = [np.mean(three) for three in itertools.product((0.0, 3.0, 9.0), repeat=3)]
    assert mean.tolist() == [4, 1]
    assert (low[0], high[0]) == pytest.approx(tuple(np.percentile(every, [2.5, 97.5])))
    assert (low[1], high[1]) == (1, 1)


def test_tasks_that_diverged_for_a_seed_are_left_out():
    values = np.array([[1.0, NAN, 3.0], [1.0, 2.0, 3.0]])
    tasks = [[0.0], [1.0], [2.0]]
    assert centre_over_seeds(values, tasks, Key("t").numpy(), mean=True)[0] == 2
    nothing = centre_over_seeds(values * NAN, tasks, Key("t").numpy())
    assert np.isnan(nothing).all()


# --- runs of a report --------------------------------------------------------------------------


def test_a_report_of_several_seeds_has_a_line_for_all_of_them():
    """Runs that differ in their seed alone are one line; another setting is another line."""
    runs = []
    for n, (label, seed, lr) in enumerate([("a", 1, 0.1), ("b", 2, 0.1), ("c", 1, 0.2)]):
        run = summary(label, made([[-10.0 + n, -4.0 + n], [-20.0, -5.0]]))
        run.seed, run.learner = seed, {"lr": lr}
        run.train = {"iterations": 10, "seed": seed, "out": f"runs/{label}"}
        runs.append(run)
    groups = by_experiment(runs)
    assert {name: [run.label for run in group] for name, group in groups.items()} == {
        "maml-trpo, 2 seeds": ["a", "b"], "c": ["c"]}  # fmt: skip
    page = check(render(runs))
    assert page.tags.count("svg") == check(render([runs[0], runs[2]])).tags.count("svg") + 2
    charts = {chart.title: chart for chart in seed_panels(runs)}
    labels = [label for _, label in charts["Adaptation to held-out tasks, over seeds"].legend]
    assert labels == ["maml-trpo, 2 seeds", "c", "standing still"]
    assert seed_panels([runs[0], runs[2]]) == []


def test_the_same_seed_twice_is_not_two_seeds():
    runs = [summary(label, made([[-1.0, 2.0]])) for label in "ab"]
    assert [len(group) for group in by_experiment(runs).values()] == [1, 1]
