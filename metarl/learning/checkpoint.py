"""Checkpoints: safetensors and JSON in a folder of their own, which never execute code.

    RUN/checkpoints/step_00000120/
        weights.safetensors    the learner's tensors
        checkpoint.json        everything else, and the sha256 of both files

A checkpoint is written whole (`metarl.base.files`), so a kill at any moment leaves all of it or
none, or the one that it replaces. A file that was changed by one bit is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds, did_you_mean, warn
from metarl.base.files import as_path, clean_up, set_aside, standing, whole_folder
from metarl.base.plugins import absolute, reference
from metarl.base.trust import admitted, located
from metarl.base.untrusted import LARGEST_HEADER, read_object, refusing, regular_size
from metarl.base.versions import versions
from metarl.learning.agents import find_run
from metarl.learning.learner import Learner, nonfinite
from metarl.modules.settings import for_others
from metarl.worlds.vector import Spec

FORMAT = 1
WEIGHTS = "weights.safetensors"
HEADER = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    step: int
    family: str
    """A registered name, or file.py:Class."""
    algorithm: str
    """Likewise."""
    spec: dict[str, Any]
    """What `Spec.to_json` returned."""
    learner_config: dict[str, Any]
    meta: dict[str, Any]
    """What the caller of `save` added: seed, env steps, training settings, …"""
    tensors: dict[str, Tensor]


def save(
    folder: Path | str, learner: Learner, *, family: str, step: int, meta: dict[str, Any]
) -> Path:
    """Write ``folder/step_00000120`` so that it is there as a whole or not at all.

    Args:
        folder: where the checkpoints of a run lie; made if needed.
        learner: its `state_dict` is saved.
        family: the name that `find_family` finds it by.
        step: the number of meta-updates so far.
        meta: any JSON object to keep beside the weights.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there is intact.
    """
    check_kinds(learner=(learner, Learner), family=(family, str), meta=(meta, dict))
    if not isinstance(step, int) or step < 0:
        raise UserError(f"step must be a whole number of at least 0, not {step!r:.40}")
    folder = as_path(folder)
    final = folder / f"step_{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean_up(folder)
        with whole_folder(final) as draft:
            write_files(draft, learner, family, step, meta)
    except OSError as error:
        raise UserError(f"cannot write checkpoint '{final}': {error.strerror or error}") from None
    return final


def load(
    path: Path | str,
    *,
    family: str | None = None,
    algorithm: str | None = None,
    trust_code: bool = False,
) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Args:
        path: of the folder.
        family: ``file.py:Class`` of its family, if that is a file; it may be run then.
        algorithm: likewise.
        trust_code: whether files that the checkpoint names may be run, whatever they are.

    Raises:
        UserError: a file is missing, truncated, changed, not ours, or of another format, a weight
            is not finite, or the checkpoint names code that nobody said may be run; see
            `metarl.base.trust`.
    """
    path = as_path(path)
    body = verify(path)
    with refusing(path / WEIGHTS):
        tensors = safetensors.torch.load_file(path / WEIGHTS)
        if problem := nonfinite(tensors):
            raise UserError(f"'{path / WEIGHTS}' cannot be used: {problem}")
    with refusing(path / HEADER):
        family, algorithm = admitted(
            path, body, family=family, algorithm=algorithm, trust_code=trust_code
        )
        return Checkpoint(
            path=path,
            step=int(body["step"]),
            family=family,
            algorithm=algorithm,
            spec={
                str(name): size if name == "actions" else int(size)
                for name, size in body["spec"].items()
            },
            learner_config=dict(body["learner_config"]),
            meta=dict(body["meta"]),
            tensors=tensors,
        )


def verify(path: Path) -> dict[str, Any]:
    """Check a checkpoint's files by their digests, and return its header.

    Raises:
        UserError: a file is missing, truncated, changed, not ours, or of another format.
    """
    body = _read_header(path / HEADER)
    with refusing(path / WEIGHTS):
        _check_weights(path / WEIGHTS, body["sha256"])
    return body


def newest(path: Path | str) -> Path:
    """Return the newest readable checkpoint of a run folder, or `path` if it is a checkpoint.

    The name of an agent that comes with metarl is a checkpoint's, too. Warns where later ones
    cannot be read.

    Raises:
        UserError: there is no such folder, or no readable checkpoint in it.
    """
    path = find_run(standing(Path(path)))
    if (path / HEADER).is_file():
        return path
    found = checkpoints(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    if not found:
        raise UserError(f"'{path}' holds no checkpoint: name a run folder, or a checkpoint in it")
    first = ""
    for candidate in reversed(found):
        if not (problem := _problem(candidate)):
            if first:
                warn(f"{first}; using {candidate.name} instead")
            return candidate
        first = first or problem
    raise UserError(f"'{path}' holds no readable checkpoint: {first}")


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in `folder`, oldest first, without looking into them."""
    found = [p for p in folder.glob("step_*") if p.is_dir() and _number(p).isdecimal()]
    found += [
        aside
        for aside, name in set_aside(folder)
        if re.fullmatch(r"step_\d+", name) and not (folder / name).exists()
    ]
    return sorted(found, key=lambda p: int(_number(p)))


def prune(folder: Path | str, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and never the newest that can be read."""
    found = checkpoints(Path(folder))
    kept = max(keep, 1)
    while kept < len(found) and _problem(found[-kept]):
        kept += 1
    for old in found[:-kept]:
        shutil.rmtree(old, ignore_errors=True)


def learner_config(checkpoint: Checkpoint) -> Any:
    """Return the algorithm's settings in a checkpoint. Raises UserError if they do not fit."""
    from metarl.learning.registry import find_learner

    cls = find_learner(checkpoint.algorithm).Config
    known = {field.name: field for field in fields(cls)}
    values = dict(getattr(cls, "absent", {}))
    for name, value in checkpoint.learner_config.items():
        if name not in known:
            raise UserError(
                f"'{checkpoint.path}': {checkpoint.algorithm} has no setting '{name}'"
                f"{did_you_mean(name, known)}"
            )
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"'{checkpoint.path}': its settings are refused: {error}") from None


def with_settings(checkpoint: Checkpoint, settings: Mapping[str, Any] | None) -> Checkpoint:
    """Return a checkpoint whose learner has other values of some settings, to be evaluated."""
    return replace(checkpoint, learner_config=checkpoint.learner_config | dict(settings or {}))


def restore(checkpoint: Checkpoint, *, device: str = "cpu") -> Learner:
    """Return the learner that a checkpoint holds.

    Raises:
        UserError: the algorithm is unknown, or settings or weights do not fit it.
    """
    with refusing(checkpoint.path):
        learner = fresh(checkpoint, device=device)
        if checkpoint.meta.get("exported"):
            learner.load_policy_state_dict(checkpoint.tensors)
        else:
            learner.load_state_dict(checkpoint.tensors)
        return learner


def fresh(checkpoint: Checkpoint, *, device: str = "cpu") -> Learner:
    """Return a learner as a checkpoint's was at its beginning. Raises UserError likewise."""
    from metarl.learning.registry import find_learner

    try:
        spec = Spec.from_json(checkpoint.spec)
    except (TypeError, ValueError):
        raise UserError(
            f"'{checkpoint.path}': its spec {checkpoint.spec} is not {Spec._fields}"
        ) from None
    cls, config = find_learner(checkpoint.algorithm), learner_config(checkpoint)
    seed = int(checkpoint.meta.get("seed", 0))
    return cls(spec, config, seed=seed, device=device)


# --- writing -----------------------------------------------------------------------------------


def write_files(
    folder: Path, learner: Learner, family: str, step: int, meta: dict[str, Any]
) -> None:
    """Write the two files into `folder`; of an agent to share, what acting and adapting need."""
    kept = learner.policy_state_dict() if meta.get("exported") else learner.state_dict()
    if meta.get("precision") == "half":
        kept = {k: v.half() if v.is_floating_point() else v for k, v in kept.items()}
    weights = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in kept.items()})
    names = {"family": absolute(family), "algorithm": reference(learner)}
    config = learner.config
    body = {
        "format": FORMAT,
        "step": step,
        **names,
        "files": located(folder, names),
        "spec": learner.spec.to_json(),
        "learner_config": for_others(config) if meta.get("exported") else asdict(config),
        "meta": meta,
        "versions": versions(),
        "sha256": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    body = json.loads(json.dumps(body))  # as it will be read: with strings for keys, say
    body["self_sha256"] = _digest(body)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / HEADER).write_text(json.dumps(body, indent=1), encoding="utf-8")


def _number(path: Path) -> str:
    return path.name.rpartition("step_")[2]


def _problem(path: Path) -> str:
    """Why a checkpoint cannot be read, or ''."""
    try:
        verify(path)
    except UserError as error:
        return str(error)
    return ""


# --- reading -----------------------------------------------------------------------------------


def _read_header(path: Path) -> dict[str, Any]:
    with refusing(path):
        body = read_object(path, FORMAT)
        if body.pop("self_sha256", None) != _digest(body):
            raise ValueError("it was changed after it was written (sha256)")
        return body


def _check_weights(path: Path, digests: object) -> None:
    """Check size, header and sha256 before a byte is interpreted as a tensor."""
    if not isinstance(digests, dict) or set(digests) != {WEIGHTS}:
        raise ValueError(f"the checkpoint must name {WEIGHTS} and no other file")
    size = regular_size(path)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if size < 8 or header > min(size - 8, LARGEST_HEADER):
            raise ValueError("it is truncated or no safetensors file")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != digests[WEIGHTS]:
        raise ValueError("it was changed after it was written (sha256)")


def _digest(body: dict[str, Any]) -> str:
    """The sha256 of a JSON object, whatever its layout in the file."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
