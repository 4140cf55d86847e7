"""What happens inside an episode: memory, events, and the switch to the task, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.refusals import refused

from metarl import Interval, Param, TaskFamily, Tasks, TaskWorlds, UserError, every, shift
from metarl.base.keys import Key
from metarl.check.plain_loop import check_plain_loop
from metarl.check.suite import (
    CheckError,
    check_alone,
    check_repeats,
    check_successor,
    check_threads,
)
from metarl.worlds import events
from metarl.worlds.policy import as_policy
from metarl.worlds.rollout import collect

CART = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" damping="1"/>
      <geom size=".1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="slide" gear="10"/></actuator>
</mujoco>
"""


class Cart(TaskFamily):
    """Counts its steps and its gusts; the payload comes after 0.3 s; a step takes 0.1 s."""

    model = CART
    frame_skip = 10
    horizon = 8
    params = (
        Param("payload", Interval(0.0, 2.0), edit=shift("body_mass", "cart")),
        Param("period", Interval(0.1, 0.4), nominal=0.2),
    )
    memory = {"steps": (1,), "acted": (2, 1), "gusts": (1,)}  # noqa: RUF012
    events = {"gust": every("period")}  # noqa: RUF012

    def initial_state(self, sim, ids, rng):
        sim.memory["gusts"][ids] = rng.uniform(0.0, 0.0, 1)

    def remember(self, sim, action, task, rng):
        sim.memory["steps"] += 1
        sim.memory["acted"][:, 0] = sim.memory["acted"][:, 1]
        sim.memory["acted"][:, 1] = action

    def event(self, name, sim, ids, task, rng):
        assert name == "gust"
        sim.memory["gusts"][ids] += 1 + rng.uniform(0.0, 0.5, 1)

    def observe(self, sim, task):
        parts = [sim.memory[name].flatten(1) for name in ("steps", "acted", "gusts")]
        return torch.cat((*parts, sim.qvel, task["payload"][:, None]), 1)

    def reward(self, sim, before, action, task):
        return sim.memory["steps"][:, 0] + 100 * task["payload"]


class Switching(Cart):
    """The same with a payload that comes after 0.3 s."""

    switch_at = 0.3


def worlds_of(family: TaskFamily, rows: list[list[float]], each: int = 1) -> TaskWorlds:
    tasks = Tasks(family.name, family.distribution.names, np.array(rows))
    worlds = TaskWorlds(family, len(rows) * each, 1)
    worlds.set_tasks(tasks, each)
    worlds.seed(Key(5))
    worlds.reset()
    return worlds


def steps_of(worlds: TaskWorlds, count: int) -> list[torch.Tensor]:
    actions = torch.linspace(-1, 1, count)[:, None, None].expand(-1, worlds.num_worlds, 1)
    return [worlds.step(action).next_obs for action in actions]


def test_memory_is_of_the_episode_and_events_come_when_due() -> None:
    """Periods of 0.1 and 0.3 s in steps of 0.1 s; the episode of 8 steps begins anew."""
    worlds = worlds_of(Cart(), [[0.0, 0.1], [0.0, 0.3]])
    seen = torch.stack(steps_of(worlds, 11)).double()
    assert seen[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    gusts = seen[:, :, 3].floor()  # shares of less than half add up to less than one in two
    assert [bool(later > one) for one, later in zip(gusts[:7, 0], gusts[1:8, 0])] == [True] * 7  # noqa: B905
    grown = (seen[1:, 1, 3] != seen[:-1, 1, 3]).nonzero()[:, 0] + 1
    assert grown.tolist() == [2, 5, 8, 10]  # 3 and 6 steps in, the restart, 3 steps in
    assert seen[8, 1, 3] == 0
    actions = torch.linspace(-1, 1, 11).double()
    torch.testing.assert_close(seen[5, 0, 1:3], actions[4:6])
    torch.testing.assert_close(seen[8, 0, 1:3], torch.stack((actions[0] * 0, actions[8])))


def test_until_the_switch_events_come_as_in_the_nominal_task() -> None:
    """Every 0.3 s at first, and every 0.1 s from 0.5 s on, where the interval begins anew."""
    base = Cart.params[0]
    period = Param("period", Interval(0.05, 1.0), nominal=0.3)
    family = type("Hurried", (Cart,), {"switch_at": 0.5, "params": (base, period)})()
    worlds = worlds_of(family, [[0.0, 0.1], [0.0, 0.3], [0.0, 0.8]])
    seen = torch.stack(steps_of(worlds, 8)).double()[:, :, 3]
    grown = torch.cat((seen[:1] > 0, seen[1:] != seen[:-1]))
    # the second task's interval is the nominal one, which the switch does not disturb
    assert [grown[:7, k].nonzero()[:, 0].tolist() for k in range(3)] == [[2, 5, 6], [2, 5], [2]]


def test_a_reward_sees_the_memory_from_before_the_step() -> None:
    worlds = worlds_of(Cart(), [[0.0, 0.1]])
    paid = [float(worlds.step(torch.zeros(1, 1)).reward) for _ in range(9)]
    assert paid == [0, 1, 2, 3, 4, 5, 6, 7, 0]


class Jittery(Cart):
    """Gusts at random times."""

    events = {"gust": every("period", jitter=0.9)}  # noqa: RUF012


def test_draws_are_by_key_task_world_episode_and_step() -> None:
    """A shard of the tasks has the bits of the whole set; all worlds and episodes differ."""
    family, rows = Jittery(), [[0.0, 0.25]] * 4
    tasks = Tasks(family.name, family.distribution.names, np.array(rows))
    runs = []
    for part in (tasks, tasks[2:4]):
        worlds = TaskWorlds(family, 2 * len(part), 1)
        worlds.set_tasks(part, 2)
        worlds.seed(Key(5))
        worlds.reset()
        runs.append(torch.stack(steps_of(worlds, 16)))
    assert torch.equal(runs[0][:, 4:], runs[1])
    ends = runs[0][[7, 15]][:, :, 3].flatten().tolist()
    assert len(set(ends)) == 16


def test_the_times_of_events_are_uniform_about_their_period() -> None:
    """Every(1 s, jitter=½) in steps of 0.1 s: U[5, 15) steps, rounded."""
    family = Jittery()
    schedule = events.Schedule(family, 4000)
    schedule.set_tasks(np.full((4000, 2), 1.0), slice(None))
    worlds = worlds_of(family, [[0.0, 0.3]] * 4000)
    schedule.begin(np.arange(4000), 0, worlds._draws)
    gaps = schedule._due[0]
    assert (gaps.min(), gaps.max()) == (1, 19)
    assert abs(gaps.mean() - 10) < 4 * 0.9 * 10 / 3**0.5 / 4000**0.5


def test_a_task_begins_within_the_episode_and_ends_with_it() -> None:
    """Steps 1 to 3 and 9 to 11 are nominal, of 1 kg; the observation after step 3 is the task's."""
    worlds = worlds_of(Switching(), [[1.0, 0.1], [2.0, 0.1]])
    masses, paid, seen = [], [], []
    for _ in range(12):
        masses.append(worlds.simulator.model_field("body_mass")[:, 1].tolist())
        got = worlds.step(torch.ones(2, 1))
        paid.append((got.reward // 100).tolist())
        seen.append(got.obs[:, -1].tolist())
    driven = [[0.0, 0.0]] * 3 + [[1.0, 2.0]] * 5 + [[0.0, 0.0]] * 3 + [[1.0, 2.0]]
    assert paid == driven
    assert masses == [[1 + a, 1 + b] for a, b in driven]
    assert seen == [*driven[1:], [1.0, 2.0]]


def test_a_critic_sees_the_task_of_the_step() -> None:
    """Before the switch the nominal one, and at the end of an episode not the next one's."""
    worlds = worlds_of(Switching(), [[1.5, 0.1]])
    rollout, _ = collect(
        worlds, as_policy(lambda obs: obs[:, :1] * 0), None, 16, Key(0), explore=False,
        privileged=True,
    )  # fmt: skip
    before, after = -1.0, 0.5  # 0 and 1.5 of [0, 2]
    one = [before] * 3 + [after] * 5
    then = [before] * 2 + [after] * 6
    assert rollout.extras["privileged"][:, 0, 0].tolist() == one * 2
    assert rollout.extras["next_privileged"][:, 0, 0].tolist() == then * 2


@pytest.mark.parametrize("name", ["half-cheetah-vel+dynamics+latency", "quadruped-terrain"])
def test_fields_change_in_mid_episode_and_the_state_stays(name: str) -> None:
    """To the bit, warm starts and delayed commands too, in the worlds concerned and the others."""
    worlds = TaskWorlds(name, 3, 1)
    tasks = worlds.family.distribution.split("heldout", 3)
    worlds.reset()
    for action in torch.rand(5, 3, worlds.spec.action_size, generator=Key(1).torch()):
        worlds.step(2 * action - 1)
    sim, ids = worlds.simulator, torch.tensor([0, 2])
    before = [sim.world_state(i).tobytes() for i in range(3)]
    worlds._give(tasks.values[[0, 2]], ids)
    sim.refresh(ids)
    assert [sim.world_state(i).tobytes() for i in range(3)] == before
    masses = sim.model_field("body_mass")
    assert not torch.equal(masses[0], masses[1])
    assert not torch.equal(masses[0], masses[2])


def test_the_suite_follows_events_and_the_switch(monkeypatch) -> None:
    """And fails where the switch is a step late, or where a draw depends on the other worlds."""
    for check in (check_repeats, check_alone, check_plain_loop, check_successor, check_threads):
        check(Switching())

    class Mixing(Cart):
        """Gusts that depend on how many worlds there are."""

        def event(self, name, sim, ids, task, rng):
            sim.memory["gusts"][ids] += len(ids)

    with pytest.raises(CheckError, match="a run with fewer worlds differs"):
        check_alone(Mixing())
    ceil = np.ceil
    monkeypatch.setattr(events.np, "ceil", lambda steps: ceil(steps) + 1)
    with pytest.raises(CheckError, match="world 0 is not the nominal model's"):
        check_plain_loop(Switching())


def test_what_declares_nothing_costs_nothing(monkeypatch) -> None:
    """No draw, and nothing is due; a family that remembers draws at each step."""
    made: list[int] = []
    monkeypatch.setattr(TaskWorlds, "_draws", lambda *_: made.append(1))
    plain = type("Plain", (Cart,), {
        "memory": {}, "events": {}, "remember": TaskFamily.remember,
        "initial_state": TaskFamily.initial_state, "observe": TaskFamily.observe,
        "reward": lambda self, sim, before, action, task: sim.qpos[:, 0] * task["period"],
    })  # fmt: skip
    for family, draws in ((plain, 0), (type("R", (Cart,), {"events": {}}), 3)):
        worlds = TaskWorlds(family(), 2, 1)
        made.clear()
        for _ in range(3):
            worlds.step(torch.zeros(2, 1))
        assert len(made) == draws


BAD = {
    "no period": ({"events": {"gust": None}}, "event 'gust' needs a period, such as every(2.0)"),
    "negative": ({"events": {"gust": every(-1.0)}}, "the time must be positive, in s, not -1.0"),
    "nan": ({"events": {"gust": every(float("nan"))}}, "the time must be positive, in s, not nan"),
    "jitter": ({"events": {"gust": every(1.0, jitter=1.0)}}, "at least 0 and below 1, not 1.0"),
    "name": ({"events": {"gust": every("perod")}}, "no parameter 'perod' (did you mean 'period'?)"),
    "negative parameter": (
        {"params": (Param("period", Interval(-1.0, 1.0)),)}, "parameter 'period' must be positive",
    ),
    "list of events": ({"events": ["gust"]}, "events must be a dictionary by name, not ['gust']"),
    "memory": ({"memory": {"steps": 4}}, "memory 'steps' must be the shape of what one world"),
    "memory of none": ({"memory": {"steps": (0,)}}, "such as (4,), at most 100000 numbers"),
    "memory too large": ({"memory": {"steps": (10**6,)}}, "not (1000000,)"),
    "switch": ({"switch_at": 0}, "switch_at: the time must be positive, in s, not 0"),
    "switch after the end": (
        {"switch_at": 0.8}, "switch_at: episodes of 0.8 s end before the task begins, at 0.8 s",
    ),
    "switch parameter": ({"switch_at": "payloda"}, "switch_at: there is no parameter 'payloda'"),
    "signature": ({"remember": lambda self, sim: None}, "remember must take (self, sim, action,"),
    "unknown memory": (
        {"observe": lambda self, sim, task: sim.memory["stepz"]},
        "the family declares no memory 'stepz' (did you mean 'steps'?); it has steps",
    ),
    "value of a wrong shape": (
        {"remember": lambda self, sim, action, task, rng: sim.memory.__setitem__(
            "steps", sim.qpos.new_zeros(2, 3))}, "memory 'steps' of a world takes (1,), not (3,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(what: str) -> None:
    members, words = BAD[what]
    with refused(words):
        TaskWorlds(type("Bad", (Cart,), members)(), 2, 1).step(torch.zeros(2, 1))


def test_a_task_by_hand_has_positive_times() -> None:
    family = Cart()
    worlds = TaskWorlds(family, 1, 1)
    with pytest.raises(UserError, match=r"'cart': period must be positive, in s, not -0\.2"):
        worlds.set_tasks(family.distribution.make(period=-0.2), 1)
