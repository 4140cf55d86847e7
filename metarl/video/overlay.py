"""The words, gauges and curves that are laid over a video's frames.

Everything is drawn with Pillow and the font that Matplotlib brings. What does not change from
frame to frame is drawn once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.video.scene import Reading

COLOURS = {"before": (150, 156, 166), "during": (236, 168, 52), "after": (52, 146, 232),
           "alone": (52, 146, 232),
           "other": (176, 122, 230), "another": (54, 190, 178)}  # fmt: skip
"""Of the episodes before, during and after adaptation, or of one alone; of several policies, before
is blind, during is told the task, after is the one that the film is of, and the last two are
further ones."""
GREEN = (64, 208, 104)
"""Of what the task asks for."""
WHITE, DIM, DARK = (255, 255, 255), (196, 202, 210), (18, 22, 28)
ROOMY = 360
"""Pixels of a panel that has room for the terms of the reward."""
LEAST_TEXT = 12
"""Pixels; smaller letters cannot be read in a video."""


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans at a size in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), max(LEAST_TEXT, size))


class Panel(NamedTuple):
    """What one panel says of its episode."""

    phase: str
    """'before', 'during' or 'after', which chooses the colour"""
    name: str
    """What the panel is called: its phase, but for a 'first episode' in which a learner adapts"""
    title: str
    """What the learner knows by then, e.g. 'after 40 episodes'."""
    running: np.ndarray
    """(T+1,) the return after each step"""
    readings: list[Reading]
    ended: str
    """How the episode ended"""
    mean: float | None
    """The return of this round that the evaluation reports; None for exploring episodes"""
    worlds: int
    """Over how many worlds that is a mean"""
    terms: Mapping[str, np.ndarray] = MappingProxyType({})
    """(T,) each, the weighted terms of the reward"""


def signed(value: float, digits: int = 1) -> str:
    """Return a number with so many digits after the point, and a true minus sign but on zero."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:.{digits}f}".replace("-", "\N{MINUS SIGN}")


class PanelOverlay:
    """One panel: a title, the picture, and under it the gauges and the return."""

    def __init__(
        self, panel: Panel, size: int, spans: Sequence[tuple[float, float]], dt: float
    ) -> None:
        """Draw what does not change.

        Args:
            panel: what to say.
            size: the panel's width and height in pixels.
            spans: the range of each reading's gauge, one for all panels of a task.
            dt: seconds in one step.
        """
        self.size, self.dt = size, dt
        self.unit = max(size / 480, 0.62)
        self.colour = COLOURS[panel.phase]
        self.edge = max(2, self._px(3))
        self.top = self._px(38)
        room = size - self._px(44) - self.top - size // 3  # a third is left for the picture
        readings = panel.readings[: max(1, room // self._px(50))]
        self.lower = size - self._px(44) - self._px(50) * len(readings)
        self.panel, self.spans = panel._replace(readings=readings), spans[: len(readings)]
        self._fixed = Image.new("RGB", (size, size), DARK)
        pen = ImageDraw.Draw(self._fixed)
        pen.rectangle((0, 0, size - 1, size - 1), outline=self.colour, width=self.edge)
        name, middle = panel.name.upper(), self.top // 2 + 1
        word = font(self._px(21), bold=True)
        pen.rectangle((0, 0, size, self.top), fill=self.colour)
        pen.text((self._px(12), middle), name, font=word, fill=DARK, anchor="lm")
        small = font(self._px(15))
        room = size - 3 * self._px(12) - word.getlength(name)
        title = first_that_fits((panel.title, panel.title.partition(",")[0]), small, room)
        pen.text((size - self._px(12), middle), title, font=small, fill=DARK, anchor="rm")

    @property
    def letters(self) -> int:
        """Size of what is written into the picture, in pixels."""
        return max(LEAST_TEXT, self._px(16))

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the picture that has room in the panel."""
        return self.size - 2 * self.edge, self.lower - self.top

    def _px(self, points: float) -> int:
        return round(points * self.unit)

    def __call__(self, picture: np.ndarray, step: float) -> Image.Image:
        """Return the whole panel at a step that may be a fraction."""
        panel, size = self.panel, self.size
        image = self._fixed.copy()
        image.paste(Image.fromarray(picture), (self.edge, self.top))
        pen = ImageDraw.Draw(image)
        at = min(int(step + 1e-9), len(panel.running) - 1)
        x, y = self._px(14), self.lower + self._px(7)
        self._list_terms(pen, at, x)
        for reading, span in zip(panel.readings, self.spans, strict=True):
            self._gauge(pen, reading, span, float(reading.values[at]), x, y)
            y += self._px(50)
        value = f"return  {signed(float(panel.running[at]))}"
        large, small = font(self._px(23), bold=True), font(self._px(14))
        pen.text((x, y), value, font=large, fill=WHITE)
        note = first_that_fits([self._note(at)], small, size - 2.5 * x - large.getlength(value))
        pen.text((size - x, y + self._px(8)), note, font=small, fill=DIM, anchor="ra")
        return image

    def _list_terms(self, pen: ImageDraw.ImageDraw, at: int, x: int) -> None:
        """Write what each term of the reward paid in the last step over the picture's corner.

        A small panel has no room for it beside the robot.
        """
        if self.size < ROOMY:
            return
        small, rows = font(self._px(14)), list(self.panel.terms.items())
        line = round(1.3 * small.size)
        room = max(1, self.picture[1] // 2 // line)
        words = [
            f"{name.replace('_', ' ')}  {signed(float(term[max(at - 1, 0)]), 2)}"
            for name, term in rows[: room if len(rows) <= room else room - 1]
        ]
        words += [f"+ {len(rows) - len(words)} more"] * (len(rows) > len(words))
        for k, text in enumerate(words):
            place = x, self.top + self._px(8) + k * line
            pen.text(place, text, font=small, fill=WHITE, stroke_width=1, stroke_fill=DARK)

    def _note(self, at: int) -> str:
        """Return how the episode ended, or what the evaluation reports of its round."""
        panel = self.panel
        if at == len(panel.running) - 1 and panel.ended != "time limit":
            return f"{panel.ended} at {at * self.dt:.1f} s"
        if panel.mean is None or np.isnan(panel.mean) or panel.worlds == 1:
            return ""
        worlds = "" if self.unit < 0.8 else f" of {panel.worlds} worlds"  # if there is room
        return f"mean{worlds}  {signed(panel.mean)}"

    def _gauge(
        self, pen: ImageDraw.ImageDraw, reading: Reading, span: tuple[float, float],
        value: float, x: int, y: int,
    ) -> None:  # fmt: skip
        """Draw a reading: its value in words, and a bar from zero with a tick at the target."""
        text = font(self._px(16))
        goal = f"target {signed(reading.target, 2)}" if reading.target else ""
        length = text.getlength(goal)
        low, high = span
        left, right = x, self.size - x
        shown = f"{signed(float(value), 2)} {reading.unit}"
        labels = (reading.label, reading.label.split()[0])
        texts = [f"{label}  {shown}" for label in labels] + [shown]
        room = right - left - length - (x if goal else 0)
        pen.text((x, y), first_that_fits(texts, text, room), font=text, fill=WHITE)

        def place(number: float) -> int:
            share = (min(max(number, low), high) - low) / (high - low)
            return round(left + share * (right - left))

        top, bottom = y + self._px(25), y + self._px(38)
        pen.rectangle((left, top, right, bottom), fill=(60, 66, 74))
        ends = sorted((place(0.0), place(value)))
        pen.rectangle((ends[0], top, ends[1], bottom), fill=self.colour)
        if low < 0 < high:
            pen.line((place(0.0), top, place(0.0), bottom), fill=WHITE, width=1)
        if reading.target is None:
            return
        tick, half = place(reading.target), max(1, self._px(2))
        pen.rectangle((tick - half, top - self._px(5), tick + half, bottom + self._px(3)),
                      fill=GREEN)  # fmt: skip
        pen.text((right - length, y), goal, font=text, fill=GREEN)


def gauge_spans(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    """Return the range of each reading over all panels of a task, zero and target included."""
    spans = []
    for same in zip(*(panel.readings for panel in panels), strict=True):
        numbers = np.concatenate([r.values for r in same] + [[0.0]])
        numbers = numbers[np.isfinite(numbers)]
        low, high = np.percentile(numbers, [1, 99])
        targets = [r.target for r in same if r.target is not None]
        low, high = min(0.0, low, *targets), max(0.0, high, *(1.15 * t for t in targets))
        spans.append((float(low), float(max(high, low + 1e-6))))
    return spans


class Header:
    """The line over a task's panels: the family, the task's parameters, and the time."""

    def __init__(
        self, family: str, words: Sequence[str], width: int, height: int, clock: str
    ) -> None:
        """Draw what does not change; `clock` is what is said of the time at the start."""
        self.image = Image.new("RGB", (width, height), DARK)
        pen, size = ImageDraw.Draw(self.image), round(height * 0.46)
        self._clock = font(size)
        x, y = round(height * 0.3), round(height * 0.24)
        room = width - x - pen.textlength(f"00{clock}  ", self._clock)
        bold, name = font(size, bold=True), pen.textlength(family + "   ", font(size))
        text = fitted(words, bold, room - x - name)
        if words and text == counted_words(words):  # the task is of more use than the family
            text = fitted(words, bold, room - x)
        else:
            pen.text((x, y), family, font=font(size), fill=DIM)
            x += name
        pen.text((x, y), text, fill=GREEN, font=bold)
        self._y = y

    def __call__(self, clock: str) -> Image.Image:
        """Return the line at a time of the episode."""
        image = self.image.copy()
        pen = ImageDraw.Draw(image)
        length = pen.textlength(clock, self._clock)
        pen.text((image.width - length - self._y, self._y), clock, font=self._clock, fill=WHITE)
        return image


def first_that_fits(texts: Sequence[str], face: ImageFont.FreeTypeFont, room: float) -> str:
    """Return the first of the texts that has room; nothing if none has."""
    return next((text for text in texts if face.getlength(text) <= room), "")


def fitted(words: Sequence[str], face: ImageFont.FreeTypeFont, room: float) -> str:
    """Return as many of the words as have room, and how many there are beside them."""
    for count in range(len(words), 0, -1):
        more = len(words) - count
        text = "   ".join(words[:count]) + (f"   + {more} more" if more else "")
        if face.getlength(text) <= room:
            return text
    return counted_words(words)


def counted_words(words: Sequence[str]) -> str:
    """Return what stands for words that have no room at all."""
    return f"{len(words)} parameters" if words else ""


def spread(places: Sequence[float], gap: float, size: float) -> list[float]:
    """Return the places moved apart to at least `gap`, within half a gap of 0 and `size`."""
    order = sorted(range(len(places)), key=places.__getitem__)
    out, least = list(places), gap / 2
    for index in order:
        out[index] = least = max(out[index], least)
        least += gap
    most = size - gap / 2
    for index in reversed(order):
        out[index] = most = min(out[index], most)
        most -= gap
    return out


class Strip:
    """Running returns over time: the curves up to now bright, and what is to come faint."""

    def __init__(self, panels: Sequence[Panel], width: int, height: int, dt: float) -> None:
        self._bright = self._draw(panels, width, height, dt, 1.0)
        self._faint = self._draw(panels, width, height, dt, 0.4)

    def _draw(
        self, panels: Sequence[Panel], width: int, height: int, dt: float, strength: float
    ) -> Image.Image:
        big = 2  # drawn larger and reduced: Pillow's lines have steps otherwise
        image = Image.new("RGB", (big * width, big * height), DARK)
        pen = ImageDraw.Draw(image)
        label, size = font(big * max(LEAST_TEXT, height // 7)), big * height
        everything = np.concatenate([p.running for p in panels])
        low, high = float(everything.min()), float(everything.max())
        high = max(high, low + 1e-9)
        steps = max(len(p.running) for p in panels) - 1
        ends = [f"{p.name} {signed(float(p.running[-1]))}" for p in panels]
        margin = round(max(0.9 * size, label.getlength("over time") + 0.3 * size))
        right = round(max(1.3 * size, *(label.getlength(words) + 0.2 * size for words in ends)))
        self.left, self.right = margin / big, width - right / big

        def at(t: float, value: float) -> tuple[float, float]:
            x = margin + (big * width - margin - right) * t / max(steps, 1)
            return x, size * (0.12 + 0.76 * (high - value) / (high - low))

        for value in (low, high):
            pen.line((*at(0, value), *at(steps, value)), fill=(54, 60, 68), width=big)
        pen.text((size * 0.1, size * 0.12), "return", font=label, fill=DIM)
        pen.text((size * 0.1, size * 0.36), "over time", font=label, fill=DIM)
        heights = []
        for panel in panels:
            colour = tuple(round(c * strength) for c in COLOURS[panel.phase])
            points = [at(t, v) for t, v in enumerate(panel.running.tolist())]
            pen.line(points, fill=colour, width=big * max(2, height // 32), joint="curve")
            heights.append(points[-1][1])
        x = big * width - right + size * 0.06
        places = spread(heights, label.size * 1.1, size)
        for panel, words, y in zip(panels, ends, places, strict=True):
            pen.text((x, y), words, font=label, fill=COLOURS[panel.phase], anchor="lm")
        self.steps = steps
        return image.resize((width, height), Image.Resampling.LANCZOS)

    def __call__(self, step: float) -> Image.Image:
        """Return the strip at a step that may be a fraction."""
        share = min(step / max(self.steps, 1), 1.0)
        x = round(self.left + (self.right - self.left) * share)
        image = self._faint.copy()
        image.paste(self._bright.crop((0, 0, x, image.height)), (0, 0))
        image.paste(self._bright.crop((round(self.right) + 2, 0, image.width, image.height)),
                    (round(self.right) + 2, 0))  # fmt: skip
        ImageDraw.Draw(image).line((x, 4, x, image.height - 4), fill=WHITE, width=1)
        return image
