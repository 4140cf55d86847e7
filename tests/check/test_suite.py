"""Broken families each fail the check that they should, with one line that says why."""

from collections.abc import Callable

import pytest
import torch
from helpers.families import every_family

from envs.point import MJCF, PointGoal
from metarl import (
    Choices,
    Interval,
    Param,
    TaskDistribution,
    TaskFamily,
    TaskWorlds,
    assign,
    find_family,
    scale,
    shift,
    when,
)
from metarl.check import plain_loop, suite, trajectory
from metarl.check.notes import notes
from metarl.check.suite import (
    CHECKS,
    CheckError,
    Checks,
    check_clipping,
    check_divergence,
    check_family,
    check_horizon,
    check_idempotent,
    check_model,
    check_order,
    check_parameters,
    check_plain_loop,
    check_splits,
    check_successor,
)

STATE = {"calls": 0}


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare runs of one episode of point-goal and the beginning of the next, and few draws."""
    for module in (suite, trajectory, plain_loop):
        monkeypatch.setattr(module, "STEPS", 24)
    monkeypatch.setattr(suite, "DRAWS", 200)
    monkeypatch.setattr(suite, "SPLIT", 20)


def broken(name: str = "broken", **attributes: object) -> type[PointGoal]:
    return type("Broken", (PointGoal,), {"name": name, **attributes})


def lines_of(family: type[PointGoal]) -> tuple[int, list[str]]:
    lines: list[str] = []
    failures = check_family(family, lines.append)
    return failures, [line for line in lines if line.startswith("FAIL")]


def forgetful_reward(self, sim, before, action, task):
    return -sim.qpos.square().sum(1)


def nan_reward(self, sim, before, action, task):
    reward = -sim.qpos.square().sum(1)
    return torch.where(sim.qpos[:, 0] > 0.05, torch.nan, reward)


def counting_reward(self, sim, before, action, task):
    STATE["calls"] += 1
    return PointGoal.reward(self, sim, before, action, task) + STATE["calls"]


def random_start(self, sim, ids, rng):
    sim.qpos[ids] = torch.rand(len(ids), 2, dtype=torch.float64)


def mixed_observe(self, sim, task):
    obs = PointGoal.observe(self, sim, task)
    return obs - obs.mean(0)


def mixed_privileged(self, sim, task):
    return sim.qvel - sim.qvel.mean(0)


def nan_privileged(self, sim, task):
    return torch.where(sim.qpos > 0.05, torch.nan, sim.qpos)


def flat_observe(self, sim, task):
    return sim.qpos[:, 0]


def crash(self, sim, before, action, task):
    raise RuntimeError("out of cheese")


def always(self, sim):
    return torch.ones(len(sim.qpos), dtype=torch.bool)


def teleporting_reward(self, sim, before, action, task):
    sim.qvel[:, 0] += 1e-12
    return PointGoal.reward(self, sim, before, action, task)


def contagious_reward(self, sim, before, action, task):
    return PointGoal.reward(self, sim, before, action, task) + 0 * before.qpos.sum()


def clock_observe(self, sim, task):
    return torch.cat((sim.qpos, sim.qvel, sim.time[:, None] / (self.horizon * self.dt)), dim=1)


def threaded_reward(self, sim, before, action, task):
    return PointGoal.reward(self, sim, before, action, task) + sim.batch.nthread


GOALS = PointGoal.params
GRIP = Param("grip", Interval(0.5, 2), edit=scale("geom_friction", "robot"))
"""Its model has no contacts."""
BALANCE = Param("balance", Interval(0.5, 2), edit=shift("geom_pos", "robot", index=2))
"""Without contacts, nothing depends on where a geom is."""
BALANCES = Param("balances", Interval(0.5, 2), edit=shift("geom_pos", each=True), size="model")
GEARS = Param("gears", Interval(0.5, 2), edit=scale("actuator_gear", each=True), size="model")
AIM = Param("aim", Interval(-1, 1), size=2)


def half_blind_reward(self, sim, before, action, task) -> torch.Tensor:
    return PointGoal.reward(self, sim, before, action, task) + task["aim"][:, 0]


@pytest.mark.parametrize(
    ("family", "check", "why"),
    [
        (broken(reward=forgetful_reward), "Every parameter", "must read task['goal_x']"),
        (broken(reward=nan_reward), "Everything stays finite", "reward() is not finite"),
        (broken(reward=counting_reward), "Resets and draws", "keep no state"),
        (broken(reward=crash), "Observations, rewards", "RuntimeError: out of cheese (line"),
        (broken(initial_state=random_start), "Resets and draws", "from `rng`"),
        (broken(observe=mixed_observe), "A world does not depend", "that world's row alone"),
        (broken(privileged=mixed_privileged), "A world does not depend", "privileged of world 0"),
        (broken(privileged=nan_privileged), "Everything stays finite", "privileged() is not fin"),
        (broken(observe=flat_observe), "Observations, rewards", "observe() returned shape"),
        (broken(terminated=always), "Episodes are cut", "every episode ends"),
        (broken(reward=teleporting_reward), "The worlds equal a plain loop", "at step 1"),
        (broken(reward=contagious_reward), "A diverged world", "nan in qpos of world 1"),
        (broken(observe=clock_observe), "next_obs is the true successor", "next_obs of world 0"),
        (broken(reward=threaded_reward), "One, two and four", "on 2 threads"),
        (broken(params=(*GOALS, GRIP)), "The model compiles", "the physics ignores geom_friction"),
        (broken(params=(*GOALS, BALANCE)), "Every parameter", "its edit moves nothing"),
        (broken(params=(*GOALS, BALANCES)), "Every parameter", "=2 gives the run of"),
        (
            broken(params=(*GOALS, AIM), reward=half_blind_reward),
            "Every parameter",
            "aim[1]=-1 gives the run of",
        ),
        (
            broken(params=(*GOALS, Param("m", Interval(-1, 2), edit=scale("body_mass")))),
            "The model compiles",
            "body_mass of 'robot'",
        ),
        (
            broken(params=(*GOALS, Param("m", Interval(1, 2), edit=scale("body_mass", "robt")))),
            "The model compiles",
            "did you mean 'robot'",
        ),
        (broken(model=MJCF.replace("</worldbody>", "")), "The model compiles", "does not compile"),
        (broken(model=MJCF.replace("0.02", "nan")), "The model compiles", "timestep"),
        (broken(params=()), "The model compiles", "no parameters"),
    ],
)
def test_broken_families(family: type[PointGoal], check: str, why: str) -> None:
    failures, lines = lines_of(family)
    assert failures == len(lines) == 1, lines
    assert lines[0].startswith(f"FAIL  {check}")
    assert why in lines[0]
    assert "\n" not in lines[0]


def test_some_elements_of_an_edit_may_be_idle() -> None:
    """A gear has six components, of which a motor on a sliding joint uses the first."""
    family = broken(params=(*GOALS, GEARS))()
    assert len(family.params[-1].names) == 12
    check_parameters(family)


def test_choices_pass() -> None:
    side: Callable = PointGoal.reward

    def reward(self, sim, before, action, task):
        goal = {"goal_x": task["side"], "goal_y": 0 * task["side"]}
        return side(self, sim, before, action, goal)

    family = broken(params=(Param("side", Choices((-1, 1))),), reward=reward)
    assert lines_of(family) == (0, [])


def lines_about(family: type[TaskFamily], *starts: str, checks: Checks = CHECKS) -> list[str]:
    lines: list[str] = []
    check_family(family, lines.append, checks)
    return [line for line in lines if line.startswith(starts)]


CART = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/>{fixed}
<body name="box" pos="0 0 .06"><freejoint/><geom name="box" type="box" size=".2 .1 .05" mass="1"/>
<site name="s"/></body></worldbody>{more}
<actuator><motor name="pull" site="s" gear="20 0 0 0 0 0" ctrlrange="-1 1"/></actuator></mujoco>"""


def slide(name: str, more: str = "", fixed: str = "", **attributes) -> type[TaskFamily]:
    def reward(self, sim, before, action, task):
        return task["push"] - sim.qpos[:, 0].abs()

    body = {
        "name": name,
        "model": CART.format(more=more, fixed=fixed),
        "horizon": 40,
        "params": (Param("push", Interval(0.5, 5.0)),),
        "reward": reward,
        "reset_noise": 0.0,
    }
    return type("Slide", (TaskFamily,), body | attributes)


def pushing(field: str, *place: int) -> Callable:
    """A reward that writes the parameter to an input of the physics after 0.1 s."""

    def reward(self, sim, before, action, task):
        on = (sim.time.reshape(-1) > 0.1).double()
        where = (slice(None), *place)
        sim.bind(field)[where] = on * task["push"]
        return -sim.qpos[:, 0].abs()

    return reward


HAND = '<body name="hand" mocap="true" pos="0 0 .1"/>'
GRIPS_THE_BOX = '<equality><weld body1="hand" body2="box"/></equality>'
WEIGHTLESS = '<body name="base"><inertial pos="0 0 0" mass=".5" diaginertia="0 0 0"/></body>'
LOW_FRICTION = Param("friction", Interval(0.2, 1.6), nominal=1.0,
                     edit=assign("geom_friction", "box", index=0))  # fmt: skip
MIDDLE = Param("fault", Choices((0, 1, 2)), nominal=0,
               edit=when(1, assign("actuator_gear", "pull", index=0), 1.0))  # fmt: skip


@pytest.mark.parametrize(
    "family",
    [
        slide("pushed", reward=pushing("xfrc_applied", 1, 0)),
        slide("forced", reward=pushing("qfrc_applied", 0)),
        slide("led", GRIPS_THE_BOX, HAND, reward=pushing("mocap_pos", 0, 1)),
        slide("fixed-link", fixed=WEIGHTLESS),
        slide("one-choice", params=(MIDDLE,), reward=lambda s, sim, *_: sim.qpos[:, 0]),
    ],
    ids=lambda family: family.name,
)
def test_sound_families(family: type[TaskFamily]) -> None:
    """Inputs that the reward writes, a link without inertia, a value that alone moves something."""
    assert lines_about(family, "FAIL", "skip", "note") == []


def test_an_end_that_alone_moves_something_is_noted() -> None:
    """MuJoCo takes the larger friction of two: below the ground's, nothing changes."""
    end = slide("one-end", params=(LOW_FRICTION,), reward=lambda s, sim, *_: sim.qpos[:, 0])
    (line,) = lines_about(end, "FAIL", "skip", "note")
    assert line.startswith("note  friction=0.2 gives the run of its nominal 1 in 40 random steps")


def test_an_inertia_that_a_parameter_takes_away_is_no_nominal_zero() -> None:
    payload = Param("payload", Interval(-1.0, 1.0), edit=shift("body_mass", "box"))
    (line,) = lines_about(slide("light", fixed=WEIGHTLESS, params=(payload,)), "FAIL")
    assert "body_mass of 'box' is 0.0 in task payload=-1" in line


FLOATS = "the robot floats: the model has no gravity"
NO_GROUND = "the robot has no ground: nothing that is fixed to the world collides with it"

IDLE = "actions move nothing: the least and the greatest control of every actuator do the same"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        ("<worldbody>", '<option gravity="0 0 0"/><worldbody>', [FLOATS]),
        ("<worldbody>", '<option><flag gravity="disable"/></option><worldbody>', [FLOATS]),
        ("<worldbody>", '<option><flag contact="disable"/></option><worldbody>', [NO_GROUND]),
        ('<geom type="plane" size="5 5 .1"/>', "", [NO_GROUND]),
        ('type="plane"', 'type="plane" contype="0" conaffinity="0"', [NO_GROUND]),
        ("<freejoint/>", '<joint type="slide" axis="1 0 0"/>', []),
        ('<motor name="pull" site="s" gear="20 0 0 0 0 0" ctrlrange="-1 1"/>',
         '<motor site="s"/>' * 6, ["no ctrlrange for actuator 0, 1, 2, 3 and 2 more: actions of "
                                   "-1 and 1 give controls of -1 and 1"]),
        ('gear="20 0 0 0 0 0"', 'gear="0"', [IDLE]),
        ("<worldbody>", '<option><flag actuation="disable"/></option><worldbody>', [IDLE]),
        ("<worldbody>", '<option actuatorgroupdisable="0"/><worldbody>', [IDLE]),
        (' ctrlrange="-1 1"', "", ["no ctrlrange for actuator 'pull': actions of -1 and 1 give "
                                   "controls of -1 and 1"]),
    ],
)  # fmt: skip
def test_notes_on_models(old: str, new: str, expected: list[str]) -> None:
    """They stand below the checks, whichever those are."""
    model = CART.format(more="", fixed="").replace(old, new)
    assert notes(slide("noted", model=model)()) == expected
    lines = lines_about(slide("noted", model=model), "note", checks=(check_model,))
    assert lines == [f"note  {x}" for x in expected]


@pytest.mark.parametrize("name", every_family())
def test_the_families_of_the_library_have_no_notes(name: str) -> None:
    assert notes(find_family(name)) == []


def compounding(self, tasks, worlds_per_task):
    """Scale the masses from what the tasks before left, the classic mistake."""
    _set_tasks(self, tasks, worlds_per_task)
    self.simulator.batch.expand("body_mass")[:] *= getattr(self, "left", 1.0)
    self.simulator.batch.set_const()
    self.left = getattr(self, "left", 1.0) * 1.1


def train_again(self, name, n):
    return _split(self, "train" if name == "heldout" else name, n)


def never_truncated(self, action):
    got = _step(self, action)
    return got._replace(truncated=torch.zeros_like(got.truncated))


def successor_of_the_reset(self, action):
    got = _step(self, action)
    return got._replace(next_obs=got.obs)


def unclipped(self, action):
    got = _step(self, action)
    return got._replace(reward=got.reward - action.double().square().sum(1))


def unflagged(self, action):
    got = _step(self, action)
    return got._replace(diverged=torch.zeros_like(got.diverged))


_set_tasks, _step, _split = TaskWorlds.set_tasks, TaskWorlds.step, TaskDistribution.split


@pytest.mark.parametrize(
    ("check", "owner", "method", "mistake"),
    [
        (check_plain_loop, TaskWorlds, "set_tasks", compounding),
        (check_idempotent, TaskWorlds, "set_tasks", compounding),
        (check_order, TaskWorlds, "set_tasks", compounding),
        (check_splits, TaskDistribution, "split", train_again),
        (check_clipping, TaskWorlds, "step", unclipped),
        (check_horizon, TaskWorlds, "step", never_truncated),
        (check_successor, TaskWorlds, "step", successor_of_the_reset),
        (check_divergence, TaskWorlds, "step", unflagged),
    ],
)
def test_mistakes_in_the_worlds_are_found(monkeypatch, check, owner, method, mistake) -> None:
    family = find_family("half-cheetah-dynamics")
    monkeypatch.setattr(owner, method, mistake)
    with pytest.raises(CheckError):
        check(family)


def test_a_model_is_compiled_twice_whatever_the_tasks(monkeypatch) -> None:
    """Once for the family, and once for the plain loop that it is compared with."""
    build, calls, begun = PointGoal.build, [], []
    monkeypatch.setattr(PointGoal, "build", lambda self, spec: calls.append(1) or build(self, spec))
    assert check_family(broken(), lambda line: None, begin=begun.append) == 0
    assert len(calls) == 2
    assert len(begun) == len(CHECKS)
