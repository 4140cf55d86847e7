"""A second simulator back end: native physics behind float32 tensors that are its own.

Nothing of the engine's memory is seen through it: what a world writes reaches the engine with the
next step or refresh, as on a device. `place` may put the tensors on the stand-in for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.simulation.backend import Backend, State
from metarl.simulation.simulator import _STATE, Simulator


def host(tensor: Tensor | None) -> Tensor | None:
    """The numbers of a tensor, wherever it lies: the simulated device reads its own memory."""
    return getattr(tensor, "numbers", tensor)


class Float32Backend(Backend):
    dtype = torch.float32
    on_device = True

    def __init__(
        self, model, num_worlds: int, threads: int | None = None, *,
        place: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:  # fmt: skip
        self.engine = Simulator(model, num_worlds, threads)
        self.model, self.num_worlds, self.place = self.engine.model, num_worlds, place
        self.live: dict[str, Tensor] = {}
        self.qpos, self.qvel, self.ctrl, self.time = map(
            self.bind, ("qpos", "qvel", "ctrl", "time")
        )
        self.device = self.qpos.device
        self.calm = self.place(self.engine.calm)

    @property
    def sensordata(self) -> Tensor:
        return self.bind("sensordata")

    def bind(self, field: str) -> Tensor:
        if field not in self.live:
            bound = self.engine.bind(field)
            self.live[field] = self.place(bound.float() if bound.is_floating_point() else +bound)
        return self.live[field]

    def snapshot(self, keep: Sequence[str] = ()) -> State:
        kept = {field: self.bind(field).clone() for field in keep}
        return State(self.qpos.clone(), self.qvel.clone(), kept)

    def set_fields(self, fields, ids: Tensor | None = None) -> None:
        self.engine.set_fields(fields, host(ids))

    def exchange_fields(self, which: Tensor, fields) -> None:
        ids = host(which).nonzero()[:, 0]
        if len(ids):
            some = {name: host(values)[ids].numpy() for name, values in fields.items()}
            self.engine.set_fields(some, ids)

    @property
    def varied(self):
        return self.engine.varied

    def vary(self, field: str, values: Tensor) -> None:
        self.engine.vary(field, host(values).double())

    def model_field(self, field: str) -> Tensor:
        return self.place(self.engine.model_field(field).float())

    def states(self) -> list[Tensor]:
        return [live for field, live in self.live.items() if field in _STATE]

    def settle(self) -> None:
        pass

    def reset(self, ids: Tensor | None) -> None:
        ids = host(ids)
        if ids is not None and ids.dtype is torch.bool:
            ids = ids.nonzero()[:, 0]
        if ids is None or len(ids):
            self.engine.reset(ids)
            self._pull(_STATE, ids)

    def refresh(self, ids: Tensor | None) -> None:
        self._push()
        self.engine.refresh(host(ids))
        self._pull(self.live.keys() - set(_STATE))

    def step(self, frame_skip: int) -> Tensor:
        self._push()
        failed = self.engine.step(frame_skip)
        self._pull(self.live)
        return self.place(failed)

    def most_blamed(self):
        return self.engine.most_blamed()

    def world_model(self, world: int):
        return self.engine.world_model(world)

    def world_state(self, world: int):
        return self.engine.world_state(world)

    def _push(self) -> None:
        for field in self.live.keys() & set(_STATE):
            self.engine.bind(field).copy_(host(self.live[field]))

    def _pull(self, fields, ids: Tensor | None = None) -> None:
        rows = slice(None) if ids is None else ids
        for field in set(fields) & self.live.keys():
            host(self.live[field])[rows] = self.engine.bind(field)[rows].to(self.live[field].dtype)
