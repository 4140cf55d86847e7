"""`metarl export`: a trained agent as a small folder to share.

    half-cheetah-vel-maml-trpo/
        weights.safetensors   what acting and adapting need: no optimiser, no replay
        checkpoint.json       names, settings, sizes, versions, sha256
        result.json           the held-out and ood results, and the learning curve
        curve.png  README.md  the model card

It is a checkpoint folder, so `metarl adapt`, `evaluate`, `render` and `report` take it as a RUN.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metarl.commands.arguments import parse
from metarl.errors import UserError, quoted
from metarl.progress import say

if TYPE_CHECKING:
    from metarl.checkpoint import Checkpoint

LARGEST = 10**6
"""Bytes: an agent folder is there to be cloned with a repository."""


@dataclass(frozen=True)
class Export:
    """Make an agent folder of a run: weights without optimiser or replay, results, a model card."""

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
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads must be at least 1, not {self.threads}")
        if self.half and self.result is not None:
            raise UserError("--half changes the weights, so --result cannot be of them")


def export(argv: Sequence[str]) -> int:
    """Write the folder."""
    args = parse(Export, argv, prog="metarl export")
    path = export_agent(
        args.run, args.out, result=args.result, half=args.half, note=args.note or "",
        threads=args.threads, say=say,
    )  # fmt: skip
    size = sum(file.stat().st_size for file in path.iterdir())
    say(f"wrote {path} ({size / 1024:.0f} KiB); try: metarl adapt {quoted(path)}")
    return 0


def export_agent(
    run: Path | str,
    out: Path | str | None = None,
    *,
    result: Path | str | None = None,
    half: bool = False,
    note: str = "",
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write an agent folder, whole or not at all.

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
    from metarl.run_folder import disk_errors

    checkpoint = _shareable(run)
    final = _destination(out, checkpoint)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    with disk_errors(final):
        try:
            temporary.mkdir(parents=True)
            _write_weights(temporary, checkpoint, half)
            if half:
                note = f"The weights are rounded to half precision. {note}".strip()
                found = _measured(run, temporary, threads, say)
            else:
                found = _result(checkpoint, run, result, threads, say)
            _write_card(temporary, final, found, note)
            _check_size(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _shareable(run: Path | str) -> Checkpoint:
    """Return the run's newest checkpoint. Raises UserError if an agent cannot be made of it."""
    from metarl import checkpoint as checkpoints

    path = checkpoints.newest(Path(run))
    header = checkpoints.verify(path)
    for kind in ("family", "algorithm"):
        if ":" in (name := str(header.get(kind))):
            raise UserError(
                f"only registered names can be shared: the {kind} is '{name}'; give it a name with "
                f"an entry point, and train under that name"
            )
    checkpoint = checkpoints.load(path)
    if checkpoint.meta.get("exported"):
        raise UserError(f"'{run}' is an exported agent already")
    return checkpoint


def _destination(out: Path | str | None, checkpoint: Checkpoint) -> Path:
    """Return the agent's folder. Raises UserError if it holds something else than an agent."""
    from metarl import checkpoint as checkpoints

    stem = f"{checkpoint.family}-{checkpoint.algorithm}"
    final = Path(out) if out is not None else Path("experiments/agents") / stem
    if final.exists() and not (final / checkpoints.HEADER).is_file():
        raise UserError(f"'{final}' holds something else than an agent: choose another --out")
    if final.exists() and out is None:
        raise UserError(f"'{final}' is there already: say --out {final} to replace it")
    return final


def _write_weights(folder: Path, checkpoint: Checkpoint, half: bool) -> None:
    from metarl import checkpoint as checkpoints

    learner, meta = checkpoints.restore(checkpoint), _meta(checkpoint.meta, half)
    checkpoints.write_files(folder, learner, checkpoint.family, checkpoint.step, meta)


def _check_size(folder: Path) -> None:
    """Raise UserError if an agent is larger than 1 MB."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > LARGEST:
        raise UserError(
            f"the agent takes {size / 1e6:.1f} MB, and the limit is 1 MB: try --half, and "
            f"see that the algorithm's policy_state_dict() holds only what acting needs"
        )


def _meta(meta: dict[str, Any], half: bool) -> dict[str, Any]:
    """What an agent keeps of a checkpoint's meta: no curve, and no path of this machine."""
    kept = {key: meta[key] for key in ("iteration", "env_steps", "seconds", "seed") if key in meta}
    train = dict(meta.get("train", {})) | {"out": None, "threads": None, "device": "auto"}
    precision = {"precision": "half"} if half else {}
    return kept | precision | {"exported": True, "train": train}


def _write_card(folder: Path, final: Path, result: dict[str, Any], note: str) -> None:
    from metarl.report.model_card import model_card
    from metarl.report.plots import plot_results
    from metarl.report.run_summary import RESULT
    from metarl.run_folder import write_json

    write_json(folder / RESULT, result)
    plot_results([result], folder / "curve.png")
    where = final.name if final.is_absolute() else final.as_posix()
    text = model_card(result, where, note)
    (folder / "README.md").write_text(text, encoding="utf-8")


# --- the result --------------------------------------------------------------------------------


def _result(
    checkpoint: Checkpoint,
    run: Path | str,
    given: Path | str | None,
    threads: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The result file of the run; without one, evaluate it now."""
    from metarl.run_folder import read_json

    seed = checkpoint.meta.get("seed")
    name = f"{checkpoint.family}-{checkpoint.algorithm}-seed{seed}.json"
    path = Path("experiments/results") / name if given is None else Path(given)
    if given is not None or path.is_file():
        result = read_json(path)
        differs = _difference(result, checkpoint)
        if differs is None:
            return result
        if given is not None:
            raise UserError(f"'{path}' is not the result of '{run}': {differs}")
        say(f"{path} is not the result of {run} ({differs}): evaluating it")
    return _measured(run, None, threads, say)


def _difference(result: Any, checkpoint: Checkpoint) -> str | None:
    """Say in which way a result is not of this checkpoint; None if it is."""
    from metarl.launch import MAY_CHANGE

    try:
        train, learner = result["config"]["train"], result["config"]["learner"]
        last = int(result["curve"][-1]["iteration"])
        pairs = [
            ("family", result["family"], checkpoint.family),
            ("algorithm", result["algorithm"], checkpoint.algorithm),
            *((k, learner.get(k), v) for k, v in checkpoint.learner_config.items()),
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


def _measured(
    run: Path | str, rounded: Path | None, threads: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Evaluate the run, or what became of it by rounding; curve and settings are the run's."""
    from metarl.report.run_summary import Protocol, add_reports, read_run
    from metarl.versions import hardware, versions

    summary = read_run(run)
    if rounded is not None:
        summary.reports.clear()
    add_reports(summary, rounded or run, Protocol(threads=threads), say)
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


def _command(summary: Any) -> str:
    """The `metarl train` command that makes such a run: every setting that is not the default."""
    from metarl.registry import find_learner
    from metarl.train_config import TrainConfig

    words = ["metarl train", summary.family, summary.algorithm]
    defaults = asdict(TrainConfig()) | asdict(find_learner(summary.algorithm).Config())
    unshown = ("out", "progress", "print_every", "device", "threads", "keep_checkpoints")
    for name, value in (summary.train | summary.learner).items():
        default = defaults.get(name)
        default = list(default) if isinstance(default, tuple) else default
        if name in unshown or value == default or value is None:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *map(str, values)]
    return " ".join(words)


__all__ = ["export", "export_agent"]
