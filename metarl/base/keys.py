"""Keyed randomness: every draw is a function of (seed, iteration, phase, task, world, episode).

A `Key` is a path of words. Folding in a word gives a new key, and a key gives a generator, so a
draw never depends on which thread, process or restart asks for it, or on what was drawn before.
`BatchedRNG` does the same for many worlds at once: one vectorised counter-based stream a world.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = tuple(np.array(x, np.uint64) for x in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple(np.array(x, np.uint64) for x in (30, 27, 31))  # numpy is slower with its scalars


@dataclass(frozen=True, init=False)
class Key:
    """An immutable source of randomness, named by the words folded into it."""

    words: tuple[int | str, ...]

    def __init__(self, *words: int | str) -> None:
        for word in words:
            if not isinstance(word, int | np.integer | str):
                raise UserError(f"a seed must be a whole number, not {word!r:.80}")
        object.__setattr__(self, "words", words)

    def fold(self, *words: int | str) -> Key:
        """Return the key of this path extended by `words`."""
        return Key(*self.words, *words)

    def uint64(self) -> int:
        """Return the 64-bit number that stands for this key."""
        text = "\x1f".join(f"{type(word).__name__}:{word}" for word in self.words)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def seed(self) -> int:
        """Return 63 bits of this key, which every generator takes as a seed."""
        return self.uint64() >> 1

    def numpy(self) -> np.random.Generator:
        """Return a numpy generator that starts at this key."""
        return np.random.Generator(np.random.Philox(key=self.uint64()))

    def torch(self) -> torch.Generator:
        """Return a CPU torch generator that starts at this key.

        It takes 32 of the key's 64 bits, as torch's does: for what is drawn once in a run, such as
        weights, and not for the many streams of a rollout, two of which would soon be the same.
        """
        return torch.Generator().manual_seed(self.seed())

    def normal(self, tasks: int, steps: int, worlds: int, size: int, first_task: int = 0) -> Tensor:
        """Draw action noise, (steps, tasks * worlds, size) float32 standard normal.

        The block of a task depends on this key and the task's index alone, which is `first_task`
        for the first of them: so tasks may be split over processes.
        """
        out = np.empty((steps, tasks, worlds, size), np.float32)
        for m in range(tasks):
            draws = self.fold("task", first_task + m).numpy()
            out[:, m] = draws.standard_normal((steps, worlds, size), np.float32)
        return torch.from_numpy(out.reshape(steps, tasks * worlds, size))


def as_key(key: Key) -> Key:
    """Return the key. Raises UserError for anything else, such as a whole number."""
    if not isinstance(key, Key):
        raise UserError(f"a key is metarl.Key(…), as in Key(1), not {key!r:.80}")
    return key


class BatchedRNG:
    """Independent draws for n worlds at once, each world from a stream of its own.

    Counter-based (SplitMix64, Steele et al. 2014): number k of world i is a hash of (key_i, k),
    so the draws of one world do not change when others join or leave. numpy draws them in float64,
    since torch's logarithm and cosine differ in their last bits between devices and CPUs, and
    `_tensor` alone brings them to the device.
    """

    def __init__(
        self, key: Key, task: np.ndarray, world: np.ndarray, episode: np.ndarray,
        *steps: np.ndarray, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64,
    ) -> None:  # fmt: skip
        """Start the streams of n worlds.

        Args:
            key: what all worlds share.
            task: (n,) index of each world's task.
            world: (n,) index of each world within its task.
            episode: (n,) number of episodes that each world began before.
            steps: (n,) of the episode, where a world draws anew at each of them.
            device: where the draws go.
            dtype: of the draws.
        """
        parts = np.array((task, world, episode, *steps)).astype(np.uint64)
        parts += _GOLDEN
        state = np.full(len(task), key.uint64(), np.uint64)
        for part in _mix(parts):
            part ^= state
            state = _mix(part)
        self._state = state
        self._drawn = 0
        self._device, self._dtype = device, dtype

    def __len__(self) -> int:
        return len(self._state)

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        """Return (n, size) draws from U[low, high), but for the rounding to the type."""
        return low + (high - low) * self._tensor(self.unit(size))

    def normal(self, size: int) -> Tensor:
        """Return (n, size) standard normal draws (Box and Muller 1958)."""
        radius, turn = self.unit(size), self.unit(size)
        np.negative(radius, out=radius)
        np.log1p(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        turn *= 2.0 * np.pi
        radius *= np.cos(turn, out=turn)
        return self._tensor(radius)

    def _tensor(self, draws: np.ndarray) -> Tensor:
        return torch.from_numpy(draws).to(self._device, self._dtype)

    def unit(self, size: int) -> np.ndarray:
        """Return (n, size) draws from U[0, 1) on the host, float64."""
        counter = np.arange(self._drawn + 1, self._drawn + size + 1, dtype=np.uint64)
        self._drawn += size
        bits = _mix(self._state[:, None] + counter[None, :] * _GOLDEN)
        bits >>= np.uint64(11)
        draws = bits.astype(np.float64)
        draws *= 2.0**-53
        return draws


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser, element by element, modulo 2^64, in place of what it is given."""
    shifted = x >> _SHIFTS[0]
    x ^= shifted
    x *= _FACTORS[0]
    x ^= np.right_shift(x, _SHIFTS[1], out=shifted)
    x *= _FACTORS[1]
    x ^= np.right_shift(x, _SHIFTS[2], out=shifted)
    return x


class DeviceRNG(BatchedRNG):
    """The streams of `BatchedRNG`, drawn where a tensor lies: nothing of it comes from the host.

    Its bits are the same, and so are draws of `uniform`. Those of `normal` may differ in the last
    bit of float64, since every device has a logarithm and a cosine of its own.
    """

    def __init__(self, streams: Tensor, *parts: Tensor | int, dtype: torch.dtype) -> None:
        """Start a stream for each element of what broadcasts to one shape (…).

        Args:
            streams: (…) int64, as `streams` returns them.
            parts: int64 numbers that tell streams apart further, such as the episode and the step.
            dtype: of the draws.
        """
        for part in parts:
            if isinstance(part, int):
                mixed = _signed(_mix(np.array([part], np.uint64) + _GOLDEN)[0])
            else:
                mixed = _mixed(part + _signed(_GOLDEN))
            streams = _mixed(streams ^ mixed)
        self._streams, self._dtype = streams, dtype
        self._drawn = 0

    @staticmethod
    def streams(key: Key, *parts: Tensor) -> Tensor:
        """Return (…) int64 that stand for a key and numbers, such as a task's and a world's."""
        state = torch.full_like(parts[0], _signed(key.uint64()))
        return DeviceRNG(state, *parts, dtype=torch.float32)._streams

    def __len__(self) -> int:
        return len(self._streams)

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        """Return (…, size) draws from U[low, high), but for the rounding to the type."""
        return low + (high - low) * self.share(size).to(self._dtype)

    def normal(self, size: int) -> Tensor:
        """Return (…, size) standard normal draws (Box and Muller 1958)."""
        u, v = self.share(size), self.share(size)
        radius = torch.sqrt(-2.0 * torch.log1p(-u))
        return (radius * torch.cos(2.0 * np.pi * v)).to(self._dtype)

    def share(self, size: int) -> Tensor:
        """Return (…, size) draws from U[0, 1) on the device, float64."""
        first, self._drawn = self._drawn + 1, self._drawn + size
        counter = torch.arange(first, first + size, device=self._streams.device)
        bits = _mixed(self._streams[..., None] + counter * _signed(_GOLDEN))
        return _shifted(bits, 11).double() * 2.0**-53

    def unit(self, size: int) -> np.ndarray:
        """Return what `share` does, on the host: which waits for the device."""
        return self.share(size).cpu().numpy()


def _signed(x: np.uint64 | int) -> int:
    """The int64 with the bits of a uint64: torch has no arithmetic for those."""
    return int(x) - (int(x) >> 63 << 64)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift int64 to the right as if they were unsigned."""
    return (x >> by) & ((1 << 64 - by) - 1)


def _mixed(x: Tensor) -> Tensor:
    """What `_mix` does, of int64, whose products wrap around."""
    x = (x ^ _shifted(x, 30)) * _signed(int(_FACTORS[0]))
    x = (x ^ _shifted(x, 27)) * _signed(int(_FACTORS[1]))
    return x ^ _shifted(x, 31)
