"""Spaces of third-party environments as the flat float vectors that worlds and learners use."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean, worded


class FlatObservation:
    """An observation space as (O,) numbers, without the keys that the agent must not see."""

    def __init__(self, space: Any, hide: tuple[str, ...] = ()) -> None:
        """Lay out the vector.

        Args:
            space: of the environment.
            hide: keys of a `gymnasium.spaces.Dict` to leave out.

        Raises:
            UserError: the space has no such key, or cannot be flattened.
        """
        self.hide = hide
        self.keys = tuple(space) if isinstance(space, spaces.Dict) else ()
        for key in hide:
            if key not in self.keys:
                raise UserError(
                    f"hide: the observation has no key '{key}'{did_you_mean(key, self.keys)}; "
                    f"it has {', '.join(self.keys) or 'none'}"
                )
        if hide:
            space = spaces.Dict({key: space[key] for key in self.keys if key not in hide})
        self.space = space
        flat = None
        if isinstance(space, gymnasium.Space) and space.is_np_flattenable:
            with contextlib.suppress(ValueError):  # a Dict or a Tuple without spaces in it
                flat = spaces.flatten_space(space)
        if not isinstance(flat, spaces.Box) or flat.shape[0] == 0:
            raise UserError(f"its observations are no numbers that can be flattened: {space}")
        self.size = flat.shape[0]

    def __call__(self, obs: Any) -> np.ndarray:
        """Return one observation as (O,) float64. Raises UserError if it does not fit the space."""
        if self.hide:
            obs = {key: value for key, value in obs.items() if key not in self.hide}
        try:
            flat = np.asarray(spaces.flatten(self.space, obs), np.float64)
        except Exception as error:
            words = f"an observation does not fit its space {self.space!s:.200}"
            raise UserError(f"{words}: {obs!r:.80} ({worded(error)})") from error
        if flat.shape != (self.size,):
            raise UserError(f"an observation has {flat.size} numbers, and its space {self.size}")
        return flat


class FlatAction:
    """An action space as the (A,) numbers of a learner.

    A bounded Box takes [-1, 1], which maps linearly onto its bounds. Discrete spaces take a number
    for every choice, one-hot or scores: the highest of each dimension is taken.
    """

    def __init__(self, space: Any) -> None:
        """Read the space. Raises UserError if it is of another kind."""
        self.space = space
        self.choices: tuple[int, ...] = ()
        """How many choices each discrete dimension has; () for a Box."""
        if isinstance(space, spaces.Discrete):
            self.choices = (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
            self.choices = tuple(map(int, space.nvec))
        elif isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
            self.choices = (2,) * int(space.shape[0])
        elif not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded()):
            raise UserError(
                "its actions must be a bounded Box of one axis, Discrete, MultiDiscrete or "
                f"MultiBinary, not {space}"
            )
        self.size: int = sum(self.choices) or space.shape[0]  # type: ignore[index]
        """A."""
        if self.size == 0:
            raise UserError(f"it has no actions: its action space is {space}")

    def taken(self, action: Tensor) -> Tensor:
        """Return (B, A) actions as they count: clipped to [-1, 1], or one-hot."""
        if not self.choices:
            return action.clamp(-1.0, 1.0)
        one_hot = [
            torch.nn.functional.one_hot(part.argmax(1), part.shape[1])
            for part in action.split(self.choices, 1)
        ]
        return torch.cat(one_hot, 1).to(action.dtype)

    def to_env(self, taken: np.ndarray) -> Any:
        """Return one action, (A,) as `taken` returned it, as the environment takes it."""
        if not self.choices:
            low, high = (bound.astype(np.float64) for bound in (self.space.low, self.space.high))
            return (low + (taken + 1) / 2 * (high - low)).astype(self.space.dtype)
        parts = np.split(taken, np.cumsum(self.choices)[:-1])
        chosen = np.array([part.argmax() for part in parts]) + getattr(self.space, "start", 0)
        if isinstance(self.space, spaces.Discrete):
            return self.space.dtype.type(chosen[0])
        return chosen.astype(self.space.dtype)
