"""Small charts as SVG text, for a page that needs nothing but itself.

Colours are classes that the page's style sheet fills in (`COLOURS`), so a chart follows the
reader's light or dark scheme; text stays text; a point's `<title>` shows when it is pointed at.
Drawing one takes about a millisecond and imports nothing, so a training run can afford it at each
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from metarl.progress import ALL_DIVERGED

COLOURS = ("after", "ood", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
"""Classes of the lines of several runs, in order; also: before, still, muted."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 42
_SEQUENTIAL = ("#2d1160", "#721f81", "#b73779", "#f1605d", "#feb078", "#fcfdbf")
_DIVERGING = ("#b2182b", "#ef8a62", "#f1eeea", "#67a9cf", "#2166ac")


def number(value: float, signed: bool = False) -> str:
    """Return a number with about three digits, a true minus sign and no exponent up to 10 M.

    NaN is a mean over episodes of which all diverged, and is said to be that.
    """
    if math.isnan(value):
        return ALL_DIVERGED
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.2g}"
    else:
        digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(digits, 6)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    text = "0" if text in ("-0", "") else text
    return ("+" if signed and value > 0 and text != "0" else "") + text.replace("-", "−")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that lie in [low, high], `about` as many as asked for."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if raw <= m * size * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _known(xs: Sequence[float], *ys: Sequence[float]) -> tuple[Sequence[float], ...]:
    """Leave out the points of which a y is NaN: nothing is known where all episodes diverged."""
    if not any(math.isnan(y) for part in ys for y in part):
        return xs, *ys
    kept = [row for row in zip(xs, *ys, strict=True) if not any(map(math.isnan, row))]
    return tuple(zip(*kept, strict=True)) if kept else ((), *((),) * len(ys))


class Chart:
    """Lines, bands, points and rules over two axes. Add to it, then call `html`."""

    def __init__(
        self, title: str, xlabel: str, ylabel: str, *, log: bool = False, note: str = "",
        size: tuple[int, int] = (380, 270),
    ) -> None:  # fmt: skip
        """Name what is drawn.

        Args:
            title: goes above the chart.
            xlabel: with its unit.
            ylabel: likewise.
            log: draw x as log(1 + x): episodes seen, from none to hundreds.
            note: small print under the chart.
            size: of the drawing in user units; a page scales it.
        """
        self.title, self.xlabel, self.ylabel, self.log, self.note = title, xlabel, ylabel, log, note
        self.width, self.height = size
        self.left: float = _LEFT
        self.xticks: list[float] | None = None
        self._xs: list[float] = []
        self._ys: list[float] = []
        self._marks: list[tuple[str, str, tuple]] = []
        self._legend: list[tuple[str, str, str]] = []

    # --- what to draw --------------------------------------------------------------------------

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, label: str = "",
        kind: str = "line",
    ) -> None:  # fmt: skip
        """Join points by a line; kind is line, dots (a line with dots), or dash."""
        xs, ys = _known(xs, ys)
        self._add(kind, colour, xs, ys, label, (xs, ys))

    def band(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> None:
        """Fill between two lines."""
        xs, low, high = _known(xs, low, high)
        self._add("band", colour, xs, [*low, *high], "", (xs, low, high))

    def rule(self, y: float, colour: str, label: str = "", kind: str = "dash") -> None:
        """Draw a horizontal reference line, unless y is NaN; kind is dash or dot."""
        if math.isnan(y):
            return
        self._add("rule-" + kind, colour, [], [y], label, (y,))

    def points(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, label: str = "",
        titles: Sequence[str] = (), hollow: bool = False,
    ) -> None:  # fmt: skip
        """Draw a circle at each point, with a text that shows when it is pointed at."""
        kind = "hollow" if hollow else "points"
        self._add(kind, colour, xs, ys, label, (xs, ys, titles))

    def stems(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> None:
        """Draw a vertical line from `low` to `high` at each x."""
        self._add("stems", colour, xs, [*low, *high], "", (xs, low, high))

    def span(self, low: float, high: float, label: str) -> None:
        """Shade a range of x."""
        self._marks.insert(0, ("span", "muted", (low, high)))
        self._legend.append(("span", "muted", label))

    def _add(
        self, kind: str, colour: str, xs: Sequence[float], ys: Sequence[float], label: str,
        data: tuple,
    ) -> None:  # fmt: skip
        self._xs += [float(x) for x in xs]
        self._ys += [float(y) for y in ys]
        self._marks.append((kind, colour, data))
        if label:
            self._legend.append((kind, colour, label))

    # --- drawing -------------------------------------------------------------------------------

    def html(self) -> str:
        """Return a figure element: title, drawing and legend."""
        self._scale()
        body = "".join([self._axes(), *(self._draw(*mark) for mark in self._marks)])
        return _figure(self.title, body, self._legend, self.note, self.width, self.height)

    def _scale(self) -> None:
        xs, ys = self._xs or [0.0, 1.0], self._ys or [0.0, 1.0]
        warped = [math.log1p(x) if self.log else x for x in xs]
        self._x0, self._x1 = _padded(min(warped), max(warped), 0.03)
        self._y0, self._y1 = _padded(min(ys), max(ys), 0.05)
        longest = max((len(number(y)) for y in ticks(self._y0, self._y1)), default=0)
        self.left = max(_LEFT, 25 + 7.5 * longest)  # room for the label beside the numbers

    def _x(self, x: float) -> float:
        warped = math.log1p(x) if self.log else x
        share = (warped - self._x0) / (self._x1 - self._x0)
        return round(self.left + min(max(share, 0), 1) * (self.width - self.left - _RIGHT), 1)

    def _y(self, y: float) -> float:
        share = (y - self._y0) / (self._y1 - self._y0)
        return round(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM), 1)

    def _axes(self, grid: bool = True) -> str:
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        out = []
        for y in ticks(self._y0, self._y1):
            at = self._y(y)
            if grid:
                out.append(
                    f'<line class="grid" x1="{self.left}" x2="{right}" y1="{at}" y2="{at}"/>'
                )
            out.append(f'<text class="end" x="{self.left - 6}" y="{at + 4}">{number(y)}</text>')
        last = -math.inf
        for x in self.xticks or ticks(self._x0, self._x1):
            text, at = number(x), self._x(x)
            if at - last >= 7 * len(text) + 4:
                out.append(f'<text class="mid" x="{at}" y="{bottom + 16}">{text}</text>')
                last = at
        middle = (self.left + right) / 2
        out.append(
            f'<line class="axis" x1="{self.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        )
        out.append(
            f'<text class="mid" x="{middle}" y="{self.height - 6}">{escape(self.xlabel)}</text>'
        )
        across = (_TOP + bottom) / 2
        out.append(
            f'<text class="mid" transform="translate(12 {across}) rotate(-90)">'
            f"{escape(self.ylabel)}</text>"
        )
        return "".join(out)

    def _draw(self, kind: str, colour: str, data: tuple) -> str:
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        if kind == "span":
            low, high = (self._x(x) for x in data)
            return (
                f'<rect class="span" x="{low}" y="{_TOP}" width="{max(high - low, 0):.1f}" '
                f'height="{bottom - _TOP}"/>'
            )
        if kind.startswith("rule"):
            css, y = f"{colour} {kind[5:]}", self._y(data[0])
            return f'<line class="{css}" x1="{self.left}" x2="{right}" y1="{y}" y2="{y}"/>'
        xs = [self._x(x) for x in data[0]]
        ys = [self._y(y) for y in data[1]]
        if kind == "band":
            edge = [*zip(xs, ys, strict=True)]
            edge += reversed([*zip(xs, (self._y(y) for y in data[2]), strict=True)])
            return f'<polygon class="{colour} band" points="{_path(edge)}"/>'
        if kind == "stems":
            lines = zip(xs, ys, (self._y(y) for y in data[2]), strict=True)
            return "".join(
                f'<line class="{colour} stem" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>'
                for x, a, b in lines
            )
        if kind in ("points", "hollow"):
            return _circles(xs, ys, f"{colour} {kind}", data[2], 3.6)
        line = f'<polyline class="{colour} {kind}" points="{_path(zip(xs, ys, strict=True))}"/>'
        return line + (_circles(xs, ys, f"{colour} points", (), 3) if kind == "dots" else "")


def heat_map(
    title: str, xy: np.ndarray, values: np.ndarray, labels: tuple[str, str, str], *,
    limits: tuple[float, float], diverging: bool = False, titles: Sequence[str] = (),
    cells: int = 28,
) -> str:  # fmt: skip
    """Draw a value over two parameters: each cell has the colour of the task nearest to it.

    Args:
        title: goes above.
        xy: (M, 2), the tasks, drawn as dots.
        values: (M,).
        labels: of x, y and the value.
        limits: values of the first and the last colour; maps to be compared share them.
        diverging: two colours with grey between, for limits on both sides of zero.
        titles: a text for each task.
        cells: of the map in each direction.
    """
    width, height = 380, 300
    chart = Chart(title, labels[0], labels[1], size=(width, height))
    chart.points(xy[:, 0].tolist(), xy[:, 1].tolist(), "dot", "", titles)
    chart._scale()
    low, high = limits
    stops = _DIVERGING if diverging else _SEQUENTIAL
    bar, chart.width = 46, width - 46
    corner = np.array([chart._x0, chart._y0])
    span = np.array([chart._x1 - chart._x0, chart._y1 - chart._y0])
    grid = (np.arange(cells) + 0.5) / cells
    places = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 1, 2)
    nearest = np.square(places - ((xy - corner) / span)[None]).sum(-1).argmin(1)
    colour = [_shade(float(v), low, high, stops) for v in values]
    wide = (chart.width - chart.left - _RIGHT) / cells
    tall = (height - _TOP - _BOTTOM) / cells
    body = []
    for row in range(cells):
        start, here = 0, nearest[row * cells : (row + 1) * cells]
        for end in range(1, cells + 1):  # one rectangle for a run of cells of one task
            if end == cells or here[end] != here[start]:
                y = height - _BOTTOM - (row + 1) * tall
                body.append(
                    f'<rect x="{chart.left + start * wide:.1f}" y="{y:.1f}" '
                    f'width="{(end - start) * wide + 0.4:.1f}" height="{tall + 0.4:.1f}" '
                    f'fill="{colour[here[start]]}"/>'
                )
                start = end
    body += [chart._axes(grid=False), *(chart._draw(*mark) for mark in chart._marks)]
    body.append(_colour_bar(width - bar + 6, height, low, high, stops, labels[2]))
    return _figure(title, "".join(body), [], "Dots are tasks.", width, height)


def _colour_bar(
    x: float, height: float, low: float, high: float, stops: Sequence[str], label: str
) -> str:
    out, steps, tall = [], 24, (height - _TOP - _BOTTOM - 18) / 24
    for n in range(steps):
        y = height - _BOTTOM - (n + 1) * tall
        fill = _shade((n + 0.5) / steps, 0, 1, stops)
        out.append(
            f'<rect x="{x}" y="{y:.1f}" width="12" height="{tall + 0.4:.1f}" fill="{fill}"/>'
        )
    out.append(f'<text class="end" x="{x + 38}" y="{_TOP + 10}">{number(high)}</text>')
    out.append(f'<text class="end" x="{x + 38}" y="{height - _BOTTOM + 16}">{number(low)}</text>')
    out.append(
        f'<text class="mid" transform="translate({x + 27} {height / 2}) rotate(-90)">'
        f"{escape(label)}</text>"
    )
    return "".join(out)


def _shade(value: float, low: float, high: float, stops: Sequence[str]) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    at = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(at), len(stops) - 2)
    pair = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops[first : first + 2]]
    mixed = [round(a + (b - a) * (at - first)) for a, b in zip(*pair, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    margin = (high - low) * share if high > low else max(abs(low) * 0.1, 0.5)
    return low - margin, high + margin


def _path(points: object) -> str:
    return " ".join(f"{x},{y}" for x, y in points)  # type: ignore[attr-defined]


def _circles(
    xs: Sequence[float], ys: Sequence[float], css: str, titles: Sequence[str], radius: float
) -> str:
    out = []
    for n, (x, y) in enumerate(zip(xs, ys, strict=True)):
        text = f"<title>{escape(titles[n])}</title>" if n < len(titles) else ""
        out.append(f'<circle class="{css}" cx="{x}" cy="{y}" r="{radius}">{text}</circle>')
    return "".join(out)


def _figure(
    title: str, body: str, legend: Sequence[tuple[str, str, str]], note: str, wide: int, tall: int
) -> str:
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 22 10" aria-hidden="true">{_key(kind, colour)}</svg>'
        f"{escape(label)}</li>"
        for kind, colour, label in dict.fromkeys(legend)
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {wide} {tall}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + (f'<p class="small">{escape(note)}</p>' if note else "")
        + "</figure>"
    )


def _key(kind: str, colour: str) -> str:
    if kind in ("points", "hollow"):
        return f'<circle class="{colour} {kind}" cx="11" cy="5" r="3.6"/>'
    if kind == "span":
        return '<rect class="span" x="1" y="0" width="20" height="10"/>'
    dots = f'<circle class="{colour} points" cx="11" cy="5" r="3"/>' if kind == "dots" else ""
    css = kind.removeprefix("rule-")
    return f'<line class="{colour} {css}" x1="1" x2="21" y1="5" y2="5"/>{dots}'
