"""Charts of what metrics.csv holds over training: the reward's terms, and a curriculum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from metarl.report.charts import PALETTE, RUN_COLOURS

POINTS = 100
"""Of a line, at most; of more iterations, neighbours are averaged."""


def draw_terms(
    axes: Axes,
    terms: Mapping[str, Sequence[tuple[float, float]]],
    ylabel: str = "reward in a step",
) -> None:
    """Draw the terms over training: the largest, as many as there are colours.

    Args:
        axes: where to draw.
        terms: name -> (env steps, mean in a step) of each iteration.
        ylabel: what the values are.
    """
    size = {name: float(np.abs([value for _, value in terms[name]]).mean()) for name in terms}
    chosen = sorted(size, key=size.__getitem__, reverse=True)[: len(RUN_COLOURS)]
    for colour, name in zip(RUN_COLOURS, sorted(chosen, key=list(terms).index), strict=False):
        points = np.array(terms[name])
        parts = np.array_split(points, min(len(points), POINTS))
        x, y = np.array([part.mean(0) for part in parts]).T
        axes.plot(x / 1e6, y, color=PALETTE[colour], label=name)
    axes.set(xlabel="environment steps (millions)", ylabel=ylabel)
