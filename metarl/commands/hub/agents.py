"""`metarl agents`: the trained agents that go by a name, and what their results say."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarl.base.errors import UserError, did_you_mean, shortened
from metarl.base.text import decimals, shown, si
from metarl.base.untrusted import LARGEST_HEADER, refusing, regular_size
from metarl.commands.arguments import parse
from metarl.commands.families import PIPE_WIDTH
from metarl.learning.agents import agents as known_agents

SCORE = re.compile(r"^Adaptation score on (\w+) tasks after [^:]+: (-?[\d.]+) \[([^\]]+)\]", re.M)
"""A line of a model card: the split, the score and its interval."""
COLUMNS = ("agent", "family", "learner", "steps", "zero-shot", "K-shot", "K", "score", "video")
SPARE = ("family", "learner", "video")
"""Columns that a narrow terminal does without, as many of them as it must."""


@dataclass(frozen=True)
class Agents:
    """List the trained agents that commands take by their names.

    Those that come with metarl, and those that `metarl pull` fetched. Returns and scores are on
    held-out tasks: zero-shot in the first episode on a new task, K-shot after K of them; the score
    is 0 for one policy for all tasks, 1 for being told the task.
    """

    agent: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[AGENT]")] = ""
    """Only those with this in their names."""
    json: bool = False
    """Print JSON, with the results on tasks outside the training box, too."""


def agents(argv: Sequence[str]) -> int:
    """List the agents."""
    args = parse(Agents, argv, prog="metarl agents")
    known = known_agents()
    chosen = {name: folder for name, folder in known.items() if args.agent in name}
    if not chosen:
        hint = did_you_mean(args.agent, known)
        raise UserError(f"there is no agent '{args.agent}'{hint}; `metarl agents` lists them")
    rows = [describe_agent(name, folder) for name, folder in chosen.items()]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(file=sys.stdout, width=width, markup=False, emoji=False)
    for part in (_fitting(rows, console), *_notes(rows)):
        console.print(part)
    return 0


# --- what there is to know of an agent ---------------------------------------------------------


def describe_agent(name: str, folder: Path) -> dict[str, Any]:
    """Return what `metarl agents --json` says of one agent; of a broken one, its error.

    Args:
        name: that commands take.
        folder: anybody's: nothing in it is run, and whatever is wrong with it is one line.
    """
    about = {
        "name": name,
        "path": str(folder),
        "from": "hub" if "/" in name else "metarl",
    }
    try:
        with refusing(folder, "agent"):
            header = _object(folder / "checkpoint.json")
            result = _object(folder / "result.json")
            ood, experience = result.get("ood"), [int(n) for n in result["experience"]]
            row = about | {
                "family": str(header["family"]), "algorithm": str(header["algorithm"]),
                "env_steps": int(header["meta"]["env_steps"]), "seed": int(header["meta"]["seed"]),
                "episodes": experience, "heldout": _returns(result),
                "ood": None if ood is None else _returns(ood),
                "score": _scores(folder / "README.md"), "video": _video(folder),
            }  # fmt: skip
            _cells(row)  # what cannot be shown is an error of the agent, too
            return row
    except UserError as error:
        return about | {"error": str(error)}


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object, for use inside `refusing`."""
    if regular_size(path) > LARGEST_HEADER:
        raise ValueError("it is too large")
    return dict(json.loads(path.read_bytes()))


def _returns(report: dict[str, Any]) -> dict[str, Any]:
    """Return the returns of a report; one that is not finite is none, as where all diverged."""
    mean = [_finite(value) for value in report["mean"]]
    if not mean or len(mean) != len(report["experience"]):
        raise ValueError("it has no mean return for each round")
    return {"mean": mean, "stand_still": _finite(report["stand_still"])}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _scores(card: Path) -> dict[str, list[float]]:
    """Return split -> [score, low, high], as far as the model card has them."""
    if not card.is_file() or regular_size(card) > LARGEST_HEADER:
        return {}
    found = {}
    for split, score, interval in SCORE.findall(card.read_text(encoding="utf-8", errors="replace")):
        low, high = interval.split(",")
        found[split] = [float(score), float(low), float(high)]
    return found


def _video(folder: Path) -> str | None:
    """Return the agent's video: in its folder, or, in a clone, the gallery's."""
    gallery = folder.resolve().parents[2] / "videos"
    places = [folder / "adapts.mp4", folder / "adapts.gif"]
    if (gallery / "render_gallery.py").is_file():
        places += [gallery / f"{folder.name}.mp4", gallery / f"{folder.name}.gif"]
    return next((str(place) for place in places if place.is_file()), None)


# --- how it looks ------------------------------------------------------------------------------


def _fitting(rows: list[dict[str, Any]], console: Console) -> Table:
    """Return the table with all columns, or as many as a terminal is wide enough for."""
    tables = [_table(rows, SPARE[:spared]) for spared in range(len(SPARE) + 1)]
    free = console.options.update(width=10_000)
    fits = (t for t in tables if console.measure(t, options=free).maximum <= console.width)
    return next(fits, tables[-1])


def _table(rows: list[dict[str, Any]], spared: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=0)
    kept = [title not in spared for title in COLUMNS]
    for title in compress(COLUMNS, kept):
        right = title in ("steps", "zero-shot", "K-shot")
        whole = title in ("agent", "family", "learner", "score")
        table.add_column(title, justify="right" if right else "left", no_wrap=whole)
    for row in rows:
        if "error" not in row:
            table.add_row(*map(shortened, compress(_cells(row), kept)))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    mean = row["heldout"]["mean"]
    digits = max(0, decimals(mean) - 1)
    score = row["score"].get("heldout")
    video = Path(row["video"]).suffix[1:] if row["video"] else "none"
    return [
        row["name"], row["family"], row["algorithm"], si(row["env_steps"]), shown(mean[0], digits),
        shown(mean[-1], digits), str(row["episodes"][-1]),
        "none" if score is None else f"{score[0]:.2f} [{score[1]:.2f}, {score[2]:.2f}]", video,
    ]  # fmt: skip


def _notes(rows: list[dict[str, Any]]) -> list[Text]:
    """Return what is wrong with broken agents, and a line on what can be done with the others."""
    broken = [
        Text(shortened(f"{row['name']} cannot be used: {row['error']}"), style="red")
        for row in rows
        if "error" in row
    ]
    where = sorted({str(Path(row["video"]).parent) for row in rows if row.get("video")})
    videos = f"Videos are in {', '.join(map(shortened, where))}. " if where else ""
    hint = (
        f"{videos}`metarl render AGENT` makes a video, `metarl play AGENT` opens the viewer, "
        f"`metarl report AGENT` writes a page."
    )
    return [*broken, Text(hint, style="dim")]


__all__ = ["agents", "describe_agent"]
