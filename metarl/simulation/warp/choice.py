"""Which simulator computes the physics, as users name it; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from metarl.base.errors import UserError, did_you_mean

SimulatorName = Literal["mujoco", "warp"]
SIMULATORS: tuple[str, ...] = get_args(SimulatorName)


@dataclass(frozen=True)
class Physics:
    """What computes the physics, and where."""

    simulator: str = "mujoco"
    """One of SIMULATORS: native MuJoCo on the CPU, or MuJoCo Warp."""
    room: float = 1.5
    """Of warp: for how many times the contacts that random actions made there is room."""
    device: str | None = None
    """Of warp: "cuda" or "cpu"; None is a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the fields. Raises UserError."""
        if self.simulator not in SIMULATORS:
            hint = did_you_mean(str(self.simulator), SIMULATORS)
            raise UserError(
                f"simulator must be {' or '.join(SIMULATORS)}, not {self.simulator!r:.40}{hint}"
            )
        if not (isinstance(self.room, int | float) and 1 <= self.room <= 1000):
            raise UserError(
                f"simulator_room must be a number from 1 to 1000, not {self.room!r:.40}"
            )

    def require(self) -> Physics:
        """Return this. Raises UserError if it is not installed."""
        if self.simulator == "warp":
            from metarl.simulation.warp.install import require_warp

            require_warp()
        return self


NATIVE = Physics()
