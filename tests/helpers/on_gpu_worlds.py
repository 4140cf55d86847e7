"""How often a step of the worlds waits for a device; test_gpu.py runs these tests."""

import functools

import pytest
import torch
from simulation.test_backend import moves, ready

from helpers import fake_cuda
from helpers.float32_backend import Float32Backend
from metarl import collect, find_learner
from metarl.base.keys import Key


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch):
    """The operations by which the host waited for the device."""
    found: list[str] = []
    allowed = fake_cuda.check

    def check(func, tensors, to_gpu):
        reads = any(isinstance(t, fake_cuda.OnGpu) for t in tensors)
        if reads and (func in fake_cuda.WAITS or (func in fake_cuda.TRANSFERS and not to_gpu)):
            found.append(str(func))
        allowed(func, tensors, to_gpu)

    with fake_cuda.stand_in_gpu(monkeypatch):
        monkeypatch.setattr(fake_cuda, "check", check)
        yield found


@pytest.mark.parametrize("family", ["half-cheetah-vel", "hopper-params", "humanoid-dir"])
def test_a_step_waits_for_the_device_once(family: str, waits: list[str]) -> None:
    """Whether episodes end in it or not; only if all do, it looks a second time."""
    on_device = functools.partial(Float32Backend, place=fake_cuda.OnGpu)
    worlds, reference = ready(family, on_device), ready(family, Float32Backend)
    assert worlds.device.type == fake_cuda.GPU.type
    ended = 0
    for t, action in enumerate(moves(reference, 40)):
        on_gpu = fake_cuda.OnGpu(action)
        del waits[:]
        got = worlds.step(on_gpu)
        expected = reference.step(action)
        assert len(waits) == 1 or expected.terminated.all(), (t, waits)
        ended += int(expected.terminated.sum())
        assert torch.equal(got.obs.numbers, expected.obs)
        assert torch.equal(got.terminated.numbers, expected.terminated)
    assert ended > 0 or family == "half-cheetah-vel"


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch):
    """What crossed between host and device: ("down", …) are waits, ("up", …) are copies to it."""
    found: list[tuple[str, str]] = []
    allowed = fake_cuda.check

    def check(func, tensors, to_gpu):
        reads = any(isinstance(t, fake_cuda.OnGpu) for t in tensors)
        if reads and (func in fake_cuda.WAITS or (func in fake_cuda.TRANSFERS and not to_gpu)):
            found.append(("down", str(func)))
        elif func in fake_cuda.TRANSFERS and to_gpu:
            whole = [t for t in tensors if t.ndim]
            if any(not isinstance(t, fake_cuda.OnGpu) for t in whole):
                found.append(("up", str(func)))
        allowed(func, tensors, to_gpu)

    with fake_cuda.stand_in_gpu(monkeypatch):
        monkeypatch.setattr(fake_cuda, "check", check)
        yield found


@pytest.mark.parametrize("name", ["maml-trpo", "rl2", "pearl"])
def test_collecting_copies_nothing_but_what_the_host_decides(name: str, crossings) -> None:
    """A step reads one number a world, and nothing goes up; a rollout's noise goes up at once."""
    on_device = functools.partial(Float32Backend, place=fake_cuda.OnGpu)
    worlds = ready("half-cheetah-vel", on_device)
    settings = {"units": 8, "hidden": 8} if name == "rl2" else {"hidden": (8,)}
    cls = find_learner(name)
    learner = cls(worlds.spec, cls.Config(**settings), device=fake_cuda.GPU.type)
    counts = {}
    for steps in (4, 12):
        worlds.reset()
        state = learner.begin(len(worlds.tasks), worlds.worlds_per_task)
        del crossings[:]
        rollout, _ = collect(worlds, learner, state, steps, Key(1), explore=True)
        assert rollout.obs.device.type == fake_cuda.GPU.type
        assert not rollout.done.numbers.any()
        counts[steps] = [sum(way == one for way, _ in crossings) for one in ("down", "up")]
    down, up = (counts[12][k] - counts[4][k] for k in (0, 1))
    assert (down, up) == (8, 0), crossings
    assert counts[4][0] - 4 <= 2, "what a whole rollout reads: whether a reward is huge"
    assert counts[4][1] <= 2, "the noise"
