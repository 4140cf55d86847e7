"""``metarl check FAMILY --simulator warp``: whether a family runs on MuJoCo Warp as on MuJoCo.

MuJoCo Warp computes in float32, and contacts make every simulator's trajectories part sooner or
later. So single steps are compared: native MuJoCo plays random actions, each of its states is put
into a world of Warp, and both take the same step from there.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import mujoco
import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.check.trajectory import KEY, demand, sample_tasks
from metarl.simulation.backend import Backend, MakeBackend
from metarl.simulation.simulator import Simulator
from metarl.simulation.warp.choice import Physics
from metarl.tasks.distribution import Tasks
from metarl.tasks.family import TaskFamily
from metarl.worlds.factory import backend_of
from metarl.worlds.task_worlds import TaskWorlds

STEPS = 25
"""Environment steps that are compared, of four tasks: 100 in all."""
TOLERANCE, MOST = 1e-3, 0.95
"""How far observations and rewards x may be apart, in parts of 1 + |x|, and in what share of the
steps at least. float32 has seven digits, of which solving for contacts leaves about five; in a few
steps a foot lands, or slips, a physics step earlier or later, and those are as far apart as any."""
_STATE = (
    "qpos", "qvel", "act", "ctrl", "time", "history", "qacc_warmstart", "mocap_pos",
    "mocap_quat", "userdata",
)  # fmt: skip


class Parity(NamedTuple):
    """How far single steps on Warp are from native MuJoCo's, (T·M,) each, in parts of 1 + |x|."""

    start: Tensor
    """The observation of the state that a step begins with."""
    obs: Tensor
    """Its successor."""
    reward: Tensor
    ends: int
    """In how many steps one of them ended an episode and the other did not."""

    def median(self) -> float:
        """Return the middle of the differences of observations."""
        return float(self.obs.median())

    def worst(self) -> float:
        """Return the largest difference of an observation or reward."""
        return float(torch.maximum(self.obs, self.reward).max())

    def within(self, tolerance: float = TOLERANCE) -> float:
        """Return the share of steps whose observation and reward are no farther apart."""
        return float((torch.maximum(self.obs, self.reward) <= tolerance).double().mean())


def parity(
    family: TaskFamily, make: MakeBackend, *, steps: int = STEPS, native: MakeBackend = Simulator
) -> Parity:
    """Compare single steps of Warp with native MuJoCo's, from states along its trajectories.

    Args:
        family: is stepped with random actions, on four training tasks.
        make: makes the simulator to compare.
        steps: T of each task.
        native: makes the simulator whose trajectories they are.
    """
    tasks = sample_tasks(family)
    reference = TaskWorlds(family, len(tasks), 1, backend=native)
    reference.set_tasks(tasks, 1)
    reference.seed(KEY)
    reference.reset()
    fields = [name for name in _STATE if reference.simulator.bind(name).numel()]
    size = steps, len(tasks), reference.spec.action_size
    actions = 2 * torch.rand(*size, generator=KEY.fold("warp").torch()) - 1
    states: list[dict[str, Tensor]] = []
    seen, got = [], []
    for action in actions:
        sim = reference.simulator
        states.append({name: sim.bind(name).clone() for name in fields} | _memory(reference))
        seen.append(reference.current.obs)
        got.append(reference.step(action))
    worlds = _worlds_at(family, make, tasks, states)
    first = worlds.family.observe(worlds.simulator, worlds.task).float()
    mine = worlds.step(_task_major(list(actions)).to(worlds.device))
    ends = mine.terminated.cpu() != _task_major([one.terminated for one in got])
    return Parity(
        _apart(first, _task_major(seen)),
        _apart(mine.next_obs, _task_major([one.next_obs for one in got])),
        _apart(mine.reward[:, None], _task_major([one.reward for one in got])[:, None]),
        int(ends.sum()),
    )


def with_round_friction(make: MakeBackend) -> MakeBackend:
    """Return a back end with elliptic friction cones.

    In the pyramids that are the default, friction depends on which way they are turned, and Warp
    turns those of a capsule that stands upright on a plane otherwise than native MuJoCo does.
    """

    def made(model: mujoco.MjModel, num_worlds: int, threads: int | None) -> Backend:
        model = copy.copy(model)
        model.opt.cone = int(mujoco.mjtCone.mjCONE_ELLIPTIC)
        return make(model, num_worlds, threads)

    return made


# --- the checks ----------------------------------------------------------------------------------


def check_runs(family: TaskFamily) -> None:
    """MuJoCo Warp runs the model, and every field that a task edits."""
    _worlds(family, sample_tasks(family))


def check_parity(family: TaskFamily) -> None:
    """Single steps are those of native MuJoCo, but for rounding."""
    backend = with_round_friction(_made(family))
    got = parity(family, backend, native=with_round_friction(Simulator))
    start = float(got.start.max())
    demand(
        start <= TOLERANCE,
        f"observe() differs by {start:.1e} at the same state: make every tensor of the family "
        "on sim.device and of sim.dtype",
    )
    demand(
        got.within() >= MOST,
        f"only {got.within():.0%} of the steps are within {TOLERANCE:g}, with round friction "
        f"cones; the middle is {got.median():.1e}, the worst {got.worst():.1e}: contacts of "
        "meshes and boxes may be other ones on Warp",
    )


def check_devices(family: TaskFamily) -> None:
    """Observations and rewards are on the simulator's device, and of its type."""
    worlds = _worlds(family, sample_tasks(family))
    got = worlds.step(torch.zeros(worlds.num_worlds, worlds.spec.action_size).to(worlds.device))
    for name, part in (("reward", got.reward), ("observation", got.next_obs)):
        demand(part.device == worlds.device, f"the {name} is on {part.device}")
    demand(got.reward.dtype == worlds.simulator.dtype, f"the reward is of {got.reward.dtype}")


def check_repeats(family: TaskFamily) -> None:
    """The same seed gives the same bits."""
    one, other = (_played(_worlds(family, sample_tasks(family)), 10) for _ in range(2))
    demand(torch.equal(one, other), "two runs differ: keep nothing in the family")


def check_divergence(family: TaskFamily) -> None:
    """A diverged world is flagged at once and leaves the others as they are."""
    tasks, bad = sample_tasks(family), 1
    base, worlds = _worlds(family, tasks), _worlds(family, tasks)
    _played(base, 3)
    _played(worlds, 3)
    worlds.simulator.qvel[bad] = torch.nan
    action = torch.zeros(len(tasks), worlds.spec.action_size).to(worlds.device)
    got, expected = worlds.step(action), base.step(action)
    others = torch.arange(len(tasks), device=worlds.device) != bad
    demand(bool(got.diverged[bad]), f"world {bad} was not flagged with a NaN in qvel")
    demand(bool(torch.isfinite(got.obs).all()), "an observation is not finite")
    same = torch.equal(got.next_obs[others], expected.next_obs[others])
    demand(same, "the other worlds differ: reward() and observe() must not mix worlds")


GATES = (check_runs,)
CHECKS = (*GATES, check_parity, check_devices, check_repeats, check_divergence)


# --- inside --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _made(family: TaskFamily) -> MakeBackend:
    return backend_of(family, Physics("warp"))


def _worlds(family: TaskFamily, tasks: Tasks) -> TaskWorlds:
    worlds = TaskWorlds(family, len(tasks), 1, backend=_made(family))
    worlds.set_tasks(tasks, 1)
    worlds.seed(KEY)
    worlds.reset()
    return worlds


def _played(worlds: TaskWorlds, steps: int) -> Tensor:
    size = steps, worlds.num_worlds, worlds.spec.action_size
    actions = 2 * torch.rand(*size, generator=KEY.fold("actions").torch()) - 1
    return torch.stack([worlds.step(action.to(worlds.device)).next_obs for action in actions])


def _memory(worlds: TaskWorlds) -> dict[str, Tensor]:
    return {f"memory/{name}": part.clone() for name, part in worlds.simulator.memory.items()}


def _worlds_at(
    family: TaskFamily, make: MakeBackend, tasks: Tasks, states: list[dict[str, Tensor]]
) -> TaskWorlds:
    """Return worlds, T of each task, at the states of T steps."""
    worlds = TaskWorlds(family, len(tasks) * len(states), 1, backend=make)
    if worlds.simulator.dtype is torch.float64:
        raise UserError("parity compares another simulator with native MuJoCo, not it with itself")
    worlds.set_tasks(tasks, len(states))
    worlds.seed(KEY)
    worlds.reset()
    sim = worlds.simulator
    for name in states[0]:
        kind, _, memory = name.partition("/")
        live = sim.memory[memory] if memory else sim.bind(kind)
        live.copy_(_task_major([state[name] for state in states]))
    sim.refresh(None)
    return worlds


def _task_major(parts: list[Tensor]) -> Tensor:
    """Return (M·T, …) of T tensors (M, …)."""
    return torch.stack(parts, 1).flatten(0, 1)


def _apart(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return (n,) the largest difference of each row, in parts of 1 + |x|."""
    mine, theirs = mine.double().cpu(), theirs.double().cpu()
    both: Any = (mine - theirs).abs() / (1 + theirs.abs())
    return both.amax(1)
