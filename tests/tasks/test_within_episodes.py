"""What can happen to any robot within an episode, by hand: +push, +noise, +history, +command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.robots import BASE, robot

from metarl import Interval, Param, TaskFamily, TaskWorlds, find_family
from metarl.base.keys import Key
from metarl.check.plain_loop import check_plain_loop
from metarl.check.suite import (
    check_alone,
    check_divergence,
    check_parameters,
    check_repeats,
    check_successor,
    check_threads,
)
from metarl.check.trajectory import hurried
from metarl.tasks.composition import compose
from metarl.tasks.events import every
from metarl.tasks.family import replace_attributes

BALL = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="ball"><freejoint/><geom size=".1" mass="2"/>
      <body><joint name="arm" axis="0 1 0"/><geom size=".05" mass=".5"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="arm"/></actuator>
  <sensor><subtreelinvel name="velocity" body="ball"/></sensor>
</mujoco>
"""

CART = robot(BASE)
"""A holonomic base: slides along x and y, and a hinge about z."""


class Ball(TaskFamily):
    """A body with an arm, in a wind that the family blows."""

    model = BALL
    horizon = 100
    reset_noise = 0.0
    params = (Param("wind", Interval(-1.0, 1.0)),)
    observation_scale = (1.0, 10.0, 100.0)

    def act(self, sim, action, task):
        sim.bind("xfrc_applied")[:, 1, 0] = task["wind"]

    def observe(self, sim, task):
        return sim.qvel[:, :3].clone()

    def reward(self, sim, before, action, task):
        return task["wind"] + 0 * sim.qpos[:, 0]


def worlds_of(family: TaskFamily, count: int, **task: float) -> TaskWorlds:
    worlds = TaskWorlds(family, count, 1)
    worlds.set_tasks(family.distribution.make(**task), count)
    worlds.seed(Key(7))
    worlds.reset()
    return worlds


def test_a_push_changes_the_speed_by_as_much_as_it_says() -> None:
    """0.5 m/s of 2.5 kg along the ground, within one step; the wind of 3 N stays the family's."""
    family = hurried(compose(Ball, ["push"])())
    worlds = worlds_of(family, 5, wind=3.0, push_speed=0.5)
    sim, speed = worlds.simulator, [torch.zeros(5, 3)]
    for _ in range(30):
        worlds.step(torch.zeros(5, 1))
        speed.append(sim.sensor("velocity").clone())
        assert (sim.bind("xfrc_applied")[:, 1] == torch.tensor([3.0, 0, 0, 0, 0, 0])).all()
    gained = torch.stack(speed).diff(dim=0) - 3.0 / 2.5 * torch.tensor([0.05, 0.0, 0.0])
    size = gained.norm(dim=2)
    pushed = size > 0.1
    torch.testing.assert_close(size[pushed], torch.full_like(size[pushed], 0.5), rtol=1e-6, atol=0)
    assert size[~pushed].max() < 1e-6
    assert gained[..., 2].abs().max() < 1e-6
    assert (pushed.sum(0) >= 5).all()
    times = [tuple(row.nonzero()[:, 0].tolist()) for row in pushed.T]
    assert len(set(times)) == 5
    ways = gained[pushed][:, :2].sign()
    assert len(torch.unique(ways, dim=0)) == 4  # to all sides


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("half-cheetah-vel", [[1, 0, 0]]),
        ("point-goal", [[1, 0, 0], [0, 1, 0]]),
        ("ant-goal", [[1, 0, 0], [0, 1, 0]]),
    ],
)
def test_a_base_is_pushed_where_it_can_move(name: str, ways: list[list[float]]) -> None:
    worlds = TaskWorlds(f"{name}+push", 64, 1)
    family, sim = worlds.family, worlds.simulator
    ids = torch.arange(64)
    family.event("push", sim, ids, worlds.task, worlds._draws(ids.numpy(), "event"))
    push = sim.memory["push"]
    strength = push.norm(dim=1)
    torch.testing.assert_close(strength, strength[:1].expand(64), rtol=1e-12, atol=0)
    used = torch.tensor(ways).sum(0) != 0
    assert (push[:, ~used] == 0).all()
    assert (push[:, used].amin(0) < 0).all()
    assert (push[:, used].amax(0) > 0).all()


def test_noise_is_of_the_observation_alone_and_new_at_each_step() -> None:
    """Of 0.1 of the scales 1, 10 and 100; the robot moves to the same bits as without."""
    count = 400
    noisy = worlds_of(compose(Ball, ["noise"])(), count, noise=0.1, wind=1.0)
    plain = worlds_of(Ball(), count, wind=1.0)
    errors = [noisy.reset() - plain.reset()]
    for _ in range(4):
        got, expected = (worlds.step(torch.ones(count, 1)) for worlds in (noisy, plain))
        assert torch.equal(noisy.simulator.qpos, plain.simulator.qpos)
        errors.append(got.obs - expected.obs)
    error = torch.stack(errors).double() / torch.tensor([0.1, 1.0, 10.0])
    assert len(error.unique()) > 0.99 * error.numel()
    assert (error.std((0, 1)) - 1).abs().max() < 4 / (2 * 5 * count) ** 0.5
    flat = error.flatten(2)
    together = torch.corrcoef(torch.cat([flat[0], flat[1]], 1).T)
    assert (together - torch.eye(6)).abs().max() < 4 / count**0.5


def test_history_is_what_was_observed_and_done_with_its_noise() -> None:
    """The last three rows, the oldest first, 0 before the episode began."""
    family = compose(Ball, ["told", "noise", "history"])
    assert family.name == "ball+history+noise+told"
    assert family.split_name == "ball+noise"
    family = replace_attributes(type("Three", (family,), {"history_length": 3})(), horizon=6)
    worlds = worlds_of(family, 2, noise=0.1)
    seen, done = [worlds.current.obs], []
    for t in range(8):
        done.append(torch.full((2, 1), 0.1 * t))
        seen.append(worlds.step(done[-1]).obs)
    assert seen[0].shape == (2, 3 + 3 * 4 + 2)  # sensed, remembered, told
    for t, begin in ((0, 0), (1, 0), (2, 0), (5, 0), (6, 6), (7, 6), (8, 6)):
        rows = [torch.cat((seen[k][:, :3], done[k]), 1) for k in range(max(begin, t - 3), t)]
        rows = [torch.zeros(2, 4)] * (3 - len(rows)) + rows
        assert torch.equal(seen[t][:, 3:15], torch.cat(rows, 1)), t


def test_commands_are_followed_for_pay_and_drawn_anew() -> None:
    """At its command a robot is paid 1.5 more; the command changes with its events alone."""
    family = hurried(compose(Ball, ["command"])())
    worlds = worlds_of(family, 64, command_speed=0.4, wind=0.0)
    sim, told = worlds.simulator, []
    for _ in range(12):
        told.append(worlds.current.obs[:, 3:].double())
        sim.qvel[:, :2], sim.qvel[:, 5] = told[-1][:, :2], told[-1][:, 2]
        sim.qpos[:, 3:7] = torch.tensor([1.0, 0, 0, 0])
        velocity = sim.qvel.clone()
        got = family.reward(sim, sim.snapshot(), velocity[:, :1], worlds.task)
        torch.testing.assert_close(
            got, torch.full((64,), 1.5), atol=1e-6, rtol=0, check_dtype=False
        )
        sim.qvel[:, 0] += family._widths[0]
        got = family.reward(sim, sim.snapshot(), velocity[:, :1], worlds.task)
        off = torch.full((64,), np.exp(-1.0) + 0.5)
        torch.testing.assert_close(got, off, atol=1e-5, rtol=0, check_dtype=False)
        worlds.step(torch.zeros(64, 1))
    told = torch.stack(told)
    low, high = told.amin((0, 1)) / 0.4, told.amax((0, 1)) / 0.4
    turn = 1 / 0.2  # of a ball of 0.2 m
    assert (low >= torch.tensor([-0.5, -0.3, -turn])).all()
    assert (high <= torch.tensor([1.0, 0.3, turn])).all()
    assert (high - low > torch.tensor([1.3, 0.5, 1.0])).all()
    changes = (told[1:] != told[:-1]).any(2).sum(0)
    assert changes.min() >= 1
    assert changes.max() <= 6
    assert family.observation_scale[:3] == (1.0, 10.0, 100.0)
    assert len(family.observation_scale) == 6


def test_a_holonomic_base_is_commanded_in_its_own_frame() -> None:
    """At its command, whichever way it is turned, it is paid 1.5 more than its own reward."""
    worlds = worlds_of(compose(CART, ["command"])(), 16, command_speed=1.0, goal=0.0)
    sim, told = worlds.simulator, worlds.current.obs[:, -3:].double()
    yaw = torch.linspace(-3, 3, 16, dtype=torch.float64)
    sim.qpos[:, 2], sim.qvel[:, 2] = yaw, told[:, 2]
    sim.qvel[:, 0] = yaw.cos() * told[:, 0] - yaw.sin() * told[:, 1]
    sim.qvel[:, 1] = yaw.sin() * told[:, 0] + yaw.cos() * told[:, 1]
    got = worlds.family.reward(sim, sim.snapshot(), torch.zeros(16, 4), worlds.task)
    torch.testing.assert_close(got, torch.full((16,), 1.5), atol=1e-6, rtol=0, check_dtype=False)


def test_a_command_is_one_of_the_terms_of_a_reward() -> None:
    terms = {"upright": 1.0}

    def reward(self, sim, before, action, task):
        return {name: value + task["wind"] for name, value in terms.items()}

    family = compose(type("Termed", (Ball,), {"reward": reward}), ["command"])
    worlds = worlds_of(family(), 2, wind=0.0)
    got = worlds.step(torch.zeros(2, 1))
    assert list(worlds.reward_terms) == ["upright", "command_tracking"]
    torch.testing.assert_close(got.reward, sum(worlds.reward_terms.values()))


ALL = ["command", "dynamics", "history", "noise", "push", "switch", "told"]


@pytest.mark.parametrize(
    "check",
    [check_repeats, check_alone, check_plain_loop, check_parameters, check_successor,
     check_divergence, check_threads],
    ids=lambda check: check.__name__,
)  # fmt: skip
def test_all_of_it_together_passes_the_suite(check) -> None:
    check(compose(Ball, ALL)())
    check(compose(CART, ALL)())


ARM = f"{Path(__file__).parents[2]}/docs/examples/my_arm.py:MyArm"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: find_family("quadruped-vel+command"), "+command: it has a command of its own"),
        (lambda: find_family(f"{ARM}+command"), "+command: the robot's base, body 'upper', is"),
        (lambda: compose(type("B", (Ball,), {"switch_at": 1.0}), ["switch"]), "+switch: it has a"),
        (lambda: compose(type("B", (Ball,), {"params": ()}), ["switch"]), "no parameters to"),
        (lambda: compose(type("B", (Ball,), {"history_length": 0}), ["history"])(),
         "history_length must be from 1 to 1000, not 0"),
        (lambda: compose(type("B", (Ball,), {"observation_scale": (1.0,)}), ["noise"])(),
         "observation_scale has 1 numbers, and the observation 3"),
        *((lambda own=own, name=name: compose(type("B", (Ball,), own), [name])(), words)
          for own, name, words in (
            ({"memory": {"push": (3,)}}, "push", "+push: it has a memory named 'push' of its own"),
            ({"events": {"push": every(0.1)}}, "push", "+push: it has an event named 'push' of"),
            ({"memory": {"seen": (2,)}}, "history", "+history: it has a memory named 'seen'"),
            ({"memory": {"noise": (2,)}}, "noise", "+noise: it has a memory named 'noise' of"),
        )),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(make, words: str) -> None:
    with refused(words):
        TaskWorlds(make(), 1, 1)
