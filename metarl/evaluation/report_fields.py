"""The fields of an evaluation report that was read from JSON: their types, shapes and signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.evaluation.measures import MEASURED

_LEAST = {"seed": 0, "rollouts_per_task": 1, "env_steps": 0, "diverged": 0, "exploring": 0}
_WITHIN = ("rl2", "pearl", "ppo")
"""Learners of older versions that adapt, if at all, to what is scored; of one world a task."""
_SHAPES = {
    "returns": "MK", "tasks": "MP", "ci95": "K2", "experience": "K", "iqm": "K", "mean": "K",
    "stand_still": "", "seconds": "",
}  # fmt: skip


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a report, checked. Raises ValueError naming the first bad field."""
    for key in ("family", "algorithm", "split"):
        if not isinstance(values[key], str):
            raise ValueError(f"{key} must be a string")
    for key, least in _LEAST.items():
        if type(values[key]) is not int or values[key] < least:
            raise ValueError(f"{key} must be a whole number of at least {least}")
    names = values["task_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("task_names must be a list of strings")
    shapes = _SHAPES | ({"stand_still_by_task": "M"} if values.get("stand_still_by_task") else {})
    arrays = {key: _numbers(key, values[key], len(shape)) for key, shape in shapes.items()}
    sizes = {"M": len(arrays["tasks"]), "K": len(arrays["experience"]), "P": len(names), "2": 2}
    for key, shape in shapes.items():
        expected = tuple(sizes[axis] for axis in shape)
        if arrays[key].shape != expected or 0 in expected[:1]:
            raise ValueError(f"{key} has shape {arrays[key].shape}, expected {expected}")
    if np.isnan(arrays["returns"]).any() and not values["diverged"]:
        raise ValueError("returns has nulls, but diverged is 0")
    _check_measured(values.get("diagnostics", {}), sizes["K"])
    seen = arrays["experience"]
    if (seen != np.floor(seen)).any() or seen[0] < 0 or (np.diff(seen) < 0).any():
        raise ValueError("experience must be whole numbers that do not fall")
    numbers = {key: array.tolist() for key, array in arrays.items()}
    same = values["train_is_heldout"]
    if same is None:  # of a version that did not write it
        same = values["split"] == "heldout" and _cycles(numbers["tasks"])
    if type(same) is not bool:
        raise ValueError("train_is_heldout must be true or false")
    episodes = [int(episodes) for episodes in seen]
    within = values.get("adapts_within")
    if within is None:  # likewise: then those that explored apart from it pooled their worlds
        alone = values["rollouts_per_task"] > 1 or values["algorithm"] in _WITHIN
        within = alone and episodes[1:2] == [1]
    if type(within) is not bool:
        raise ValueError("adapts_within must be true or false")
    return numbers | {
        "experience": episodes, "train_is_heldout": same, "adapts_within": within
    }  # fmt: skip


def _check_measured(diagnostics: object, rounds: int) -> None:
    """Raise ValueError for diagnostics that are none, or measures that are no (K, M) numbers."""
    if not isinstance(diagnostics, dict):
        raise ValueError("diagnostics must be an object")
    for name, values in diagnostics.items():
        if name.startswith(MEASURED):
            try:
                shape = np.array(values, float).shape
            except (TypeError, ValueError, OverflowError):
                shape = ()
            if len(shape) != 2 or shape[0] != rounds:
                raise ValueError(f"diagnostics: '{name}' must be a table of numbers")


_MAY_BE_NULL = ("returns", "iqm", "ci95", "mean", "stand_still", "stand_still_by_task")


def _numbers(key: str, value: object, ndim: int) -> np.ndarray:
    """Return a field as an array, NaN where it is null because every episode diverged."""
    try:
        array = np.asarray(value)
        null = (
            np.equal(array, np.array(None)) if key in _MAY_BE_NULL else np.zeros(array.shape, bool)
        )
        if null.any():
            array = np.asarray(np.where(null, 0.0, array).tolist())
    except (ValueError, OverflowError):  # rows of different lengths, or too large for a float
        array = null = np.asarray(None)
    if array.ndim != ndim or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        kind = ("a finite number", "a list of finite numbers", "a table of finite numbers")[ndim]
        raise ValueError(f"{key} must be {kind}")
    return np.where(null, np.nan, array.astype(np.float64))


def _cycles(tasks: list[list[float]]) -> bool:
    """Whether tasks are the same few in turns, as the combinations of choices are.

    Draws from choices that are held out repeat, too, but in no order.
    """
    period = len({tuple(task) for task in tasks})
    return period < len(tasks) and all(tasks[i] == tasks[i % period] for i in range(len(tasks)))
