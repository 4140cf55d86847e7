"""What crosses between host and device as worlds step; test_gpu.py runs these tests.

On a stand-in for a GPU, with native physics behind it. Where there is a GPU, torch's own mode
watches MuJoCo Warp's worlds, which are compiled for it first.
"""

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from simulation.test_backend import EACH, TASKS, moves

from helpers import fake_cuda
from helpers.families import switching_after
from helpers.float32_backend import Float32Backend
from helpers.small_learners import small
from metarl import (
    TaskDistribution,
    UserError,
    collect,
    find_family,
    find_learner,
    make_worlds,
)
from metarl.base.keys import Key
from metarl.learning.registry import list_learners
from metarl.simulation.warp.choice import Physics
from metarl.tasks.registry import list_families
from metarl.worlds.on_device.worlds import DeviceWorlds
from metarl.worlds.task_worlds import TaskWorlds

VARIED = (
    "half-cheetah-dir+latency+sensor-bias+told", "ant-goal+command+history+noise+push",
    "hopper-params+varying-latency", "ant-crippled+switch", "walker2d-params+switch+told",
)  # fmt: skip
REAL = torch.cuda.is_available()


class Crossings:
    """What the host reads of the device, or copies to it, while `watched`."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []
        self._on = False
        self._allowed = fake_cuda.check

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def check(self, func, tensors, to_gpu) -> None:
        here = [isinstance(t, fake_cuda.OnGpu) for t in tensors]
        masks = any(t.dtype is torch.bool for t in tensors[1:])
        indexes = func in fake_cuda.INDEXING
        moves = func in fake_cuda.TRANSFERS
        way = ""
        if any(here) and (func in fake_cuda.WAITS or (indexes and masks) or (moves and not to_gpu)):
            way = "down"
        elif (moves and to_gpu and not all(here)) or (
            indexes and any(t.ndim and not on for t, on in zip(tensors, here, strict=True))
        ):
            way = "up"
        if way and self._on:
            ours = [f for f in traceback.extract_stack() if "metarl" in f.filename]
            self.found.append((way, str(func), f"{ours[-1].name}, line {ours[-1].lineno}"))
        self._allowed(func, tensors, to_gpu)


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crossings]:
    found = Crossings()
    with fake_cuda.stand_in_gpu(monkeypatch):
        monkeypatch.setattr(fake_cuda, "check", found.check)
        yield found


on_device = functools.partial(Float32Backend, place=fake_cuda.OnGpu)


def ready(name: str, backend, make=DeviceWorlds) -> TaskWorlds:
    family = find_family(name)
    family.horizon = min(family.horizon, 4)
    worlds = make(family, TASKS * EACH, 1, backend=backend)
    tasks = TaskDistribution(family).split("train", TASKS)
    worlds.set_tasks(switching_after(tasks, family.dt, 2.4, 3.0, 900.0), EACH)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


@pytest.mark.parametrize("name", [*list_families(), *VARIED])
def test_a_step_neither_waits_for_the_device_nor_copies_to_it(name: str, crossings) -> None:
    """Whether episodes end in it or not, and the physics fails or not; and it does the same."""
    worlds, reference = ready(name, on_device), ready(name, Float32Backend)
    assert worlds.device.type == fake_cuda.GPU.type
    action, ended = moves(reference, 1)[0], 0
    worlds.step(fake_cuda.OnGpu(action)), reference.step(action)  # constants go there once
    for t, action in enumerate(moves(reference, 5)):
        for one in (worlds, reference) if t == 3 else ():
            one.simulator.qvel[2, -1] = torch.nan
        on_gpu = fake_cuda.OnGpu(action)
        with crossings.watched():
            got = worlds.step(on_gpu)
        expected = reference.step(action)
        assert not crossings.found, t
        for mine, theirs in zip(got, expected, strict=True):
            assert torch.equal(mine.numbers, theirs), t
        ended += int(reference.current.first.sum())
    assert ended >= TASKS * EACH


@pytest.mark.parametrize("name", list_learners())
def test_nor_does_collecting(name: str, crossings) -> None:
    """Noise is drawn, and rollouts, returns and a reward's terms are kept, where the worlds are."""
    worlds = ready("quadruped-vel", on_device)
    cls = find_learner(name)
    learner = cls(worlds.spec, cls.Config(**small(name, TASKS)), device=fake_cuda.GPU.type)
    worlds.returns = {}
    state = learner.begin(TASKS, EACH)
    play = functools.partial(collect, worlds, learner, state, key=Key(1), explore=True)
    play(steps=1)  # what a family, or a learner, is made with goes to the device once
    worlds.reset()
    with crossings.watched():
        rollout, _ = play(steps=5, privileged=True)
    assert not crossings.found
    assert rollout.obs.device.type == fake_cuda.GPU.type
    assert worlds.returns[0].device.type == fake_cuda.GPU.type


def test_a_wait_would_be_seen(crossings) -> None:
    """Worlds that ask the host have one."""
    worlds = ready("hopper-params", on_device, TaskWorlds)
    with crossings.watched():
        worlds.step(fake_cuda.OnGpu(torch.zeros(TASKS * EACH, 3)))
    assert {way for way, *_ in crossings.found} == {"down"}


@pytest.mark.skipif(not REAL, reason="needs a real GPU")
@pytest.mark.parametrize("name", ["maml-trpo", "rl2", "pearl"])
def test_torch_sees_no_wait_on_a_gpu(name: str) -> None:
    pytest.importorskip("mujoco_warp")
    family = find_family("hopper-params")
    worlds = make_worlds(family, TASKS * EACH, None, Physics("warp", device="cuda"))
    cls = find_learner(name)
    learner = cls(worlds.spec, cls.Config(**small(name, TASKS)), device="cuda")
    worlds.set_tasks(TaskDistribution(family).split("train", TASKS), EACH)
    for mode in ("default", "error"):  # the first rollout captures
        worlds.reset()
        state = learner.begin(TASKS, EACH)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            rollout, _ = collect(worlds, learner, state, 40, Key(1), explore=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert np.isfinite(rollout.obs.cpu().numpy()).all()


def test_the_commands_run_where_the_worlds_are(tmp_path, capsys, monkeypatch, crossings) -> None:
    """As with --simulator warp on a GPU: what they read of the worlds, they fetch."""
    from envs.point import PointGoal
    from metarl.cli import main

    monkeypatch.setattr(PointGoal, "horizon", 4)
    monkeypatch.setattr("metarl.worlds.factory.backend_of", lambda *_: on_device)
    monkeypatch.setattr(Physics, "require", lambda self: self)
    run = str(tmp_path / "run")
    sizes = {"iterations": 2, "tasks-per-iteration": 2, "rollouts-per-task": 2, "hidden": 4}
    sizes |= {"evaluate-tasks": 2, "evaluate-episodes": 1, "cg-iterations": 2}
    words = [word for size, n in sizes.items() for word in (f"--{size}", str(n))]
    there = ["--simulator", "warp", "--device", "cuda"]
    assert main(["train", "point-goal", "maml-trpo", *words, *there, "--out", run]) == 0
    look = ["--episodes", "1", "--device", "cuda"]
    assert main(["evaluate", run, "--tasks", "2", *look]) == 0
    assert main(["evaluate", run, "--tasks", "2", *look, "--simulator", "mujoco"]) == 0
    assert "on mujoco instead of warp" in capsys.readouterr().out
    assert main(["adapt", run, "--set", "goal_x=0.5", *look, "--out", str(tmp_path / "to")]) == 0
    assert main(["probe", run, "--tasks", "4", *look]) == 0
    assert main(["stream", run, "--tasks", "2", *look]) == 0
    assert main(["train", "--resume", run, "--iterations", "3"]) == 0


@pytest.mark.parametrize(
    "name",
    ["hopper-params+varying-latency", "ant-terrain", "quadruped-vel", "hopper-params+switch"],
)
def test_nor_does_a_step_of_warp(name: str, crossings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warp's memory on its CPU device, of which torch is told that it is a GPU's."""
    warp = pytest.importorskip("warp")
    pytest.importorskip("mujoco_warp")
    from helpers.warp import on_warp

    reference, to_torch = ready(name, on_warp), warp.to_torch
    actions, expected = moves(reference, 5), []
    for t, action in enumerate(actions):
        if t == 3:
            reference.simulator.qvel[2, -1] = torch.nan
        expected.append(reference.step(action))
    monkeypatch.setattr(warp, "to_torch", lambda array: fake_cuda.OnGpu(to_torch(array)))
    worlds = ready(name, on_warp)
    assert worlds.device.type == fake_cuda.GPU.type
    for t, action in enumerate(actions):
        if t == 3:
            worlds.simulator.qvel[2, -1] = torch.nan
        on_gpu = fake_cuda.OnGpu(action)
        with crossings.watched() if t else nullcontext():  # constants go there in the first
            got = worlds.step(on_gpu)
        assert not crossings.found, t
        for mine, theirs in zip(got, expected[t], strict=True):
            assert torch.equal(mine.numbers, theirs), t
    worlds.settle()
    worlds.simulator._watch.spilled.fill_(2)
    worlds.step(on_gpu)
    with pytest.raises(UserError, match="no room for all contacts"):
        worlds.settle()
