"""Simulator: B worlds of one MuJoCo model, stepped together on C++ threads.

This is the only file that runs `mujoco.batch`. State tensors (`qpos`, `qvel`, `ctrl`, `time`)
are views of the engine's own memory, (B, …) float64: writing one sets the state at the next step.
Derived quantities (`bind("xpos")`, `sensordata`) are computed only if somebody has asked for them;
from then on they are current after every step and reset, at the cost of one kinematics pass.
A bound tensor is live: copy what must outlast the next step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
import torch
from mujoco.batch import DATA_FIELDS, Batch, SimulationError
from torch import Tensor

from metarl.base.errors import UserError, did_you_mean
from metarl.base.threads import threads_or_default
from metarl.simulation.backend import Backend, State
from metarl.simulation.edits import check_varied, nominal_value
from metarl.simulation.model_faults import BADQVEL, RAISED, explain, raised

_POS = int(mujoco.mjtStage.mjSTAGE_POS)
_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)
_NONE = int(mujoco.mjtStage.mjSTAGE_NONE)
_ACC = int(mujoco.mjtStage.mjSTAGE_ACC)
_BY_POSITION = frozenset(
    {
        "xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos",
        "site_xmat", "subtree_com", "cinert", "cdof", "ten_length", "actuator_length",
    }
)  # fmt: skip
"""Derived fields that positions give."""
_BY_VELOCITY = frozenset({"cvel", "ten_velocity", "actuator_velocity"})
"""Those that velocities give, too; others need mj_forward as a whole."""
_STATE = ("qpos", "qvel", "ctrl", "act", "time", "qfrc_applied", "xfrc_applied", "mocap_pos",
          "mocap_quat", "userdata", "history")  # fmt: skip


# MuJoCo would print each warning and append it to MUJOCO_LOG.TXT in the working directory. Here a
# warning ends the world's episode, is returned by `step` and counted, so nothing is lost.
mujoco.set_mju_user_warning(lambda _: None)


class Simulator(Backend):
    """Native MuJoCo: B worlds of one model, stepped together on C++ threads of the CPU."""

    device = torch.device("cpu")
    dtype = torch.float64

    def __init__(self, model: mujoco.MjModel, num_worlds: int, threads: int | None = None) -> None:
        """Make `num_worlds` worlds of a copy of `model`.

        Args:
            model: the nominal model.
            num_worlds: B.
            threads: physics threads; None takes the process's setting (`metarl.base.threads`).

        Raises:
            UserError: the model has something that `mujoco.batch` does not run, such as sleep.
        """
        self.model = model
        self.num_worlds = num_worlds
        count = min(threads_or_default(threads), num_worlds)
        try:
            self.batch = Batch(model, num_worlds, count)
        except ValueError as error:
            text = " ".join(str(error).split())
            raise UserError(f"worlds cannot be batched of this model: {text}") from None
        self._bound: dict[str, Tensor] = {}
        self.qpos = self.bind("qpos")
        self.qvel = self.bind("qvel")
        self.ctrl = self.bind("ctrl")
        self.time = self.bind("time")
        self._state = torch.from_numpy(self.batch.state)
        self._stage = _NONE
        self._expanded: set[str] = set()
        self.blame: dict[tuple[int, int], tuple[int, int]] = {}
        """(mjtWarning, its lastinfo) -> how many worlds it ended, and the first of them."""
        self._raised = ""
        self.calm = torch.zeros(num_worlds, dtype=torch.bool)
        self._warnings = torch.from_numpy(self.batch.warning)[:, :, 1]
        self._remember_warnings()

    @property
    def sensordata(self) -> Tensor:
        """The (B, nsensordata) sensor values, current after every step."""
        return self.bind("sensordata")

    def bind(self, field: str) -> Tensor:
        """Return a live (B, …) tensor over a field of MjData, writable if it is a state.

        Raises:
            UserError: MuJoCo has no such field.
        """
        if field in self._bound:
            return self._bound[field]
        if field not in DATA_FIELDS:
            hint = did_you_mean(field, DATA_FIELDS)
            raise UserError(f"the simulator has no field '{field}'{hint}")
        array = self.batch.bind(field)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has no read-only tensors
            self._bound[field] = torch.from_numpy(array)
        if field not in _STATE:
            self._stage = max(self._stage, self._stage_of(field))
            self.batch.forward(stage=self._stage)
        return self._bound[field]

    def _stage_of(self, field: str) -> int:
        """The forward stage that computes a derived field: the last, unless less will do."""
        if field == "sensordata":
            return int(self.model.sensor_needstage.max(initial=_POS))
        if field in _BY_POSITION:
            return _POS
        return _VEL if field in _BY_VELOCITY else _ACC

    def snapshot(self, keep: Sequence[str] = ()) -> State:
        """Return a copy of qpos, qvel and the fields of MjData in `keep`."""
        if not keep:
            return State(self.qpos.clone(), self.qvel.clone())
        kept = {field: self.bind(field).clone() for field in keep}
        return State(self.qpos.clone(), self.qvel.clone(), kept)

    def world_model(self, world: int) -> mujoco.MjModel:
        """Return a copy of one world's model, with the fields that it has of its own."""
        return self.batch.get_model(world)

    def world_state(self, world: int) -> np.ndarray:
        """Return one world's live state vector, what mjSTATE_INTEGRATION stands for."""
        return self.batch.state[world]

    def set_fields(self, fields: Mapping[str, np.ndarray], ids: Tensor | None = None) -> None:
        """Give model fields per-world values; fields set before and not named go back.

        Runs mj_setConst, so that what MuJoCo derives from the fields follows.

        Args:
            fields: name -> (n, …) values.
            ids: (n,) the worlds to change; None is all.

        Raises:
            UserError: MuJoCo cannot derive the rest, as of a body that it compiled as simple.
        """
        which = slice(None) if ids is None else ids.numpy()
        if ids is None:
            self.blame.clear()
            self.varied = frozenset()
        for name in self._expanded - set(fields):
            self.batch.expand(name)[which] = nominal_value(self.model, name)
        for name, values in fields.items():
            self.batch.expand(name)[which] = values
        self._expanded |= set(fields)
        if self._expanded:
            try:
                self.batch.set_const(None if ids is None else ids.numpy())
            except SimulationError as error:
                why = raised(error, self.model)
                raise UserError(f"MuJoCo refuses an edit of {', '.join(fields)}: {why}") from None

    def vary(self, field: str, values: Tensor) -> None:
        """Give a model field, of which nothing is derived, other values (B, …) until further.

        Raises UserError for another field, or for values of another shape.
        """
        values = torch.as_tensor(values)  # what a family computed with numpy will do
        check_varied(self.model, field, values.shape, self.num_worlds)
        self.batch.expand(field)[:] = values.numpy()
        self._expanded.add(field)
        self.varied |= {field}

    def model_field(self, field: str) -> Tensor:
        """Return the (B, …) values that a model field has in each world: to read, not to write."""
        if field in self._expanded:
            return torch.from_numpy(self.batch.expand(field))
        nominal = torch.as_tensor(np.asarray(nominal_value(self.model, field)))
        return nominal.expand(self.num_worlds, *nominal.shape)

    def reset(self, ids: Tensor | None) -> None:
        """Reset worlds to the model's defaults; write their state, then call `refresh`."""
        self.batch.reset(None if ids is None else ids.numpy(), stage=_NONE)
        self._remember_warnings()

    def refresh(self, ids: Tensor | None) -> None:
        """Bring derived fields up to date with a state that was just written."""
        if self._stage != _NONE:
            self.batch.forward(None if ids is None else ids.numpy(), stage=self._stage)

    def step(self, frame_skip: int) -> Tensor:
        """Advance every world by `frame_skip` physics steps.

        Returns:
            (B,) bool, the worlds that diverged: MuJoCo raised or warned in them, or their state
            is not finite. The other worlds are untouched to the bit.
        """
        failed = None
        try:
            self.batch.step(nstep=frame_skip, stage=self._stage)
        except SimulationError as error:
            failed = torch.from_numpy(np.asarray(error.ids, np.int64))
            self._raised = raised(error, self.model)
        finite = math.isfinite(self._state.sum().item())
        if finite and failed is None and self.batch.warning.tobytes() == self._warning_bytes:
            return self.calm
        diverged = self._warnings.sum(1) != self._warned
        diverged |= ~(torch.isfinite(self.qpos).all(1) & torch.isfinite(self.qvel).all(1))
        if failed is not None:
            diverged[failed] = True
        self._note_blame(diverged, failed)
        self._remember_warnings()
        return diverged

    def _note_blame(self, diverged: Tensor, failed: Tensor | None) -> None:
        """Count what MuJoCo blames in the diverged worlds: see `blame`."""
        worlds = diverged.nonzero()[:, 0].numpy()
        new = self._warnings.numpy()[worlds] > self._counts[worlds]
        kind, warned = new.argmax(1), new.any(1)
        info = self.batch.warning[worlds, kind, 0]
        # What the last physics step led to, MuJoCo has not looked at.
        dof = (~np.isfinite(self.qvel.numpy()[worlds])).argmax(1)
        found = np.stack([np.where(warned, kind, BADQVEL), np.where(warned, info, dof)], 1)
        found[np.isin(worlds, () if failed is None else failed.numpy())] = RAISED, 0
        causes, first, counts = np.unique(found, axis=0, return_index=True, return_counts=True)
        for (kind, info), i, count in zip(causes.tolist(), first, counts, strict=True):
            before, world = self.blame.get((kind, info), (0, int(worlds[i])))
            self.blame[kind, info] = before + int(count), world

    def most_blamed(self) -> tuple[int | None, str]:
        """Return a world that diverged for the reason that most did, and the reason in words."""
        if not self.blame:
            return None, "an action, observe() or reward() was not finite"
        (warning, info), (_, world) = max(self.blame.items(), key=lambda item: item[1][0])
        if warning == RAISED:
            return world, self._raised
        return world, explain(self.world_model(world), warning, info)

    def _remember_warnings(self) -> None:
        """Note the warnings so far, by world and, for the quick check of every step, as bytes."""
        self._counts = self._warnings.numpy().copy()
        self._warned = self._warnings.sum(1)
        self._warning_bytes = self.batch.warning.tobytes()
