"""The ladder's picture: performance profiles of the learners, with the numbers in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from result_files import drawn_numbers

from metarl.base.keys import Key
from metarl.evaluation.score import task_scores
from metarl.evaluation.statistics import performance_profile, profile_band
from metarl.report.charts import PALETTE, RUN_COLOURS

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "ladder-profiles.svg"
THRESHOLDS = np.round(np.linspace(-0.5, 2.0, 101), 3)

Profiles = dict[str, dict[str, list[float]]]


def profiles(scored: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> Profiles:
    """Return the profile of each learner and of the oracle, and its band, to three decimals.

    The oracle's is over all families in which a learner has a score. Learners that have one in
    fewer than half as many families as another have are left out: theirs are not to be compared.

    Args:
        scored: line -> family -> the arguments of `adaptation_score`.

    Returns:
        line and number of families -> "fraction", "low" and "high", one for each of `THRESHOLDS`.
    """
    found: Profiles = {}
    every = {family: one for of in scored.values() for family, one in of.items()}
    told = {family: (one[2], *one[1:]) for family, one in sorted(every.items())}
    most = max(map(len, scored.values()), default=0)
    scored = {line: families for line, families in scored.items() if 2 * len(families) >= most}
    for line, families in {**scored, "oracle": told}.items():
        scores, tasks = zip(*(task_scores(*one) for one in families.values()), strict=True)
        band = profile_band(scores, tasks, THRESHOLDS, Key("profile", line).numpy())
        curves = performance_profile(scores, THRESHOLDS), *band.T
        named = zip(("fraction", "low", "high"), curves, strict=True)
        many = "1 family" if len(families) == 1 else f"{len(families)} families"
        found[f"{line} ({many})"] = {
            name: [round(float(x), 3) for x in curve] for name, curve in named
        }
    return found


def draw(found: Profiles, path: Path) -> None:
    """Draw profiles as SVG, the numbers in its description."""
    with mpl.rc_context({"svg.hashsalt": "ladder", "font.size": 11, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (line, curve), colour in zip(found.items(), RUN_COLOURS, strict=False):
            oracle = line.startswith("oracle")
            shade, style = PALETTE["soft" if oracle else colour], "--" if oracle else "-"
            where: dict[str, Any] = {"where": "post", "color": shade, "label": line}
            axes.step(THRESHOLDS, curve["fraction"], ls=style, lw=1.2 if oracle else 1.6, **where)
            if oracle:
                continue
            band = curve["low"], curve["high"]
            axes.fill_between(THRESHOLDS, *band, step="post", color=shade, alpha=0.2, lw=0)
        axes.axvline(0, color=PALETTE["before"], lw=0.8, ls=":")
        axes.annotate("blind", (0, 1.04), ha="center", color=PALETTE["soft"], fontsize=9)
        axes.set(xlabel="score τ", ylabel="fraction of runs above τ", ylim=(-0.02, 1.1))
        axes.set_xlim(THRESHOLDS[0], THRESHOLDS[-1])
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside lower center", ncols=3)
        numbers = json.dumps({"thresholds": THRESHOLDS.tolist(), "profiles": found})
        about: dict[str, Any] = {"Date": None, "Description": numbers}
        figure.savefig(path, format="svg", facecolor="white", metadata=about)


def drawn(path: Path) -> Profiles:
    """Return the profiles of a picture, from its description."""
    return drawn_numbers(path).get("profiles", {})
