"""A trained agent as a small folder to share.

    half-cheetah-vel-maml-trpo/
        weights.safetensors   what acting and adapting need: no optimiser, no replay
        checkpoint.json       names, settings, sizes, versions, sha256
        result.json           the held-out and ood results, and the learning curve
        curve.png  README.md  the model card

It is a checkpoint folder, so `metarl adapt`, `evaluate`, `render` and `report` take it as a RUN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarl.base.errors import UserError
from metarl.base.files import file_errors, whole_folder, write_json
from metarl.base.plugins import short_name
from metarl.learning import checkpoint as checkpoints
from metarl.learning.checkpoint import Checkpoint
from metarl.modules.settings import paths_of
from metarl.report.charts import plot_results
from metarl.report.model_card import model_card
from metarl.report.run_summary import RESULT

LARGEST = 10**6
"""Bytes: an agent folder is there to be cloned with a repository."""


def write_agent(
    checkpoint: Checkpoint,
    final: Path,
    result: Callable[[Path], dict[str, Any]],
    *,
    half: bool = False,
    note: str = "",
) -> None:
    """Write an agent folder, whole or not at all; an agent that is there is replaced.

    Args:
        checkpoint: of the trained run.
        final: the folder.
        result: returns the agent's result, given a folder that holds its weights.
        half: round the weights to half precision.
        note: a sentence for the model card.

    Raises:
        UserError: it would be larger than 1 MB, or cannot be written.
    """
    with file_errors(final), whole_folder(final) as draft:
        learner, meta = checkpoints.restore(checkpoint), _meta(checkpoint.meta, half)
        checkpoints.write_files(draft, learner, checkpoint.family, checkpoint.step, meta)
        measured = result(draft)
        measured["config"]["learner"] |= dict.fromkeys(paths_of(learner.config))
        write_json(draft / RESULT, measured)
        plot_results([measured], draft / "curve.png")
        name = final.name if final.is_absolute() else final.as_posix()
        (draft / "README.md").write_text(model_card(measured, name, note), encoding="utf-8")
        _check_size(draft)


def shareable(run: Path | str) -> Checkpoint:
    """Return the run's newest checkpoint. Raises UserError if an agent cannot be made of it."""
    path = checkpoints.newest(Path(run))
    header = checkpoints.verify(path)
    for kind in ("family", "algorithm"):
        if ":" in (name := str(header.get(kind))):
            raise UserError(
                f"only registered names can be shared: the {kind} is '{name}'; give it a name with "
                f"an entry point, and train under that name"
            )
    family = str(header.get("family"))
    if family != (short := short_name(family)):
        raise UserError(
            f"'{short}' cannot be shared: its tasks are those of a file, which an agent does not "
            f"hold: {family}; `metarl export RUN --onnx FILE.onnx` writes the policy alone"
        )
    checkpoint = checkpoints.load(path)
    if checkpoint.meta.get("exported"):
        raise UserError(f"'{run}' is an exported agent already")
    return checkpoint


def destination(out: Path | str | None, checkpoint: Checkpoint) -> Path:
    """Return the agent's folder. Raises UserError if it holds something else than an agent."""
    stem = f"{checkpoint.family}-{checkpoint.algorithm}"
    final = Path(out) if out is not None else Path("experiments/agents") / stem
    if final.exists() and not (final / checkpoints.HEADER).is_file():
        raise UserError(f"'{final}' holds something else than an agent: choose another --out")
    if final.exists() and out is None:
        raise UserError(f"'{final}' is there already: say --out {final} to replace it")
    return final


def _check_size(folder: Path) -> None:
    """Raise UserError if an agent is larger than 1 MB."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > LARGEST:
        raise UserError(
            f"the agent takes {size / 1e6:.1f} MB, and the limit is 1 MB: try --half, and "
            f"see that the algorithm's policy_state_dict() holds only what acting needs"
        )


def _meta(meta: dict[str, Any], half: bool) -> dict[str, Any]:
    """Return what an agent keeps of a checkpoint's meta: no curve, no path of this machine."""
    kept = {key: meta[key] for key in ("iteration", "env_steps", "seconds", "seed") if key in meta}
    train = dict(meta.get("train", {})) | {"out": None, "threads": None, "device": "auto"}
    precision = {"precision": "half"} if half else {}
    return kept | precision | {"exported": True, "train": train}
