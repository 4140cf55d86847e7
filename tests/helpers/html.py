"""What the tests of reports share: runs made up, and what every page must be."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from metarl.evaluation.protocol import Report
from metarl.report.run_summary import RunSummary

VOID = {"meta", "img", "br"}


PROBE = {
    "step": 0, "first": [0.0] * 10 + [1.0] * 10, "last": [1.0] * 20, "identified": 18,
    "effects": {
        "as it is": {"returns": [3.0, None, 5.0], "change": [0.0, 0.0, 0.0]},
        "reward hidden": {"returns": [1.0, 2.0, 3.0], "change": [-2.0, -3.0, -1.0]},
    },
    "readable": {"x": 0.75, "<y>": None},
    "sweeps": {
        "<y>": {
            "values": [0.0, 1.0, 2.0], "trained": [True, True, False], "first": [0.0, None, 1.0],
            "last": [1.0, 1.0, 2.0],
        },
    },
}  # fmt: skip
"""What `metarl probe` keeps."""
STREAM = {
    "step": 0, "every": 50.0, "window": 20, "lags": 20, "streams": 3, "episodes": 2,
    "horizon": 20, "drift": False, "reference": "oracle",
    "runs": [
        {"algorithm": "rl2", "family": "toy", "reference": False,
         "windows": {"mean": [1.0, 3.0], "iqm": [1.0, 3.0], "ci95": [[0.0, 2.0], [2.0, 4.0]]},
         "regret": {"mean": [2.0, 5.0], "iqm": [2.0, 5.0], "ci95": [[1.0, 3.0], [4.0, 6.0]]},
         "recovery": {"switches": 7, "drop": 0.5, "lasting": 0.1, "steps": 12, "low": 9,
                      "high": 15}},
        {"algorithm": "ppo", "family": "toy+told", "reference": True,
         "windows": {"mean": [3.0, 5.5], "iqm": [3.0, 5.5], "ci95": [[3.0, 3.0], [5.0, 6.0]]},
         "regret": {"mean": [0.0, 0.0], "iqm": [0.0, 0.0], "ci95": [[0.0, 0.0], [0.0, 0.0]]},
         "recovery": None},
    ],
}  # fmt: skip
"""What `metarl stream` keeps."""


def made(returns, tasks=None, split: str = "heldout", experience=(0, 20), names=("x",)) -> Report:
    table = np.asarray(returns, float)
    tasks = tasks or [[float(n)] for n in range(len(table))]
    mean = table.mean(0).tolist()
    return Report(
        "toy", "maml-trpo", split, 0, 20, list(names), tasks, table.tolist(), list(experience),
        mean, [[value - 1, value + 1] for value in mean], mean, -12.0, 10, 1.0,
    )  # fmt: skip


def summary(label: str, heldout: Report | None = None, ood: Report | None = None) -> RunSummary:
    run = RunSummary(Path(f"runs/{label}"), label, "toy", "maml-trpo", 1, 10, 1000, 65.0, True)
    run.curve = [
        {"env_steps": n * 500, "before": -9.0, "after": -9.0 + n, "before_ci": [-10, -8],
         "after_ci": [-10 + n, -8 + n], "experience": [0, 20], "stand_still": -12.0}
        for n in range(3)
    ]  # fmt: skip
    for report in (heldout, ood):
        if report is not None:
            run.reports[report.split] = report
    return run


class Structure(HTMLParser):
    """Checks that elements close in order, and collects what could reach out of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._collect(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._collect(attrs)

    def _collect(self, attrs):
        names = ("src", "href", "xlink:href", "srcset", "data", "poster")
        self.links += [value for name, value in attrs if name in names]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def check(page: str) -> Structure:
    """A page is well-formed, and holds nothing that a network would be asked for."""
    found = Structure(page)
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert len(found.ids) == len(set(found.ids))
    inside = {f"#{name}" for name in found.ids}
    assert all(link.startswith("data:") or link in inside for link in found.links), found.links
    assert {place[4:-1] for place in re.findall(r"url\([^)]*\)", page)} <= inside
    assert "@import" not in page
    assert not re.search(r"https?://", page)
    assert not re.search(r"\bNaN\b|\bnan\b|\binf\b", page)
    assert 'name="viewport"' in page
    return found


@contextlib.contextmanager
def empty_charts() -> Iterator[None]:
    """Draw into axes as always, and write no picture: laying it out is most of a page's time.

    A figure that is saved by its name is somebody else's.
    """
    real = Figure.savefig

    def save(figure, file, **how):
        if isinstance(file, str):
            real(figure, file, **how)
        elif isinstance(file, io.BytesIO):
            Image.new("RGB", (1, 1)).save(file, "PNG")
        else:
            file.write('<svg><g id="figure_1"></g></svg>')

    with mock.patch("metarl.report.charts.Figure.savefig", save):
        yield


def words(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S).split())
