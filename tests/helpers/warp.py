"""MuJoCo Warp on its CPU device, with room for what small robots need."""

import functools

from metarl.simulation.warp.buffers import Buffers
from metarl.simulation.warp.simulator import WarpSimulator

on_warp = functools.partial(WarpSimulator, device="cpu", buffers=Buffers(40, 200))
