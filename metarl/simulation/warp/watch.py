"""What goes wrong in a step of MuJoCo Warp, found on the device without a word from the host.

Warp neither checks the state, as MuJoCo does, nor begins a broken world anew, and a NaN may become
an index in the collision code. So before and after each physics step a kernel looks at every world:
numbers that are not finite, or beyond MuJoCo's own limit, mark the world as diverged, are counted
by what was wrong, and the world goes on from the model's default state until the caller resets it.
It also notes contacts and constraints for which there was no room.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false
# The types of kernels are Warp's, not Python's, and Warp reads their annotations as they are: so no
# `from __future__ import annotations` here.
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False})

LIMIT = wp.constant(1.0e10)
"""MuJoCo's mjMAXVAL."""
POSITION, VELOCITY, ACCELERATION, CONTROL = 0, 1, 2, 3
"""What was wrong: row of the counts."""


@wp.func
def _first_bad(values: wp.array2d[float], world: int, count: int) -> int:
    """The first number that is not finite or too large, -1 if there is none."""
    found = int(-1)  # noqa: RUF046, UP018  (a variable for Warp, not a constant)
    for j in range(count):
        if found < 0 and not (wp.abs(values[world, j]) < LIMIT):  # a NaN is less than nothing
            found = j
    return found


@wp.func
def _begin_anew(
    world: int, nq: int, nv: int, nu: int, na: int,
    qpos0: wp.array2d[float], qpos: wp.array2d[float], qvel: wp.array2d[float],
    ctrl: wp.array2d[float], act: wp.array2d[float], warmstart: wp.array2d[float],
) -> None:  # fmt: skip
    """Let a world go on from the model's default state, as MuJoCo does."""
    for j in range(nq):
        qpos[world, j] = qpos0[world % qpos0.shape[0], j]
    for j in range(nv):
        qvel[world, j] = 0.0
        warmstart[world, j] = 0.0
    for j in range(nu):
        ctrl[world, j] = 0.0
    for j in range(na):
        act[world, j] = 0.0


@wp.func
def _wrong(
    begins: bool, world: int, nq: int, nv: int, nu: int, na: int,
    qpos: wp.array2d[float], qvel: wp.array2d[float], qacc: wp.array2d[float],
    ctrl: wp.array2d[float], act: wp.array2d[float],
) -> wp.vec2i:  # fmt: skip
    """What is wrong with a world first, and where; (-1, -1) if nothing is."""
    at = _first_bad(qpos, world, nq)
    if at >= 0:
        return wp.vec2i(wp.static(POSITION), at)
    at = _first_bad(qvel, world, nv)
    if at >= 0:
        return wp.vec2i(wp.static(VELOCITY), at)
    if not begins:
        at = _first_bad(qacc, world, nv)
        if at >= 0:
            return wp.vec2i(wp.static(ACCELERATION), at)
    at = _first_bad(ctrl, world, nu)
    if at >= 0:
        return wp.vec2i(wp.static(CONTROL), at)
    if _first_bad(act, world, na) >= 0:
        return wp.vec2i(wp.static(CONTROL), 0)
    return wp.vec2i(-1, -1)


@wp.kernel
def look(
    begins: bool, nq: int, nv: int, nu: int, na: int,
    qpos0: wp.array2d[float], qacc: wp.array2d[float],
    nefc: wp.array[int], njmax: int, nacon: wp.array[int], ncollision: wp.array[int],
    naconmax: int, overflow: wp.array[int], serious: int,
    qpos: wp.array2d[float], qvel: wp.array2d[float], ctrl: wp.array2d[float],
    act: wp.array2d[float], warmstart: wp.array2d[float],
    bad: wp.array[bool], counts: wp.array2d[int], first: wp.array2d[int],
    spilled: wp.array[int],
) -> None:  # fmt: skip
    """Look at one world a thread: see the module."""
    world = wp.tid()
    if begins:
        bad[world] = False
    wrong = _wrong(begins, world, nq, nv, nu, na, qpos, qvel, qacc, ctrl, act)
    if wrong[0] >= 0:
        if not bad[world]:
            bad[world] = True
            wp.atomic_add(counts, wrong[0], wrong[1], 1)
            wp.atomic_min(first, wrong[0], wrong[1], world)
        _begin_anew(world, nq, nv, nu, na, qpos0, qpos, qvel, ctrl, act, warmstart)
    over = overflow[world] & serious
    if nefc[world] > njmax:
        over = over | 1
    if nacon[0] > naconmax or ncollision[0] > naconmax:
        over = over | 2
    if over != 0:
        wp.atomic_or(spilled, 0, over)


class Watch:
    """The flags and counts of B worlds."""

    def __init__(self, sizes: tuple[int, int, int, int], num_worlds: int, serious: int) -> None:
        """Allocate them on Warp's current device.

        Args:
            sizes: nq, nv, nu and na of the model.
            num_worlds: B.
            serious: the bits of `OverflowType` that mean that something was dropped.
        """
        self.sizes, self.serious, self.num_worlds = sizes, serious, num_worlds
        width = max(*sizes, 1)
        self.bad = wp.zeros(num_worlds, dtype=bool)
        """(B,), whether a world diverged since the last look that begins a step."""
        self.counts = wp.zeros((4, width), dtype=int)
        """How many worlds diverged, by what was wrong and where."""
        self.first = wp.full((4, width), num_worlds, dtype=int)
        """The first world of each."""
        self.spilled = wp.zeros(1, dtype=int)
        """Not 0 once something was dropped."""

    def look(self, m: Any, d: Any, *, begins: bool) -> None:
        """Look at every world; `begins` is before the first physics step of several."""
        wp.launch(
            look, dim=self.num_worlds,
            inputs=[
                begins, *self.sizes, m.qpos0, d.qacc, d.nefc, d.njmax, d.nacon, d.ncollision,
                d.naconmax, d.overflow, self.serious, d.qpos, d.qvel, d.ctrl, d.act,
                d.qacc_warmstart, self.bad, self.counts, self.first, self.spilled,
            ],
        )  # fmt: skip

    def forget(self) -> None:
        """Count anew."""
        self.counts.zero_()
        self.first.fill_(self.num_worlds)
