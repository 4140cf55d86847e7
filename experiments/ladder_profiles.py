"""The ladder's picture: performance profiles of the learners, with the numbers in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from metarl.base.keys import Key
from metarl.learning.score import task_scores
from metarl.learning.statistics import performance_profile, profile_band
from metarl.report.charts import PALETTE, RUN_COLOURS

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "ladder-profiles.svg"
THRESHOLDS = np.round(np.linspace(-0.5, 1.5, 81), 3)

Profiles = dict[str, dict[str, list[float]]]


def profiles(scored: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> Profiles:
    """Return the profile of each learner, and its band, to three decimals.

    Args:
        scored: line -> family -> the arguments of `adaptation_score`.

    Returns:
        line -> "fraction", "low" and "high", one for each of `THRESHOLDS`.
    """
    found: Profiles = {}
    for line, families in scored.items():
        scores, tasks = zip(*(task_scores(*one) for one in families.values()), strict=True)
        band = profile_band(scores, tasks, THRESHOLDS, Key("profile", line).numpy())
        curves = performance_profile(scores, THRESHOLDS), *band.T
        named = zip(("fraction", "low", "high"), curves, strict=True)
        found[line] = {name: [round(float(x), 3) for x in curve] for name, curve in named}
    return found


def draw(found: Profiles, path: Path) -> None:
    """Draw profiles as SVG, the numbers in its description."""
    with mpl.rc_context({"svg.hashsalt": "ladder", "font.size": 11, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for line, colour in zip(found, RUN_COLOURS, strict=False):
            curve, shade = found[line], PALETTE[colour]
            axes.step(THRESHOLDS, curve["fraction"], where="post", color=shade, label=line)
            band = curve["low"], curve["high"]
            axes.fill_between(THRESHOLDS, *band, step="post", color=shade, alpha=0.2, lw=0)
        for at, word in ((0, "blind"), (1, "oracle")):
            axes.axvline(at, color=PALETTE["before"], lw=0.8, ls="--")
            axes.annotate(word, (at, 1.04), ha="center", color=PALETTE["soft"], fontsize=9)
        axes.set(xlabel="score τ", ylabel="fraction of runs above τ", ylim=(-0.02, 1.1))
        axes.set_xlim(THRESHOLDS[0], THRESHOLDS[-1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
        numbers = json.dumps({"thresholds": THRESHOLDS.tolist(), "profiles": found})
        about: dict[str, Any] = {"Date": None, "Description": numbers}
        figure.savefig(path, format="svg", facecolor="white", metadata=about)


def drawn(path: Path) -> Profiles:
    """Return the profiles of a picture, from its description."""
    text = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text("utf-8"), re.S)
    return json.loads(unescape(text[1]))["profiles"] if text else {}
