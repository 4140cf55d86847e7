"""Demonstrations: what an agent did in each of M tasks, recorded for others to imitate.

One safetensors file holds the tensors, and in its metadata, under ``demonstrations``, a JSON object
that says of which family and tasks they are, who demonstrates, and what it earned. docs/demos.md
describes the format. A file may come from anybody: it runs nothing, and all that is wrong with it
is one line.

`metarl.learning.demonstrator` records them; `metarl.learning.imitation` is for those who learn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds
from metarl.base.files import as_path, file_errors, write_bytes
from metarl.base.text import counted
from metarl.base.untrusted import LARGEST_HEADER, refusing, regular_size
from metarl.tasks.distribution import SPLITS, Tasks
from metarl.worlds.rollout import Rollout

FORMAT = 1
KEY = "demonstrations"
"""Under which the file's metadata hold the header."""
DEMONSTRATED = "demonstrated"
"""Name in `Rollout.extras` of (T, B) bool: the actions that a learner is to imitate. A rollout
without it is the learner's own."""
CHOSEN = "chosen"
"""What stands for the split of tasks that are of none."""
_FLOATS = ("obs", "action", "reward")
_KINDS = {
    **dict.fromkeys(_FLOATS, "F32"), "length": "I64", "terminated": "BOOL",
}  # fmt: skip
"""The tensors of a file, and how safetensors calls their types."""


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """E episodes in each of M tasks, of at most T steps."""

    tasks: Tasks
    """M, of the plain family, by its name"""
    split: str
    """train, heldout or ood: the tasks are the first M of that; or chosen"""
    obs: Tensor
    """(M, E, T + 1, O) float32, before each step and after the last one; 0 behind the end"""
    action: Tensor
    """(M, E, T, A) float32, in [−1, 1]; 0 behind the end"""
    reward: Tensor
    """(M, E, T) float32; 0 behind the end"""
    length: Tensor
    """(M, E) int64, steps of the episode; less than T where it ended before the horizon"""
    terminated: Tensor
    """(M, E) bool, whether the family's failure condition ended it"""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Who demonstrates, and how: any JSON object"""
    digest: str = ""
    """sha256 of the file's contents, if they were read from one"""

    def __post_init__(self) -> None:
        """Check shapes and numbers. Raises UserError, one line."""
        check_kinds(tasks=(self.tasks, Tasks), split=(self.split, str))
        for name in _KINDS:
            check_kinds(**{name: (getattr(self, name), Tensor)})
        problem = _problem(self)
        if problem:
            raise UserError(f"the demonstrations cannot be used: {problem}")

    @property
    def per_task(self) -> int:
        """E."""
        return self.obs.shape[1]

    @property
    def valid(self) -> Tensor:
        """(M, E, T) bool: the steps that there were."""
        return torch.arange(self.action.shape[2]) < self.length[..., None]

    @property
    def returns(self) -> Tensor:
        """(M, E) float64: the return of each episode, up to its end."""
        return self.reward.double().sum(-1)

    @property
    def diverged(self) -> Tensor:
        """(M, E) bool: the episodes that the physics ended, whose returns lack the rest."""
        return (self.length < self.action.shape[2]) & ~self.terminated

    def rows_of(self, tasks: Tasks) -> np.ndarray:
        """Return (m,) int64: where each of some tasks is demonstrated.

        Raises UserError if one is not.
        """
        if tasks.names != self.tasks.names:
            raise UserError(
                f"the demonstrations are of {self.tasks.family}, whose parameters are "
                f"{', '.join(self.tasks.names)}, and the tasks of {tasks.family}"
            )
        at = {row.tobytes(): m for m, row in enumerate(self.tasks.values)}
        found = np.array([at.get(row.tobytes(), -1) for row in tasks.values])
        if (found < 0).any():
            m = int(np.argmax(found < 0))
            raise UserError(
                f"the demonstrations are of {counted(len(self.tasks), f'{self.split} task')} of "
                f"{self.tasks.family}, and not of {tasks.label(m) or 'this task'}: record one with "
                f"`metarl demos RUN --set …`, or more of the same split"
            )
        return found

    def rollout(self, rows: np.ndarray | Sequence[int], which: Tensor) -> Rollout:
        """Return some episodes as a rollout of m·e worlds, which `Policy.adapt` takes.

        What lies behind an episode's end is marked as diverged, so that no loss has it.

        Args:
            rows: (m,) tasks.
            which: (m, e) int64, the episode that each world of a task is shown.
        """
        task = torch.as_tensor(np.asarray(rows))[:, None]
        obs, action, reward, valid, terminated, length = (
            part[task, which].flatten(0, 1)
            for part in (
                self.obs, self.action, self.reward, self.valid, self.terminated, self.length
            )
        )  # fmt: skip
        obs, action, reward, valid = (x.transpose(0, 1) for x in (obs, action, reward, valid))
        last = torch.arange(len(action))[:, None] == length - 1
        first = torch.zeros_like(valid)
        first[0] = True
        before = torch.cat((torch.zeros_like(action[:1]), action[:-1]))
        earned = torch.cat((torch.zeros_like(reward[:1]), reward[:-1]))
        return Rollout(
            obs=obs[:-1], action=action, reward=reward, next_obs=obs[1:],
            terminated=last & terminated, truncated=last & ~terminated, diverged=~valid,
            first=first, prev_action=before, prev_reward=earned, tasks=len(which),
            extras={DEMONSTRATED: valid},
        )  # fmt: skip

    def first(self, tasks: int) -> Demonstrations:
        """Return those of the first tasks alone.

        Raises UserError if there are fewer.
        """
        if not 1 <= tasks <= len(self.tasks):
            raise UserError(
                f"the demonstrations are of {counted(len(self.tasks), 'task')}, and not of "
                f"{tasks}: record more with `metarl demos --tasks {tasks}`"
            )
        parts = {name: getattr(self, name)[:tasks] for name in _KINDS}
        return replace(self, tasks=self.tasks[:tasks], **parts)

    # --- the file ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file, by name."""
        return {name: getattr(self, name).detach().cpu().contiguous() for name in _KINDS}

    def header(self) -> dict[str, Any]:
        """Return the JSON object of the file, without its digest."""
        _, _, steps, actions = self.action.shape
        return {
            "format": FORMAT, "family": self.tasks.family, "split": self.split, "horizon": steps,
            "observation_size": self.obs.shape[3], "action_size": actions,
            "tasks": self.tasks.to_json(), "returns": self.returns.tolist(),
            "about": dict(self.about),
        }  # fmt: skip

    def save(self, path: Path | str) -> Path:
        """Write the file whole, over one that is there. Raises UserError if that fails."""
        path, tensors, header = as_path(path), self.tensors(), self.header()
        header["sha256"] = _digest(header, tensors)
        data = safetensors.torch.save(tensors, {KEY: json.dumps(header)})
        with file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        return path

    @classmethod
    def load(cls, path: Path | str) -> Demonstrations:
        """Read a file that may come from anybody; no code is run.

        Raises UserError, one line, for whatever is wrong with it.
        """
        path = as_path(path)
        with refusing(path, "file of demonstrations"):
            size = regular_size(path)
            if size > LARGEST_FILE:
                raise ValueError(f"it has {size} bytes, and the limit is {LARGEST_FILE}")
            with safetensors.safe_open(path, "pt") as file:
                header = _header((file.metadata() or {}).get(KEY))
                _check_layout(file, header)
                tensors = {name: file.get_tensor(name) for name in _KINDS}
            digest = header.pop("sha256", None)
            if digest != _digest(header, tensors):
                raise ValueError("it was changed after it was written (sha256)")
            return cls(
                Tasks.from_json(header["tasks"]), header["split"], **tensors,
                about=dict(header["about"]), digest=digest,
            )  # fmt: skip


LARGEST_FILE = 16 * 2**30
"""Bytes."""


def _problem(given: Demonstrations) -> str:
    """Return what is wrong with shapes or numbers, or ''."""
    if given.action.ndim != 4 or min(given.action.shape) < 1 or given.obs.ndim != 4:
        return f"obs and action have shapes {_shape(given.obs)} and {_shape(given.action)}"
    m, e, steps, _ = given.action.shape
    wanted = {
        "obs": (m, e, steps + 1, given.obs.shape[3]), "reward": (m, e, steps), "length": (m, e),
        "terminated": (m, e),
    }  # fmt: skip
    for name, shape in wanted.items():
        if tuple(getattr(given, name).shape) != shape:
            return f"{name} has shape {_shape(getattr(given, name))}, not {shape}"
    kinds = {"length": torch.int64, "terminated": torch.bool}
    for name in _KINDS:
        kind = kinds.get(name, torch.float32)
        if getattr(given, name).dtype is not kind:
            return f"{name} is of {getattr(given, name).dtype}, not {kind}"
        if name in _FLOATS and not getattr(given, name).isfinite().all():
            return f"{name} holds numbers that are not finite"
    if len(given.tasks) != m:
        return f"there are {len(given.tasks)} tasks, and episodes of {m}"
    if given.split not in (*SPLITS, CHOSEN):
        return f"the split '{given.split:.40}' is none of {', '.join((*SPLITS, CHOSEN))}"
    if given.action.abs().max() > 1:
        return "an action is not in [-1, 1]"
    if given.length.min() < 0 or given.length.max() > steps:
        return f"an episode's length is not from 0 to {steps}"
    return ""


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _header(text: str | None) -> dict[str, Any]:
    """Read the JSON of a file's metadata; whatever is wrong is a ValueError or its like."""
    if text is None or len(text) > LARGEST_HEADER:
        raise ValueError(f"its metadata hold no '{KEY}'")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise ValueError(f"its format is {found!r}, this metarl reads {FORMAT}")
    return header


def _check_layout(file: Any, header: Mapping[str, Any]) -> None:
    """Compare names, types and shapes with the header, before a tensor is read."""
    if set(file.keys()) != set(_KINDS):
        raise ValueError(f"its tensors are {sorted(file.keys())}, not {sorted(_KINDS)}")
    slices = {name: file.get_slice(name) for name in _KINDS}
    for name, kind in _KINDS.items():
        if slices[name].get_dtype() != kind:
            raise ValueError(f"{name} is of type {slices[name].get_dtype()}, not {kind}")
    m, e = len(header["tasks"]["values"]), len(header["returns"][0])
    sizes = [int(header[name]) for name in ("horizon", "observation_size", "action_size")]
    wanted = (m, e, sizes[0] + 1, sizes[1]), (m, e, sizes[0], sizes[2])
    for name, shape in zip(("obs", "action"), wanted, strict=True):
        if (found := tuple(slices[name].get_shape())) != shape:
            raise ValueError(f"{name} has shape {found}, and its header says {shape}")


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a header, whatever its layout, and of the tensors in the order of `_KINDS`."""
    plain = {name: value for name, value in header.items() if name != "sha256"}
    total = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in _KINDS:
        total.update(tensors[name].numpy().tobytes())
    return total.hexdigest()
