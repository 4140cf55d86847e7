"""Skills as tasks: ``+skills=FILE`` pays any robot for showing which of K skills it is in.

`metarl skills` finds them without a reward: a policy that is told a skill z, and a discriminator
q(z | s) that must tell from what the robot then does which one it was (DIAYN, Eysenbach et al.
2019). What is kept is the discriminator. As a task, skill z pays

    log q(z | s') − log p(z),    p(z) = 1 / K,

which is 0 for a robot that cannot be told apart from the others, and at most log K. The robot is
not told z, so it is for a learner to find out: meta-learning without a task that anybody wrote.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.files import file_errors, open_regular, write_bytes
from metarl.base.untrusted import refusing, regular_size
from metarl.simulation.backend import Backend, State
from metarl.tasks.family import TaskFamily
from metarl.tasks.params import Choices, Param
from metarl.tasks.variations.sensors import observed_size

FORMAT = "metarl skills 1"
LARGEST = 64 * 2**20
"""Bytes of a file."""
MOST = 1000
"""Skills."""
LOWEST = -20.0
"""log q is held above this, in nats: beyond it a robot is wrong, and how much tells nothing."""
CLIP = 10.0
"""Inputs are held within this many standard deviations."""


@dataclass(frozen=True)
class Skills:
    """A discriminator: a ReLU network from some numbers of an observation to K logits."""

    columns: tuple[int, ...]
    """S places in the observation"""
    size: int
    """O, numbers in the observation"""
    mean: Tensor
    """(S,) float64"""
    std: Tensor
    """(S,) float64"""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Weights (in, out) and biases (out,) float64 of each layer"""
    family: str = ""
    """Where they were found."""

    @property
    def count(self) -> int:
        """K."""
        return len(self.layers[-1][1])

    def on(self, device: torch.device) -> Skills:
        """Return the same, on a device."""
        layers = tuple((weight.to(device), bias.to(device)) for weight, bias in self.layers)
        return replace(self, mean=self.mean.to(device), std=self.std.to(device), layers=layers)

    def log_q(self, obs: Tensor) -> Tensor:
        """Return log q(z | s), (B, K) in nats, for observations (B, O).

        A row has the same bits whatever the others are: products and sums of single numbers, in one
        order, as no matrix product promises them.
        """
        x = torch.stack([obs[:, column] for column in self.columns], 1).to(self.mean)
        x = ((x - self.mean) / self.std).clamp(-CLIP, CLIP)
        for k, (weight, bias) in enumerate(self.layers):
            x = x.clamp(min=0.0) if k else x
            total = bias.expand(len(x), -1)
            for column, row in zip(x.unbind(1), weight, strict=True):
                total = total + column[:, None] * row
            x = total
        shifted = x - x.max(1, keepdim=True).values
        total = functools.reduce(torch.add, shifted.exp().unbind(1))
        return (shifted - total.log()[:, None]).clamp(min=LOWEST)

    def save(self, path: Path | str) -> None:
        """Write the file that ``+skills=FILE`` reads."""
        tensors = {"mean": self.mean, "std": self.std}
        for k, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight.{k}": weight.contiguous(), f"bias.{k}": bias}
        about = {"columns": list(self.columns), "size": self.size, "family": self.family}
        header = {"format": FORMAT, "about": json.dumps(about)}
        with file_errors(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(path), safetensors.torch.save(tensors, header))

    @classmethod
    def load(cls, path: Path | str) -> Skills:
        """Read what `save` wrote. Raises UserError, one line, if it is anything else."""
        path = Path(path)
        with refusing(path, "file of skills"):
            if regular_size(path) > LARGEST:
                raise ValueError("it is too large to be one")
            data = path.read_bytes()
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
            about, tensors = json.loads(header["about"]), safetensors.torch.load(data)
            depth = sum(name.startswith("weight.") for name in tensors)
            layers = tuple((tensors[f"weight.{k}"], tensors[f"bias.{k}"]) for k in range(depth))
            columns = tuple(map(int, about["columns"]))
            made = cls(
                columns, int(about["size"]), tensors["mean"], tensors["std"], layers,
                str(about["family"]),
            )  # fmt: skip
            made._check()
            return made

    def _check(self) -> None:
        """Raise ValueError where the parts do not fit each other."""
        parts = (self.mean, self.std, *itertools.chain(*self.layers))
        widths = [len(self.columns), *(len(bias) for _, bias in self.layers)]
        shapes = [tuple(weight.shape) for weight, _ in self.layers]
        fit = self.layers and shapes == list(itertools.pairwise(widths))
        fit = fit and self.mean.shape == self.std.shape == (len(self.columns),)
        fit = fit and all(0 <= column < self.size for column in self.columns)
        if not fit or any(part.dtype != torch.float64 for part in parts):
            raise ValueError("its parts do not fit each other")
        if not all(part.isfinite().all() for part in parts) or not (self.std > 0).all():
            raise ValueError("it holds numbers that cannot be")
        if not 2 <= self.count <= MOST:
            raise ValueError(f"it has {self.count} skills, and not 2 to {MOST}")


def skills_file(text: str) -> str:
    """Return the full path of a file of skills and a part of its sha256, ``PATH#DIGEST``.

    So a run that names it notices when the file is not the one that it was trained with.

    Args:
        text: what stands after ``+skills=``, either that or a path.

    Raises:
        UserError: there is none, it cannot be read, or it is not the one that was named.
    """
    if not text:
        raise UserError(
            "+skills needs a file, as in +skills=FILE, which `metarl skills FAMILY --out FILE` "
            "makes"
        )
    name, _, wanted = text.partition("#")
    path = Path(name).resolve()
    if set("+:#") & set(str(path)):
        raise UserError(f"+skills: a path with +, : or # cannot be part of a name: '{path}'")
    Skills.load(path)
    found = _digest(path)
    if wanted and wanted != found:
        raise UserError(
            f"'{path}' has changed: it holds other skills (#{found}) than those that are named "
            f"(#{wanted})"
        )
    return f"{path}#{found}"


def _digest(path: Path) -> str:
    with file_errors(path), open_regular(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


@functools.cache
def _skills(named: str) -> Skills:
    """The skills of what `skills_file` returned."""
    return Skills.load(named.partition("#")[0])


def skills_of(family: TaskFamily, named: str) -> tuple[Param, ...]:
    """Return which skill it is. Raises UserError if the family observes something else."""
    found, size = _skills(named), observed_size(family, family.observe)
    if found.size != size:
        raise UserError(
            f"family '{family.name}': the skills of '{named.partition('#')[0]}' are told from "
            f"{found.size} observed numbers ({found.family}), and it observes {size}"
        )
    chosen = Choices(tuple(map(float, range(found.count))))
    return (Param("skill", chosen, nominal=0.0, doc="which skill to show"),)


class SkillReward(TaskFamily):
    """A robot that is paid for what tells its skill from the others."""

    reward_weights: ClassVar[Mapping[str, float]] = {}

    def __init__(self) -> None:
        """Read the discriminator, and find what the robot observes without any variation."""
        self._skills = _skills(self.arguments["skills"])
        super().__init__()
        made = (cls for cls in type(self).__mro__ if getattr(cls, "model", ""))
        self._robot = next(cls for cls in made if "+" not in cls.__name__)

    def reward(
        self, sim: Backend, before: State, action: Tensor, task: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B,) log q(z | s') + log K, in nats."""
        if self._skills.mean.device != sim.device:
            self._skills = self._skills.on(sim.device)
        log_q = self._skills.log_q(self._robot.observe(self, sim, task))
        of_task = log_q.gather(1, task["skill"].long()[:, None])[:, 0]
        return (of_task + math.log(self._skills.count)).to(sim.dtype)

    def describe(self, task: Mapping[str, Any]) -> list[str]:
        """Return words for the skill, and for what varies besides."""
        return TaskFamily.describe(self, task)
