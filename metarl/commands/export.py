"""`metarl export`: a trained agent as a folder to share, or its policy for a controller."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metarl.base.errors import UserError, quoted
from metarl.base.files import check_writable
from metarl.commands.arguments import check_counts, parse
from metarl.runs.progress import say

if TYPE_CHECKING:
    from metarl.learning.checkpoint import Checkpoint
    from metarl.report.run_summary import RunSummary

Say = Callable[[str], None]


@dataclass(frozen=True)
class Export:
    """Make an agent folder of a run: weights without optimiser or replay, results, a model card.

    With --onnx, write its policy for onnxruntime instead.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder (its newest checkpoint is used), or a checkpoint folder."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to; the default is experiments/agents/FAMILY-ALGORITHM, if it is not there yet. An
    agent that is named here is replaced."""
    result: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """The run's result file; the default is the one in experiments/results/ if it is of this run,
    and else the run is evaluated now on 30 held-out and 30 ood tasks."""
    half: bool = False
    """Round the weights to half precision, for a network that would take more than 1 MB; what is
    rounded is then evaluated, and no result file is used."""
    note: str | None = None
    """A sentence for the card's section on limits."""
    onnx: Annotated[str | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """Write the policy with its memory, statistics and action map as an ONNX model, and no folder.
    RUN may also be an agent, or a policy that `metarl adapt --out` saved."""
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError."""
        check_counts(self, threads=1)
        if self.onnx is not None and (self.out or self.result or self.half or self.note):
            raise UserError("--onnx writes a model and no folder: give no --out, --result or such")
        if self.half and self.result is not None:
            raise UserError("--half changes the weights, so --result cannot be of them")


def export(argv: Sequence[str]) -> int:
    """Write the folder."""
    args = parse(Export, argv, prog="metarl export")
    if args.onnx is not None:
        return _export_onnx(args.run, Path(args.onnx), args.threads)
    settings = {name: value for name, value in asdict(args).items() if name != "onnx"}
    path = export_agent(**settings, say=say)
    size = sum(file.stat().st_size for file in path.iterdir())
    say(f"wrote {path} ({size / 1024:.0f} KiB); try: metarl adapt {quoted(path)}")
    return 0


def _export_onnx(run: str, out: Path, threads: int | None) -> int:
    from metarl.adapters.onnx import one_world, write_onnx
    from metarl.base.text import counted
    from metarl.learning.adaptation import HEADER, load_adapted
    from metarl.run import load_run
    from metarl.tasks.registry import find_family

    if out.suffix != ".onnx":
        raise UserError(f"--onnx {out}: name the model such as policy.onnx")
    check_writable(out)
    if (Path(run) / HEADER).is_file():
        learner, state = load_adapted(run)
        family = find_family(learner.family)
    else:
        _, family, learner = load_run(run, "cpu", threads)
        state = learner.begin(1, 1)
    about = write_onnx(learner, one_world(learner, state), family, out)
    states = counted(len(about["state"]), "tensor")
    say(
        f"wrote {out} ({out.stat().st_size / 1024:.0f} KiB): {learner.name} on {family.name}, "
        f"{about['observation_size']} observations to {about['action_size']} actions, a state of "
        f"{states}; its metadata `metarl` has names, ranges and where the state begins"
    )
    if about.get("outside"):
        say(
            f"warning: not in the model, so that the controller has to do it: "
            f"{', '.join(about['outside'])}, of {family.name}"
        )
    return 0


def export_agent(
    run: Path | str,
    out: Path | str | None = None,
    *,
    result: Path | str | None = None,
    half: bool = False,
    note: str | None = None,
    threads: int | None = None,
    say: Say = lambda line: None,
) -> Path:
    """Write an agent folder, and evaluate the run for it if need be.

    Args:
        run: a run folder or a checkpoint folder.
        out: where to; an agent that is already there is replaced, but only if it is named.
        result: see `Export`.
        half: likewise.
        note: a sentence for the model card.
        threads: CPU threads, if the run has to be evaluated.
        say: called with a line before each evaluation.

    Returns:
        The folder.

    Raises:
        UserError: the family or the algorithm is no registered one, the result is of another run,
            the folder holds something else, or it would be larger than 1 MB.
    """
    from metarl.report.agent import destination, shareable, write_agent

    checkpoint = shareable(run)
    final, note = destination(out, checkpoint), note or ""
    if half:
        note = f"The weights are rounded to half precision. {note}".strip()

    def measured(weights: Path) -> dict[str, Any]:
        found = None if half else _result_file(checkpoint, run, result, say)
        return found or _measure(run, checkpoint, weights if half else run, threads, say)

    write_agent(checkpoint, final, measured, half=half, note=note)
    return final


def _result_file(
    checkpoint: Checkpoint, run: Path | str, given: Path | str | None, say: Say
) -> dict[str, Any] | None:
    """Return the result file of the run, or None if there is none. Raises UserError."""
    from metarl.base.files import read_json
    from metarl.base.untrusted import refusing

    name = f"{checkpoint.family}-{checkpoint.algorithm}-seed{checkpoint.meta.get('seed')}.json"
    path = Path("experiments/results") / name if given is None else Path(given)
    if given is None and not path.is_file():
        return None
    result = read_json(path)
    differs = _difference(result, checkpoint)
    if differs is None:
        with refusing(path, "result"):
            _check_shown(result)
        return result
    if given is not None:
        raise UserError(f"'{path}' is not the result of '{run}': {differs}")
    say(f"{path} is not the result of {run} ({differs}): evaluating it")
    return None


def _check_shown(result: dict[str, Any]) -> None:
    """Raise, as `refusing` takes it, if the card and the chart cannot be made of a result."""
    from metarl.report.model_card import model_card
    from metarl.report.run_summary import curve_entries

    if len(curve_entries(result["curve"])) != len(result["curve"]):
        raise ValueError("its curve has entries that cannot be read")
    model_card(result, "agent")


def _difference(result: Any, checkpoint: Checkpoint) -> str | None:
    """Return in which way a result is not of this checkpoint; None if it is."""
    from metarl.learning.checkpoint import learner_config
    from metarl.modules.settings import paths_of
    from metarl.run import MAY_CHANGE

    try:
        train, learner = result["config"]["train"], result["config"]["learner"]
        last = int(result["curve"][-1]["iteration"])
        elsewhere = paths_of(learner_config(checkpoint))
        pairs = [
            ("family", result["family"], checkpoint.family),
            ("algorithm", result["algorithm"], checkpoint.algorithm),
            *((k, learner.get(k), v) for k, v in checkpoint.learner_config.items()
              if k not in elsewhere),
            *((k, train.get(k), v) for k, v in checkpoint.meta["train"].items()
              if k not in MAY_CHANGE),
            ("the last iteration", last, checkpoint.step),
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"it is malformed ({type(error).__name__}: {error})"
    for name, theirs, ours in pairs:
        if theirs != ours:
            return f"{name} is {theirs} there and {ours} here"
    return None


def _measure(
    run: Path | str, checkpoint: Checkpoint, weights: Path | str, threads: int | None, say: Say
) -> dict[str, Any]:
    """Return the result of evaluating some weights; the curve is that of the run.

    Settings are those of its checkpoint, which cannot have been changed by hand.
    """
    from metarl.base.versions import hardware, versions
    from metarl.commands.report import Protocol, add_reports
    from metarl.report.run_summary import read_run

    summary = read_run(run)
    summary.train, summary.learner = checkpoint.meta["train"], checkpoint.learner_config
    if not summary.curve:
        raise UserError(
            f"'{run}' has no held-out evaluation yet, which every training begins with: go on with "
            f"`metarl train --resume {quoted(run)}`, then export"
        )
    if weights != run:
        summary.reports.clear()
    add_reports(summary, weights, Protocol(threads=threads), say)
    if "heldout" not in summary.reports:
        raise UserError(summary.notes[-1][1].rstrip("."))
    ood = summary.reports.get("ood")
    return {
        **summary.reports["heldout"].to_json(),
        "ood": None if ood is None else ood.to_json(),
        "curve": summary.curve,
        "config": {"train": summary.train | {"out": None}, "learner": summary.learner,
                   "threads": summary.machine.get("threads")},
        "versions": versions(),
        "hardware": hardware(),
        "command": _command(summary),
    }  # fmt: skip


def _command(run: RunSummary) -> str:
    """Return the `metarl train` command of a run: every setting that is not the default.

    A run folder does not keep its command: a run may be started from Python, and resumed with
    other settings.
    """
    from metarl.learning.registry import find_learner
    from metarl.modules.settings import paths_of
    from metarl.runs.config import TrainConfig
    from metarl.runs.presets import PLAIN, choose

    words = ["metarl", "train", run.family, run.algorithm]
    words += ["--preset", PLAIN] if choose(run.family, run.algorithm) else []
    config = find_learner(run.algorithm).Config
    defaults, paths = asdict(TrainConfig()) | asdict(config()), paths_of(config)
    unshown = (
        "out", "progress", "print_every", "device", "threads", "keep_checkpoints", "track",
        "evaluate_ood",
    )  # fmt: skip
    for name, value in (run.train | run.learner).items():
        default = defaults.get(name)
        default = list(default) if isinstance(default, tuple) else default
        if name in unshown or value == default or value is None:
            continue
        value = Path(value).name if name in paths else value
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *map(str, values)]
    return shlex.join(words)


__all__ = ["export", "export_agent"]
