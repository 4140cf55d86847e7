"""WarpSimulator: B worlds of one MuJoCo model on a GPU, or on Warp's CPU device for tests.

State tensors are Warp's own memory, (B, …) float32. A step is a graph, captured once for each
number of physics steps, and so are a reset by a mask and a refresh: nothing in them comes from the
host, and the host waits for nothing. On a GPU they are CUDA graphs; Warp's CPU device records its
kernels and runs them again, ten times as fast as it launches them one by one from Python.
Derived fields are computed after a step only if somebody has asked for one, as by `Simulator`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.simulation.backend import Backend, State
from metarl.simulation.edits import check_varied
from metarl.simulation.model_faults import BADQVEL, explain
from metarl.simulation.simulator import _ACC, _BY_VELOCITY, _NONE, _STATE, _VEL
from metarl.simulation.warp.buffers import ROOM, Buffers
from metarl.simulation.warp.install import default_device, load, on, refuse
from metarl.simulation.warp.model import WorldModels, runnable

_BLAME = (
    int(mujoco.mjtWarning.mjWARN_BADQPOS), BADQVEL, int(mujoco.mjtWarning.mjWARN_BADQACC),
    int(mujoco.mjtWarning.mjWARN_BADCTRL),
)  # fmt: skip
"""MuJoCo's word for each row of `Watch.counts`."""
_AFTER_CONSTRAINTS = ("cacc", "cfrc_int", "cfrc_ext")


class WarpSimulator(Backend):
    """MuJoCo Warp: B worlds of one model, stepped together on a device."""

    dtype = torch.float32
    on_device = True

    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, threads: int | None = None, *,
        device: str | None = None, buffers: Buffers | None = None, room: float = ROOM,
    ) -> None:  # fmt: skip
        """Make `num_worlds` worlds of `model`.

        Args:
            model: the nominal model.
            num_worlds: B.
            threads: not used; the CPU's part is small.
            device: "cuda", "cuda:1" or "cpu"; None is a GPU if there is one.
            buffers: what there is room for, as `metarl.simulation.warp.buffers.measure` finds it;
                None is Warp's own guess, times `room`.
            room: what to name in the error if it is too little.

        Raises:
            UserError: MuJoCo Warp is not installed, or does not run the model.
        """
        refuse(model)
        self._wp, self._mjw = load()
        self.model, self.num_worlds, self._room = model, num_worlds, room
        self._place = device or default_device()
        with on(self._place):
            self._make(buffers)
        self._bound: dict[str, Tensor] = {}
        self._stage = _NONE
        self._graphs: dict[tuple[str, int], Any] = {}
        self.qpos = self.bind("qpos")
        self.qvel = self.bind("qvel")
        self.ctrl = self.bind("ctrl")
        self.time = self.bind("time")
        self.device = self.qpos.device
        self._on_gpu = self.device.type != "cpu"
        self.calm = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)
        self._bad = self._wp.to_torch(self._watch.bad)
        self._spilled = self._wp.to_torch(self._watch.spilled)
        self._heard = self._spilled
        if self._on_gpu:  # copied by every step, and read whenever the copy is there
            self._heard = torch.zeros(1, dtype=self._spilled.dtype, pin_memory=True)
        self._warm_up()

    def _make(self, buffers: Buffers | None) -> None:
        """Put the model and the worlds on the device."""
        from metarl.simulation.warp.watch import Watch

        model, kinds = self.model, self._mjw.OverflowType
        self._models = WorldModels(model, self.num_worlds)
        room = {} if buffers is None else {"nconmax": buffers.contacts, "njmax": buffers.rows}
        self._data = self._mjw.make_data(runnable(model), nworld=self.num_worlds, **room)
        serious = int(kinds.ALL) & ~int(kinds.ITERATIONS | kinds.LS_ITERATIONS)
        sizes = model.nq, model.nv, model.nu, model.na
        self._watch = Watch(sizes, self.num_worlds, serious)
        self._mask = self._wp.zeros(self.num_worlds, dtype=bool)
        self._to_reset = self._wp.to_torch(self._mask)

    def _warm_up(self) -> None:
        """Load every kernel, which older drivers cannot while they capture; nothing is kept."""
        with on(self._place):
            self._advance(1)
            self._derive(_ACC)
            self._mask.fill_(True)
            self._clear()
            self._watch.forget()  # of a pose that no episode begins in
            self._watch.spilled.zero_()
        self._wp.synchronize_device(self._place)

    # --- the state -------------------------------------------------------------------------------

    @property
    def sensordata(self) -> Tensor:
        """The (B, nsensordata) sensor values, current after every step."""
        return self.bind("sensordata")

    def bind(self, field: str) -> Tensor:
        """Return a live (B, …) tensor over a field of MjData, writable if it is a state.

        Raises:
            UserError: MuJoCo Warp has no such field.
        """
        if field in self._bound:
            return self._bound[field]
        fresh = mujoco.MjData(self.model)
        array, here = getattr(self._data, field, None), getattr(fresh, field, None)
        if not isinstance(array, self._wp.array) or here is None:
            known = [name for name in dir(fresh) if hasattr(self._data, name) and name[0] != "_"]
            raise UserError(f"the simulator has no field '{field}'{did_you_mean(field, known)}")
        shape = self.num_worlds, *np.shape(here)
        tensor = self._wp.to_torch(array)
        if tensor.numel() != np.prod(shape):
            raise UserError(f"the simulator 'warp' keeps the field '{field}' in another form")
        self._bound[field] = tensor.view(shape)
        if field not in _STATE:
            self._need(_stage_of(self.model, field), field)
        return self._bound[field]

    def _need(self, stage: int, field: str) -> None:
        """Compute a derived field from now on."""
        if field in _AFTER_CONSTRAINTS:
            self._models.mjw_model.opt.run_rne_postconstraint = True
        self._stage = max(self._stage, stage)
        self._graphs.clear()
        with on(self._place):
            self._derive(self._stage)

    def states(self) -> list[Tensor]:
        """Return the live (B, …) tensors of the state that anybody has asked for."""
        return [tensor for field, tensor in self._bound.items() if field in _STATE]

    def snapshot(self, keep: Sequence[str] = ()) -> State:
        """Return a copy of qpos, qvel and the fields of MjData in `keep`."""
        kept = {field: self.bind(field).clone() for field in keep}
        return State(self.qpos.clone(), self.qvel.clone(), kept)

    def world_model(self, world: int) -> mujoco.MjModel:
        """Return a copy of one world's model, with the fields that it has of its own."""
        return self._models.of(world)

    def world_state(self, world: int) -> np.ndarray:
        """Return one world's state vector on the host, what mjSTATE_INTEGRATION stands for."""
        data = mujoco.MjData(self.model)
        for field in (*_STATE, "qacc_warmstart", "eq_active"):
            if np.size(getattr(data, field)):
                value = self.bind(field)[world].cpu().numpy()
                if field == "time":
                    data.time = float(value)
                else:
                    getattr(data, field)[...] = value
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, data, state, kind)
        return state

    # --- the model -------------------------------------------------------------------------------

    def set_fields(self, fields: Mapping[str, np.ndarray], ids: Tensor | None = None) -> None:
        """Give model fields per-world values; fields set before and not named go back.

        Args:
            fields: name -> (n, …) values.
            ids: (n,) the worlds to change; None is all.

        Raises:
            UserError: Warp has no such field of each world, or MuJoCo refuses the edit.
        """
        with on(self._place):
            if ids is None:
                self._watch.forget()
            rne = self._models.mjw_model.opt.run_rne_postconstraint
            if self._models.set(fields, ids):
                self._models.mjw_model.opt.run_rne_postconstraint = rne
                self._graphs.clear()
            self._models.derive(self._data)
        self.varied = self._models.varied

    def exchange_fields(self, which: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Give model fields, which were set before, other values (B, …) in the worlds of a mask."""
        with on(self._place):
            self._models.exchange(which, fields)
            self._models.derive(self._data)

    def vary(self, field: str, values: Tensor) -> None:
        """Give a model field, of which nothing is derived, other values (B, …) until further.

        Raises UserError for another field, or for values of another shape.
        """
        values = torch.as_tensor(values)  # what a family computed with numpy will do
        check_varied(self.model, field, values.shape, self.num_worlds)
        with on(self._place):
            if self._models.vary(field, values):
                self._graphs.clear()
        self.varied = self._models.varied

    def model_field(self, field: str) -> Tensor:
        """Return the (B, …) values that a model field has in each world: to read, not to write."""
        with on(self._place):
            return self._models.live(field)

    # --- what time does --------------------------------------------------------------------------

    def reset(self, ids: Tensor | None) -> None:
        """Reset worlds to the model's defaults; write their state, then call `refresh`."""
        if ids is None:
            self._to_reset.fill_(True)
        elif ids.dtype is torch.bool:
            self._to_reset.copy_(ids)
        else:
            self._to_reset.fill_(False)
            self._to_reset[ids] = True
        with on(self._place):
            self._run("reset", 0, self._clear)

    def refresh(self, ids: Tensor | None) -> None:
        """Bring derived fields up to date; those of other worlds are computed again, and equal."""
        if self._stage != _NONE:
            with on(self._place):
                self._run("refresh", 0, lambda: self._derive(self._stage))

    def step(self, frame_skip: int) -> Tensor:
        """Advance every world by `frame_skip` physics steps.

        Returns:
            (B,) bool, the worlds that diverged: see `watch`. The other worlds are untouched.

        Raises:
            UserError: in this step or, on a GPU, in one before it, contacts or constraints were
                dropped, for there was no room.
        """
        if self._on_gpu:
            self._refuse_spill()
        with on(self._place):
            self._run("step", frame_skip, lambda: self._advance(frame_skip))
            if self._on_gpu:
                self._heard.copy_(self._spilled, non_blocking=True)
                return self._bad.clone()
        self._refuse_spill()
        return self._bad.clone() if self._bad.any() else self.calm

    def settle(self) -> None:
        """Raise UserError for contacts that were dropped; the caller has waited for the device."""
        self._refuse_spill()

    def _run(self, name: str, count: int, work: Callable[[], None]) -> None:
        """Do work as a graph, recorded when it is first asked for; `_graphs` is keyed by it."""
        if (name, count) not in self._graphs:
            self._graphs[name, count] = self._captured(work)
        self._wp.capture_launch(self._graphs[name, count])

    def _captured(self, work: Callable[[], None]) -> Any:
        """Record work, without doing it."""
        self._wp.synchronize_device(self._place)
        with contextlib.ExitStack() as stack:
            if self._wp.get_device().is_cuda:  # torch's default stream cannot be captured
                stack.enter_context(self._wp.ScopedStream(self._wp.Stream(self._place)))
            capture = self._wp.ScopedCapture(self._place)
            stack.enter_context(capture)
            work()
        return capture.graph

    def _clear(self) -> None:
        self._mjw.reset_data(self._models.mjw_model, self._data, self._mask)

    def _advance(self, frame_skip: int) -> None:
        m, d, watch = self._models.mjw_model, self._data, self._watch
        watch.look(m, d, begins=True)
        for _ in range(frame_skip):
            self._mjw.step(m, d)
            watch.look(m, d, begins=False)
        self._derive(self._stage)

    def _derive(self, stage: int) -> None:
        """Compute derived fields from the state as it is now."""
        m, d, mjw = self._models.mjw_model, self._data, self._mjw
        if stage == _ACC:
            mjw.forward(m, d)
        elif stage == _VEL:
            mjw.fwd_kinematics(m, d)
            mjw.transmission(m, d)
            mjw.fwd_velocity(m, d)
            if "sensordata" in self._bound:
                mjw.sensor_pos(m, d)
                mjw.sensor_vel(m, d)

    def _refuse_spill(self) -> None:
        if not int(self._heard[0]):
            return
        d = self._data
        raise UserError(
            "MuJoCo Warp had no room for all contacts or constraints, and would drop some: it has "
            f"room for {d.naconmax // d.nworld} contacts a world and {d.njmax} constraints; give "
            f"it more than {self._room:g} times what was measured, as by --simulator-room "
            f"{2 * self._room:g}"
        )

    def most_blamed(self) -> tuple[int | None, str]:
        """Return a world that diverged for the reason that most did, and the reason in words."""
        with on(self._place):
            counts, first = self._watch.counts.numpy(), self._watch.first.numpy()
        if not counts.any():
            return None, "an action, observe() or reward() was not finite"
        kind, at = np.unravel_index(int(counts.argmax()), counts.shape)
        world = int(first[kind, at])
        return world, explain(self.world_model(world), _BLAME[int(kind)], int(at))


def _stage_of(model: mujoco.MjModel, field: str) -> int:
    """The stage that computes a derived field: everything, unless positions and velocities do."""
    if field == "sensordata":
        return _ACC if (model.sensor_needstage == _ACC).any() else _VEL
    return _VEL if field in _BY_VELOCITY else _ACC
