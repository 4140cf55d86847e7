"""What a run folder (or an exported agent) says of itself, as far as it can be read.

Nothing here fails for a file that is missing, half-written or from another version: what is wrong
becomes a line in `notes`, and the rest is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarl import checkpoint as checkpoints
from metarl.errors import UserError
from metarl.evaluation import Report, evaluate
from metarl.progress import bar, counted
from metarl.run_folder import disk_errors, read_json, write_json
from metarl.shipped import find_run
from metarl.tasks import TaskDistribution
from metarl.train_config import TrainConfig, goal
from metarl.trust import CodeError
from metarl.versions import versions

SPLITS = ("heldout", "ood")
RESULT = "result.json"
"""In an exported agent's folder: its result, as `metarl.experiment.measure` returned it."""


@dataclass(frozen=True)
class Protocol:
    """How a run is evaluated for a report or a model card."""

    tasks: int = 30
    episodes: int = 3
    seed: int = 0
    rollouts_per_task: int | None = None
    device: str = "auto"
    threads: int | None = None

    def fits(self, report: Report) -> bool:
        """Whether a report was made this way."""
        asked = (self.tasks, self.episodes + 1, self.seed)
        same = asked == (len(report.tasks), len(report.experience), report.seed)
        return same and self.rollouts_per_task in (None, report.rollouts_per_task)


@dataclass
class RunSummary:
    """A run: where it is, what it was asked for, and how it went."""

    path: Path
    label: str = ""
    family: str = "?"
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
    """Entries with env_steps, before, after, before_ci and after_ci."""
    reports: dict[str, Report] = field(default_factory=dict)
    """By split."""
    stale: set[str] = field(default_factory=set)
    """Splits whose report is of older weights than the newest checkpoint's."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What is wrong or missing, a line each, with the split that it is about or an empty string."""
    videos: list[Path] = field(default_factory=list)

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
    config = _json(run, run.path / "config.json") if header is None or not _is_agent(header) else {}
    if header is None and not isinstance(config, dict):
        raise UserError(f"'{path}' is no run folder: neither config.json nor a checkpoint")
    _describe(run, config if isinstance(config, dict) else {}, header or {})
    if header is not None and _is_agent(header):
        _read_result(run)
    else:
        _read_curve(run, header or {})
        for split in SPLITS:
            _read_report(run, split)
    run.videos = _videos(run.path / "videos")
    return run


def add_reports(
    run: RunSummary,
    source: Path | str,
    test: Protocol,
    say: Callable[[str], None],
    **said: Any,
) -> None:
    """Evaluate a run on the splits whose report is missing or was made in another way.

    The reports are kept in the run's evaluation/ for the next time. What fails becomes a note.

    Args:
        run: is given the reports.
        source: the run or checkpoint folder to load.
        test: how to evaluate.
        say: called with a line before each evaluation.
        said: family, algorithm and trust_code of `open_run`.

    Raises:
        CodeError: the run names code that nobody said may be run.
    """
    from metarl.launch import open_run, worlds_for, worlds_per_task

    wanted = [
        split for split in SPLITS
        if split not in run.reports or split in run.stale or not test.fits(run.reports[split])
    ]  # fmt: skip
    if not wanted:
        return
    try:
        checkpoint, family, learner = open_run(str(source), test.device, test.threads, **said)
        distribution = TaskDistribution(family)
        count = worlds_per_task(checkpoint, test.rollouts_per_task, test.tasks)
        worlds = worlds_for(family, learner, test.tasks * count, test.threads)
    except CodeError:
        raise
    except UserError as error:
        run.note(f"It could not be evaluated: {error}")
        return
    for split in wanted:
        if split == "ood" and not distribution.has_ood:
            run.notes = [note for note in run.notes if note[0] != split]
            run.note(f"{run.family} has no tasks outside the training box, so no ood evaluation")
            continue
        tasks = distribution.split(split, test.tasks)
        words = f"{tasks.counted(f'{split} task')}, {counted(test.episodes, 'round')}"
        say(f"{run.label}: evaluating on {words}")
        with bar("evaluating") as show:
            report = evaluate(
                learner, worlds, tasks, episodes=test.episodes, seed=test.seed, split=split,
                progress=show,
            )  # fmt: skip
        run.reports[split] = report
        run.stale.discard(split)
        run.notes = [
            (about, f"{text} It was evaluated again." if about == split else text)
            for about, text in run.notes if about != split or "cannot" in text
        ]  # fmt: skip
        if not _is_agent(checkpoint.meta):  # a shipped agent's folder stays as it is
            _keep(run, split, checkpoint.step)


def _keep(run: RunSummary, split: str, step: int) -> None:
    """Write a report into the run folder, for the next time."""
    target = evaluation_path(run.path, split, step)
    about = {"step": step, "versions": versions()}
    try:
        with disk_errors(target):
            target.parent.mkdir(exist_ok=True)
            write_json(target, run.reports[split].to_json() | about)
    except UserError as error:
        run.note(f"The evaluation was not kept: {error}")


def evaluation_path(run: Path, split: str, step: int) -> Path:
    """Return where the report of a finished run's test is kept."""
    return run / "evaluation" / f"test_{split}_step_{step:08d}.json"


def units(family: str) -> dict[str, str]:
    """Return the unit of each parameter of a family; of one in a file, nothing.

    A report must not make us run a file that it names.
    """
    from metarl.registry import find_family

    if ":" in family:
        return {}
    try:
        return {name: p.unit for p in find_family(family).params for name in p.names}
    except UserError:
        return {}


def train_ranges(family: str) -> dict[str, tuple[float, float]]:
    """Return the training interval of each parameter that has one; see `units`."""
    from metarl.registry import find_family
    from metarl.tasks import Interval

    if ":" in family:
        return {}
    try:
        params = find_family(family).params
    except UserError:
        return {}
    found = [(name, p.train) for p in params for name in p.names]
    return {name: (box.low, box.high) for name, box in found if isinstance(box, Interval)}


def _videos(folder: Path) -> list[Path]:
    """The videos, MP4 rather than GIF; of those made at intervals, the first and the last."""
    found = [*folder.glob("*.mp4"), *folder.glob("*.gif")]
    stems = {video.stem for video in found if video.suffix == ".mp4"}
    found = sorted(v for v in found if v.suffix == ".mp4" or v.stem not in stems)
    steps = [video for video in found if re.fullmatch(r"step_\d+", video.stem)]
    return [video for video in found if video not in steps[1:-1]]


# --- reading, piece by piece -------------------------------------------------------------------


def _is_agent(body: dict[str, Any]) -> bool:
    meta = body.get("meta", body)
    return isinstance(meta, dict) and bool(meta.get("exported"))


def _header(run: RunSummary, path: Path) -> dict[str, Any] | None:
    """The header of the newest readable checkpoint; the weights stay on the disk."""
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


def _describe(run: RunSummary, config: dict[str, Any], header: dict[str, Any]) -> None:
    """Settings from config.json, progress from the checkpoint; either may lack the other's."""
    meta = header.get("meta")
    meta = meta if isinstance(meta, dict) else {}

    def table(name: str, other: object) -> dict[str, Any]:
        value = config.get(name, other)
        return value if isinstance(value, dict) else {}

    # A file.py:Class is shown by its name: a page to pass on holds no path of this machine.
    run.family = str(header.get("family", config.get("family", "?"))).rpartition("/")[2]
    run.algorithm = str(header.get("algorithm", config.get("algorithm", "?"))).rpartition("/")[2]
    run.train, run.learner = (
        table("train", meta.get("train")),
        table("learner", header.get("learner_config")),
    )
    run.versions = {str(k): str(v) for k, v in table("versions", header.get("versions")).items()}
    run.seed = run.train.get("seed") if isinstance(run.train.get("seed"), int) else None
    run.machine = {
        name: config.get(name, meta.get(name))
        for name in ("device", "threads")
        if config.get(name, meta.get(name)) is not None
    }
    run.iteration = int(_real(meta.get("iteration")) or 0)
    run.env_steps = int(_real(meta.get("env_steps")) or 0)
    run.seconds = float(_real(meta.get("seconds")) or 0.0)
    run.finished = bool(meta.get("exported")) or _finished(run)


def _finished(run: RunSummary) -> bool:
    try:
        config = TrainConfig.from_json(run.train, run.path)
    except UserError:
        return False
    return (run.iteration if config.env_steps is None else run.env_steps) >= goal(config)


def _real(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]


def _read_curve(run: RunSummary, header: dict[str, Any]) -> None:
    """The curve of curve.json, or the checkpoint's if that has more of it that can be read."""
    found, meta = _json(run, run.path / "curve.json"), header.get("meta")
    run.curve = curve_entries(found)
    if isinstance(found, list) and len(run.curve) < len(found):
        left_out = len(found) - len(run.curve)
        run.note(
            f"curve.json: {left_out} entries cannot be read, or every episode diverged in them"
        )
    other = curve_entries(meta.get("curve") if isinstance(meta, dict) else None)
    run.curve = other if len(other) > len(run.curve) else run.curve
    if run.curve and run.curve[-1]["env_steps"] > run.env_steps:
        run.env_steps = int(run.curve[-1]["env_steps"])


def curve_entries(found: object) -> list[dict[str, Any]]:
    """Return the whole entries of a curve, each with numbers in env_steps, before and after."""
    entries = []
    for entry in found if isinstance(found, list) else []:
        keys = ("env_steps", "before", "after")
        if isinstance(entry, dict) and all(_real(entry.get(key)) is not None for key in keys):
            kept = dict(entry)
            for key in ("before", "after"):
                pair = entry.get(f"{key}_ci")
                good = isinstance(pair, list) and len(pair) == 2 and None not in map(_real, pair)
                kept[f"{key}_ci"] = pair if good else [entry[key], entry[key]]
            entries.append(kept)
    return entries


def _read_result(run: RunSummary) -> None:
    """An exported agent's result.json: reports, curve and where it was made."""
    result = _json(run, run.path / RESULT)
    if not isinstance(result, dict):
        return
    run.curve = curve_entries(result.get("curve"))
    run.command = str(result.get("command", ""))
    if isinstance(result.get("hardware"), dict):
        run.machine = result["hardware"] | run.machine
    for split, data in (("heldout", result), ("ood", result.get("ood"))):
        if data is not None:
            _take(run, split, data, RESULT)


def _read_report(run: RunSummary, split: str) -> None:
    """The newest test of a split; without one, the newest evaluation made in training."""
    folder = run.path / "evaluation"
    for kind in ("test_" + split, split):
        for path in sorted(folder.glob(f"{kind}_step_*.json"), reverse=True):
            data = _json(run, path, split)
            if data is not None and _take(run, split, data, path.name):
                _note_origin(run, split, path, data, kind != split)
                return
    run.note(f"There is no evaluation on {split} tasks", split)


def _take(run: RunSummary, split: str, data: object, name: str) -> bool:
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
    """Say if a report is of older weights, or was made with other versions."""
    number = re.search(r"step_(\d+)$", path.stem)
    if number and int(number[1]) != run.iteration:
        run.stale.add(split)
        if tested or run.finished:
            run.note(
                f"The {split} evaluation is of iteration {int(number[1])}; the newest checkpoint "
                f"is of {run.iteration}",
                split,
            )
    made, here = data.get("versions"), versions()
    for package in ("metarl-toolkit", "mujoco"):
        other = made.get(package) if isinstance(made, dict) else None
        if other is not None and other != here[package]:
            run.stale.add(split)
            run.note(
                f"The {split} evaluation was made with {package} {other}; here is {here[package]}",
                split,
            )
