"""How often a step of the worlds waits for a device; test_gpu.py runs these tests."""

import functools

import pytest
import torch
from simulation.test_backend import moves, ready

from helpers import fake_cuda
from helpers.float32_backend import Float32Backend


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
