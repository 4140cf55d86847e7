"""What a run folder, or an exported agent, says of itself, as far as it can be read.

Reading never fails for a file that is missing, half-written or from another version: what is wrong
becomes a line in `notes`, and the rest is used.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarl.base.errors import UserError
from metarl.base.files import open_regular, read_json
from metarl.base.plugins import short_name
from metarl.base.versions import versions
from metarl.curriculum import PREFIX as CURRICULUM
from metarl.evaluation.protocol import Report
from metarl.learning import checkpoint as checkpoints
from metarl.learning.agents import find_run
from metarl.report.kept import MALFORMED, check_probe, check_stream, is_whole
from metarl.runs.config import Position, TrainConfig, goal
from metarl.worlds.reward_terms import PREFIX

SPLITS = ("heldout", "ood")
CHECKS = ("inner_agreement",)
"""Columns of metrics.csv that tell whether a training is sound, and that the report draws."""
RESULT = "result.json"
"""In an exported agent's folder: its result, as `experiment.measure` returned it."""


@dataclass
class RunSummary:
    """A run: where it is, what it was asked for, and how it went."""

    path: Path
    label: str = ""
    family: str = "?"
    """By the name that its evaluations have, too: see `short_name`."""
    algorithm: str = "?"
    seed: int | None = None
    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    finished: bool = False
    train: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Entries as in curve.json: env_steps, before, after and more; see `curve_entries`."""
    reports: dict[str, Report] = field(default_factory=dict)
    """By split."""
    probe: dict[str, Any] = field(default_factory=dict)
    """What `metarl probe` found on held-out tasks, as in its JSON; empty without it."""
    stream: dict[str, Any] = field(default_factory=dict)
    """What `metarl stream` found on held-out tasks, likewise."""
    stale: set[str] = field(default_factory=set)
    """Splits whose report is of older weights than the newest checkpoint's."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """(split that it is about or "", a line on what is wrong or missing)."""
    videos: list[Path] = field(default_factory=list)
    terms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """The reward's terms: name -> (env steps, mean in a step) of each iteration."""
    curriculum: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """What a curriculum logs, such as the mean of a parameter in the tasks drawn, likewise."""
    checks: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Those of `CHECKS` that the learner logs, likewise."""
    source: str = ""
    """The family as it is found again, with files and their digests."""

    @property
    def reference(self) -> str:
        """How the family is found."""
        return self.source or self.family

    @property
    def tasks_of(self) -> str:
        """Whose tasks it has: the family without ``+told``, and which files its variations are of.

        Two families of one name can differ in what is in those files.
        """
        digests = re.findall(r"#\w+", self.source.rpartition(".py:")[2])
        return self.family.replace("+told", "") + "".join(digests)

    def note(self, text: str, split: str = "") -> None:
        """Add a line, once; paths in it are relative to the run."""
        text = text.replace(f"{self.path}/", "").rstrip(".") + "."
        if (split, text) not in self.notes:
            self.notes.append((split, text))


def read_run(path: Path | str, position: dict[str, Any] | None = None) -> RunSummary:
    """Read what there is of a run folder, a checkpoint in it, or an exported agent.

    Args:
        path: of the folder.
        position: of a run in progress: iteration, env_steps and seconds. The checkpoints, which may
            be large, are then left alone.

    Raises:
        UserError: there is neither a config.json nor a readable checkpoint.
    """
    path = find_run(path)
    inside = (path / checkpoints.HEADER).is_file() and path.resolve().parent.name == "checkpoints"
    run = RunSummary(path.resolve().parent.parent if inside else path)
    run.label = run.path.resolve().name
    header = _header(run, path) if position is None else {"meta": position}
    exported = bool(_table(header, "meta").get("exported"))
    config = {} if exported else _json(run, run.path / "config.json")
    if header is None and not isinstance(config, dict):
        raise UserError(f"'{path}' is no run folder: neither config.json nor a checkpoint")
    _describe(run, config, header)
    if exported:
        _read_result(run)
    else:
        _read_curve(run, _table(header, "meta").get("curve"))
        run.terms, run.curriculum, run.checks = _read_series(run.path / "metrics.csv")
        for split in SPLITS:
            _read_report(run, split)
        _read_probe(run)
        _read_stream(run)
    run.videos = _videos(run.path / "videos")
    return run


def evaluation_path(run: Path, split: str, step: int) -> Path:
    """Return where the report of a test of a run's weights after `step` iterations is kept."""
    return run / "evaluation" / f"test_{split}_step_{step:08d}.json"


def probe_path(run: Path, split: str) -> Path:
    """Return where what `metarl probe` found on a split's tasks is kept."""
    return run / "probe" / f"{split}.json"


def stream_path(run: Path, split: str) -> Path:
    """Return where what `metarl stream` found on a split's tasks is kept."""
    return run / "stream" / f"{split}.json"


def _videos(folder: Path) -> list[Path]:
    """Return the videos, MP4 rather than GIF; of those made in training the first and the last."""
    found = [*folder.glob("*.mp4"), *folder.glob("*.gif")]
    stems = {video.stem for video in found if video.suffix == ".mp4"}
    found = sorted(v for v in found if v.suffix == ".mp4" or v.stem not in stems)
    steps = [video for video in found if re.fullmatch(r"step_\d+", video.stem)]
    return [video for video in found if video not in steps[1:-1]]


# --- reading, piece by piece -------------------------------------------------------------------


def _table(data: object, name: str) -> dict[str, Any]:
    """Return a JSON object's member that is an object itself; else an empty one."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _header(run: RunSummary, path: Path) -> dict[str, Any] | None:
    """Return the header of the newest readable checkpoint; the weights are not loaded."""
    try:
        return checkpoints.verify(checkpoints.newest(path))
    except UserError as error:
        run.note(f"No checkpoint could be read: {error}")
        return None


def _json(run: RunSummary, path: Path, split: str = "") -> Any:
    try:
        return read_json(path)
    except UserError as error:
        run.note(str(error), split)
        return None


def _describe(run: RunSummary, config: object, header: object) -> None:
    """Take settings from config.json and progress from the checkpoint; either may lack them."""
    meta = _table(header, "meta")
    both = (config if isinstance(config, dict) else {}) | (
        header if isinstance(header, dict) else {}
    )
    # Files are shown by their names: a page to pass on holds no path of this machine.
    run.source = str(both.get("family", "?"))
    run.family = short_name(run.source)
    run.algorithm = short_name(str(both.get("algorithm", "?")))
    run.train = _table(config, "train") or _table(meta, "train")
    run.learner = _table(config, "learner") or _table(header, "learner_config")
    made = _table(config, "versions") or _table(header, "versions")
    run.versions = {name: str(version) for name, version in made.items()}
    run.seed = run.train.get("seed")
    machine = (meta | config) if isinstance(config, dict) else meta
    run.machine = {k: machine[k] for k in ("device", "threads") if machine.get(k) is not None}
    try:
        now = Position.of({"curve": [], **meta, "exported": False})
        run.iteration, run.env_steps, run.seconds = now.iteration, now.env_steps, now.seconds
        config = TrainConfig.from_json(run.train, run.path)
        run.finished = bool(meta.get("exported")) or now.done(config) >= goal(config)
    except UserError:
        pass


def _read_curve(run: RunSummary, saved: object) -> None:
    """Read the curve of curve.json, or the checkpoint's if more of that can be read."""
    found = _json(run, run.path / "curve.json")
    run.curve = max(curve_entries(found), curve_entries(saved), key=len)
    if isinstance(found, list) and len(curve_entries(found)) < len(found):
        left_out = len(found) - len(curve_entries(found))
        run.note(
            f"curve.json: {left_out} entries cannot be read, or every episode diverged in them"
        )
    if run.curve:
        run.env_steps = max(run.env_steps, int(run.curve[-1]["env_steps"]))


def curve_entries(found: object) -> list[dict[str, Any]]:
    """Return those entries of a curve whose numbers are all there and finite."""
    entries = []
    for entry in found if isinstance(found, list) else []:
        try:
            numbers = [entry[key] for key in ("env_steps", "before", "after")]
            ends = [entry[key] for key in ("before_ci", "after_ci") if key in entry]
            numbers += [end for low, high in ends for end in (low, high)]
            numbers += [entry.get("stand_still", 0.0), *entry.get("experience", ())]
            if all(map(math.isfinite, numbers)):
                entries.append(entry)
        except MALFORMED:
            continue
    return entries


def _read_series(path: Path) -> tuple[dict[str, list[tuple[float, float]]], ...]:
    """Return the terms of the reward, what a curriculum logged, and `CHECKS`, of a metrics.csv.

    All are name -> (env steps, value) of each iteration. A file or a row that cannot be read gives
    nothing, and a number that is not finite is left out.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {PREFIX: {}, CURRICULUM: {}, "": {}}
    try:
        with open_regular(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return {}, {}, {}
    for row in rows:
        for column, text in row.items():
            kind, slash, name = str(column).partition("/")
            kind, name = (kind + slash, name) if slash else ("", kind)
            if kind not in found or not (kind or name in CHECKS):
                continue
            try:
                point = float(row["env_steps"]), float(text)
            except (KeyError, TypeError, ValueError):
                continue
            if all(map(math.isfinite, point)):
                found[kind].setdefault(name, []).append(point)
    return tuple(found.values())


def _read_result(run: RunSummary) -> None:
    """Read an exported agent's result.json: reports, curve, command and hardware."""
    result = _json(run, run.path / RESULT)
    if not isinstance(result, dict):
        return
    run.curve = curve_entries(result.get("curve"))
    run.command = str(result.get("command", ""))
    run.machine = _table(result, "hardware") | run.machine
    for split, data in (("heldout", result), ("ood", result.get("ood"))):
        if data is not None:
            _keep_report(run, split, data, RESULT)


def _read_report(run: RunSummary, split: str) -> None:
    """Read the newest test of a split; without one, the newest evaluation made in training."""
    folder = run.path / "evaluation"
    for kind in ("test_" + split, split):
        for path in sorted(folder.glob(f"{kind}_step_*.json"), reverse=True):
            data = _json(run, path, split)
            if data is not None and _keep_report(run, split, data, path.name):
                _note_origin(run, split, path, data, kind != split)
                return
    run.note(f"There is no evaluation on {split} tasks", split)


def _read_probe(run: RunSummary) -> None:
    """Read what a probe of the newest weights found."""
    run.probe = _read_kept(run, "probe", probe_path(run.path, SPLITS[0]), check_probe)


def _read_stream(run: RunSummary) -> None:
    """Read what streaming the newest weights found."""
    run.stream = _read_kept(run, "stream", stream_path(run.path, SPLITS[0]), check_stream)


def _read_kept(
    run: RunSummary, command: str, path: Path, check: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Return what a command kept, or nothing; what is of older weights is named."""
    if not path.is_file() or (found := _json(run, path)) is None:
        return {}
    if not isinstance(found, dict) or not is_whole(check, found):
        again = f"{command}/{path.name} cannot be read: run `metarl {command}` again"
        if isinstance(found, dict) and command == "probe" and _all_diverged(found):
            again = "The probe says nothing: every world diverged in it"
        run.note(again)
        return {}
    if found["step"] != run.iteration:
        run.note(
            f"The {command} is of iteration {found['step']}; the newest checkpoint is of "
            f"{run.iteration}"
        )
    return found


def _all_diverged(probe: dict[str, Any]) -> bool:
    """Whether a probe has no return at all."""
    returns = _table(_table(probe, "effects"), "as it is").get("returns")
    return isinstance(returns, list) and set(map(str, returns)) == {"None"}


def _keep_report(run: RunSummary, split: str, data: object, name: str) -> bool:
    """Keep a report if it is whole and of this run's family and split."""
    try:
        report = Report.from_json(data, name)
        own = ":" in run.family or report.family == run.family
        if report.split != split or not own:
            found = f"{report.split} tasks of {report.family}"
            raise UserError(f"'{name}' cannot be used: it is of {found}")
    except UserError as error:
        run.note(f"An evaluation cannot be read: {error}", split)
        return False
    run.reports[split] = report
    return True


def _note_origin(
    run: RunSummary, split: str, path: Path, data: dict[str, Any], tested: bool
) -> None:
    """Note if a report is of older weights, or was made with other versions."""
    number = re.search(r"step_(\d+)$", path.stem)
    if number and int(number[1]) != run.iteration:
        run.stale.add(split)
        if tested or run.finished:
            run.note(
                f"The {split} evaluation is of iteration {int(number[1])}; the newest checkpoint "
                f"is of {run.iteration}",
                split,
            )
    made, here = _table(data, "versions"), versions()
    for package in ("metarl-toolkit", "mujoco"):
        if made.get(package, here[package]) != here[package]:
            run.stale.add(split)
            run.note(
                f"The {split} evaluation was made with {package} {made[package]}; here is "
                f"{here[package]}",
                split,
            )
