"""A policy as an ONNX model, for a controller without torch: one step in, one action out.

The model is the learner's deterministic `act` as it was traced: observation, last action and its
reward, whether an episode begins, and the policy's state go in; the action, the actuators' controls
and the next state come out. Statistics and weights are in it. Tracing keeps only one way through
the code, so what is written is first tried with onnxruntime on random steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.files import file_errors, write_bytes
from metarl.base.keys import Key
from metarl.base.versions import versions
from metarl.learning.learner import Learner, rebuilt_state, state_parts
from metarl.simulation.names import actuator_names
from metarl.tasks.family import TaskFamily
from metarl.worlds.vector import Step

INPUTS = ("obs", "prev_action", "prev_reward", "first")
TRIED, CLOSE = 60, 1e-5
"""Steps that are tried before a model is written, and how far its actions may be off."""


def write_onnx(learner: Learner, state: Any, family: TaskFamily, path: Path) -> dict[str, Any]:
    """Write a policy, whole or not at all.

    Args:
        learner: on the CPU.
        state: that it begins with, for one world: `learner.begin(1, 1)`, or what it adapted to.
        family: that it was trained on, whose actuators the controls are of.
        path: of the model.

    Returns:
        What the model's metadata says, under the key ``metarl``.

    Raises:
        UserError: the policy cannot be traced, the extra ``onnx`` is not installed, or the file
            cannot be written.
    """
    onnx, runtime = _packages()
    step = _steps(learner, 1)[0]
    inputs, constants = _inputs(learner, state, step)
    module = _OneStep(learner, state, constants, list(inputs), family)
    draft = path.with_name(f".{path.name}.draft")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _trace(module, (*step, *inputs.values()), list(inputs), draft, learner.name)
            about = _about(learner, family, inputs)
            model = onnx.load(str(draft))
            onnx.helper.set_model_props(model, {"metarl": json.dumps(about)})
            data = model.SerializeToString()
        finally:
            draft.unlink(missing_ok=True)
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        _try(learner, state, session, inputs)
        write_bytes(path, data)
    return about


def one_world(learner: Learner, state: Any) -> Any:
    """Return a state for one world: the first row of parts that are of several worlds."""
    alone = learner.begin(1, 1)
    sizes = {name: part.shape for name, part in state_parts(alone)}
    parts = {
        name: part[:1] if part.ndim and sizes[name] == (1, *part.shape[1:]) else part
        for name, part in state_parts(state)
    }
    return rebuilt_state(state, parts, "state", learner.device)


class _OneStep(torch.nn.Module):
    """`act` as a function of tensors."""

    def __init__(
        self, learner: Learner, state: Any, constants: dict[str, Tensor], inputs: list[str],
        family: TaskFamily,
    ) -> None:  # fmt: skip
        super().__init__()
        self.learner, self.state, self.inputs = learner, state, inputs
        self.constants = constants
        self.map = _linear(family)

    def forward(
        self, obs: Tensor, action: Tensor, reward: Tensor, first: Tensor, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the action, the controls if they follow from it alone, and the next state."""
        given = self.constants | dict(zip(self.inputs, parts, strict=True))
        state = rebuilt_state(self.state, given, "state", obs.device)
        step = Step(obs, action, reward, first)
        chosen, state = self.learner.act(step, state, explore=False, noise=None)
        chosen = chosen.clamp(-1.0, 1.0)
        after = dict(state_parts(state))
        controls = []
        if self.map is not None:
            rest, scale, low, high = self.map
            controls = [torch.minimum(torch.maximum(rest + scale * chosen, low), high)]
        return chosen, *controls, *(after[name] for name in self.inputs)


def _linear(family: TaskFamily) -> tuple[Tensor, ...] | None:
    """Return (1, A) rest, scale, low and high of the controls; None where they remember."""
    if not family.has_model:
        return None
    map_ = family.command_map
    if map_.remembers or not len(map_.rest):
        return None
    parts = (map_.rest, map_.scale, map_.low, map_.high)
    return tuple(torch.as_tensor(part, dtype=torch.float32)[None] for part in parts)


def _steps(learner: Learner, count: int) -> list[Step]:
    """Return random steps, the first of which begins an episode, and the middle one too."""
    spec, rng = learner.spec, Key("onnx").numpy()

    def normal(*shape: int) -> Tensor:
        return torch.as_tensor(rng.normal(size=shape), dtype=torch.float32)

    return [
        Step(
            normal(1, spec.observation_size), normal(1, spec.action_size).clamp(-1, 1),
            normal(1), torch.tensor([t in (0, count // 2)]),
        ) for t in range(count)
    ]  # fmt: skip


def _inputs(
    learner: Learner, state: Any, step: Step
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parts of the state that steps change, and those that they leave, by name."""
    before = dict(state_parts(state))
    changed: set[str] = set()
    now = state
    with torch.no_grad():
        for one in _steps(learner, 4):
            _, now = learner.act(one, now, explore=False, noise=None)
            after = dict(state_parts(now))
            if after.keys() != before.keys():
                raise UserError(f"the state of {learner.name} changes its form as it acts")
            changed |= {name for name, part in after.items() if not torch.equal(part, before[name])}
    moving = {name: part for name, part in before.items() if name in changed}
    return moving, {name: part for name, part in before.items() if name not in changed}


def _trace(
    module: torch.nn.Module, example: tuple[Tensor, ...], states: list[str], path: Path, name: str
) -> None:
    outputs = ["action", *(["control"] if getattr(module, "map", None) else [])]
    try:
        with _silenced(), warnings.catch_warnings(), torch.no_grad(), _constant(module):
            warnings.simplefilter("ignore")  # of tracing: what it misses shows when it is tried
            torch.onnx.export(
                module.eval(), example, str(path), dynamo=False, opset_version=17,
                input_names=[*INPUTS, *states],
                output_names=[*outputs, *(f"next_{state}" for state in states)],
            )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # whatever an exporter raises of code that it does not know
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the policy of {name} cannot be written to ONNX: {first:.200}") from None


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is printed, also by C++: torch prints the whole graph that it cannot translate."""
    flush = ctypes.CDLL(None).fflush
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    flush(None)
    with contextlib.ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(null))
        stack.enter_context(contextlib.redirect_stderr(null))
        for number in (1, 2):
            with contextlib.suppress(OSError):  # it is closed
                stack.callback(os.close, own := os.dup(number))
                stack.callback(os.dup2, own, number)
                os.dup2(null.fileno(), number)
        stack.callback(flush, None)
        yield


@contextmanager
def _constant(module: torch.nn.Module) -> Iterator[None]:
    """Let no weight carry a gradient, as a traced constant must not, and put that back."""
    weights = [part for part in _tensors(module, set()) if part.requires_grad and part.is_leaf]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_()


def _tensors(found: Any, seen: set[int]) -> Iterator[Tensor]:
    """Return the tensors that an object holds, at any depth."""
    if id(found) in seen or isinstance(found, type | str | bytes | np.ndarray):
        return
    seen.add(id(found))
    if isinstance(found, Tensor):
        yield found
        return
    if isinstance(found, list | tuple):
        parts: Iterable[Any] = found
    else:
        parts = (found if isinstance(found, dict) else getattr(found, "__dict__", {})).values()
    for part in list(parts):
        yield from _tensors(part, seen)


def _try(learner: Learner, state: Any, session: Any, inputs: dict[str, Tensor]) -> None:
    """Raise UserError unless a model acts as the policy does, from the same state on."""
    given = {name: part.numpy() for name, part in inputs.items()}
    known = {one.name for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    for step in _steps(learner, TRIED):
        with torch.no_grad():
            action, state = learner.act(step, state, explore=False, noise=None)
        feed = dict(zip(INPUTS, (part.numpy() for part in step), strict=True)) | given
        out = dict(
            zip(
                names,
                session.run(names, {k: v for k, v in feed.items() if k in known}),
                strict=True,
            )
        )
        given = {name: out[f"next_{name}"] for name in inputs}
        error = np.abs(out["action"] - action.clamp(-1, 1).numpy()).max()
        if not error <= CLOSE:
            raise UserError(
                f"the policy of {learner.name} cannot be written to ONNX: the actions of the model "
                f"differ by {error:.2g}, since what it does depends on its state in ways that are "
                f"not traced"
            )


def _about(learner: Learner, family: TaskFamily, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Return what a controller must know."""
    about: dict[str, Any] = {
        "family": family.name, "learner": learner.name, "versions": versions(),
        "observation_size": learner.spec.observation_size,
        "action_size": learner.spec.action_size, "horizon": learner.spec.horizon,
        "unknown_reward": learner.unknown_reward,
        "state": {
            name: {"shape": list(part.shape), "dtype": str(part.dtype).removeprefix("torch."),
                   "begin": part.tolist()}
            for name, part in inputs.items()
        },
    }  # fmt: skip
    if not family.has_model:
        return about
    about |= {"dt": family.dt, "actuators": actuator_names(family.compile())}
    about["outside"] = outside(family)
    map_ = family.command_map
    if len(map_.rest):
        about["commands"] = {
            name: getattr(map_, name).tolist() for name in ("rest", "scale", "low", "high")
        } | {"increments": map_.increments, "smoothing": list(map_.smoothing)}
    return about


def outside(family: TaskFamily) -> list[str]:
    """Return what a controller has to do itself beside the model, by name.

    That is `act` of the family, which is code that asks the simulator, and what its declared
    `actions` remember. A push is the simulator's, and a history is part of the observation.
    """
    if not family.has_model:
        return []
    own = [
        f"{cls.__name__}.act"
        for cls in type(family).__mro__
        if "act" in vars(cls) and cls is not TaskFamily
        and not cls.__module__.startswith("metarl.tasks.variations")
    ]  # fmt: skip
    map_ = family.command_map
    return [*own, *(["increments"] * map_.increments), *(["low_pass"] * bool(map_.smoothing))]


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise UserError(
            "--onnx needs onnx and onnxruntime: pip install 'metarl-toolkit[onnx]'"
        ) from None
    return onnx, onnxruntime
