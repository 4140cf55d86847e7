"""Worlds on a device, here on the CPU: what they do is what worlds do that ask the host."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.families import switching_after
from helpers.float32_backend import Float32Backend

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, UserError, collect, find_family
from metarl.base.keys import BatchedRNG, DeviceRNG, Key
from metarl.simulation.backend import MOST_CONSTANTS
from metarl.simulation.simulator import Simulator
from metarl.worlds.on_device.noise import TOGETHER
from metarl.worlds.on_device.worlds import DeviceWorlds
from metarl.worlds.policy import ZeroPolicy

TASKS, EACH = 3, 2
WORLDS = TASKS * EACH


def ready(family, cls=DeviceWorlds, *, tasks=None, each: int = EACH) -> TaskWorlds:
    family = find_family(family) if isinstance(family, str) else family
    family.horizon = min(family.horizon, 12)
    tasks = tasks or TaskDistribution(family).split("train", TASKS)
    tasks = switching_after(tasks, family.dt, 4.4, 7.0, 900.0)
    worlds = cls(family, len(tasks) * each, 1, backend=Float32Backend)
    worlds.set_tasks(tasks, each)
    worlds.seed(Key(5))
    worlds.reset()
    return worlds


def moves(worlds: TaskWorlds, steps: int) -> torch.Tensor:
    shape = steps, worlds.num_worlds, worlds.spec.action_size
    return torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32))


# --- randomness ----------------------------------------------------------------------------------


def test_streams_on_a_device_are_those_of_the_host() -> None:
    """Bit for bit where no logarithm is taken, whatever the numbers that name a world."""
    index = np.arange(200)
    parts = index // 7, index % 7, index % 3, index * 5 % 11
    host = BatchedRNG(Key("a", 3), *parts, dtype=torch.float64)
    task, *rest = (torch.from_numpy(part) for part in parts)
    mine = DeviceRNG(DeviceRNG.streams(Key("a", 3), task), *rest, dtype=torch.float64)
    assert torch.equal(mine.uniform(-2.0, 5.0, 3), host.uniform(-2.0, 5.0, 3))
    torch.testing.assert_close(mine.normal(4), host.normal(4), rtol=1e-12, atol=1e-12)
    assert np.array_equal(mine.unit(2), host.unit(2))
    assert len(mine) == 200
    number = DeviceRNG(DeviceRNG.streams(Key(1), task), 2**40, dtype=torch.float64)
    many = DeviceRNG(DeviceRNG.streams(Key(1), task), 0 * task + 2**40, dtype=torch.float64)
    assert torch.equal(number.share(2), many.share(2))


def test_noise_is_normal_and_that_of_a_task_alone() -> None:
    """Whoever else is there, and in whatever order the steps are asked for."""
    tasks = TaskDistribution(find_family("point-goal")).split("train", 4)
    whole, half = ready("point-goal", tasks=tasks), ready("point-goal", tasks=tasks[2:])
    noise, part = (w.noise(Key(9), 40, torch.device("cpu")) for w in (whole, half))
    assert len(noise) == 40
    for t in (0, TOGETHER, 39, 1):
        assert torch.equal(noise[t][2 * EACH :], part[t])
    many = torch.stack(list(whole.noise(Key(1), 2000, torch.device("cpu"))))
    assert many.shape == (2000, 4 * EACH, 2)
    assert many.mean().abs() < 0.02
    assert (many.std() - 1).abs() < 0.02
    flat = many.flatten(1).T
    assert (torch.corrcoef(flat) - torch.eye(len(flat))).abs().max() < 0.12
    assert not torch.equal(noise[0], whole.noise(Key(8), 1, torch.device("cpu"))[0])


def test_an_evaluation_has_the_noise_of_native_worlds() -> None:
    mine, native = ready("point-goal"), ready("point-goal", TaskWorlds)
    mine.paired = True
    here = torch.device("cpu")
    for a, b in zip(mine.noise(Key(2), 3, here), native.noise(Key(2), 3, here), strict=True):
        assert torch.equal(a, b)


def assert_near(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    """Of places of feet: this back end computes them again from positions that were rounded."""
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "half-cheetah-vel", "hopper-params", "walker2d-terrain-scan", "quadruped-vel",
        "ant-goal+command+history+noise+push", "hopper-params+varying-latency",
        "hopper-params+switch+told", "ant-crippled+switch+noise", "half-cheetah-vel+switch",
        "half-cheetah-terrain+dynamics+switch", "ant-goal+push+switch",
    ],
)  # fmt: skip
def test_worlds_do_what_worlds_do_that_ask_the_host(name: str) -> None:
    """To the bit: ends, restarts, events, what diverges, a reset of some, another task for one."""
    one, other = ready(name, each=1), ready(name, TaskWorlds, each=1)
    assert one.spec == other.spec
    ended, told = 0, []
    for t, action in enumerate(moves(one, 30)):
        for worlds in (one, other):
            if t == 4:
                worlds.simulator.qvel[1, -1] = torch.nan
            if t == 8:
                worlds.reset(torch.tensor([2]))
            if t == 16:
                task = TaskDistribution(worlds.family).split("heldout", 1)
                worlds.change_tasks(torch.tensor([0]), task)
        got, expected = one.step(action), other.step(action)
        for field, part in expected._asdict().items():
            assert torch.equal(getattr(got, field), part), (t, field)
        for field, part in other.current._asdict().items():
            assert torch.equal(getattr(one.current, field), part), (t, field)
        if other.privileged is not None:
            assert_near(one.privileged, other.privileged)
            assert_near(one.next_privileged, other.next_privileged)
        ended += int(one.current.first.sum())
        assert torch.equal(one.task_vector(), other.task_vector())
        told.append(one.task_vector())
    one.settle()
    assert ("switch" in name) == any(not torch.equal(*pair) for pair in pairwise(told[4:15]))
    assert ended > TASKS


def test_a_rollout_is_that_of_the_host_s_worlds() -> None:
    rollouts = []
    for cls in (DeviceWorlds, TaskWorlds):
        worlds = ready("quadruped-vel", cls)
        worlds.returns = {}
        rollout, _ = collect(worlds, ZeroPolicy(), None, 20, Key(1), explore=False, privileged=True)
        rollouts.append((rollout, worlds))
    (mine, here), (theirs, there) = rollouts
    for name, part in theirs.tensors().items():
        assert torch.equal(getattr(mine, name), part), name
    for name, part in theirs.extras.items():
        assert_near(mine.extras[name], part)
    assert torch.equal(here.returns[0], there.returns[0])
    assert torch.equal(*(w.term_sums[0, TASKS] for w in (here, there)))


def test_a_back_end_must_know_masks() -> None:
    with pytest.raises(UserError, match="resets no worlds by a mask"):
        DeviceWorlds("point-goal", 2, 1, backend=Simulator)


# --- what is noted, and said later ---------------------------------------------------------------


class Faulty(PointGoal):
    """A point with a reward, or observations, that can be broken."""

    horizon = 4
    broken = ""

    def reward(self, sim, before, action, task):
        paid = super().reward(sim, before, action, task)
        paid = paid * torch.nan if self.broken == "reward" else paid
        return {"near": paid, "still": paid * 0 + (1e30 if self.broken == "large" else 1.0)}

    def observe(self, sim, task):
        seen = super().observe(sim, task)
        if self.broken == "observe":
            return seen * torch.nan
        # only as an episode begins, which is at rest
        begins = self.broken == "start" and (sim.qvel == 0).all(1)
        return torch.where(torch.as_tensor(begins).view(-1, 1), torch.nan, seen)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("reward", r"term 'near' of reward\(\) is not finite in any world"),
        ("observe", r"observe\(\) is not finite"),
        ("start", r"observe\(\) is not finite at the start of an episode"),
    ],
)
def test_what_is_wrong_with_a_family_is_said_when_the_host_waits(broken: str, words: str) -> None:
    worlds = ready(Faulty())
    worlds.family.broken = broken
    for action in moves(worlds, 6):
        worlds.step(action)
    worlds.family.broken = ""
    with pytest.raises(UserError, match=words):
        worlds.settle()
    worlds.settle()  # said once
    worlds.reset()


def test_a_reward_that_is_too_large_is_named() -> None:
    worlds = ready(Faulty())
    assert worlds.large_reward == ""
    worlds.family.broken = "large"
    collect(worlds, ZeroPolicy(), None, 3, Key(1), explore=False)
    assert worlds.large_reward.startswith("reward() returned 1e+30 in task goal_x=")


def test_constants_go_to_the_device_once_and_keep_their_digits() -> None:
    sim, native = ready("point-goal").simulator, TaskWorlds("point-goal", 2, 1).simulator
    numbers, places = (0.1, 0.7), np.array([3, 1])
    assert sim.constant(numbers) is sim.constant(numbers)
    assert sim.constant(numbers).dtype is torch.float32
    assert native.constant(numbers).tolist() == [0.1, 0.7]
    assert sim.constant(places).dtype is torch.int64
    for k in range(3 * MOST_CONSTANTS):
        assert sim.constant([k, k + 1]).tolist() == [k, k + 1]
    assert len(sim._constants) <= MOST_CONSTANTS
