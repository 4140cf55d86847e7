"""Terrain: banks of height fields that rise out of a flat floor.

A bank holds `GROUNDS` fields: ground g is of kind ``KINDS[g % 4]`` and seed ``g // 4``; the seeds
of train, heldout and ood are disjoint. Which field a world has is its ``geom_dataid``. MuJoCo can
scale no field by world, so difficulty is how far the field stands out of the infinite plane z = 0:

    ground(x, y) = max(0, H·(v(x, y) − (1 − difficulty))),   v in [0, 1], H the height in metres

At difficulty 0 the field is buried and the floor is the plane; steps, bumps, hills and decks grow
continuously to H at difficulty 1. Around the start, v is below 0: the plane, whatever the task.
Fields are made of uniform draws and products alone, so they are the same bits on every machine.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.base.keys import Key
from metarl.simulation.edits import assign, scale
from metarl.simulation.ground import GEOM
from metarl.tasks.params import Choices, Interval, Param

KINDS = ("slope", "roughness", "steps", "gaps")
SEEDS = {"train": range(8), "heldout": range(8, 12), "ood": range(12, 16)}
"""The seeds of each split, for each kind."""
GROUNDS = len(KINDS) * 16
SUNK = 0.1
"""How far a field lies below the plane where it is to stay hidden at difficulty 1, in m."""
BASE = 0.5
"""Solid ground below a field's lowest point, in m."""
RAMP = 0.25
"""Grade (rise over run) by which a robot comes onto the deck that gaps are cut into."""


@dataclass(frozen=True)
class Terrain:
    """The measures of a bank, in metres, chosen for a robot."""

    height: float
    """H: of hills, bumps, steps and decks at difficulty 1."""
    length: float
    """About the robot's length; the features' lengths are multiples of it."""
    reach: float
    """The field covers x in [−reach, reach]: farther than the robot can get in an episode."""
    cell: float
    """Distance of grid points along x."""
    bump_cell: float | None = None
    """The same along x and y for the bumps of a robot that is not planar, which had better be
    coarser, since those fields need points all over, which take memory where they are drawn; None:
    as `cell`."""
    planar: bool = False
    """Whether the robot moves in the plane y = 0, so that y needs no reach and no detail."""
    flat: float = 1.5
    """Half-length of the flat ground around the start."""

    def columns(self, ground: int) -> int:
        """Grid points along x."""
        bumps = not self.planar and KINDS[ground % 4] == "roughness"
        return 2 * math.ceil(self.reach / (self._bump_cell if bumps else self.cell)) + 1

    @property
    def _bump_cell(self) -> float:
        return self.cell if self.bump_cell is None else self.bump_cell

    @property
    def width(self) -> float:
        """The field covers y in [−width, width]."""
        return 2.0 if self.planar else self.reach

    def rows(self, ground: int) -> int:
        """Grid points along y: few where the ground is made of ridges across x."""
        if self.planar:
            return 2
        return self.columns(ground) if KINDS[ground % 4] == "roughness" else 9

    def field(self, ground: int) -> np.ndarray:
        """Return v of a ground, (rows, columns) float64 in [−SUNK/H, 1], its highest point at 1."""
        kind, rng = KINDS[ground % 4], Key("metarl terrain", ground % 4, ground // 4).numpy()
        x = np.linspace(-self.reach, self.reach, self.columns(ground))
        rows = self.rows(ground)
        if kind == "roughness":
            spacing = max(0.5 * self.length, 2 * self._bump_cell)
            v = _roughness(rng, x, np.linspace(-self.width, self.width, rows), spacing)
            away = np.abs(x) if self.planar else np.maximum(np.abs(x), np.abs(x)[:, None])
        else:
            ahead, behind = (self._profile(kind, rng, np.abs(x) - self.flat) for _ in range(2))
            v = np.broadcast_to(np.where(x >= 0, ahead, behind), (rows, len(x)))
            away = np.abs(x)
        v = np.where(away <= self.flat, 0.0, v)
        v = v / v.max()
        return np.where(v > 0, v, -SUNK / self.height)

    def _profile(self, kind: str, rng: np.random.Generator, s: np.ndarray) -> np.ndarray:
        """Return v of a kind made of ridges, s metres beyond the flat ground."""
        if kind == "slope":
            return _hills(rng, s, self.length)
        if kind == "steps":
            return _steps(rng, s, self.length)
        return _gaps(rng, s, self.length, self.height / RAMP)

    def elevation(self, ground: int) -> np.ndarray:
        """Return the field as MuJoCo wants it: (rows, columns) float32 in [0, 1]."""
        sunk = SUNK / self.height
        return ((self.field(ground) + sunk) / (1.0 + sunk)).astype(np.float32)

    def params(self) -> tuple[Param, Param]:
        """The parameters of a task: which ground, and how far it stands out."""
        seeds = {
            split: tuple(float(4 * s + k) for s in chosen for k in range(4))
            for split, chosen in SEEDS.items()
        }
        return (
            Param("ground", Choices(seeds["train"], seeds["heldout"], seeds["ood"]), nominal=1.0,
                  edit=assign("geom_dataid", GEOM),
                  doc="kind of terrain (slope, roughness, steps, gaps) + 4 × seed"),
            Param("difficulty", Interval(0.0, 0.7), ood=(Interval(0.7, 1.0),), nominal=0.35,
                  edit=scale("geom_pos", GEOM, index=2),
                  doc="how far the terrain stands out of the plane; 0 is flat"),
        )  # fmt: skip

    def add_to(self, spec: mujoco.MjSpec, floor: str = "floor") -> None:
        """Add the bank and a geom that shows its first field, with the floor's contact settings.

        Args:
            spec: a robot on a plane.
            floor: the plane's name; it becomes z = 0 and stays.
        """
        for ground, elevation in enumerate(bank(self)):
            field = spec.add_hfield(
                name=f"{KINDS[ground % 4]}_{ground // 4}",
                nrow=elevation.shape[0], ncol=elevation.shape[1],
                size=[self.reach, self.width, self.height + SUNK, BASE],
            )  # fmt: skip
            field.userdata = elevation.ravel().tolist()  # of an array it takes twice as long
        spec.stat.extent = 8.0  # m: what a camera takes for the size of the scene
        plane = spec.geom(floor)
        _paint(spec, plane)
        # A body of its own, so that the geom's own z is H·difficulty and `scale` can set it.
        body = spec.worldbody.add_body(name=GEOM, pos=[0, 0, -self.height - SUNK])
        body.add_geom(
            name=GEOM, type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=f"{KINDS[0]}_0", mass=0,
            pos=[0, 0, self.height], material=GEOM, rgba=[1, 1, 1, 1], contype=plane.contype,
            conaffinity=plane.conaffinity, condim=plane.condim, friction=plane.friction,
            solref=plane.solref, solimp=plane.solimp, margin=plane.margin, gap=plane.gap,
            priority=plane.priority,
        )  # fmt: skip


@functools.lru_cache(maxsize=2)
def bank(terrain: Terrain) -> tuple[np.ndarray, ...]:
    """Return the elevations of every ground."""
    return tuple(terrain.elevation(ground) for ground in range(GROUNDS))


# --- the profiles: s is the distance beyond the flat ground, v in [0, 1] -------------------------


def _segments(lengths: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each s, the index of the segment that it is in, and how far into it (m)."""
    ends = np.cumsum(lengths)
    index = np.searchsorted(ends, np.maximum(s, 0.0), side="right")
    return index, np.maximum(s, 0.0) - (ends[index] - lengths[index])


def _hills(rng: np.random.Generator, s: np.ndarray, length: float) -> np.ndarray:
    """Parabolic hills, each with a way up and a way down of its own length."""
    ways = length * (1.5 + 2.5 * rng.random(_count(s, 1.5 * length)))
    index, into = _segments(ways, s)
    t = into / ways[index]
    return np.where(index % 2 == 0, 1.0 - (1.0 - t) * (1.0 - t), 1.0 - t * t)


def _steps(rng: np.random.Generator, s: np.ndarray, length: float) -> np.ndarray:
    """Plateaus of random lengths and heights, more of them high than low."""
    draws = rng.random((_count(s, 0.8 * length), 2))
    index, _ = _segments(length * (0.8 + 1.2 * draws[:, 0]), s)
    return 1.0 - draws[index, 1] * draws[index, 1]


def _gaps(rng: np.random.Generator, s: np.ndarray, length: float, ramp: float) -> np.ndarray:
    """A deck with gaps cut into it, reached by a ramp of length `ramp`."""
    draws = rng.random(_count(s, 0.4 * length))
    deck = np.arange(len(draws)) % 2 == 0
    lengths = length * np.where(deck, 1.2 + 1.3 * draws, 0.4 + 0.5 * draws)
    lengths[0] += ramp
    index, into = _segments(lengths, s)
    rise = np.where(index == 0, np.minimum(into / ramp, 1.0), 1.0)
    return np.where(deck[index], rise, 0.0)


def _roughness(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, spacing: float
) -> np.ndarray:
    """Two octaves of value noise, (len(y), len(x)); rows are equal where there are two."""
    total = np.zeros((len(y), len(x)))
    for octave in (1.0, 0.5):
        lattice = spacing * octave
        columns = int((x[-1] - x[0]) / lattice) + 2
        rows = int((y[-1] - y[0]) / lattice) + 2 if len(y) > 2 else 1
        noise = rng.random((rows, columns))
        along = _interpolate(noise, (x - x[0]) / lattice)
        both = _interpolate(along.T, (y - y[0]) / lattice).T if rows > 1 else along
        total = total + octave * both
    return 1.0 - (1.0 - total / 1.5) * (1.0 - total / 1.5)


def _interpolate(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Smoothstep interpolation along the last axis of (k, n) values at (m,) positions."""
    index = np.minimum(at.astype(np.int64), values.shape[1] - 2)
    t = at - index
    t = t * t * (3.0 - 2.0 * t)
    return values[:, index] * (1.0 - t) + values[:, index + 1] * t


def _count(s: np.ndarray, shortest: float) -> int:
    """Segments enough to cover s."""
    return int(s.max() / shortest) + 2


def _paint(spec: mujoco.MjSpec, plane: mujoco.MjsGeom) -> None:
    """Give plane and terrain a 1 m checker of muted colours, so that slopes can be seen."""
    checker = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    for name, dark, light in (
        ("plain", (0.30, 0.35, 0.40), (0.36, 0.41, 0.46)),
        (GEOM, (0.50, 0.42, 0.32), (0.62, 0.54, 0.42)),
    ):
        spec.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=checker, width=128, height=128,
            rgb1=dark, rgb2=light,
        )  # fmt: skip
        material = spec.add_material(name=name, texuniform=True, texrepeat=[1, 1], specular=0.1)
        material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = name
    plane.material, plane.rgba = "plain", [1, 1, 1, 1]
